from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from lepton_automl.compress import least_squares
from lepton_automl.compress.evaluation import float_probabilities, int8_file, kl_divergence
from lepton_automl.compress.quantization import qat, rounding
from lepton_automl.compress.quantization.calibration import calibrate
from lepton_automl.compress.quantization.equalization import fold_batchnorm
from lepton_automl.compress.quantization.rounding import quantize, round_by_gptq
from lepton_automl.models.arch import chain
from lepton_automl.models.graph import ACTIVATIONS
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.sepconv import SepConv
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.onnx_file import onnx_probabilities
from tests.helpers.nets import random_arch, random_model, random_pixels


def far(model, made, pixels):
    given = onnx_probabilities(int8_file(made), pixels)
    return kl_divergence(float_probabilities(model, pixels), given)


@pytest.mark.parametrize("seed", range(12))
def test_integers_stay_in_range_and_scales_as_they_were(seed):
    model = fold_batchnorm(random_model(random_arch(seed, activations=ACTIVATIONS), seed))
    pixels = random_pixels(model.arch, 64, seed)
    before = quantize(model, calibrate(model, pixels), 64)
    made = round_by_gptq(before, pixels, 64)
    assert made.qparams.scales == before.qparams.scales
    assert made.qparams.zero_points == before.qparams.zero_points
    for op in made.arch.graph.weighted_ops:
        assert made.qparams.weights[op.name].dtype == np.int8
        assert made.qparams.weights[op.name].shape == op.weight_shape
        assert np.abs(made.qparams.weights[op.name].astype(int)).max() <= 64
        assert made.qparams.biases[op.name].dtype == np.int32
        scales = (q.weight_scales[op.name] for q in (made.qparams, before.qparams))
        np.testing.assert_array_equal(*scales)


@pytest.mark.parametrize("middle", [Conv(16), SepConv(24)], ids=["dense", "depthwise"])
@pytest.mark.parametrize("limit", [8, 64])
def test_other_pictures_are_answered_more_like_the_float_net(middle, limit):
    arch = chain((16, 16, 3), [Stem(16), middle, Conv(32, stride=2), Head()], 5)
    model = fold_batchnorm(random_model(arch, 1))
    pixels, others = random_pixels(arch, 256, 1), random_pixels(arch, 256, 2)
    nearest = quantize(model, calibrate(model, pixels), limit, clip=True, correct=True)
    learned = round_by_gptq(nearest, pixels, limit)
    assert far(model, learned, others) < 0.6 * far(model, nearest, others)


def test_rounding_is_nearly_as_good_as_the_best_of_all_integers():
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(4, 4, generator=generator).double()
    squares = (mixed @ mixed.T + 0.3 * torch.eye(4))[None]
    wanted = 3 * torch.rand(1, 60, 4, generator=generator).double() - 1.5
    scale = torch.ones(1, 60, 1).double()

    def error(integers):
        gone = integers - wanted[0]
        return ((gone @ squares[0]) * gone).sum(-1)

    every = torch.tensor(list(itertools.product(range(-2, 3), repeat=4))).double()
    best = torch.stack([error(choice.expand(60, 4)) for choice in every]).amin(0)
    made = rounding.gptq(wanted, scale, squares, 2)[0]
    nearest = wanted[0].round().clamp(-2, 2)
    assert (error(made) >= best - 1e-9).all()
    assert error(made).mean() - best.mean() < 0.35 * (error(nearest).mean() - best.mean())


def test_each_depthwise_filter_is_solved_as_if_it_were_alone():
    generator = torch.Generator().manual_seed(3)
    mixed = torch.randn(3, 9, 9, generator=generator).double()
    squares = mixed @ mixed.mT + torch.eye(9)
    wanted = 5 * torch.randn(3, 1, 9, generator=generator).double()
    scale = torch.rand(3, 1, 1, generator=generator).double() + 0.5
    together = rounding.gptq(wanted, scale, squares, 64)
    for n in range(3):
        alone = rounding.gptq(wanted[n : n + 1], scale[n : n + 1], squares[n : n + 1], 64)
        assert torch.equal(together[n], alone[0])


def test_of_large_pictures_fewer_are_enough(monkeypatch):
    arch = chain((16, 16, 3), [Stem(16), Head()], 5)
    model = fold_batchnorm(random_model(arch, 1))
    pixels = random_pixels(arch, 64, 1)
    before = quantize(model, calibrate(model, pixels), 64)
    monkeypatch.setattr(least_squares, "_MAX_VALUE_BYTES", 4 * 16 * 16 * 16 * 10)
    few, same = round_by_gptq(before, pixels, 64), round_by_gptq(before, pixels[:10], 64)
    assert int8_file(few) == int8_file(same)


def test_who_trains_on_starts_from_the_learned_integers():
    arch = chain((16, 16, 3), [Stem(16), SepConv(24), Head()], 5)
    model, pixels = fold_batchnorm(random_model(arch, 1)), random_pixels(arch, 64, 1)
    made = round_by_gptq(quantize(model, calibrate(model, pixels), 64), pixels, 64)
    again = qat.requantize(made, made.qparams, qat.trainable_network(made, made.qparams), 64)
    assert int8_file(again) == int8_file(made)
    assert int8_file(made) != int8_file(quantize(model, calibrate(model, pixels), 64))


def test_a_layer_too_large_to_solve_keeps_its_integers(monkeypatch):
    arch = chain((16, 16, 3), [Stem(16), Conv(16), Head()], 5)
    model, pixels = fold_batchnorm(random_model(arch, 1)), random_pixels(arch, 64, 1)
    before = quantize(model, calibrate(model, pixels), 8)
    monkeypatch.setattr(rounding, "MAX_FAN_IN", 100)
    q, p = round_by_gptq(before, pixels, 8).qparams, before.qparams
    same = {name: bool((q.weights[name] == p.weights[name]).all()) for name in q.weights}
    assert same == {"0/conv": False, "1/conv": True, "2/logits": False}
    assert (q.biases["1/conv"] == p.biases["1/conv"]).all()
