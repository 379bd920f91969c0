"""TIFF files of floating-point pixels that Pillow does not read."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from lepton_automl.data.dataset import Dataset
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.pictures.decode import check_picture, decode, decode_16_bit
from lepton_automl.data.pictures.pixel_scale import PixelScale
from lepton_automl.errors import DataError
from tests.helpers.pictures import tiff, write_npz

RNG = np.random.default_rng(0)
UNIT = PixelScale(0, 1)

FROM_TIFFFILE = {
    "big-endian strips of 2 rows, not compressed": (
        "TU0AKgAAAAgADgEAAAQAAAABAAAABAEBAAQAAAABAAAABQECAAMAAAADAAAAtgEDAAMAAAABAAEAAAEGAAMAAAAB"
        "AAIAAAERAAQAAAADAAAAvAEVAAMAAAABAAMAAAEWAAQAAAABAAAAAgEXAAMAAAADAAAAyAEaAAUAAAABAAAAzgEb"
        "AAUAAAABAAAA1gEcAAMAAAABAAEAAAEoAAMAAAABAAEAAAFTAAMAAAADAAAA3gAAAAAAIAAgACAAAADwAAABUAAA"
        "AbAAYABgADAAAAABAAAAAQAAAAEAAAABAAMAAwADAAAAAAAAAAAAAAAAAAAAAD4AAAA+gAAAPsAAAD8AAAA/IAAA"
        "P0AAAAAAAAA+AAAAPoAAAD7AAAA/AAAAPyAAAD9AAAAAAAAAPgAAAD6AAAA+wAAAPwAAAD8gAAA/QAAAAAAAAD4A"
        "AAA+gAAAPsAAAD8AAAA/IAAAP0AAAAAAAAA+AAAAPoAAAD7AAAA/AAAAPyAAAD9AAAAAAAAAPgAAAD6AAAA+wAAA"
        "PwAAAD8gAAA/QAAAAAAAAD4AAAA+gAAAPsAAAD8AAAA/IAAAP0AAAAAAAAA+AAAAPoAAAD7AAAA/AAAAPyAAAD9A"
        "AAAAAAAAPgAAAD6AAAA+wAAA"
    ),
    "LZW with predictor, in planes": (
        "SUkqAAgAAAAPAAABBAABAAAABAAAAAEBBAABAAAABQAAAAIBAwADAAAAwgAAAAMBAwABAAAABQAAAAYBAwABAAAA"
        "AgAAABEBBAADAAAAyAAAABUBAwABAAAAAwAAABYBBAABAAAABQAAABcBAwADAAAA1AAAABoBBQABAAAA2gAAABsB"
        "BQABAAAA4gAAABwBAwABAAAAAgAAACgBAwABAAAAAQAAAD0BAwABAAAAAwAAAFMBAwADAAAA6gAAAAAAAAAgACAA"
        "IADwAAAAJQEAAFgBAAA1ADMAMgABAAAAAQAAAAEAAAABAAAAAwADAAMAgAAHwBf7CYCAICAAELhgAH7/ALBEDghs"
        "VgUEAKBhCgikWgbBHzChbAIEWh0Qf4CIEckwAgKAD4AsEfMIAABgECDwuDj9/gF/gIgKBwQyGD+CQOEIBgRaDwKH"
        "kGKR6GSBhMBAEBASSAiAD4Av8AkFQOAAQmFQuBP9hMBAEBAQuFD+CMEQQiKQyBgFAxGDxsAQJgj5hQlgECRQEA=="
    ),
    "deflate with predictor, tiles of 16": (
        "SUkqAAgAAAAQAAABBAABAAAABAAAAAEBBAABAAAABQAAAAIBAwADAAAAzgAAAAMBAwABAAAACAAAAAYBAwABAAAA"
        "AgAAABUBAwABAAAAAwAAABoBBQABAAAA1AAAABsBBQABAAAA3AAAABwBAwABAAAAAQAAACgBAwABAAAAAQAAAD0B"
        "AwABAAAAAwAAAEIBBAABAAAAEAAAAEMBBAABAAAAEAAAAEQBBAABAAAA8AAAAEUBBAABAAAAdQAAAFMBAwADAAAA"
        "5AAAAAAAAAAgACAAIAABAAAAAQAAAAEAAAABAAAAAwADAAMAAAAAAAAAeJzt07sVAzEIRNFHJ1sJUBqlbCkSlagT"
        "OfD6k60cyQE3Jpk5A6oqIn1OlczOvWicwfBGONuZMeeVgMzb+8MZfiWAYDc1e5Yv0vtC/Y0j3gka233NR3IlwGc+"
        "pzPYzdDXfDQX9uPgf/UApZRSSik/egBM4zsB"
    ),
}
"""Of the values of the test below, written by tifffile 2026.3.3 with imagecodecs 2026.3.6."""


def saved(path, values, *more):
    path.write_bytes(tiff(values, *more))
    return path


@pytest.mark.parametrize("name", FROM_TIFFFILE)
def test_files_of_another_writer_have_the_values_it_was_given(tmp_path, name):
    path = tmp_path / "a.tif"
    path.write_bytes(base64.b64decode(FROM_TIFFFILE[name]))
    values = (np.arange(5 * 4 * 3) % 7 / 8).reshape(5, 4, 3)
    np.testing.assert_array_equal(decode(path, 3, scale=UNIT), np.rint(255 * values))
    info = check_picture(path)
    assert (info.size, info.is_grey, info.has_transparency) == ((5, 4), False, False)
    assert (info.levels.low, info.levels.high, info.levels.is_float) == (0, 6 / 8, True)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_values_are_converted_by_the_scale(tmp_path, kind, channels):
    """Oracle: the definition, in numpy."""
    values = RNG.uniform(-0.2, 1.2, (6, 5, channels)).astype(kind)
    path = saved(tmp_path / "a.tif", values)
    expected = np.clip(np.rint(values.astype(np.float32) * np.float32(255)), 0, 255)
    np.testing.assert_array_equal(decode(path, channels, scale=UNIT), expected)
    levels = check_picture(path).levels
    assert (levels.low, levels.high) == pytest.approx((values.min(), values.max()))


def test_transparent_pixels_are_blended_with_white_or_keep_their_opacity(tmp_path):
    values = RNG.uniform(0, 1, (6, 5, 4)).astype(np.float32)
    path = saved(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(decode(path, 4, scale=UNIT), np.rint(255 * values))
    colour, opacity = values[..., :3], values[..., 3:]
    expected = 255 * (colour * opacity + 1 - opacity)
    assert np.abs(decode(path, 3, scale=UNIT) - expected).max() <= 1.5
    assert check_picture(path).has_transparency
    symmetric = decode(path, 4, scale=PixelScale(-1, 1))
    np.testing.assert_array_equal(symmetric[..., 3], np.rint(255 * values[..., 3]))
    assert check_picture(path).levels.high == colour.max()


@pytest.mark.parametrize("turn", range(1, 9))
def test_they_are_turned_as_files_of_8_bits(tmp_path, turn):
    pixels = RNG.integers(0, 256, (6, 5, 3), np.uint8)
    plain = saved(tmp_path / "a.tif", pixels, turn)
    floats = saved(tmp_path / "b.tif", (pixels / 255).astype(np.float32), turn)
    np.testing.assert_array_equal(decode(floats, 3, scale=UNIT), decode(plain, 3))
    assert check_picture(floats).size == check_picture(plain).size


def test_a_folder_of_them_is_read_as_an_array_of_the_same_values(tmp_path):
    x = RNG.uniform(0, 1, (48, 9, 8, 3)).astype(np.float32)
    for n, values in enumerate(x):
        folder = tmp_path / "d" / f"class{n % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        saved(folder / f"{n:02}.tif", values)
    array = write_npz(tmp_path / "a.npz", x=x, y=np.arange(48) % 3)
    files, arrays = (open_dataset(data, group="none") for data in (tmp_path / "d", array))
    assert (files.pixel_scale, files.channels) == (arrays.pixel_scale, arrays.channels)

    def by_number(data: Dataset) -> dict[int, np.ndarray]:
        return {
            int(name.removesuffix("]").removesuffix(".tif")[-2:].strip("[")): pixels
            for part in data.parts
            for name, pixels in zip(part.ids, data.pixels(part.name, (9, 8)), strict=True)
        }

    found, expected = by_number(files), by_number(arrays)
    assert found.keys() == expected.keys() == set(range(48))
    for n, pixels in found.items():
        np.testing.assert_array_equal(pixels, expected[n])


@pytest.mark.parametrize(
    ("channels", "changed", "why"),
    [
        (4, {338: (1,)}, "unassociated opacity"),
        (4, {262: (5,)}, "photometric interpretation 5"),
        (3, {258: (24,) * 3}, r"\[24\] bits"),
        (3, {259: (7,)}, "compression 7"),
        (3, {317: (2,)}, "predictor 2"),
        (3, {257: (0,)}, "5x0 pixels"),
        (3, {256: (60_000,), 257: (60_000,)}, "strips|at most"),
        (3, {322: (32,), 323: (65_520,), 324: (8,), 325: (400,)}, "in 32x65520"),
        (3, {322: (10,), 323: (16,), 324: (8,), 325: (400,)}, "in 10x16"),
        (3, {273: (8, 9)}, "2 values"),
    ],
)
def test_what_is_not_read_is_refused_with_its_reason(tmp_path, channels, changed, why):
    path = saved(tmp_path / "a.tif", np.ones((6, 5, channels), np.float32), 1, changed)
    for reader in (check_picture, lambda file: decode(file, 3, scale=UNIT)):
        with pytest.raises(DataError, match=why):
            reader(path)


def test_numbers_without_a_place_on_a_scale_are_refused(tmp_path):
    for wrong in (np.nan, np.inf):
        values = np.ones((6, 5, 3), np.float32)
        values[2, 1, 0] = wrong
        with pytest.raises(DataError, match="NaN or infinite"):
            check_picture(saved(tmp_path / "a.tif", values))
    with pytest.raises(DataError, match="infinite"):  # As the float32 that it is read as.
        check_picture(saved(tmp_path / "a.tif", np.full((6, 5, 3), 1e300)))
    with pytest.raises(DataError, match="no 16 bits"):
        decode_16_bit(saved(tmp_path / "a.tif", np.ones((6, 5, 3), np.float32)), 3)


@pytest.mark.filterwarnings("ignore")  # Pillow's, as `picture_files.prepare` and threads do.
@pytest.mark.parametrize("name", FROM_TIFFFILE)
def test_damaged_files_end_in_pixels_or_in_one_error(tmp_path, name):
    content, path = base64.b64decode(FROM_TIFFFILE[name]), tmp_path / "a.tif"
    cut = [content[:end] for end in range(0, len(content), 5)]
    flipped = [
        content[:n] + bytes([content[n] ^ int(RNG.integers(1, 256))]) + content[n + 1 :]
        for n in range(0, len(content), 3)
    ]
    refused = 0
    for damaged in (*cut, *flipped):
        path.write_bytes(damaged)
        try:
            assert decode(path, 3, scale=UNIT).dtype == np.uint8
        except DataError:
            refused += 1
    assert refused > len(cut) / 2
