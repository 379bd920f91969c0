"""Mutants of files that hold files or raw arrays: tar, zip of folders, IDX and CIFAR."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence

from tests.faults.mutants.arrays import archive_of
from tests.faults.mutants.content import INTEGERS, TEXTS, Content, mutated_bytes

_NAMES = (
    *(
        "../outside/secret.png",
        "/etc/passwd",
        "cat/../../a.png",
        "./cat/a.png",
        "cat//a.png",
        "cat/",
    ),
    *("cat/a.png", "train/cat/b.png", "a.cls", "a.png", "a.json", "C:\\a.png", ".hidden/a.png"),
    *("cat/a.png/b.png", "x" * 300 + ".png", "cat\\a.png", "a.b.c.png", "\x1b[31m.png"),
)
_TYPES = (
    *(tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE),
    *(tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, b"7"),
)


def tar_of(members: Sequence[tuple[str, Content]]) -> Content:
    """A tar file of regular members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def mutated_tar(rng: random.Random, inputs: Sequence[Content]) -> Content:
    """A tar file with other members, headers or bytes; sums of changed headers are right."""
    whole = rng.choice(inputs)
    chance = rng.random()
    if chance < 0.25:
        return mutated_bytes(rng, inputs)
    try:
        with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
            members = [
                (info.name, (archive.extractfile(info) or io.BytesIO()).read())
                for info in archive.getmembers()[:12]
                if info.isreg()
            ]
    except Exception:  # noqa: BLE001 (an input that is damaged itself)
        return mutated_bytes(rng, inputs)
    if chance < 0.6:
        return _headers_changed(rng, tar_of(members))
    for _ in range(rng.randint(1, 3)):
        _change_members(rng, members)
    return _with_links(rng, members)


def _change_members(rng: random.Random, members: list[tuple[str, Content]]) -> None:
    if not members:
        members.append(("a.png", b""))
    place = rng.randrange(len(members))
    name, content = members[place]
    match rng.randrange(6):
        case 0:
            members[place] = rng.choice(_NAMES), content
        case 1:
            members[place] = name, mutated_bytes(rng, [content or b"0"])
        case 2:
            del members[place]
        case 3:
            members.append((rng.choice((name, *_NAMES)), content))
        case 4:
            text = rng.choice(TEXTS).encode("utf-8", "replace")
            members[place] = name, rng.choice((b"", text, b'{"label": ' + b"[" * 3000))
        case 5:
            suffix = rng.choice((".png", ".cls", ".json", ".txt", ".jpg", ""))
            members[place] = name.partition(".")[0] + suffix, content


def _with_links(rng: random.Random, members: Sequence[tuple[str, Content]]) -> Content:
    file = io.BytesIO()
    forms = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    with tarfile.open(fileobj=file, mode="w", format=rng.choice(forms)) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if rng.random() < 0.15:
                info.type = rng.choice(_TYPES)
                info.linkname = rng.choice(("../outside/secret", "/etc/passwd", name, "a.png"))
                info.pax_headers = {rng.choice(("path", "size", "a")): rng.choice(("1e9", "../a"))}
            try:
                archive.addfile(info, io.BytesIO(content))
            except (ValueError, UnicodeError, OSError):
                continue
    made = file.getvalue()
    return gzip.compress(made, 1) if rng.random() < 0.1 else made


def _headers_changed(rng: random.Random, whole: Content) -> Content:
    body = bytearray(whole)
    for _ in range(rng.randint(1, 3)):
        start = 512 * rng.randrange(max(1, len(body) // 512))
        field, width = rng.choice(((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100)))
        size = rng.choice(INTEGERS)
        text = rng.choice(
            (
                rng.choice(_NAMES).encode("utf-8", "replace"),
                b"%o" % (size & 0xFFFFFFFF),
                b"\x80" + (size & ((1 << 88) - 1)).to_bytes(11, "big"),
                rng.choice(_TYPES),
                b"\xff" * width,
            )
        )
        body[start + field : start + field + width] = text[:width].ljust(width, b"\0")
        header = body[start : start + 512]
        if len(header) == 512:
            header[148:156] = b" " * 8
            body[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    return bytes(body)


def zip_of(members: Sequence[tuple[str, Content]]) -> Content:
    """A zip file."""
    return archive_of(members)


def mutated_zip(rng: random.Random, inputs: Sequence[Content]) -> Content:
    """A zip file with other members, claims or bytes."""
    whole = rng.choice(inputs)
    if rng.random() < 0.25:
        return mutated_bytes(rng, inputs)
    try:
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()[:12]]
    except Exception:  # noqa: BLE001 (an input that is damaged itself)
        return mutated_bytes(rng, inputs)
    for _ in range(rng.randint(0, 3)):
        _change_members(rng, members)
    return archive_of(members, rng if rng.random() < 0.6 else None)


def idx_of(kind: int, shape: Sequence[int], body: Content) -> Content:
    """An IDX file."""
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + body


def mutated_idx(rng: random.Random, inputs: Sequence[Content]) -> Content:
    """An IDX file with another header or data; in some cases gzipped, well or not."""
    whole = rng.choice(inputs)
    if whole.startswith(b"\x1f\x8b"):
        try:
            whole = gzip.decompress(whole)
        except (OSError, EOFError, ValueError, zlib.error):
            return mutated_bytes(rng, inputs)
    if rng.random() < 0.25:
        made = mutated_bytes(rng, [whole])
    else:
        kind = rng.choice((8, 8, 8, 9, 11, 12, 13, 14, 0, 255))
        lengths = (0, 1, 2, 6, 12, 36, 255, 1 << 20, (1 << 31) - 1, (1 << 32) - 1)
        count = rng.choice((1, 3, 3, 3, 2, 4, 0, 255))
        shape = [rng.choice(lengths) for _ in range(count)]
        if rng.random() < 0.5:
            shape = [12, 6, 6][:count]
        made = idx_of(kind, shape, whole[16 if count == 3 else 8 :])
    chance = rng.random()
    if chance < 0.2:
        made = gzip.compress(made, 1)
    elif chance < 0.35:
        made = mutated_bytes(rng, [gzip.compress(made, 1)])
    return made


def mutated_cifar(rng: random.Random, inputs: Sequence[Content]) -> Content:
    """Records of a CIFAR file: labels out of range, rows cut, or changed bytes."""
    whole = bytearray(rng.choice(inputs))
    match rng.randrange(4):
        case 0:
            return mutated_bytes(rng, inputs)
        case 1:
            return bytes(whole[: rng.choice((0, 1, 3072, 3073, 3074, len(whole) - 1))])
        case 2:
            for place in range(0, len(whole), 3073):
                whole[place] = rng.choice((0, 1, 9, 10, 255, rng.randrange(256)))
        case 3:
            whole[3073 * rng.randrange(max(1, len(whole) // 3073))] = rng.randrange(256)
    return bytes(whole)
