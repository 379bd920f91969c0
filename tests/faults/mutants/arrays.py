"""Mutants of `.npy` and `.npz` files, whose headers and directories are written by hand."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from tests.faults.mutants.content import TEXTS, Content, mutated_bytes

TYPES = (
    *("|u1", "<i8", "<f4", "<f8", "|b1", "<U3", "|S4", "<u2", ">u2", "<f2", "<c8", "<M8[s]", "|O"),
    *("<U999999999", "|V8", "<f16", "[('a', '|u1')]", "|u0", "<i3", "x", "", "<U0", "|S0", "<u8"),
)
SHAPES = (
    *("()", "(0,)", "(8,)", "(8, 6, 6)", "(8, 6, 6, 1)", "(8, 6, 6, 3)", "(8, 3, 6, 6)", "(8, 1)"),
    *("(1099511627776,)", "(1099511627776, 1, 1)", "(-1, 6, 6)", "(8, 0, 6)", "(1, 1, 1)"),
    *("(2147483648, 2147483648)", "(8, 6, 6, 4)", "(8,) * 9", "8", "[8, 6, 6]", "(True, 6, 6)"),
    *("(" + "1," * 40 + ")", "(8.0, 6, 6)", "(" + "(" * 300 + ")" * 301, "(0, 6, 6)", "(8, 10)"),
    *("(288, 1, 1)", "(2, 144, 1)", "(1, 288)", "(9223372036854775808, 0)", "(0, 1099511627776)"),
)
KEYS = (
    *("x", "y", "x_train", "y_train", "x_test", "y_test", "x_val", "y_val", "group", "class_names"),
    *("arr_0", "arr_1", "images", "labels", "X", "x.npy", "x_tain", "../outside/secret", "/x", "a"),
)


def npy(array: np.ndarray) -> bytes:
    """An array as numpy writes it; of Python objects too."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(descr: str, order: str, shape: str, version: int = 1) -> bytes:
    """A header that says anything."""
    quoted = descr if descr.startswith("[") else repr(descr)
    text = f"{{'descr': {quoted}, 'fortran_order': {order}, 'shape': {shape}, }}".encode() + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text


def mutated_npy(rng: random.Random, inputs: Sequence[Content]) -> Content:
    """A file of one array with another header, other data, or changed bytes."""
    whole = rng.choice(inputs)
    chance = rng.random()
    if chance < 0.35 or not whole.startswith(b"\x93NUMPY"):
        return mutated_bytes(rng, inputs)
    if chance < 0.8:
        size = int.from_bytes(whole[8:10], "little")
        return _other_header(rng, whole[10 + size :])
    return npy(_array(rng))


def _other_header(rng: random.Random, data: bytes) -> bytes:
    order = rng.choice(("False", "False", "True", "1", "None", "x"))
    version = rng.choice((1, 1, 1, 2, 3))
    made = header(rng.choice(TYPES), order, rng.choice(SHAPES), version)
    if rng.random() < 0.2:
        made = mutated_bytes(rng, [made])
    return made + (data if rng.random() < 0.8 else data * 2)


def _array(rng: random.Random) -> np.ndarray:  # noqa: C901 (a table)
    draws = np.random.default_rng(rng.randrange(1 << 32))
    count = rng.choice((0, 1, 2, 7, 8, 9))
    shape = rng.choice(((count,), (count, 6, 6), (count, 6, 6, 3), (count, 1), (count, 2), ()))
    match rng.randrange(9):
        case 0:
            return draws.integers(0, 256, shape).astype(np.uint8)
        case 1:
            return draws.random(shape).astype(rng.choice((np.float16, np.float32, np.float64)))
        case 2:
            array = draws.normal(size=shape) * 10.0 ** rng.choice((0, 3, 30, 300))
            odd = rng.choice((np.nan, np.inf, -np.inf, 0.0, 1e308))
            return np.where(draws.random(shape) < 0.2, odd, array)
        case 3:
            return draws.integers(-(1 << 63), (1 << 63) - 1, shape)
        case 4:
            return draws.integers(0, rng.choice((2, 1 << 12, 1 << 16)), shape).astype(np.uint16)
        case 5:
            texts = [rng.choice(TEXTS).replace("\0", "") for _ in range(count)]
            return np.array([text.encode("utf-8", "replace").decode() for text in texts] or ["a"])
        case 6:
            return np.array([rng.choice((b"a", b"\xff", b"\x1b[2J")) for _ in range(max(1, count))])
        case 7:
            return np.full(shape, rng.choice((0, 255, 128)), np.uint8)
    return np.array([{"a": 1}, None], object)


