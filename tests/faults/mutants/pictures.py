"""Mutants of picture files: chunks, segments, directories and headers with other claims."""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from PIL import Image

from tests.faults.mutants.content import INTEGERS, Content, mutated_bytes
from tests.helpers.pictures import tiff

Chunk = tuple[bytes, bytes]
_PNG = b"\x89PNG\r\n\x1a\n"


def seeds() -> list[Content]:
    """Small pictures in every format and in many of their modes."""
    draws = np.random.default_rng(0)
    rgb = Image.fromarray(draws.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    rgba = Image.fromarray(draws.integers(0, 256, (9, 7, 4), dtype=np.uint8))
    deep = Image.fromarray(draws.integers(0, 1 << 16, (9, 7), dtype=np.uint16))
    grey, palette, bits = rgb.convert("L"), rgb.convert("P"), rgb.convert("1")
    upright = Image.Exif()
    upright[0x0112] = 6
    frames = [palette, palette.transpose(Image.Transpose.ROTATE_180)]
    return [
        *(
            _saved(image, "PNG")
            for image in (rgb, rgba, deep, grey, palette, bits, rgba.convert("LA"))
        ),
        _saved(palette, "PNG", transparency=3),
        _saved(rgb, "PNG", exif=upright),
        png(
            [
                (b"IHDR", struct.pack(">2I5B", 3, 2, 16, 2, 0, 0, 0)),
                (b"IDAT", zlib.compress(bytes(38))),
                (b"IEND", b""),
            ]
        ),
        png(
            [
                (b"IHDR", struct.pack(">2I5B", 8, 8, 8, 0, 0, 0, 1)),
                (b"IDAT", zlib.compress(bytes(83))),
                (b"IEND", b""),
            ]
        ),
        *(_saved(image, "JPEG") for image in (rgb, grey, rgb.convert("CMYK"))),
        _saved(rgb, "JPEG", progressive=True, exif=upright),
        _saved(rgb, "JPEG", subsampling=0, optimize=True),
        *(_saved(image, "BMP") for image in (rgb, grey, bits, palette)),
        _saved(palette, "GIF"),
        _saved(frames[0], "GIF", save_all=True, append_images=frames[1:], loop=0),
        _saved(rgb, "WEBP", lossless=True),
        _saved(rgba, "WEBP", exif=upright),
        _saved(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(90)]),
        *(
            _saved(rgb, "TIFF", compression=c)
            for c in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        ),
        _saved(bits, "TIFF", compression="group4"),
        *(
            _saved(image, "TIFF")
            for image in (deep, palette, rgba, rgb.convert("CMYK"), grey.convert("F"))
        ),
        tiff(draws.random((9, 7, 3), np.float32)),
        tiff(draws.random((9, 7, 4)), 6),
        tiff(draws.random((9, 7, 1), np.float32).astype(np.float16)),
        *(_saved(image, "PPM") for image in (rgb, grey, bits, deep)),
        b"P3\n2 2\n255\n" + b"1 2 3 " * 4,
        b"P2\n# a comment\n3 1 65535\n0 1 65535\n",
        b"P1\n4 1\n1 0 1 0\n",
    ]


def _saved(image: Image.Image, kind: str, **options: object) -> Content:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def mutated_picture(rng: random.Random, inputs: Sequence[Content]) -> Content:
    """A picture file with changes that its format knows, or of its bytes."""
    whole = rng.choice(inputs)
    change = next((c for mark, c in _CHANGES.items() if whole.startswith(mark)), None)
    if change is None or rng.random() < 0.3:
        return mutated_bytes(rng, inputs)
    try:
        return change(rng, whole)
    except (struct.error, IndexError, ValueError, OverflowError, zlib.error):
        return mutated_bytes(rng, inputs)


def png(chunks: Iterable[Chunk]) -> Content:
    """A PNG file of chunks, with their checksums."""
    body = bytearray(_PNG)
    for name, content in chunks:
        body += struct.pack(">I", len(content)) + name + content
        body += struct.pack(">I", zlib.crc32(name + content))
    return bytes(body)


def png_chunks(whole: Content) -> list[Chunk]:
    """Names and contents of the chunks of a PNG file."""
    found, place = [], 8
    while place + 8 <= len(whole):
        (size,) = struct.unpack(">I", whole[place : place + 4])
        found.append((whole[place + 4 : place + 8], whole[place + 8 : place + 8 + size]))
        place += 12 + size
    return found


