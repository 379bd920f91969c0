"""Must hold of every layer: both files compute what the net computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from lepton_automl.artifact.measurements import float_nodes
from lepton_automl.core import plugins
from lepton_automl.models.integer_reference import integer_reference, with_last_quantized_output
from lepton_automl.models.onnx_export import float_onnx
from lepton_automl.models.onnx_file import open_session, predict_probabilities
from lepton_automl.models.random_weights import random_int8_onnx
from tests.helpers.nets import random_arch, random_model, random_pixels, random_samples

ANY = ("relu", "relu6", "hswish", "silu", "none")
FAST = ("relu", "relu6")
LABELS = ["a", "b", "c", "d", "e"]
MIDDLE = [name for name in plugins.names("layers") if name not in {"stem", "head"}]


def assert_int8_equals_the_reference(arch, seed):
    file, samples = random_int8_onnx(arch, 64, seed), random_samples(arch, 32, seed)
    name = "signal" if arch.is_signal else "pixels"
    expected = integer_reference(file).run(samples)
    shown, stored = open_session(with_last_quantized_output(file)).run(None, {name: samples})
    assert np.abs(stored.astype(int) - expected.last_quantized).max() <= 1
    shipped = predict_probabilities(open_session(file), samples)
    np.testing.assert_allclose(shipped, shown, atol=1e-6)
    order = np.sort(expected.probabilities, axis=1)
    clear = order[:, -1] - order[:, -2] > 0.01
    same = shipped.argmax(1) == expected.probabilities.argmax(1)
    assert same[clear].mean() >= 0.999 if clear.any() else True
    assert expected.probabilities.std(0).max() > 1e-4, "the net answers all samples alike"


def assert_float_file_equals_torch(arch, seed):
    model, pixels = random_model(arch, seed), random_pixels(arch, 16, seed)
    file = float_onnx(model, LABELS, {})
    samples = model.preprocessing.file_input(pixels.numpy())
    if model.preprocessing.input_quantization is not None:  # Integers do not reach every sample.
        pixels = torch.from_numpy(model.preprocessing.input_quantization.quantize(samples))
    with torch.no_grad():
        expected = model.network()(model.preprocessing.apply(pixels)).softmax(1).numpy()
    samples = samples[:, 0] if model.arch.is_signal else samples
    np.testing.assert_allclose(
        predict_probabilities(open_session(file), samples), expected, atol=1e-4
    )


def random_net(seed, activations=ANY):
    """A net for pictures, every third one for signals, every third one with other channels."""
    shape = ((16, 16, 3), (12, 14, 5), (37, 6))[seed % 3]
    return random_arch(seed, input=shape, activations=activations)


@pytest.mark.parametrize("layer", MIDDLE)
@pytest.mark.parametrize("activation", ANY)
def test_each_layer_with_each_activation_means_the_same_in_all_files(layer, activation):
    arch = random_arch(7, activations=(activation,), layers=(layer,))
    assert_int8_equals_the_reference(arch, seed=7)
    assert_float_file_equals_torch(arch, seed=7)


@pytest.mark.parametrize("start", range(0, 50, 10))
def test_int8_files_of_random_nets_equal_the_integer_reference(start):
    for seed in range(start, start + 10):
        assert_int8_equals_the_reference(random_net(seed), seed)


@pytest.mark.parametrize("start", range(0, 50, 10))
def test_float_files_of_random_nets_equal_torch(start):
    for seed in range(start, start + 10):
        assert_float_file_equals_torch(random_net(seed), seed)


@pytest.mark.parametrize("layer", MIDDLE)
@pytest.mark.parametrize("activation", ANY)
def test_each_layer_runs_in_integer_kernels_only(layer, activation):
    for seed in range(3):
        arch = random_arch(seed, activations=(activation,), layers=(layer,))
        assert float_nodes(random_int8_onnx(arch, 64, seed)) == []


def test_random_nets_of_free_activations_run_in_integer_kernels_only():
    for seed in range(30):
        arch = random_net(seed, FAST)
        assert float_nodes(random_int8_onnx(arch, 64, seed)) == []


@pytest.mark.parametrize("layer", MIDDLE)
def test_each_layer_of_a_net_for_signals_has_windows_without_height(layer):
    arch = random_arch(7, input=(64, 3), activations=ANY, layers=(layer,))
    assert_int8_equals_the_reference(arch, seed=7)
    assert_float_file_equals_torch(arch, seed=7)
    model = onnx.ModelProto.FromString(random_int8_onnx(arch, 64))
    windows = [
        list(a.ints) for n in model.graph.node for a in n.attribute if a.name == "kernel_shape"
    ]
    assert windows
    assert all(len(window) == 1 for window in windows)


@pytest.mark.parametrize("layer", MIDDLE)
@pytest.mark.parametrize("shape", [(16, 16, 3), (64, 3)], ids=["pictures", "signals"])
def test_files_are_valid_and_use_standard_operators_only(layer, shape):
    arch = random_arch(3, input=shape, activations=ANY, layers=(layer,))
    for file in (random_int8_onnx(arch, 64), float_onnx(random_model(arch), LABELS, {})):
        model = onnx.ModelProto.FromString(file)
        onnx.checker.check_model(model, full_check=True)
        assert [item.domain for item in model.opset_import] == [""]
        assert {node.domain for node in model.graph.node} == {""}
