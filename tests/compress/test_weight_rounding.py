from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lepton_automl.compress.evaluation import int8_file
from lepton_automl.compress.quantization.calibration import calibrate
from lepton_automl.compress.quantization.equalization import fold_batchnorm
from lepton_automl.compress.quantization.rounding import BIAS_LIMIT, quantize
from lepton_automl.models.arch import chain
from lepton_automl.models.graph import ACTIVATIONS, Add, Conv, Gate, MaxPool
from lepton_automl.models.layers.conv import Conv as ConvLayer
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.onnx_file import onnx_probabilities
from tests.helpers.nets import random_arch, random_model, random_pixels


def quantized(seed, limit=64, **more):
    model = fold_batchnorm(random_model(random_arch(seed, activations=ACTIVATIONS), seed))
    pixels = random_pixels(model.arch, 64, seed)
    return model, quantize(model, calibrate(model, pixels), limit, **more), pixels


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("limit", [64, 127])
def test_every_rule_that_keeps_the_file_in_integers_holds(seed, limit):
    model, made, _ = quantized(seed, limit)
    q, graph = made.qparams, made.arch.graph
    assert q.scales["input"] == np.float32(model.preprocessing.scale)
    for op in graph.ops:
        name = op.y.name
        if isinstance(op, MaxPool):
            assert (q.scales[name], q.zero_points[name]) == (
                q.scales[op.x.name],
                q.zero_points[op.x.name],
            )
        if isinstance(op, Gate):
            assert (q.scales[name], q.zero_points[name]) == (np.float32(1 / 255), 0)
        if isinstance(op, (Conv, Add)) and op.clamp != "none":
            assert q.zero_points[name] == 0
            assert op.clamp != "relu6" or q.scales[name] * 255 <= 6.0001
    for op in graph.weighted_ops:
        assert q.weights[op.name].dtype == np.int8
        assert q.weights[op.name].shape == op.weight_shape
        assert np.abs(q.weights[op.name].astype(int)).max() <= limit
        assert q.weight_scales[op.name].dtype == np.float32
        assert (q.weight_scales[op.name] > 0).all()
        assert q.biases[op.name].dtype == np.int32


@pytest.mark.parametrize("seed", range(10))
def test_each_weight_is_within_half_a_step_of_the_float_weight(seed):
    model, made, _ = quantized(seed, clip=False)
    for op in made.arch.graph.weighted_ops:
        weight = model.weights[f"{op.name}.weight"].double().numpy()
        scale = made.qparams.weight_scales[op.name].astype(float)
        scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
        error = np.abs(made.qparams.weights[op.name] * scale - weight) / scale
        assert error.max() <= 0.5 + 1e-3


@pytest.mark.parametrize("seed", range(10))
def test_the_file_answers_like_the_float_net(seed):
    model, made, pixels = quantized(seed)
    wanted = model.network()(model.preprocessing.apply(pixels)).softmax(1).detach().numpy()
    given = onnx_probabilities(int8_file(made), pixels)
    assert np.abs(given - wanted).mean() < 0.02


def plain(seed=0):
    arch = chain((8, 8, 1), [Stem(8), ConvLayer(8), Head()], 3)
    return fold_batchnorm(random_model(arch, seed)), random_pixels(arch, 32, seed)


def changed(model, name, channel, value):
    weights = {key: tensor.clone() for key, tensor in model.weights.items()}
    weights[name][channel] = value
    return dataclasses.replace(model, weights=weights)


def test_a_channel_without_weights_keeps_its_bias():
    model, pixels = plain()
    model = changed(changed(model, "1/conv.weight", 2, 0.0), "1/conv.bias", 2, 0.37)
    model = changed(changed(model, "1/conv.weight", 3, 0.0), "1/conv.bias", 3, 0.0)
    q = quantize(model, calibrate(model, pixels), 64).qparams
    step = q.scales["0/conv"] * q.weight_scales["1/conv"].astype(float)
    assert q.biases["1/conv"][2] * step[2] == pytest.approx(0.37, rel=1e-4)
    assert (q.weight_scales["1/conv"][3], q.biases["1/conv"][3]) == (1, 0)


