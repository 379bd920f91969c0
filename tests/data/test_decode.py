from __future__ import annotations

import contextlib
import functools
import io
import struct
import sys
import threading
import tracemalloc
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lepton_automl.data.pictures import decode as decode_module
from lepton_automl.data.pictures.decode import check_picture, decode, map_in_threads, thumbnail
from lepton_automl.data.pictures.pixel_scale import NAMED, SIXTEEN_BIT, PixelScale
from lepton_automl.errors import DataError
from tests.helpers.pictures import random_pictures

UPRIGHT = random_pictures(1, (6, 4, 3))[0]

# How a camera stores an upright picture under each EXIF orientation (CIPA DC-008, 4.6.4).
STORED = {
    1: UPRIGHT,
    2: np.fliplr(UPRIGHT),
    3: np.rot90(UPRIGHT, 2),
    4: np.flipud(UPRIGHT),
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT, 1),
    7: np.rot90(UPRIGHT, 2).transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}


def saved(path, pixels, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_exif_orientation_is_set_upright(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif, "lossless": True} if ending == "webp" else {"exif": exif}
    path = saved(tmp_path / f"a.{ending}", np.ascontiguousarray(STORED[orientation]), **options)
    np.testing.assert_array_equal(decode(path, 3), UPRIGHT)
    assert check_picture(path).size == (6, 4)


def test_damaged_exif_does_not_hide_a_sound_picture(tmp_path):
    path = saved(tmp_path / "a.png", UPRIGHT, exif=b"Exif\0\0MM\0*\0\0\xff\xff\xff\xff")
    (pixels,) = map_in_threads(lambda file: decode(file, 3), [path])
    np.testing.assert_array_equal(pixels, UPRIGHT)


def test_sixteen_bit_grey_is_divided_by_257_and_rounded(tmp_path):
    values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    expected = np.rint(values / 257).astype(np.uint8)
    for ending in ("png", "tif"):
        path = saved(tmp_path / f"a.{ending}", values)
        np.testing.assert_array_equal(decode(path, 1)[..., 0], expected)
        np.testing.assert_array_equal(decode(path, 3)[..., 2], expected)
        assert check_picture(path).is_grey


def test_all_sixteen_bit_values_go_to_the_nearest_of_256():
    values = np.arange(65536)
    np.testing.assert_array_equal(SIXTEEN_BIT.to_uint8(values), np.rint(values / 257))


def wide_png(path, pixels):
    """A PNG of uint16 pixels (H, W, 3 or 4), written by hand: Pillow writes 8 bits only."""

    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks))
    return path


def wide_tiff(path, pixels, order):
    """An uncompressed TIFF of uint16 pixels (H, W, 3) in a byte order."""
    height, width, _ = pixels.shape
    short, long, start = 3, 4, 8 + 2 + 12 * 10 + 4
    entries = [
        (256, short, 1, width), (257, short, 1, height), (258, short, 3, start),
        (259, short, 1, 1), (262, short, 1, 2), (273, long, 1, start + 6), (277, short, 1, 3),
        (278, short, 1, height), (279, long, 1, pixels.nbytes), (284, short, 1, 1),
    ]  # fmt: skip
    body = b"".join(
        struct.pack(order + "HHI", tag, kind, count)
        + (
            struct.pack(order + "HH", value, 0)
            if kind == short and count == 1
            else struct.pack(order + "I", value)
        )
        for tag, kind, count, value in entries
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    bits = struct.pack(order + "HHH", 16, 16, 16)
    content = pixels.astype(order + "u2").tobytes()
    tail = struct.pack(order + "I", 0) + bits + content
    path.write_bytes(head + struct.pack(order + "H", len(entries)) + body + tail)
    return path


WIDE = np.random.default_rng(5).integers(0, 4096, (9, 7, 3)).astype(np.uint16)


@pytest.mark.parametrize(
    "path",
    [
        lambda folder: wide_png(folder / "a.png", WIDE),
        lambda folder: wide_tiff(folder / "a.tif", WIDE, "<"),
        lambda folder: wide_tiff(folder / "a.tif", WIDE, ">"),
    ],
    ids=["png", "little tiff", "big tiff"],
)
def test_16_bit_colour_keeps_all_bits_under_a_scale(tmp_path, path):
    file = path(tmp_path)
    np.testing.assert_array_equal(decode(file, 3, scale=NAMED["12bit"]), np.rint(WIDE / 4095 * 255))
    np.testing.assert_array_equal(decode(file, 3), WIDE // 256)  # As Pillow reads it.
    info = check_picture(file)
    assert info.levels.is_above_8_bits
    assert WIDE.max() <= info.levels.high <= 4095
    assert info.size == (9, 7)


def test_transparent_16_bit_colour_lies_over_white_under_a_scale(tmp_path):
    pixels = np.dstack([WIDE, np.where(WIDE[..., :1] > 2000, 4095, 0)]).astype(np.uint16)
    seen = decode(wide_png(tmp_path / "a.png", pixels), 3, scale=NAMED["12bit"])
    expected = np.where(pixels[..., 3:] > 0, np.rint(WIDE / 4095 * 255), 255)
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
def test_transparent_pixels_lie_over_white(tmp_path, ending):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0], pixels[0, 1] = (255, 0, 0, 255), (255, 0, 0, 0)
    pixels[1, 0], pixels[1, 1] = (255, 0, 0, 128), (0, 0, 0, 51)
    path = tmp_path / f"a.{ending}"
    saved(path, pixels, **({"lossless": True, "exact": True} if ending == "webp" else {}))
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    np.testing.assert_allclose(decode(path, 3), expected, atol=1)


def test_grey_with_transparency_stays_grey(tmp_path):
    pixels = np.stack([np.full((3, 3), 100), np.full((3, 3), 0)], -1).astype(np.uint8)
    path = saved(tmp_path / "a.png", Image.fromarray(pixels))
    assert check_picture(path).is_grey
    assert (decode(path, 1) == 255).all()


def test_transparent_palette_colour_lies_over_white(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("L")
    image.putpalette([10, 20, 30, 40, 50, 60])
    path = saved(tmp_path / "a.png", image, transparency=0)
    np.testing.assert_array_equal(decode(path, 3)[0], [[255, 255, 255], [40, 50, 60]])


def test_cmyk_becomes_rgb(tmp_path):
    image = Image.new("CMYK", (16, 16))
    image.paste((0, 255, 255, 0), (8, 0, 16, 16))
    for ending in ("jpg", "tif"):
        pixels = decode(saved(tmp_path / f"a.{ending}", image), 3).astype(int)
        np.testing.assert_allclose(pixels[:, :7], 255, atol=4)
        np.testing.assert_allclose(pixels[4, 12], (255, 0, 0), atol=4)


def test_of_a_moving_gif_the_first_frame_counts(tmp_path):
    frames = [Image.new("P", (5, 4), colour) for colour in (1, 2)]
    for frame in frames:
        frame.putpalette([0, 0, 0, 200, 10, 10, 10, 10, 200])
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert (decode(path, 3) == (200, 10, 10)).all()
    assert check_picture(path).size == (4, 5)
    assert not check_picture(path).is_grey


def test_a_palette_of_greys_is_grey(tmp_path):
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 77, 77, 77])
    path = saved(tmp_path / "a.png", image)
    assert check_picture(path).is_grey
    assert (decode(path, 1) == 77).all()


