"""Pictures of 16 bits: nets see a range of their values, and files read them as they are stored."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from lepton_automl.artifact.predict import predict
from lepton_automl.data.audit import checks as audit
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.pictures.array_files import read_16_bit_pixels
from lepton_automl.data.pictures.decode import decode_16_bit
from lepton_automl.errors import ConfigError, DataError
from tests.helpers.artifacts import make_bundle
from tests.helpers.pictures import png_16, tiff, write_npz

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


def colour_files(folder, kind, x):
    """16-bit RGB files, of which every third one is stored turned left."""
    for n, pixels in enumerate(x):
        turn = 6 if n % 3 == 0 else 1
        stored = np.ascontiguousarray(np.rot90(pixels)) if turn == 6 else pixels
        path = folder / "ab"[Y[n]] / f"{n:02}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((png_16 if kind == "png" else tiff)(stored, turn))
    return folder


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_colour_files_of_16_bits_are_the_same_in_data_prediction_and_the_example(tmp_path, kind):
    """Oracle: the values that were written, byte by byte."""
    x = RNG.integers(0, 1 << 16, (48, 9, 8, 3)).astype(np.uint16)
    found = open_dataset(colour_files(tmp_path / "d", kind, x), group="none")
    _, stored = samples(found, tmp_path / "cache")
    assert found.input_type == "uint16"
    for place, name in enumerate(found.train.ids):
        number = int(name[2:4])
        path = tmp_path / "d" / name
        np.testing.assert_array_equal(stored[place], x[number])
        np.testing.assert_array_equal(read_16_bit_pixels(path, 3, (9, 8)), x[number])
        np.testing.assert_array_equal(example().pixels_16_bit_of(str(path), 9, 8, 3)[0], x[number])
        small = read_16_bit_pixels(path, 3, (5, 4))
        np.testing.assert_array_equal(decode_16_bit(x[number], 3, (5, 4)), small)
        np.testing.assert_array_equal(example().pixels_16_bit_of(str(path), 5, 4, 3)[0], small)
    assert {d.name: d.evidence for d in found.decisions}["input type"].endswith("16 bits RGB")


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_colour_files_of_12_bits_are_scaled_alike_by_the_data_and_the_example(tmp_path, kind):
    x = RNG.integers(0, 1 << 12, (48, 9, 8, 3)).astype(np.uint16)
    x[:, 0, 0, 0] = 4095
    folder = colour_files(tmp_path / "d", kind, x)
    found = open_dataset(folder, group="none", input_type="uint8")
    seen, _ = samples(found, tmp_path / "cache")
    assert found.pixel_scale.name == "12bit"
    for place, name in enumerate(found.train.ids):
        expected = np.rint(x[int(name[2:4])] * (255 / 4095))
        np.testing.assert_array_equal(seen[place], expected)
        shown = example().pixels_of(str(folder / name), 9, 8, 3, "12bit")
        np.testing.assert_array_equal(shown[0], expected)


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_example_turns_16_bit_pictures_as_the_data_are(tmp_path, turn):
    x = RNG.integers(0, 1 << 16, (9, 8, 3)).astype(np.uint16)
    (tmp_path / "a.tif").write_bytes(tiff(x, turn))
    found = decode_16_bit(tmp_path / "a.tif", 3)
    shown = example().pixels_16_bit_of(str(tmp_path / "a.tif"), *found.shape)
    np.testing.assert_array_equal(shown[0], found)


@pytest.mark.parametrize(
    ("low", "high", "name"),
    [(0, 1, "unit"), (-1, 1, "symmetric"), (0, 255, "8bit"), (0, 4e3, "12bit")],
)
def test_floating_point_files_have_one_scale_everywhere(tmp_path, low, high, name):
    """Oracle: the definition of the scale, in numpy."""
    x = RNG.uniform(low, high, (48, 9, 8, 1)).astype(np.float32)
    folder = files(tmp_path / "d", x, "tif")
    found = open_dataset(folder, group="none")
    seen, _ = samples(found, tmp_path / "cache")
    assert (found.pixel_scale.name, found.input_type) == (name, "uint8")
    (decision,) = (d for d in found.decisions if d.name == "pixel scale")
    assert "floating-point pixels" in decision.evidence
    scale = found.pixel_scale
    (tmp_path / "made").mkdir()
    model = make_bundle(tmp_path / "made", pixel_scale=scale).folder / "model.int8.onnx"
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(model.read_bytes())
    session = onnxruntime.InferenceSession(alone)
    about = session.get_modelmeta().custom_metadata_map
    assert about["pixel_scale"] == name
    for place, file in enumerate(found.train.ids[:6]):
        values = x[int(file[2:4])].astype(float)
        expected = np.rint(255 * (values - scale.black) / scale.width)
        assert np.abs(seen[place] - expected).max() <= (np.abs(expected % 1 - 0.5) < 1e-3).any()
        path = folder / file
        shown = example().pixels_of(str(path), 9, 8, 1, about["pixel_scale"])
        np.testing.assert_array_equal(shown[0], seen[place])
        pixels = example().pixels_of(str(path), 8, 8, 3, about["pixel_scale"])
        (answer,) = session.run(None, {"pixels": pixels})[0]
        for artifact in (alone, model):
            (prediction,) = predict(artifact, [path])
            assert prediction.probability == pytest.approx(answer.max(), rel=1e-5)


def test_floating_point_files_of_an_unknown_scale_are_asked_about(tmp_path):
    x = RNG.normal(0, 30, (48, 9, 8, 1)).astype(np.float32)
    folder = files(tmp_path / "d", x, "tif")
    with pytest.raises(DataError, match="floating-point pixels from -") as caught:
        open_dataset(folder, group="none")
    assert "--pixel-scale=-" in caught.value.fix
    found = open_dataset(folder, group="none", pixel_scale="-60:60")
    seen, _ = samples(found, tmp_path / "cache")
    expected = np.rint(np.clip((x[int(found.train.ids[0][2:4])] + 60) * (255 / 120), 0, 255))
    assert np.abs(seen[0] - expected).max() <= 1


def test_floating_point_files_beside_those_of_16_bits_are_refused(tmp_path):
    folder = files(tmp_path / "d", RNG.uniform(0, 1, (48, 9, 8, 1)).astype(np.float32), "tif")
    Image.fromarray(X[0, ..., 0]).save(folder / "a" / "other.png")
    with pytest.raises(DataError, match="48 pictures have floating-point pixels, 1 16 bits"):
        open_dataset(folder, group="none")


@functools.cache
def example():
    path = Path(__file__).parents[2] / "examples" / "classify.py"
    spec = importlib.util.spec_from_file_location("classify", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    np.testing.assert_array_equal(decode_16_bit(x, 1, (18, 16)), x)
    flat = np.full((8, 8, 2), 60_001, np.uint16)
    assert (decode_16_bit(flat, 2, (3, 5)) == 60_001).all()
    ramp = np.tile(np.arange(0, 64_000, 2_000, dtype=np.uint16)[:, None, None], (1, 4, 1))
    halved = decode_16_bit(ramp, 1, (16, 4))
    inner = (ramp[0::2] + ramp[1::2].astype(int))[1:-1] / 2
    assert np.abs(halved[1:-1] - inner).max() <= 1


def test_files_for_a_net_of_16_bits_are_read_as_they_are(tmp_path):
    files(tmp_path, X[:1])
    np.save(tmp_path / "x.npy", X[0, ..., 0])
    for name in ("a/00.png", "x.npy"):
        np.testing.assert_array_equal(read_16_bit_pixels(tmp_path / name, 1, (9, 8)), X[0])
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
            read_16_bit_pixels(tmp_path / name, 1, (9, 8))
