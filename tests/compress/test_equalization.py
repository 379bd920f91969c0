from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from lepton_automl.compress.evaluation import float_probabilities, int8_file, kl_divergence
from lepton_automl.compress.quantization.calibration import calibrate
from lepton_automl.compress.quantization.equalization import (
    equalization_groups,
    equalize,
    fold_batchnorm,
)
from lepton_automl.compress.quantization.rounding import quantize
from lepton_automl.models.arch import chain
from lepton_automl.models.graph import ACTIVATIONS
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.sepconv import SepConv
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.onnx_file import onnx_probabilities
from tests.helpers.nets import random_arch, random_model, random_pixels


def logits(model, pixels):
    with torch.no_grad():
        return model.network()(model.preprocessing.apply(pixels))


def uneven(model, sigma, seed=0):
    """The hard case, for chains of convolutions: channels rescaled, function unchanged."""
    generator = torch.Generator().manual_seed(seed)
    weights = dict(model.weights)
    ops = list(model.arch.graph.weighted_ops)
    for before, after in itertools.pairwise(ops):
        factor = torch.exp(sigma * torch.randn(before.y.channels, generator=generator))
        weights[f"{before.name}.weight"] = (
            weights[f"{before.name}.weight"] * factor[:, None, None, None]
        )
        weights[f"{before.name}.bias"] = weights[f"{before.name}.bias"] * factor
        name = f"{after.name}.weight"
        if getattr(after, "depthwise", False):
            weights[name] = weights[name] / factor[:, None, None, None]
        elif weights[name].ndim == 4:
            weights[name] = weights[name] / factor[None, :, None, None]
        else:
            weights[name] = weights[name] / factor[None]
    return dataclasses.replace(model, weights=weights)


@pytest.mark.parametrize("seed", range(20))
def test_equalising_leaves_the_function_as_it_was(seed):
    model = fold_batchnorm(random_model(random_arch(seed, activations=ACTIVATIONS), seed))
    pixels = random_pixels(model.arch, 8, seed)
    even = equalize(model, calibrate(model, pixels))
    torch.testing.assert_close(logits(even, pixels), logits(model, pixels), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("middle", [Conv(16), SepConv(24)], ids=["dense", "depthwise"])
def test_a_net_with_uneven_channels_is_saved_without_training(middle):
    arch = chain((16, 16, 3), [Stem(16), middle, Conv(32), Head()], 5)
    model = fold_batchnorm(random_model(arch, 1))
    pixels, hard = random_pixels(arch, 128, 1), uneven(model, 1.4)
    wanted = float_probabilities(model, pixels)
    torch.testing.assert_close(
        float_probabilities(hard, pixels), wanted, rtol=1e-3, atol=1e-4, check_dtype=False
    )

    def loss(source):
        made = quantize(source, calibrate(source, pixels), 64)
        return kl_divergence(wanted, onnx_probabilities(int8_file(made), pixels))

    plain, broken, saved = loss(model), loss(hard), loss(equalize(hard, calibrate(hard, pixels)))
    assert broken > 10 * plain
    assert saved < 3 * plain


def test_groups_span_skip_connections_and_pools_but_no_gates_and_no_relu6():
    relu = chain((16, 16, 3), [Stem(16), Residual(16), Head()], 5).graph
    assert frozenset({"0/conv", "1/second", "1/add", "2/pool"}) in set(equalization_groups(relu))
    relu6 = chain((16, 16, 3), [Stem(16, activation="relu6"), Residual(16), Head()], 5).graph
    assert set(equalization_groups(relu6)) == {frozenset({"1/first"})}
    hswish = chain((16, 16, 3), [Stem(16, activation="hswish"), Head()], 5).graph
    assert not set(equalization_groups(hswish))


@pytest.mark.parametrize("seed", range(20))
def test_folding_changes_the_form_and_not_the_function(seed):
    model = random_model(random_arch(seed, activations=ACTIVATIONS), seed)
    x = model.preprocessing.apply(random_pixels(model.arch, 4, seed))
    folded_weights = fold_batchnorm(model)
    with torch.no_grad():
        expected, given = model.network()(x), folded_weights.network()(x)
    assert folded_weights.is_folded
    assert not model.is_folded
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-4)


def test_folding_twice_is_folding_once():
    folded_weights = fold_batchnorm(random_model(random_arch(1), 1))
    assert fold_batchnorm(folded_weights) is folded_weights