def test_black_and_white_is_0_and_255(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(np.array([[True, False]])))
    assert decode(path, 1).ravel().tolist() == [255, 0]


def test_colour_becomes_grey_as_bt601_luma(tmp_path):
    path = saved(tmp_path / "a.png", UPRIGHT)
    luma = UPRIGHT @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(decode(path, 1)[..., 0], luma, atol=0.51)


def test_a_file_and_its_pixels_decode_alike_at_every_size(tmp_path):
    pixels = random_pictures(1, (40, 30, 3))[0]
    path = saved(tmp_path / "a.png", pixels)
    for size in ((40, 30), (16, 16), (64, 50)):
        decoded = decode(path, 3, size)
        assert decoded.shape == (*size, 3)
        np.testing.assert_array_equal(decoded, decode(pixels, 3, size))


def test_shrinking_averages_all_pixels_and_drops_none():
    # 1-pixel stripes: without antialiasing they would come out black or white.
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    inner = decode(stripes, 1, (8, 8))[2:-2, 2:-2]
    np.testing.assert_allclose(inner, 127.5, atol=3)


def test_floating_point_pictures_are_converted_by_the_scale(tmp_path):
    """Oracle: the definition, in numpy."""
    values = np.random.default_rng(0).uniform(-0.2, 1.2, (6, 5)).astype(np.float32)
    path = saved(tmp_path / "a.tif", values)
    expected = np.clip(np.rint(values * np.float32(255)), 0, 255)
    np.testing.assert_array_equal(decode(path, 1, scale=PixelScale(0, 1))[..., 0], expected)
    levels = check_picture(path).levels
    assert (levels.is_above_8_bits, levels.is_float) == (True, True)
    assert (levels.low, levels.high) == (values.min(), values.max())
    for bad in (np.nan, np.inf):
        values[2, 2] = bad
        with pytest.raises(DataError, match="NaN or infinite"):
            check_picture(saved(tmp_path / "b.tif", values))


def test_the_scale_of_fractions_says_nothing_of_whole_numbers(tmp_path):
    values = np.random.default_rng(0).integers(0, 1 << 16, (6, 5)).astype(np.uint16)
    path = saved(tmp_path / "a.png", values)
    np.testing.assert_array_equal(decode(path, 1, scale=PixelScale(0, 1)), decode(path, 1))


def test_32_bit_values_beyond_16_bits_are_refused(tmp_path):
    path = saved(tmp_path / "a.tif", np.full((3, 3), 70000, np.int32))
    with pytest.raises(DataError, match="70000"):
        check_picture(path)


def without_palette(pixels):
    """A PNG whose pixels are indices into a palette that is not there."""
    file = io.BytesIO()
    Image.fromarray(pixels).convert("P").save(file, "PNG")
    body = file.getvalue()
    start = body.index(b"PLTE") - 4
    return body[:start] + body[body.index(b"IDAT") - 4 :]


