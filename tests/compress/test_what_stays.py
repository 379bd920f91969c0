"""What a compression keeps: channels that do something, its best cut, the mean of values."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.pruning.candidates import pruning_candidates
from lepton_automl.compress.pruning.prune import prune
from lepton_automl.compress.quantization.calibration import calibrate
from lepton_automl.compress.quantization.equalization import fold_batchnorm
from lepton_automl.compress.quantization.qat import requantize, trainable_network
from lepton_automl.compress.quantization.rounding import quantize, round_by_gptq
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.arch import chain
from lepton_automl.models.graph import Conv as ConvOp
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.stem import Stem
from lepton_automl.training.recipe import Recipe
from tests.helpers import known_net
from tests.helpers.nets import random_model, random_pixels


def context_for(model, **more):
    pixels = random_pixels(model.arch, 128, 1)
    data = LabelledTensors(pixels, answers(model, pixels).argmax(1))
    settings = {"limits": Limits(max_drop=100.0), "epochs": 0} | more
    return CompressionContext(
        data, data, model, target=targets.load(), recipe=Recipe(batch_size=32), **settings
    )


def answers(model, pixels):
    with torch.no_grad():
        return model.network()(model.preprocessing.apply(pixels)).softmax(1)


def divergence(model, other, pixels):
    wanted, given = (answers(each, pixels).double() for each in (model, other))
    return float((wanted * (wanted.log() - given.log())).sum(1).mean())


@pytest.fixture(scope="module")
def half_dead():
    """Every other channel of every width is 0: it can go at no cost, no other channel can."""
    arch = chain((9, 6, 1), [Stem(32), Conv(48), Conv(32), Head()], 3)
    model, weights = random_model(arch, 1), {}
    for name, tensor in model.weights.items():
        is_output = name.endswith(("0/conv.weight", "1/conv.weight", "2/conv.weight"))
        if is_output or name.endswith(("norm.weight", "norm.bias", "norm.running_mean")):
            tensor = tensor.clone()
            tensor[::2] = 0
        weights[name] = tensor
    return dataclasses.replace(model, weights=weights)


def test_channels_that_do_nothing_go_first(half_dead):
    context = context_for(half_dead)
    found = {
        str(each.cut): each
        for each in pruning_candidates(half_dead, context, 0.5, frozenset())
        if each.cut.layer is None
    }
    assert len(found) >= 2
    pixels = random_pixels(half_dead.arch, 64, 7)
    for each in found.values():
        assert each.model.arch.graph.macs < 0.75 * half_dead.arch.graph.macs
        assert divergence(half_dead, each.model, pixels) < 1e-4


@pytest.mark.parametrize(
    ("layers", "seed"),
    [
        ([Stem(16), Residual(16), Conv(24), Head()], 4),
        ([Stem(16), Conv(16), Conv(24), Conv(24), Head()], 6),
    ],
)
def test_the_cut_that_costs_least_for_what_it_saves_is_taken(layers, seed):
    """The answers decide, and what is saved for them: not the first, nor either of the two alone.

    In the first net the first cut is not the best, in the second the least harm is of another one.
    """
    model = random_model(chain((9, 6, 1), layers, 3), seed)
    context = context_for(model)
    candidates = pruning_candidates(model, context, 0.3, frozenset())
    harm = [divergence(model, each.model, context.train.pixels) for each in candidates]
    price = [each / candidate.saving for each, candidate in zip(harm, candidates, strict=True)]
    order = np.argsort(price)
    assert order[0] != 0 or order[0] != np.argmin(harm)
    assert price[order[1]] > 1.05 * price[order[0]]
    taken = prune(model, context, 0.3).model
    best = candidates[order[0]].model
    assert taken.arch == best.arch
    assert all(torch.equal(taken.weights[name], tensor) for name, tensor in best.weights.items())


def test_every_bias_is_the_nearest_integer():
    model = fold_batchnorm(known_net.net())
    calibration = calibrate(model, random_pixels(model.arch, 32, 2))
    qparams = quantize(model, calibration, 64, clip=False, correct=False).qparams
    for op in model.arch.graph.weighted_ops:
        step = qparams.scales[op.x.name] * qparams.weight_scales[op.name].astype(np.float64)
        bias = model.weights[f"{op.name}.bias"].numpy()
        apart = qparams.biases[op.name] - bias / step
        assert np.abs(apart).max() <= 0.5 + 1e-3
        assert (apart > 0.01).any() or len(apart) < 4  # Not all are rounded down.


def test_reconstructed_layers_keep_the_mean_of_their_values():
    """Of the first layer, whose inputs are exact: within half a step of the bias."""
    model = fold_batchnorm(known_net.net())
    pixels = random_pixels(model.arch, 64, 2)
    quantized = quantize(model, calibrate(model, pixels), 64)
    qparams = round_by_gptq(quantized, pixels, 64).qparams
    op = next(op for op in model.arch.graph.weighted_ops if isinstance(op, ConvOp))
    x = model.preprocessing.apply(pixels).double()
    scale = torch.from_numpy(qparams.weight_scales[op.name]).double()
    step = qparams.scales[op.x.name] * scale
    integers = torch.from_numpy(qparams.weights[op.name]).double()
    weight, bias = (model.weights[f"{op.name}.{part}"].double() for part in ("weight", "bias"))

    def mean(weight, bias):
        y = F.conv2d(x, weight, bias, op.stride, op.kernel // 2)
        return y.mean((0, 2, 3))

    given = mean(
        integers * scale[:, None, None, None], torch.from_numpy(qparams.biases[op.name]) * step
    )
    apart = (given - mean(weight, bias)) / step
    assert apart.abs().max() <= 0.5 + 1e-3


@pytest.mark.parametrize(("moved", "by"), [(0.4, 0), (0.6, 1), (-0.4, 0), (-0.6, -1)])
def test_fine_tuned_weights_and_biases_are_rounded_to_nearest(moved, by):
    model = fold_batchnorm(known_net.net())
    quantized = quantize(model, calibrate(model, random_pixels(model.arch, 32, 2)), 64)
    qparams = quantized.qparams
    network = trainable_network(quantized, qparams)
    with torch.no_grad():
        for op in model.arch.graph.weighted_ops:
            scale = torch.from_numpy(qparams.weight_scales[op.name])
            column = scale.reshape(-1, *[1] * (len(op.weight_shape) - 1))
            module = network.modules_by_op[op.name]
            integers = torch.from_numpy(qparams.weights[op.name]).float()
            module.get_parameter("weight").copy_((integers + moved) * column)
            module.get_parameter("bias").add_(moved * qparams.scales[op.x.name] * scale)
    found = requantize(quantized, qparams, network, 127).qparams
    for name, integers in qparams.weights.items():
        assert (found.weights[name] == integers + by).all()
        assert (found.biases[name] == qparams.biases[name] + by).all()
