from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from lepton_automl.compress.pruning.cut import (
    arch_without_layer,
    cut_channels,
    removable_layers,
    remove_layer,
    renamed_without_layer,
)
from lepton_automl.compress.quantization.equalization import fold_batchnorm
from lepton_automl.errors import ArchError
from lepton_automl.models.arch import chain
from lepton_automl.models.graph import ACTIVATIONS
from lepton_automl.models.layers.conv import Conv as Dense
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.mbconv import MBConv
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.stem import Stem
from tests.helpers.nets import random_arch, random_model, random_pixels


def silenced(model, width, dropped):
    """The oracle: the whole net, with every producer of the dropped channels giving zero."""
    weights = {name: tensor.clone() for name, tensor in model.weights.items()}
    for op in model.arch.graph.weighted_ops:
        if op.y.axis in width.axes:
            parts = ("weight", "bias") if model.is_folded else ("norm.weight", "norm.bias")
            for part in parts:
                weights[f"{op.name}.{part}"][dropped] = 0
    return dataclasses.replace(model, weights=weights)


def logits(model, pixels):
    with torch.no_grad():
        return model.network()(model.preprocessing.apply(pixels))


@pytest.mark.parametrize("block", range(4))
def test_cutting_any_width_equals_silencing_it(block):
    for seed in range(25 * block, 25 * block + 25):
        rng = random.Random(seed)
        shape = (24, 3) if seed % 4 == 3 else (8, 8, 3)
        model = random_model(random_arch(seed, input=shape, activations=ACTIVATIONS), seed)
        if seed % 2:
            model = fold_batchnorm(model)
        pixels = random_pixels(model.arch, 2, seed)
        widths = model.arch.graph.widths
        for width in rng.sample(widths, min(2, len(widths))):
            keep = sorted(rng.sample(range(width.size), rng.randint(1, width.size)))
            dropped = [i for i in range(width.size) if i not in keep]
            small = cut_channels(model, width.name, keep)
            sizes = {w.name: w.size for w in small.arch.graph.widths}
            assert sizes[width.name] == len(keep)
            expected = logits(silenced(model, width, dropped), pixels)
            torch.testing.assert_close(logits(small, pixels), expected, rtol=1e-3, atol=1e-4)


def test_cutting_leaves_the_given_model_alone():
    model = random_model(random_arch(3), 3)
    before = model.digest
    cut_channels(model, model.arch.graph.widths[0].name, [0])
    assert model.digest == before


def test_a_cut_survives_saving(tmp_path):
    model = random_model(random_arch(3), 3)
    small = cut_channels(model, model.arch.graph.widths[0].name, [0, 2])
    assert type(small).load(small.save(tmp_path / "m")).digest == small.digest
    assert small.parent == model.digest


@pytest.mark.parametrize("keep", [[], [1, 0], [0, 0], [-1], [10_000]])
def test_a_senseless_choice_of_channels_is_refused(keep):
    model = random_model(random_arch(3), 3)
    with pytest.raises(ArchError, match="cannot keep"):
        cut_channels(model, model.arch.graph.widths[0].name, keep)


def test_an_unknown_width_is_refused():
    with pytest.raises(ArchError, match="not a width"):
        cut_channels(random_model(random_arch(3), 3), "nowhere", [0])


def stack():
    layers = [Stem(16), Residual(16), Residual(16), Residual(32, stride=2), Dense(32), MBConv(32)]
    return chain((16, 16, 3), [*layers, Head()], 5)


def test_layers_that_keep_the_shape_can_be_left_out():
    assert removable_layers(stack()) == [1, 2, 4, 5]
    assert (
        removable_layers(chain((16, 16, 3), [Stem(16), Dense(24), Dense(24, stride=2), Head()], 5))
        == []
    )


@pytest.mark.parametrize("layer", [1, 2, 4, 5])
def test_a_net_without_a_layer_is_its_layers_one_after_the_other(layer):
    model = random_model(stack(), 1)
    pixels = random_pixels(model.arch, 4, 1)
    shorter = remove_layer(model, layer)
    assert shorter.arch == arch_without_layer(model.arch, layer)
    assert len(shorter.arch.layers) == len(model.arch.layers) - 1
    # The oracle: the whole net, in which what the layer gives is replaced by what it was given.
    given, seen = {}, {}
    graph = model.arch.graph
    ends = [op.y.name for op in graph.ops if op.name.startswith(f"{layer}/")]
    starts = [op.y.name for op in graph.ops if op.name.startswith(f"{layer - 1}/")]

    def skip(name, value):
        seen[name] = value
        return seen[starts[-1]] if name == ends[-1] else value

    with torch.no_grad():
        wanted = model.network()(model.preprocessing.apply(pixels), skip)
    torch.testing.assert_close(logits(shorter, pixels), wanted, rtol=1e-4, atol=1e-5)
    assert not given


def test_a_layer_that_the_net_needs_is_refused():
    with pytest.raises(ArchError, match="layer 3 cannot be removed"):
        remove_layer(random_model(stack(), 1), 3)


def test_a_net_without_a_layer_survives_saving(tmp_path):
    shorter = remove_layer(random_model(stack(), 1), 2)
    assert type(shorter).load(shorter.save(tmp_path / "m")).digest == shorter.digest


def test_things_behind_the_layer_move_up():
    names = ["1/conv.weight", "2/add", "3/first", "12/logits.bias"]
    assert [renamed_without_layer(n, 2) for n in names] == [
        "1/conv.weight",
        None,
        "2/first",
        "11/logits.bias",
    ]