BAD = {
    "no-palette.png": lambda jpg, png: without_palette(random_pictures(1, (9, 7, 3))[0]),
    "truncated.jpg": lambda jpg, png: jpg[: len(jpg) // 2],
    "truncated.png": lambda jpg, png: png[: len(png) // 2],
    "damaged.png": lambda jpg, png: png[:100] + bytes(100) + png[200:],
    "text.png": lambda jpg, png: b"hello\n",
    "empty.png": lambda jpg, png: b"",
    "header.gif": lambda jpg, png: b"GIF89a",
    "script.png": lambda jpg, png: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_files_are_named_and_not_decoded(tmp_path, name):
    pixels = random_pictures(1, (64, 64, 3))[0]
    whole = [saved(tmp_path / f"whole.{ending}", pixels).read_bytes() for ending in ("jpg", "png")]
    path = tmp_path / name
    path.write_bytes(BAD[name](*whole))
    for reader in (check_picture, lambda file: decode(file, 3)):
        with pytest.raises(DataError, match=name) as caught:
            reader(path)
        assert "--skip-corrupt" in caught.value.fix


def test_missing_files_and_folders_are_data_errors(tmp_path):
    for path in (tmp_path / "no.png", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            check_picture(path)


@pytest.mark.parametrize("action", [check_picture, functools.partial(decode, channels=3)])
def test_pictures_of_too_many_pixels_are_refused_with_the_limit(tmp_path, action):
    # 9,000 x 9,000 zero bytes need 81 MB unpacked; they are refused before that.
    path = tmp_path / "a.png"
    Image.new("1", (9000, 9000)).save(path)
    with pytest.raises(DataError, match=r"9000x9000 pixels, at most 62914560"):
        map_in_threads(action, [path])
    with pytest.raises(DataError, match=r"9000x9000 pixels"):
        thumbnail(path, 32)


def test_many_are_worked_on_in_order():
    ticks = []
    assert map_in_threads(lambda x: x * x, range(50), ticks.append) == [x * x for x in range(50)]
    assert ticks == list(range(1, 51))


def test_a_part_of_a_file_that_claims_to_be_huge_takes_no_memory(tmp_path):
    """A PNG of a few bytes whose pixels claim 250 MB; the oracle counts what Python allocates."""
    buffer = io.BytesIO()
    Image.new("1", (7, 9)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    place = content.index(b"IDAT") - 4
    content[place : place + 4] = struct.pack(">I", 250_000_000)
    (tmp_path / "a.png").write_bytes(content)
    tracemalloc.start()
    try:
        for read in (check_picture, functools.partial(decode, channels=1)):
            with contextlib.suppress(DataError):
                read(tmp_path / "a.png")
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_every_channel_of_other_pictures_is_resized_as_a_grey_picture():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 5), np.uint8)
    found = decode(pixels, 5, (6, 11))
    for channel in range(5):
        alone = decode(np.ascontiguousarray(pixels[..., channel]), 1, (6, 11))[..., 0]
        np.testing.assert_array_equal(found[..., channel], alone)
    assert decode(pixels, 5) is pixels
    with pytest.raises(DataError, match="a picture has 5 channels, 3 are wanted"):
        decode(pixels, 3)


def test_opacity_is_a_fourth_channel_where_four_are_wanted(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 4), pixels)
    Image.fromarray(pixels[..., :3]).save(tmp_path / "b.png")
    found = decode(tmp_path / "b.png", 4)
    np.testing.assert_array_equal(found[..., :3], pixels[..., :3])
    assert (found[..., 3] == 255).all()
    with pytest.raises(DataError, match="6 channels are wanted"):
        decode(tmp_path / "a.png", 6)


@pytest.mark.skipif(sys.platform != "linux", reason="libtiff is found among the mapped files")
def test_libtiff_prints_nothing_about_a_cut_file(tmp_path, capfd):
    """It writes to the terminal itself, beside the error that Pillow raises."""
    path = tmp_path / "a.tif"
    pixels = random_pictures(1, (64, 64, 3))[0]
    Image.fromarray(pixels).save(path, compression="tiff_lzw")
    content = bytearray(path.read_bytes())
    content[8:400] = bytes(392)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tif cannot be read"):
        check_picture(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("short", "is_here"), [(float("inf"), True), (-1.0, False)])
def test_short_work_stays_in_the_thread_that_asks_for_it(monkeypatch, short, is_here):
    monkeypatch.setattr(decode_module, "_SHORT", short)
    threads = map_in_threads(lambda _: threading.get_ident(), range(40))
    assert (set(threads[8:]) == {threading.get_ident()}) == is_here


def test_a_few_slow_pictures_do_not_start_threads(monkeypatch):
    times = iter(range(10_000))
    clock = SimpleNamespace(perf_counter=lambda: next(times) // 5)  # Every fifth takes a second.
    monkeypatch.setattr(decode_module, "time", clock)
    threads = map_in_threads(lambda _: threading.get_ident(), range(40))
    assert set(threads) == {threading.get_ident()}