def test_a_huge_bias_beside_tiny_weights_does_not_overflow():
    model, pixels = plain()
    model = changed(changed(model, "1/conv.weight", 2, 1e-9), "1/conv.bias", 2, 5.0)
    q = quantize(model, calibrate(model, pixels), 64).qparams
    assert abs(int(q.biases["1/conv"][2])) <= BIAS_LIMIT
    step = q.scales["0/conv"] * float(q.weight_scales["1/conv"][2])
    assert q.biases["1/conv"][2] * step == pytest.approx(5.0, rel=1e-4)


def test_corrected_biases_take_out_the_mean_error():
    model, pixels = plain()

    def bias_of_error(**more):
        made = quantize(model, calibrate(model, pixels), 4, **more)
        q, x = made.qparams, model.preprocessing.apply(pixels)
        weight = torch.from_numpy(
            q.weights["0/conv"] * q.weight_scales["0/conv"][:, None, None, None]
        )
        step = q.scales["input"] * q.weight_scales["0/conv"]
        bias = torch.from_numpy((q.biases["0/conv"] * step).astype(np.float32))
        given = torch.nn.functional.conv2d(x, weight, bias, 1, weight.shape[-1] // 2)
        wanted = torch.nn.functional.conv2d(
            x,
            model.weights["0/conv.weight"],
            model.weights["0/conv.bias"],
            1,
            weight.shape[-1] // 2,
        )
        return (given - wanted).mean((0, 2, 3)).abs().max()

    assert bias_of_error(correct=True) < 0.05 * bias_of_error(correct=False)


def test_values_are_stored_only_where_their_gate_is_open():
    arch = chain((8, 8, 1), [Stem(8, activation="hswish"), Head()], 3)
    model = fold_batchnorm(random_model(arch, 0))
    model = changed(model, "0/conv.weight", 0, 40.0)
    pixels = random_pixels(arch, 32, 0)
    q = quantize(model, calibrate(model, pixels), 64).qparams
    assert -q.zero_points["0/conv"] * q.scales["0/conv"] >= -3 - q.scales["0/conv"]


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_scale_a_layer_is_the_one_whose_squared_error_is_least(seed, clip):
    model, made, _ = quantized(seed, 127, scale_of="layer", clip=clip, correct=False)
    q = made.qparams
    for op in made.arch.graph.weighted_ops:
        weight = model.weights[f"{op.name}.weight"].numpy()
        (scale,) = set(q.weight_scales[op.name].tolist())
        assert np.array_equal(
            np.rint(weight / np.float32(scale)).clip(-127, 127), q.weights[op.name]
        )
        if not clip:
            assert scale == pytest.approx(np.abs(weight).max() / 127, rel=1e-6)
        errors = [
            ((np.rint(weight / s).clip(-127, 127) * s - weight) ** 2).sum()
            for s in np.abs(weight).max() / 127 * np.arange(0.8, 1.001, 0.01)
        ]
        error = ((q.weights[op.name] * scale - weight) ** 2).sum()
        assert error <= (min(errors) if clip else errors[-1]) * (1 + 1e-4)


def test_a_layer_without_weights_has_a_scale_too():
    model = fold_batchnorm(random_model(random_arch(1), 1))
    name = next(model.arch.graph.weighted_ops).name
    weights = model.weights | {f"{name}.weight": torch.zeros_like(model.weights[f"{name}.weight"])}
    empty = dataclasses.replace(model, weights=weights)
    pixels = random_pixels(model.arch, 16, 1)
    made = quantize(empty, calibrate(empty, pixels), 127, scale_of="layer")
    assert (made.qparams.weight_scales[name] > 0).all()
    assert np.isfinite(onnx_probabilities(int8_file(made), pixels)).all()
