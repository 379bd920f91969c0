from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from lepton_automl.artifact.lepton_device import to_8_bits
from lepton_automl.data.audit.checks import audit
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.pictures.pixel_scale import NAMED, PixelScale, parse
from lepton_automl.errors import ConfigError, DataError
from tests.helpers.pictures import random_pictures, write_npz

X = random_pictures(60, (9, 7, 3))  # not square
Y = np.arange(60) % 3


def pixels_of(dataset):
    """All pixels of a data set by the name of the sample."""
    return {
        name: pixels
        for part in dataset.parts
        for name, pixels in zip(part.ids, dataset.pixels(part.name, dataset.size), strict=True)
    }


def opened(tmp_path, x, **options):
    return open_dataset(write_npz(tmp_path / "a.npz", x=x, y=Y), **options)


def stored(tmp_path, x, **options):
    """Pixels (60, 9, 7, 3) that the data set makes of `x`."""
    found = pixels_of(opened(tmp_path, x, **options))
    return np.stack([found[f"x[{n}]"] for n in range(60)])


def nearest(x, black, white):
    """The definition, in double precision."""
    levels = 255 * (x.astype(np.float64) - black) / (white - black)
    return np.rint(np.clip(levels, 0, 255))


@pytest.mark.parametrize("name", NAMED)
def test_every_scale_maps_black_white_and_between_to_the_nearest_level(name):
    scale = NAMED[name]
    values = np.linspace(scale.black, scale.white, 5001)
    for array in (values, values.astype(np.float32)):
        difference = scale.to_uint8(array) - nearest(array, scale.black, scale.white)
        assert abs(difference).max() == 0 or (difference != 0).mean() < 0.002  # halves
    if name.endswith("bit"):
        whole = np.arange(int(scale.white) + 1)
        for dtype in (np.uint16, np.int32, np.int64):
            np.testing.assert_array_equal(
                scale.to_uint8(whole.astype(dtype)), np.rint(whole * 255 / scale.white)
            )


@pytest.mark.parametrize(
    ("text", "scale"),
    [
        ("unit", PixelScale(0, 1)),
        ("12bit", PixelScale(0, 4095)),
        ("3000", PixelScale(0, 3000)),
        ("-1000:400.5", PixelScale(-1000, 400.5)),
    ],
)
def test_a_scale_is_read_from_text_and_written_to_it(text, scale):
    assert parse(text) == scale
    assert parse(scale.name) == scale


@pytest.mark.parametrize(
    "text",
    ["", "12 bit", "5:1", "0", "nan:1", "1:inf", "auto:auto", "-1e308:1e308", "1e-300", "9" * 400],
)
def test_what_is_no_scale_is_refused_with_the_rule(text):
    with pytest.raises(ConfigError, match=r"--pixel-scale .* BLACK:WHITE"):
        parse(text)