def _mutated_png(rng: random.Random, whole: Content) -> Content:  # noqa: C901 (a table)
    chunks = png_chunks(whole)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(chunks))
        name, content = chunks[place]
        match rng.randrange(9):
            case 0:
                first = chunks[0][1]
                chunks[0] = (
                    b"IHDR",
                    _field(
                        rng,
                        first,
                        rng.choice(((0, 4), (4, 4), (8, 1), (9, 1), (10, 1), (12, 1))),
                        ">",
                    ),
                )
            case 1:
                chunks[place] = name, mutated_bytes(rng, [content or b"\0"])
            case 2:
                del chunks[place]
                chunks = chunks or [(b"IEND", b"")]
            case 3:
                chunks.insert(rng.randrange(len(chunks) + 1), (name, content))
            case 4:
                chunks.insert(1, _odd_chunk(rng))
            case 5:
                chunks[place] = bytes(rng.choice(b"ABIPabip") for _ in range(4)), content
            case 6:
                bomb = _packed(rng.choice((1 << 10, 1 << 20, 1 << 24)))
                chunks = [(n, bomb if n == b"IDAT" else c) for n, c in chunks]
            case 7:
                other = rng.randrange(len(chunks))
                chunks[place], chunks[other] = chunks[other], chunks[place]
            case 8:
                chunks = [(n, c[: len(c) // 2] if n == b"IDAT" else c) for n, c in chunks]
    made = png(chunks)
    return mutated_bytes(rng, [made]) if rng.random() < 0.1 else made


@functools.cache
def _packed(count: int) -> bytes:
    return zlib.compress(bytes(count), 9)


def _odd_chunk(rng: random.Random) -> Chunk:
    bomb = _packed(1 << 22)
    name = rng.choice(
        (
            b"zTXt",
            b"iTXt",
            b"tEXt",
            b"iCCP",
            b"eXIf",
            b"tRNS",
            b"PLTE",
            b"acTL",
            b"fcTL",
            b"pHYs",
            b"gAMA",
        )
    )
    packed = {b"zTXt": b"a\0\0" + bomb, b"iCCP": b"a\0\0" + bomb, b"iTXt": b"a\0\1\0\0\0" + bomb}
    plain = rng.choice(
        (b"", b"\xff" * 3, bytes(768), b"a\0\x1b[2J", b"MM\0*\0\0\0\x08\xff\xff", rng.randbytes(26))
    )
    return name, packed.get(name, plain)


def _field(rng: random.Random, body: bytes, field: tuple[int, int], order: str) -> bytes:
    """The body with another number at (place, bytes)."""
    place, size = field
    value = rng.choice(INTEGERS) & ((1 << 8 * size) - 1)
    number = value.to_bytes(size, "big" if order == ">" else "little")
    return body[:place] + number + body[place + size :]


def _mutated_jpeg(rng: random.Random, whole: Content) -> Content:  # noqa: C901 (a table)
    segments, place = [], 2
    while place + 4 <= len(whole) and whole[place] == 0xFF and whole[place + 1] != 0xDA:
        size = 2 + int.from_bytes(whole[place + 2 : place + 4], "big")
        segments.append(whole[place : place + size])
        place += size
    rest = whole[place:]
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(segments))
        segment = segments[at]
        match rng.randrange(7):
            case 0:  # The frame: precision, height, width, components, sampling.
                frames = [n for n, s in enumerate(segments) if s[1] in (0xC0, 0xC1, 0xC2)]
                for n in frames[:1]:
                    segments[n] = _field(
                        rng,
                        segments[n],
                        rng.choice(((4, 1), (5, 2), (7, 2), (9, 1), (11, 1), (14, 1))),
                        ">",
                    )
            case 1:
                segments[at] = segment[:4] + mutated_bytes(rng, [segment[4:] or b"\0"])
            case 2:
                segments[at] = _field(rng, segment, (2, 2), ">")
            case 3:
                del segments[at]
                segments = segments or [b"\xff\xfe\0\2"]
            case 4:
                segments.insert(rng.randrange(len(segments) + 1), segment)
            case 5:
                segments[at] = (
                    bytes(
                        (
                            0xFF,
                            rng.choice(
                                (0xC0, 0xC2, 0xC3, 0xC9, 0xD8, 0xD9, 0xDD, 0xE0, 0xE1, 0xE2, 0xEE)
                            ),
                        )
                    )
                    + segment[2:]
                )
            case 6:
                rest = mutated_bytes(rng, [rest or b"\0"])
    return whole[:2] + b"".join(segments) + rest


def _mutated_tiff(rng: random.Random, whole: Content) -> Content:
    order = "<" if whole[:2] == b"II" else ">"
    (start,) = struct.unpack(order + "I", whole[4:8])
    (count,) = struct.unpack(order + "H", whole[start : start + 2])
    body = whole
    for _ in range(rng.randint(1, 3)):
        entry = start + 2 + 12 * rng.randrange(count)
        match rng.randrange(6):
            case 0:
                body = _field(rng, body, (entry + 8, 4), order)
            case 1:
                body = _field(rng, body, (entry + 4, 4), order)
            case 2:
                body = (
                    body[: entry + 2]
                    + struct.pack(order + "H", rng.randrange(16))
                    + body[entry + 4 :]
                )
            case 3:
                tags = (
                    256,
                    257,
                    258,
                    259,
                    262,
                    273,
                    277,
                    278,
                    279,
                    284,
                    317,
                    320,
                    322,
                    323,
                    324,
                    325,
                    330,
                    338,
                    339,
                    347,
                    34665,
                    274,
                )
                body = body[:entry] + struct.pack(order + "H", rng.choice(tags)) + body[entry + 2 :]
            case 4:
                value = rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34712, 34925, 50000))
                body = body[: entry + 8] + struct.pack(order + "I", value) + body[entry + 12 :]
            case 5:
                after = start + 2 + 12 * count
                link = rng.choice((start, 0, 8, len(body), 0xFFFFFFFF))
                body = body[:after] + struct.pack(order + "I", link) + body[after + 4 :]
    return body


