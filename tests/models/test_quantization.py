"""What a file reads becomes the samples that nets see."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lepton_automl.models.arch import chain
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.onnx_export import float_onnx
from lepton_automl.models.onnx_file import open_session
from lepton_automl.models.quantization import InputQuantization, Preprocessing
from tests.helpers.nets import random_model


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16"])
@pytest.mark.parametrize("step", [0.1, 1.0, 1.7, 300.0])
def test_integers_come_back_from_their_samples(kind, step):
    limits = np.iinfo(kind)
    found = InputQuantization((float(limits.max // 3),), (step,), kind)
    values = np.arange(limits.min, limits.max + 1, dtype=kind)[:, None]
    samples = found.quantize(values)
    again = found.dequantize(samples)
    assert again.dtype == kind
    np.testing.assert_array_equal(found.quantize(again), samples)


def test_samples_are_those_of_the_formula():
    """q = round((value - offset) / scale) + 128, halves to even, clipped."""
    found = InputQuantization((10.0, 0.0), (2.0, 0.5), "int16")
    values = np.array([[10, 0], [11, 1], [13, -1], [-32768, 32767]], np.int16)
    expected = [[128, 128], [128, 130], [130, 126], [0, 255]]
    np.testing.assert_array_equal(found.quantize(values), expected)


@pytest.mark.parametrize(
    ("kind", "shape"), [("int16", (40, 2)), ("uint16", (9, 8, 1)), ("uint8", (9, 8, 5))]
)
def test_files_read_the_type_and_quantize_as_training_does(kind, shape):
    channels = shape[-1]
    limits = np.iinfo(kind)
    middle = (limits.max + limits.min) / 2
    inputs = InputQuantization((middle + 3.3,) * channels, (limits.max / 90,) * channels, kind)
    model = random_model(chain(shape, [Stem(out=8), Head()], 3), 3)
    model = dataclasses.replace(model, preprocessing=Preprocessing(128, 1 / 64, inputs))
    session = open_session(float_onnx(model, ["a", "b", "c"], {}))
    (given,) = session.get_inputs()
    assert given.type == f"tensor({kind})"
    values = np.random.default_rng(0).integers(
        limits.min, limits.max, (20, *shape), kind, endpoint=True
    )
    (found,) = session.run(None, {given.name: values})
    samples = inputs.quantize(values)
    pixels = samples[:, None] if len(shape) == 2 else samples
    import torch

    with torch.no_grad():
        x = model.preprocessing.apply(torch.from_numpy(pixels))
        expected = model.network()(x).softmax(1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="int64"):
        InputQuantization((0.0,), (1.0,), "int64")


@pytest.mark.parametrize(
    "fields",
    [
        *({"input_quantization": odd} for odd in ("text", 7, [], [[]], {}, {"offsets": [0.0]})),
        *({"scale": odd} for odd in ("1", None, [1.0])),
        *({"zero_point": odd} for odd in (0.5, True, None)),
        {"unknown": 1},
    ],
)
def test_odd_fields_of_a_file_are_an_error_of_their_type_or_value(fields):
    good = {"zero_point": 3, "scale": 0.5, "input_quantization": None}
    assert Preprocessing.from_fields(good) == Preprocessing(3, 0.5)
    with pytest.raises((KeyError, TypeError, ValueError)):
        Preprocessing.from_fields(good | fields)