@pytest.mark.parametrize("white", [2**54, 2**54 + 2**20, 10**17, 2**63, 2**64 - 1, 10**30])
@pytest.mark.parametrize("dtype", [np.int16, np.int64, np.uint64])
def test_whites_beyond_what_integers_hold_255_times_are_white(white, dtype):
    top = min(white, np.iinfo(dtype).max)
    values = np.array([0, top // 3, top // 2, top], dtype)
    found = PixelScale(0.0, float(white)).to_uint8(values)
    wanted = [min(255, round(Fraction(255 * int(v), white))) for v in values]
    assert np.abs(found.astype(int) - wanted).max() <= 1  # Halves may be rounded either way.
    assert to_8_bits(values, f"{white}").tolist() == found.tolist()


def test_auto_is_no_scale_of_its_own():
    assert parse("auto") is None


def test_one_value_a_little_above_1_is_clipped_and_reported(tmp_path):
    x = X.astype(np.float32) / 255
    x[5, 3, 3, 0] = 1.004
    notes = []
    data = opened(tmp_path, x, emit=lambda event: notes.append(event.message))
    np.testing.assert_array_equal(pixels_of(data)["x[7]"], X[7])
    assert pixels_of(data)["x[5]"][3, 3, 0] == 255
    assert any("1 of 11340 values" in note and "1.004" in note for note in notes)
    (decision,) = [each for each in data.decisions if each.name == "pixel scale"]
    assert "unit" in decision.choice
    assert "1.004" in decision.evidence
    assert decision.option == "--pixel-scale"


@pytest.mark.parametrize("resample", [Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
@pytest.mark.parametrize(("black", "white"), [(0, 1), (0, 255), (0, 4095)])
def test_overshoot_of_resized_pictures_is_clipped(tmp_path, resample, black, white):
    edges = random_pictures(60, (9, 7, 3)) // 128  # hard edges: the largest overshoot
    resized = np.stack(
        [
            np.stack(
                [
                    np.asarray(Image.fromarray(c.astype(np.float32)).resize((14, 18), resample))
                    for c in np.moveaxis(picture, 2, 0)
                ],
                -1,
            )
            for picture in edges
        ]
    )
    x = resized * (white - black) + black
    assert x.min() < black
    assert abs(stored(tmp_path, x) - nearest(x, black, white)).max() <= 1


@pytest.mark.parametrize(
    ("x", "black", "white"),
    [
        (X / 127.5 - 1, -1, 1),
        ((X / 127.5 - 1) * 1.02, -1, 1),
        (X.clip(0, 216) / 127.5 - 1, -1, 1),
        (X.astype(np.int32) * 4, 0, 1023),
        (X.astype(np.uint16) * 16, 0, 4095),
        (X.astype(np.int16) * 64, 0, 16383),
        (X.astype(np.int64) * 257, 0, 65535),
        (X.astype(np.float32) * 16, 0, 4095),
        (X.astype(np.int16), 0, 255),
        ((X > 127).astype(np.uint8), 0, 1),
    ],
    ids=[
        "symmetric",
        "symmetric+",
        "symmetric dim",
        "10",
        "12",
        "14",
        "16",
        "12 float",
        "8 int16",
        "0 and 1",
    ],
)
def test_the_training_values_show_the_scale(tmp_path, x, black, white):
    # Pixels of 16 bits are quantized by the file, in steps of its own (test_16_bit_pixels).
    apart = int(x.dtype == np.uint16)
    wanted = nearest(x.astype(np.float32), black, white)
    np.testing.assert_allclose(stored(tmp_path, x).astype(int), wanted, rtol=0, atol=apart)


@pytest.mark.parametrize(
    "x",
    [
        (X / 255 - 0.45) / 0.25,  # standardised
        X / 255 - 0.4,  # mean subtracted
        X / 60.0,  # fractions up to 4.25
        X.astype(np.int16) * 8 - 1000,  # Hounsfield units
        X.astype(np.int64) * 1000,
        X.astype(np.int8),
    ],
    ids=["standardised", "centred", "small", "CT", "beyond 16 bits", "wrapped"],
)
def test_values_of_no_known_scale_are_refused_and_an_option_reads_them(tmp_path, x):
    with pytest.raises(DataError, match=r"pixels from .* in x") as caught:
        opened(tmp_path, x)
    assert "--pixel-scale=" in caught.value.fix
    low, high = float(x.min()), float(x.max())
    np.testing.assert_allclose(
        stored(tmp_path, x, pixel_scale=f"{low}:{high}"), nearest(x, low, high), atol=1
    )


def parts(train, test):
    return {"x_train": train, "y_train": Y, "x_test": test, "y_test": Y}


UNIT = X.astype(np.float32) / 255


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (UNIT, X.astype(np.float32)),
        (UNIT, X),
        (X.astype(np.float32), UNIT),
        (X, X // 255),
        (UNIT * 2 - 1, UNIT),
        (UNIT, UNIT * 2 - 1),
        (X.astype(np.uint16) * 16, X.astype(np.uint16) * 257),
        (X.astype(np.uint16) * 257, X.astype(np.uint16)),
        (X.astype(np.uint16) * 257, X.astype(np.uint16) * 16),
    ],
)
def test_parts_of_different_scale_are_refused_also_as_a_test_file(tmp_path, train, test):
    path = write_npz(tmp_path / "both.npz", **parts(train, test))
    with pytest.raises(DataError, match=r"different scales: x_train .* but x_test"):
        open_dataset(path)
    path = write_npz(tmp_path / "train.npz", x=train, y=Y)
    other = write_npz(tmp_path / "test.npz", x=test, y=Y)
    with pytest.raises(DataError, match=r"different scales: x .* but x of --test"):
        open_dataset(path, test=other)


def test_the_test_part_never_decides(tmp_path):
    dim, bright = X.astype(np.uint16) * 16, X.astype(np.uint16) * 16
    bright[0, 0, 0] = 60000  # one hot pixel
    path = write_npz(tmp_path / "a.npz", **parts(dim, bright))
    found = open_dataset(path)
    assert found.pixel_scale == NAMED["12bit"]
    pixels = found.pixels("test", (9, 7)).astype(int)
    np.testing.assert_allclose(pixels, nearest(bright, 0, 4095), rtol=0, atol=1)


@pytest.mark.parametrize(
    ("x", "option"),
    [
        (UNIT, "8bit"),
        (X, "unit"),
        (X, "16bit"),
        (X.astype(np.uint16) * 257, "12bit"),
        (UNIT, "symmetric"),
        (UNIT, "5:9"),
    ],
)
def test_a_stated_scale_that_does_not_fit_is_an_error(tmp_path, x, option):
    with pytest.raises(ConfigError, match="--pixel-scale"):
        opened(tmp_path, x, pixel_scale=option)


def test_a_stated_scale_is_no_decision_and_may_be_a_window(tmp_path):
    x = X.astype(np.int16) * 8 - 1000
    found = opened(tmp_path, x, pixel_scale="-160:240")
    assert "pixel scale" not in {each.name for each in found.decisions}
    np.testing.assert_array_equal(pixels_of(found)["x[3]"], nearest(x[3], -160, 240))


# ---- picture files


def saved(root, values, *, part="", ending="png"):
    """Grey files of whole numbers, a folder a class."""
    for n, picture in enumerate(values):
        folder = root / part / f"class{n % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[..., 0] if picture.ndim == 3 else picture).save(
            folder / f"{n:02}.{ending}"
        )
    return root


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize(("factor", "white"), [(1, 255), (4, 1023), (16, 4095), (257, 65535)])
def test_files_with_16_bits_are_scaled_by_what_training_uses(tmp_path, ending, factor, white):
    values = X.astype(np.uint16) * np.uint16(factor)
    found = open_dataset(saved(tmp_path / "d", values, ending=ending), input_type="uint8")
    assert found.pixel_scale == PixelScale(0, white)
    for name, pixels in pixels_of(found).items():
        number = int(name.split("/")[1][:2])
        np.testing.assert_array_equal(pixels, np.rint(values[number][..., :1] * 255.0 / white))
    (decision,) = [each for each in found.decisions if each.name == "pixel scale"]
    assert f"{white} white" in decision.choice


def test_files_of_a_part_with_another_scale_are_refused(tmp_path):
    values = X.astype(np.uint16)
    saved(tmp_path / "d", values * np.uint16(16), part="train")
    saved(tmp_path / "d", values * np.uint16(257), part="test")
    with pytest.raises(DataError, match="different scales"):
        open_dataset(tmp_path / "d")
    with pytest.raises(ConfigError, match="12bit"):
        open_dataset(tmp_path / "d", pixel_scale="12bit")


def test_8_bit_files_have_no_scale_to_state(tmp_path):
    root = saved(tmp_path / "d", X)
    assert open_dataset(root).pixel_scale is None
    with pytest.raises(ConfigError, match="no effect"):
        open_dataset(root, pixel_scale="12bit")


def test_the_cache_of_decoded_pictures_does_not_mix_scales(tmp_path):
    root = saved(tmp_path / "d", X.astype(np.uint16) * np.uint16(16))
    means = []
    for option in ("auto", "8000"):
        files = open_dataset(root, pixel_scale=option).decoded_files("train", (9, 7), tmp_path)
        means.append(np.load(files.pixels).mean())
    assert means[0] == pytest.approx(means[1] * 8000 / 4095, rel=0.02)


# ---- what is left of the pictures


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda x: x * 0 + 7, "flat pictures"),
        (lambda x: np.where(x > 127, 200, 3), "two levels"),
        (lambda x: 100 + x // 32, "few levels"),
    ],
)
def test_parts_without_detail_are_reported(tmp_path, change, kind):
    arrays = parts(X, change(X).astype(np.uint8))
    found = audit(open_dataset(write_npz(tmp_path / "a.npz", **arrays)))
    told = [each for each in found if each.kind in ("flat pictures", "two levels", "few levels")]
    assert [each.kind for each in told] == [kind]
    assert "test" in told[0].message
    assert "--pixel-scale" in told[0].fix


def test_files_without_detail_are_reported(tmp_path):
    root = saved(tmp_path / "d", np.where(X > 127, 255, 0).astype(np.uint8))
    kinds = [each.kind for each in audit(open_dataset(root))]
    assert kinds.count("two levels") == 3


def test_the_scale_of_a_trained_net_holds_for_other_data(tmp_path):
    dim = X.astype(np.uint16)  # 12-bit pictures of a dark day: they fit 8 bits
    dim[0, 0, 0] = 900
    path = write_npz(tmp_path / "a.npz", x=dim, y=Y)
    known = NAMED["12bit"]
    assert open_dataset(path, known_scale=known).pixel_scale == known
    assert open_dataset(path).pixel_scale == NAMED["10bit"]
    bright = write_npz(tmp_path / "b.npz", x=dim * np.uint16(60), y=Y)
    with pytest.raises(DataError, match=r"trained with .*4095 white"):
        open_dataset(bright, known_scale=known)
    unit = write_npz(tmp_path / "c.npz", x=UNIT, y=Y)
    assert open_dataset(unit, known_scale=known).pixel_scale == NAMED["unit"]
