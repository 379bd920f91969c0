"""PNG files of the simplest form, against Pillow's own way of opening them."""

from __future__ import annotations

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lepton_automl.data.pictures import decode as decode_module
from lepton_automl.data.pictures import plain_png
from lepton_automl.data.pictures.decode import decode
from lepton_automl.errors import DataError
from tests.helpers.pictures import random_pictures

MOST = 1 << 20
PIXELS = random_pictures(1, (24, 31, 3))[0]
SMOOTH = (np.add.outer(np.arange(40) ** 2, 7 * np.arange(52)) // 9 % 256).astype(np.uint8)
"""All filters of PNG are chosen for its rows."""


def png(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunk(content, name, data, *, before=b"IDAT"):
    place = content.index(before) - 4
    return content[:place] + chunk(name, data) + content[place:]


def split(content, sizes):
    """The same picture with its data in several chunks."""
    start = content.index(b"IDAT")
    length = int.from_bytes(content[start - 4 : start])
    data, parts = content[start + 4 : start + 4 + length], b""
    for size in (*sizes, length):
        parts, data = parts + chunk(b"IDAT", data[:size]), data[size:]
    return content[: start - 4] + parts + content[start + 8 + length :]


PLAIN = {
    "colour": png(PIXELS),
    "grey": png(PIXELS[..., 0].copy()),
    "filters": png(SMOOTH),
    "small": png(PIXELS[:1, :1].copy()),
    "large": png(random_pictures(1, (300, 280, 3))[0]),
    "not compressed": png(PIXELS, compress_level=0),
    "parts": split(png(PIXELS), (5, 0, 700)),
    "more data": split(png(SMOOTH), (1,)).replace(
        chunk(b"IEND", b""), chunk(b"IDAT", b"more") + chunk(b"IEND", b"")
    ),
    "gamma": with_chunk(png(SMOOTH), b"gAMA", struct.pack(">I", 45455)),
    "resolution": png(PIXELS, dpi=(96, 96)),
}
PNG = png(SMOOTH)
OTHERS = {
    "transparency": png(PIXELS, transparency=(1, 2, 3)),
    "orientation": with_chunk(
        PNG, b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    ),
    "text": with_chunk(PNG, b"tEXt", b"Title\0a"),
    "text after the data": with_chunk(PNG, b"tEXt", b"Title\0a", before=b"IEND"),
    "opacity": png(np.concatenate([PIXELS, PIXELS[..., :1]], 2)),
    "sixteen bits": png(SMOOTH.astype(np.uint16) * 257),
    "two levels": png(SMOOTH > 99),
    "damaged gamma": with_chunk(PNG, b"gAMA", b"\0\0"),
    "an unknown chunk": with_chunk(PNG, b"abCd", b"data"),
    "a needed chunk": with_chunk(PNG, b"ABCD", b"data"),
    "no end": PNG[: -len(chunk(b"IEND", b""))],
    "cut": PNG[: len(PNG) // 2],
    "cut data": split(PNG, (30,)).replace(split(PNG, (30,))[-60:-12], b""),
    "wrong length": PNG.replace(struct.pack(">I", 40), struct.pack(">I", 41), 1),
    "no data": PNG[:33] + PNG[-12:],
    "more behind the end": PNG + b"\0",
    "empty": b"",
}


def pillow(content):
    """Pixels as Pillow opens them, or None where it cannot."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return image.mode, np.asarray(image), image.getexif().get(0x0112, 1), image.info
    except (OSError, SyntaxError, ValueError, struct.error):
        return None


@pytest.mark.parametrize("name", PLAIN)
def test_plain_files_have_the_pixels_of_pillow(name):
    mode, pixels, *_ = pillow(PLAIN[name])
    found = plain_png.read(PLAIN[name], MOST)
    assert found.mode == mode
    np.testing.assert_array_equal(np.asarray(found), pixels)


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_left_to_pillow(name):
    assert plain_png.read(OTHERS[name], MOST) is None


def test_a_picture_with_more_pixels_than_allowed_is_not_decoded():
    assert plain_png.read(PLAIN["small"], 1) is not None
    assert plain_png.read(PNG, 40 * 52 - 1) is None
    huge = PNG[:16] + struct.pack(">II", 1 << 31, 1 << 31) + PNG[24:29]
    assert plain_png.read(huge + struct.pack(">I", zlib.crc32(huge[12:])) + PNG[33:], MOST) is None


def test_a_changed_file_is_read_as_pillow_reads_it():
    rng = random.Random(0)
    seen = 0
    for number in range(3000):
        content = bytearray(rng.choice([*PLAIN.values(), OTHERS["transparency"]][:9]))
        for _ in range(rng.randint(1, 2)):
            place = rng.randrange(rng.choice((64, len(content))))
            content[place] = rng.randrange(256)
        if number % 2:  # A head that is whole again.
            content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
        found = plain_png.read(bytes(content), MOST)
        if found is not None:
            mode, pixels, orientation, info = pillow(bytes(content))
            assert (found.mode, orientation) == (mode, 1)
            assert "transparency" not in info
            np.testing.assert_array_equal(np.asarray(found), pixels)
            seen += 1
    assert seen > 50


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [None, (20, 17)])
@pytest.mark.parametrize("name", ["colour", "filters", "transparency", "orientation", "cut"])
def test_decoding_does_not_depend_on_the_way(tmp_path, monkeypatch, name, size, channels):
    path = tmp_path / "a.png"
    path.write_bytes((PLAIN | OTHERS)[name])

    def decoded():
        try:
            return decode(path, channels, size).tolist()
        except DataError as error:
            return error.what

    found = decoded()
    monkeypatch.setattr(decode_module.plain_png, "read", lambda *_: None)
    assert decoded() == found
