"""Mutants of WAV files: formats, sizes of chunks, rates, and samples that are no numbers."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import numpy as np

from tests.faults.mutants.content import INTEGERS, Content, mutated_bytes

Chunk = tuple[bytes, Content]
_RATES = (0, 1, 2, 7, 4000, 8000, 11_025, 44_100, 383_999, 384_000, 1 << 31, (1 << 32) - 1)


def wav(chunks: Sequence[Chunk], sizes: Sequence[int] | None = None) -> Content:
    """A WAV file of chunks, whose sizes may be other than they are."""
    body = bytearray(b"WAVE")
    for n, (name, content) in enumerate(chunks):
        size = len(content) if sizes is None else sizes[n]
        body += name[:4].ljust(4) + struct.pack("<I", size & 0xFFFFFFFF) + content
        body += b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body) & 0xFFFFFFFF) + bytes(body)


def form(kind: int, channels: int, rate: int, bits: int) -> Content:
    """The content of a chunk `fmt `."""
    width = channels * bits // 8
    fields = (kind, channels, rate, rate * width, width, bits)
    return struct.pack(
        "<HHIIHH", *(value & (0xFFFF, 0xFFFFFFFF)[n in (2, 3)] for n, value in enumerate(fields))
    )


def seeds() -> list[Content]:
    """A tenth of a second of noise in each form that is read."""
    rng = np.random.default_rng(0)
    noise = rng.integers(-3000, 3000, 800).astype("<i2")
    wide = (noise.astype("<i4") << 16).tobytes()
    return [
        wav([(b"fmt ", form(1, 1, 8000, 16)), (b"data", noise.tobytes())]),
        wav([(b"fmt ", form(1, 2, 16_000, 8)), (b"LIST", b"INFO"), (b"data", rng.bytes(1600))]),
        wav([(b"fmt ", form(3, 1, 8000, 32)), (b"data", (noise / 32768).astype("<f4").tobytes())]),
        wav([(b"fmt ", form(1, 1, 8000, 32)), (b"data", wide)]),
        wav([(b"fmt ", form(1, 1, 8000, 24)), (b"data", rng.bytes(2400))]),
    ]


def mutated_wav(  # noqa: C901 (a table)
    rng: random.Random, inputs: Sequence[Content]
) -> Content:
    """A WAV file with another format, other chunks, other samples or changed bytes."""
    whole = rng.choice(inputs)
    chunks = _chunks(whole)
    if rng.random() < 0.25 or not chunks:
        return mutated_bytes(rng, inputs)
    sizes: list[int] | None = None
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(chunks))
        name, content = chunks[place]
        match rng.randrange(9):
            case 0:
                changed = (rng.choice((1, 3, 0, 2, 6, 0xFFFE)), rng.choice((1, 2, 0, 3, 64, 65535)))
                chunks[0] = (
                    b"fmt ",
                    form(*changed, rng.choice(_RATES), rng.choice((8, 16, 24, 32, 64, 0, 7))),
                )
            case 1 | 7 | 8:
                fields = bytearray(chunks[0][1].ljust(16, b"\0"))
                struct.pack_into("<I", fields, 4, rng.choice(_RATES))
                chunks[0] = b"fmt ", bytes(fields)
            case 2:
                chunks[place] = name, content[: rng.choice((0, 1, 3, len(content) // 2))]
            case 3:
                del chunks[place]
            case 4:
                odd = rng.choice((np.nan, np.inf, -np.inf, 1e38, 3e38))
                chunks[place] = name, np.full(200, odd, "<f4").tobytes()
            case 5:
                chunks.insert(
                    place, (rng.choice((b"LIST", b"data", b"fmt ", b"\0\0\0\0")), content)
                )
            case 6:
                sizes = [len(body) for _, body in chunks]
                sizes[place] = rng.choice(INTEGERS)
        if not chunks:
            chunks = [(b"data", b"")]
    if sizes is not None and len(sizes) != len(chunks):
        sizes = None
    return wav(chunks, sizes)


def _chunks(whole: Content) -> list[Chunk]:
    found, place = list[Chunk](), 12
    while place + 8 <= len(whole) and len(found) < 20:
        (size,) = struct.unpack_from("<I", whole, place + 4)
        found.append((whole[place : place + 4], whole[place + 8 : place + 8 + size]))
        place += 8 + size + size % 2
    return found
