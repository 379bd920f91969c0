from __future__ import annotations

import dataclasses

import pytest
import torch

from lepton_automl.compress.pruning import reconstruction
from lepton_automl.compress.pruning.cut import OUTPUT_PARTS, cut_channels
from lepton_automl.compress.pruning.reconstruction import reconstruct
from lepton_automl.compress.quantization.equalization import fold_batchnorm
from lepton_automl.models.arch import chain
from lepton_automl.models.graph import ACTIVATIONS, Conv
from lepton_automl.models.layers.conv import Conv as Dense
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.mbconv import MBConv
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.sepconv import SepConv
from lepton_automl.models.layers.stem import Stem
from tests.helpers.nets import random_arch, random_model, random_pixels


def logits(model, pixels):
    with torch.no_grad():
        return model.network()(model.preprocessing.apply(pixels))


def halved(model, number=None):
    """Every other channel of one width, or of all of them."""
    less, kept = model, {}
    widths = model.arch.graph.widths
    for width in widths if number is None else [widths[number % len(widths)]]:
        kept[width.name] = torch.arange(0, width.size, 2)
        less = cut_channels(less, width.name, kept[width.name].tolist())
    return less, kept


def distance(model, wanted, pixels):
    return float((logits(model, pixels) - logits(wanted, pixels)).square().mean())


def in_pairs(model, width):
    """The same net, each odd channel of a width made equal to the even one before it."""
    weights = {name: tensor.clone() for name, tensor in model.weights.items()}
    for op in model.arch.graph.weighted_ops:
        for part in ("weight", *OUTPUT_PARTS):
            tensor = weights.get(f"{op.name}.{part}")
            if op.y.axis in width.axes and tensor is not None:
                tensor[1::2] = tensor[::2]
    return dataclasses.replace(model, weights=weights)


NETS = {
    "dense": [Stem(16), Dense(16), Dense(16, stride=2), Head()],
    "residual": [Stem(16), Residual(16), Residual(16, stride=2), Head()],
    "depthwise": [Stem(16), SepConv(16), SepConv(16, stride=2), Head()],
    "gated": [Stem(16), MBConv(16, expand=2, se=4), Head(features=16)],
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(
    "form", [fold_batchnorm, lambda model: model], ids=["folded", "not folded"]
)
def test_the_twin_of_each_channel_that_goes_takes_its_place(name, form):
    model = form(random_model(chain((12, 12, 3), NETS[name], 5), 1))
    pixels, others = random_pixels(model.arch, 256, 1), random_pixels(model.arch, 64, 2)
    for number, width in enumerate(model.arch.graph.widths):
        twins = in_pairs(model, width)
        less, kept = halved(twins, number)
        mended = reconstruct(less, twins, kept, pixels)
        assert distance(mended, twins, others) < 0.02 * distance(less, twins, others), width.name


@pytest.mark.parametrize("seed", range(12))
def test_what_is_cut_everywhere_answers_more_like_the_whole_net(seed):
    model = random_model(random_arch(seed, activations=ACTIVATIONS), seed)
    pixels, others = random_pixels(model.arch, 256, seed), random_pixels(model.arch, 64, seed + 100)
    less, kept = halved(model)
    mended = reconstruct(less, model, kept, pixels)
    assert mended.arch == less.arch
    assert distance(mended, model, others) < distance(less, model, others)


def test_it_makes_no_difference_whether_normalisation_was_folded_before():
    model = random_model(chain((12, 12, 3), NETS["residual"], 5), 1)
    pixels = random_pixels(model.arch, 128, 1)
    less, kept = halved(model)
    before, after = fold_batchnorm(model), fold_batchnorm(reconstruct(less, model, kept, pixels))
    same = reconstruct(fold_batchnorm(less), before, kept, pixels)
    # The ridge holds weights that differ by the factor of a channel.
    assert distance(after, same, pixels) < 0.05 * distance(fold_batchnorm(less), same, pixels)


def test_a_net_that_was_not_cut_stays_as_it_is():
    model = random_model(random_arch(3), 3)
    pixels = random_pixels(model.arch, 64, 3)
    same = reconstruct(model, model, {}, pixels)
    torch.testing.assert_close(logits(same, pixels), logits(model, pixels), rtol=1e-3, atol=1e-3)


def test_each_channel_has_the_mean_it_had():
    model = fold_batchnorm(random_model(chain((12, 12, 3), NETS["dense"], 5), 1))
    pixels = random_pixels(model.arch, 128, 1)
    less, kept = halved(model, 0)
    mended = reconstruct(less, model, kept, pixels)
    # The second convolution reads what was cut; before its clamp its means are to be met.
    name = list(model.arch.graph.weighted_ops)[1].name
    seen = [_before_clamp(each, name, pixels).mean((0, 2, 3)) for each in (model, mended)]
    torch.testing.assert_close(*seen, rtol=0.02, atol=0.02)


def _before_clamp(model, name, pixels):
    network, found = model.network(), {}
    owner = network.modules_by_op[name]
    owner.op = dataclasses.replace(owner.op, clamp="none")
    network(model.preprocessing.apply(pixels), lambda n, v: found.setdefault(n, v))
    op = next(op for op in model.arch.graph.ops if op.name == name)
    assert isinstance(op, Conv)
    return found[op.y.name].detach()


def test_the_given_models_are_left_alone():
    model = random_model(random_arch(5), 5)
    less, kept = halved(model)
    before = model.digest, less.digest
    mended = reconstruct(less, model, kept, random_pixels(model.arch, 64, 5))
    assert (model.digest, less.digest) == before
    assert mended.parent == less.digest


def test_a_layer_too_large_to_solve_keeps_its_weights(monkeypatch):
    model = random_model(chain((12, 12, 3), NETS["dense"], 5), 1)
    less, kept = halved(model)
    monkeypatch.setattr(reconstruction, "MAX_FAN_IN", 20)
    mended = reconstruct(less, model, kept, random_pixels(model.arch, 64, 1))
    same = [
        torch.equal(*(m.weights[f"{op.name}.weight"] for m in (mended, less)))
        for op in less.arch.graph.weighted_ops
    ]
    assert same == [True, True, True, False]