def _mutated_gif(rng: random.Random, whole: Content) -> Content:
    body = whole
    for _ in range(rng.randint(1, 3)):
        frame = body.find(b",", 13)
        fields = [(6, 2), (8, 2), (10, 1), (11, 1)]
        if frame > 0:
            fields += [(frame + n, 2) for n in (1, 3, 5, 7)] + [(frame + 9, 1), (frame + 10, 1)]
        body = _field(rng, body, rng.choice(fields), "<")
    return mutated_bytes(rng, [body]) if rng.random() < 0.4 else body


def _mutated_bmp(rng: random.Random, whole: Content) -> Content:
    fields = (
        (2, 4),
        (10, 4),
        (14, 4),
        (18, 4),
        (22, 4),
        (26, 2),
        (28, 2),
        (30, 4),
        (34, 4),
        (46, 4),
    )
    body = whole
    for _ in range(rng.randint(1, 3)):
        body = _field(rng, body, rng.choice(fields), "<")
    if rng.random() < 0.3:
        body = body[:30] + struct.pack("<I", rng.randrange(7)) + body[34:]
    return body


def _mutated_webp(rng: random.Random, whole: Content) -> Content:
    body = whole
    for _ in range(rng.randint(1, 3)):
        chunks = [n for n in range(12, len(body) - 8, 2) if body[n : n + 4] in _WEBP_CHUNKS]
        at = rng.choice(chunks or [12])
        fields = (
            (4, 4),
            (at + 4, 4),
            (at + 8, 1),
            (at + 12, 3),
            (at + 15, 3),
            (at + 14, 2),
            (at + 9, 4),
        )
        body = _field(rng, body, rng.choice(fields), "<")
    return mutated_bytes(rng, [body]) if rng.random() < 0.3 else body


_WEBP_CHUNKS = (b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"EXIF")


def _mutated_ppm(rng: random.Random, whole: Content) -> Content:
    head, _, rest = whole.partition(b"\n")
    words = rest.split(None, 3)
    place = rng.randrange(min(3, len(words)))
    odd = (
        str(rng.choice(INTEGERS)).encode(),
        b"-1",
        b"",
        b"0x9",
        b"#",
        b"1e3",
        b"9" * 5000,
        b"\x1b[2J",
    )
    words[place] = rng.choice(odd)
    head = rng.choice((head, head, b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf", b"P7", b"Pyf"))
    return head + b"\n" + b" ".join(words)


_CHANGES: dict[bytes, Callable[[random.Random, Content], Content]] = {
    _PNG: _mutated_png,
    b"\xff\xd8": _mutated_jpeg,
    b"II*\0": _mutated_tiff,
    b"MM\0*": _mutated_tiff,
    b"GIF8": _mutated_gif,
    b"BM": _mutated_bmp,
    b"RIFF": _mutated_webp,
    **{b"P%d" % n: _mutated_ppm for n in range(1, 7)},
}