def mutated_npz(rng: random.Random, inputs: Sequence[Content]) -> Content:
    """An archive with other members, claims or bytes."""
    chance = rng.random()
    whole = rng.choice(inputs)
    if chance < 0.25:
        return mutated_bytes(rng, inputs)
    try:
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            members = [(m.filename, archive.read(m)) for m in archive.infolist()[:12]]
    except Exception:  # noqa: BLE001 (an input that is damaged itself)
        return mutated_bytes(rng, inputs)
    for _ in range(rng.randint(1, 3)):
        _change_members(rng, members)
    if rng.random() < 0.5:
        return archive_of(members, rng)
    return archive_of(members)


def _change_members(  # noqa: C901 (a table)
    rng: random.Random, members: list[tuple[str, bytes]]
) -> None:
    if not members:
        members.append(("x.npy", npy(_array(rng))))
    place = rng.randrange(len(members))
    name, content = members[place]
    match rng.randrange(7):
        case 0:
            members[place] = name, mutated_npy(rng, [content])
        case 1:
            members[place] = rng.choice(KEYS) + rng.choice((".npy", ".npy", "")), content
        case 2:
            del members[place]
        case 3:
            members.append((rng.choice((name, f"{rng.choice(KEYS)}.npy")), npy(_array(rng))))
        case 4:
            members[place] = name, npy(_array(rng))
        case 5:
            members[place] = rng.choice(TEXTS) + ".npy", content
        case 6:
            size = rng.choice((1 << 16, 1 << 24, 3 << 27))
            members[place] = (
                name,
                header("|u1", "False", f"({size}, 1, 1)") + bytes(min(size, 1 << 20)),
            )


def archive_of(  # noqa: C901 (a table)
    members: Sequence[tuple[str, bytes]], rng: random.Random | None = None
) -> bytes:
    """A zip file; with random numbers some of its claims are not those of its content."""
    body, directory = bytearray(), bytearray()
    for name, content in members:
        raw = name.encode("utf-8", "replace")
        method = 0 if rng is None else rng.choice((0, 8, 8, 8, 12, 14, 93, 99))
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = packer.compress(content) + packer.flush() if method == 8 else content
        size, stored, crc, flags, start = (
            len(content),
            len(packed),
            zlib.crc32(content),
            0x800,
            len(body),
        )
        if rng is not None and rng.random() < 0.4:
            odd = rng.choice((0, 1, size + 1, max(size - 1, 0), 0xFFFFFFFF, 0x7FFFFFFF, 1 << 30))
            match rng.randrange(5):
                case 0:
                    size = odd
                case 1:
                    stored = odd
                case 2:
                    crc ^= 1
                case 3:
                    flags |= rng.choice((1, 8, 0x40, 0x2000))
                case 4:
                    start = odd
        extra = b"" if rng is None or rng.random() < 0.8 else _extra(rng)
        local = (20, flags, method, 0, 0x21, crc, stored, size, len(raw), len(extra))
        body += b"PK\x03\x04" + struct.pack("<5H3I2H", *local) + raw + extra + packed
        central = (
            20,
            20,
            flags,
            method,
            0,
            0x21,
            crc,
            stored,
            size,
            len(raw),
            len(extra),
            0,
            0,
            0,
            0,
            start,
        )
        directory += b"PK\x01\x02" + struct.pack("<6H3I5H2I", *central) + raw + extra
    count, at, comment = len(members), len(body), b""
    if rng is not None and rng.random() < 0.15:
        count, at = rng.choice(((0xFFFF, at), (count + 1, at), (count, 0), (count, at + 7)))
        comment = rng.choice((b"", b"x" * 100, b"PK\x05\x06" + bytes(18)))
    end = struct.pack("<4H2IH", 0, 0, count, count, len(directory), at, len(comment))
    return bytes(body + directory) + b"PK\x05\x06" + end + comment


def _extra(rng: random.Random) -> bytes:
    """Extra fields: of zip64 with sizes of 2^40, and others."""
    zip64 = struct.pack("<HHQQ", 1, 16, 1 << 40, 1 << 40)
    return rng.choice((zip64, struct.pack("<HH", 1, 0xFFFF), b"\1", struct.pack("<HHI", 9, 4, 1)))
