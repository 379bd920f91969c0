"""Must hold of every layer: both files compute what the net computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from lepton_automl.artifact.integer_reference import integer_reference, with_last_quantized_output
from lepton_automl.artifact.measurements import float_nodes
from lepton_automl.core import plugins
from lepton_automl.models.onnx_export import float_onnx
from lepton_automl.models.onnx_file import open_session, predict_probabilities
from lepton_automl.models.random_weights import random_int8_onnx
from tests.helpers.nets import random_arch, random_model, random_pixels

ANY = ("relu", "relu6", "hswish", "silu", "none")
FAST = ("relu", "relu6")
LABELS = ["a", "b", "c", "d", "e"]
MIDDLE = [name for name in plugins.names("layers") if name not in {"stem", "head"}]


def assert_int8_equals_the_reference(arch, seed):
    file, pixels = random_int8_onnx(arch, 64, seed), random_pixels(arch, 32, seed).numpy()
    expected = integer_reference(file).run(pixels)
    shown, stored = open_session(with_last_quantized_output(file)).run(None, {"pixels": pixels})
    assert np.abs(stored.astype(int) - expected.last_quantized).max() <= 1
    shipped = predict_probabilities(open_session(file), pixels)
    np.testing.assert_allclose(shipped, shown, atol=1e-6)
    order = np.sort(expected.probabilities, axis=1)
    clear = order[:, -1] - order[:, -2] > 0.01
    same = shipped.argmax(1) == expected.probabilities.argmax(1)
    assert same[clear].mean() >= 0.999 if clear.any() else True
    assert expected.probabilities.std(0).max() > 1e-4, "the net answers all pictures alike"


def assert_float_file_equals_torch(arch, seed):
    model, pixels = random_model(arch, seed), random_pixels(arch, 16, seed)
    file = float_onnx(model, LABELS, {})
    with torch.no_grad():
        expected = model.network()(model.preprocessing.apply(pixels)).softmax(1).numpy()
    np.testing.assert_allclose(
        predict_probabilities(open_session(file), pixels.numpy()), expected, atol=1e-4
    )


@pytest.mark.parametrize("layer", MIDDLE)
@pytest.mark.parametrize("activation", ANY)
def test_each_layer_with_each_activation_means_the_same_in_all_files(layer, activation):
    arch = random_arch(7, activations=(activation,), layers=(layer,))
    assert_int8_equals_the_reference(arch, seed=7)
    assert_float_file_equals_torch(arch, seed=7)


@pytest.mark.parametrize("start", range(0, 50, 10))
def test_int8_files_of_random_nets_equal_the_integer_reference(start):
    for seed in range(start, start + 10):
        assert_int8_equals_the_reference(random_arch(seed, activations=ANY), seed)


@pytest.mark.parametrize("start", range(0, 50, 10))
def test_float_files_of_random_nets_equal_torch(start):
    for seed in range(start, start + 10):
        assert_float_file_equals_torch(random_arch(seed, activations=ANY), seed)


@pytest.mark.parametrize("layer", MIDDLE)
@pytest.mark.parametrize("activation", ANY)
def test_each_layer_runs_in_integer_kernels_only(layer, activation):
    for seed in range(3):
        arch = random_arch(seed, activations=(activation,), layers=(layer,))
        assert float_nodes(random_int8_onnx(arch, 64, seed)) == []


def test_random_nets_of_free_activations_run_in_integer_kernels_only():
    for seed in range(30):
        arch = random_arch(seed, activations=FAST)
        assert float_nodes(random_int8_onnx(arch, 64, seed)) == []


@pytest.mark.parametrize("layer", MIDDLE)
def test_files_are_valid_and_use_standard_operators_only(layer):
    arch = random_arch(3, activations=ANY, layers=(layer,))
    for file in (random_int8_onnx(arch, 64), float_onnx(random_model(arch), LABELS, {})):
        model = onnx.ModelProto.FromString(file)
        onnx.checker.check_model(model, full_check=True)
        assert [item.domain for item in model.opset_import] == [""]
        assert {node.domain for node in model.graph.node} == {""}
