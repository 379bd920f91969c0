"""Pictures of 16 bits: nets see a range of their values, and files read them as they are stored."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lepton_automl.data.audit import checks as audit
from lepton_automl.data.dataset import open_dataset
from lepton_automl.data.pictures.array_files import read_deep_pixels
from lepton_automl.data.pictures.decode import decode_deep
from lepton_automl.errors import ConfigError, DataError
from tests.helpers.pictures import write_npz

Y = np.arange(48) % 2
RNG = np.random.default_rng(0)
X = RNG.integers(20_000, 20_200, (48, 9, 8, 1)).astype(np.uint16)
"""A narrow range, of which 8 bits of the whole leave one value."""


def files(folder, x=X, kind="png"):
    for n, pixels in enumerate(x):
        path = folder / "ab"[Y[n]] / f"{n:02}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0]).save(path)
    return folder


def samples(data, cache):
    """What nets see, and what the file reads, of the training part."""
    return (
        np.load(data.decoded_files("train", (9, 8), cache).pixels),
        np.load(data.file_input_files("train", (9, 8), cache).pixels),
    )


@pytest.mark.parametrize("form", ["npz", "png", "tif"])
def test_nets_see_the_range_of_the_values_and_files_read_them(tmp_path, form):
    is_array = form == "npz"
    data = write_npz(tmp_path / "x.npz", x=X, y=Y) if is_array else files(tmp_path / "d", kind=form)
    found = open_dataset(data, group="none")
    seen, stored = samples(found, tmp_path / "cache")
    assert (found.input_type, stored.dtype, seen.dtype) == ("uint16", np.uint16, np.uint8)
    assert {row.tobytes() for row in stored} <= {row.tobytes() for row in X}
    # The oracle: lowest value to 0, highest to 255, to the nearest sample.
    low, high = (int(np.quantile(stored, q)) for q in (0.0005, 0.9995))
    expected = np.clip((stored.astype(float) - low) * 255 / (high - low), 0, 255)
    assert np.abs(seen - expected).max() <= 2
    assert len(np.unique(seen)) > 150
    assert [d.choice for d in found.decisions if d.name == "input type"]
    lines = []
    audit.emit_findings(found, lines.append)
    assert not any("few levels" in line.message for line in lines)
    np.testing.assert_array_equal(found.pixels("train", (9, 8)), seen)  # The audit sees them too.
    np.testing.assert_array_equal(
        found.preprocessing((9, 8)).input_quantization.quantize(stored), seen
    )


def test_the_option_keeps_8_bits(tmp_path):
    path = write_npz(tmp_path / "x.npz", x=X, y=Y)
    found = open_dataset(path, input_type="uint8", group="none")
    seen, stored = samples(found, tmp_path / "cache")
    assert found.input_type == "uint8"
    assert len(np.unique(seen)) < 5
    np.testing.assert_array_equal(seen, stored)


def test_a_stated_scale_is_the_range(tmp_path):
    path = write_npz(tmp_path / "x.npz", x=X, y=Y)
    found = open_dataset(path, pixel_scale="20000:20255", group="none")
    seen, stored = samples(found, tmp_path / "cache")
    np.testing.assert_array_equal(seen, stored - 20_000)


def test_a_net_of_8_bits_gets_pixels_scaled_to_8_bits(tmp_path):
    path = write_npz(tmp_path / "x.npz", x=X, y=Y)
    deep = open_dataset(path, group="none")
    plain = open_dataset(path, group="none", input_type="uint8")
    made = deep.with_inputs(None)
    for one, two in zip(samples(made, tmp_path / "a"), samples(plain, tmp_path / "b"), strict=True):
        np.testing.assert_array_equal(one, two)
    assert {d.choice for d in made.decisions} == {d.choice for d in plain.decisions}
    with pytest.raises(DataError, match="reads uint16 values, the data are read as uint8"):
        plain.with_inputs(deep.input_quantization)


def test_values_that_differ_below_8_bits_are_other_data(tmp_path):
    other = X.copy()
    other[0, 0, 0, 0] ^= 1
    one = open_dataset(write_npz(tmp_path / "x.npz", x=X, y=Y), group="none")
    two = open_dataset(write_npz(tmp_path / "y.npz", x=other, y=Y), group="none")
    assert one.fingerprint != two.fingerprint


@pytest.mark.parametrize(
    "x", [X.astype(np.uint8), (X % 200).astype(np.uint16)], ids=["uint8", "values of 8 bits"]
)
def test_pictures_of_8_bits_stay_so(tmp_path, x):
    path = write_npz(tmp_path / "x.npz", x=x, y=Y)
    assert open_dataset(path, group="none").input_type == "uint8"
    with pytest.raises(ConfigError, match="uint8 pixels"):
        open_dataset(path, group="none", input_type="uint16")


def test_resizing_is_that_of_floating_point_rounded():
    """The oracle: a mean of equal neighbours when each side is halved."""
    x = np.repeat(np.repeat(X[0], 2, 0), 2, 1)
    np.testing.assert_array_equal(decode_deep(x, 1, (18, 16)), x)
    flat = np.full((8, 8, 2), 60_001, np.uint16)
    assert (decode_deep(flat, 2, (3, 5)) == 60_001).all()
    ramp = np.tile(np.arange(0, 64_000, 2_000, dtype=np.uint16)[:, None, None], (1, 4, 1))
    halved = decode_deep(ramp, 1, (16, 4))
    inner = (ramp[0::2] + ramp[1::2].astype(int))[1:-1] / 2
    assert np.abs(halved[1:-1] - inner).max() <= 1


def test_files_for_a_net_of_16_bits_are_read_as_they_are(tmp_path):
    files(tmp_path, X[:1])
    np.save(tmp_path / "x.npy", X[0, ..., 0])
    for name in ("a/00.png", "x.npy"):
        np.testing.assert_array_equal(read_deep_pixels(tmp_path / name, 1, (9, 8)), X[0])
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "grey.png")
    np.save(tmp_path / "byte.npy", np.zeros((9, 8), np.uint8))
    np.save(tmp_path / "real.npy", np.zeros((9, 8), np.float32))
    np.save(tmp_path / "far.npy", np.full((9, 8), 70_000))
    for name, message in (
        ("grey.png", "no 16 bits of grey"),
        ("byte.npy", "reads uint16"),
        ("real.npy", "reads uint16"),
        ("far.npy", "0 to 65535"),
    ):
        with pytest.raises(DataError, match=message):
            read_deep_pixels(tmp_path / name, 1, (9, 8))
