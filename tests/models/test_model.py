from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lepton_automl.errors import DataError
from lepton_automl.models.model import Model
from lepton_automl.models.quantization import Preprocessing, QParams
from tests.helpers.nets import random_arch, random_model


@pytest.fixture
def quantized():
    model = random_model(random_arch(7), 7)
    rng = np.random.default_rng(0)
    ops = list(model.arch.graph.weighted_ops)
    stored = ["input", *(op.y.name for op in model.arch.graph.ops)]
    qparams = QParams(
        {name: float(np.float32(rng.random())) for name in stored},
        {name: int(rng.integers(0, 256)) for name in stored},
        {op.name: rng.integers(-64, 65, op.weight_shape).astype(np.int8) for op in ops},
        {op.name: rng.random(op.y.channels).astype(np.float32) for op in ops},
        {op.name: rng.integers(-999, 999, op.y.channels).astype(np.int32) for op in ops},
    )
    return dataclasses.replace(model, qparams=qparams, metrics={"accuracy": 0.5}, parent="ab")


def same_tensors(a, b):
    return set(a) == set(b) and all(
        a[k].dtype == b[k].dtype and torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k]))
        for k in a
    )


@given(st.integers(0, 1000))
@settings(max_examples=10)
def test_a_model_survives_its_files(tmp_path_factory, seed):
    model = random_model(random_arch(seed), seed)
    copy = Model.load(model.save(tmp_path_factory.mktemp("model")))
    assert copy.arch == model.arch
    assert same_tensors(copy.weights, model.weights)
    assert (copy.preprocessing, copy.qparams, copy.metrics, copy.parent) == (
        model.preprocessing,
        None,
        {},
        "",
    )
    assert copy.digest == model.digest


def test_a_quantized_model_survives_its_files(quantized, tmp_path):
    copy = Model.load(quantized.save(tmp_path / "q"))
    assert (copy.metrics, copy.parent) == ({"accuracy": 0.5}, "ab")
    assert copy.qparams.scales == quantized.qparams.scales
    assert copy.qparams.zero_points == quantized.qparams.zero_points
    for part in ("weights", "weight_scales", "biases"):
        assert same_tensors(getattr(copy.qparams, part), getattr(quantized.qparams, part))
    assert copy.digest == quantized.digest


def test_the_digest_tells_weights_and_arithmetic_apart(quantized):
    model = random_model(random_arch(7), 7)
    weights = dict(model.weights)
    name = next(iter(weights))
    weights[name] = weights[name] + 1e-3
    digests = {model.digest, quantized.digest, dataclasses.replace(model, weights=weights).digest}
    assert len(digests) == 3


def test_files_are_the_same_bytes_for_equal_models(tmp_path):
    one = random_model(random_arch(5), 5).save(tmp_path / "one")
    two = random_model(random_arch(5), 5).save(tmp_path / "two")
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes()


@pytest.mark.parametrize("name", ["arch.json", "model.json", "weights.safetensors"])
@pytest.mark.parametrize("damage", ["gone", "cut", "empty", "noise"])
def test_a_missing_or_damaged_file_is_named_as_such(quantized, tmp_path, name, damage):
    path = quantized.save(tmp_path / "m") / name
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes({"cut": content[:-40], "empty": b"", "noise": b"\xff" * 400}[damage])
    with pytest.raises(DataError, match="does not hold a model"):
        Model.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("preprocessing", {"zero_point": 78, "scale": "0.1"}),
        ("preprocessing", {"zero_point": [], "scale": 0.1}),
        ("preprocessing", {"zero_point": 78}),
        ("preprocessing", []),
        ("metrics", {"accuracy": "high"}),
        ("metrics", 3),
        ("scales", {"a": {}}),
        ("zero_points", []),
        ("preprocessing", {"zero_point": 1 << 40, "scale": 0.1}),
        ("preprocessing", {"zero_point": -1, "scale": 0.1}),
        ("preprocessing", {"zero_point": 78, "scale": 0.0}),
        ("scales", {"a": -0.5}),
        ("zero_points", {"a": 256}),
    ],
)
def test_a_field_of_another_type_or_range_is_named_as_such(quantized, tmp_path, field, value):
    path = quantized.save(tmp_path / "m") / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(DataError, match="does not hold a model"):
        Model.load(tmp_path / "m")


@pytest.mark.parametrize("field", ["scales", "zero_points"])
def test_a_quantized_value_without_its_parameters_is_named_as_such(quantized, tmp_path, field):
    quantized.save(tmp_path)
    about = json.loads((tmp_path / "model.json").read_text())
    name = next(op.y.name for op in quantized.arch.graph.ops)
    about[field].pop(name)
    (tmp_path / "model.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match=f"does not hold a model of lepton: .*{name}"):
        Model.load(tmp_path)


@pytest.mark.parametrize("change", ["missing", "shape"])
@pytest.mark.parametrize(
    "end", [".weight", ".norm.running_var", "weights:", "weight_scales:", "biases:"]
)
def test_weights_that_do_not_fit_the_net_are_named_as_such(quantized, tmp_path, change, end):
    quantized.save(tmp_path)
    tensors = load_file(tmp_path / "weights.safetensors")
    name = next(k for k in tensors if k.startswith(end) or (k.startswith("w:") and k.endswith(end)))
    if change == "missing":
        tensors.pop(name)
    else:
        tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(DataError, match="does not hold a model of lepton"):
        Model.load(tmp_path)


def test_pixels_are_shifted_and_scaled_and_laid_out_channels_first():
    pixels = torch.arange(2 * 4 * 3 * 3, dtype=torch.uint8).reshape(2, 4, 3, 3)
    x = Preprocessing(zero_point=10, scale=0.25).apply(pixels)
    expected = (pixels.numpy().astype(np.float32).transpose(0, 3, 1, 2) - 10) * 0.25
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(x.numpy(), expected)


def test_a_model_is_folded_once_no_normalisation_is_left():
    model = random_model(random_arch(1))
    assert not model.is_folded
    folded = {k: v for k, v in model.weights.items() if ".norm." not in k}
    assert dataclasses.replace(model, weights=folded).is_folded


def test_the_network_of_a_model_is_in_evaluation_mode():
    assert not random_model(random_arch(1)).network().training
