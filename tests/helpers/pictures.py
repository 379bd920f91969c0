"""Small labelled pictures for tests."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def random_pictures(count, shape=(8, 8, 1), seed=0):
    """uint8 (count, *shape), no two alike."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_folder(root: Path, counts: dict[str, int], shape=(9, 7, 3), seed=0) -> Path:
    """`root/CLASS/n.png` with `counts` random pictures; CLASS may be `train/cat`."""
    for n, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for place, pixels in enumerate(random_pictures(count, shape, seed + n)):
            Image.fromarray(pixels.squeeze()).save(root / name / f"{place:03}.png")
    return root


def write_npz(path: Path, **arrays) -> str:
    """A `.npz` file of `arrays`; its path as a user types it."""
    np.savez(path, **arrays)
    return str(path)


def tree(folder):
    """Every file below `folder` with its content's hash and time."""
    return {
        path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def png_16(values: np.ndarray, turn: int = 1) -> bytes:
    """A PNG file of 16 bits a channel, (H, W, 1 to 4), by its specification; `turn` is of EXIF."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    exif = Image.Exif()
    exif[0x0112] = turn
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def tiff(
    values: np.ndarray, turn: int = 1, changed: dict[int, tuple[int, ...]] | None = None
) -> bytes:
    """An uncompressed TIFF 6.0 file, little-endian, of values (H, W, C) of any numeric type.

    Four channels are colour and opacity; `changed` are tags with other values.
    """
    height, width, channels = values.shape
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags: dict[int, tuple[int, ...]] = {
        256: (width,),
        257: (height,),
        258: (8 * values.itemsize,) * channels,
        259: (1,),
        262: (2 if channels >= 3 else 1,),
        273: (8,),
        274: (turn,),
        277: (channels,),
        278: (height,),
        279: (len(data),),
        **({338: (2,)} if channels == 4 else {}),
        339: (kind,) * channels,
    }
    tags = dict(sorted((tags | (changed or {})).items()))
    place = 8 + len(data) + 2 + 12 * len(tags) + 4
    entries, more = b"", b""
    for tag, numbers in tags.items():
        cell = struct.pack("<4H", *numbers, *[0] * (4 - len(numbers)))
        if len(numbers) > 2:
            cell, more = struct.pack("<I", place + len(more)) + bytes(4), more + cell
        entries += struct.pack("<HHI", tag, 3, len(numbers)) + cell[:4]
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(tags)) + entries + bytes(4) + more
