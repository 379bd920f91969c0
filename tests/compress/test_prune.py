from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from lepton_automl.compress.fold import fold
from lepton_automl.compress.prune import cut
from lepton_automl.errors import ArchError
from lepton_automl.graph import ACTIVATIONS
from tests.nets import random_arch, random_model, random_pixels


def silenced(model, width, dropped):
    """The oracle: the whole net, with every producer of the dropped channels giving zero."""
    weights = {name: tensor.clone() for name, tensor in model.weights.items()}
    for op in model.arch.graph.weighted:
        if op.y.axis in width.axes:
            parts = ("weight", "bias") if model.is_folded else ("norm.weight", "norm.bias")
            for part in parts:
                weights[f"{op.name}.{part}"][dropped] = 0
    return dataclasses.replace(model, weights=weights)


def logits(model, pixels):
    with torch.no_grad():
        return model.network()(model.preprocessing.apply(pixels))


@pytest.mark.parametrize("block", range(8))
def test_cutting_any_width_equals_silencing_it(block):
    for seed in range(25 * block, 25 * block + 25):
        rng = random.Random(seed)
        model = random_model(random_arch(seed, activations=ACTIVATIONS), seed)
        if seed % 2:
            model = fold(model)
        pixels = random_pixels(model.arch, 3, seed)
        for width in model.arch.graph.widths:
            keep = sorted(rng.sample(range(width.size), rng.randint(1, width.size)))
            dropped = [i for i in range(width.size) if i not in keep]
            small = cut(model, width.name, keep)
            sizes = {w.name: w.size for w in small.arch.graph.widths}
            assert sizes[width.name] == len(keep)
            expected = logits(silenced(model, width, dropped), pixels)
            torch.testing.assert_close(logits(small, pixels), expected, rtol=1e-3, atol=1e-4)


def test_cutting_leaves_the_given_model_alone():
    model = random_model(random_arch(3), 3)
    before = model.digest
    cut(model, model.arch.graph.widths[0].name, [0])
    assert model.digest == before


def test_a_cut_survives_saving(tmp_path):
    model = random_model(random_arch(3), 3)
    small = cut(model, model.arch.graph.widths[0].name, [0, 2])
    assert type(small).load(small.save(tmp_path / "m")).digest == small.digest
    assert small.parent == model.digest


@pytest.mark.parametrize("keep", [[], [1, 0], [0, 0], [-1], [10_000]])
def test_a_senseless_choice_of_channels_is_refused(keep):
    model = random_model(random_arch(3), 3)
    with pytest.raises(ArchError, match="cannot keep"):
        cut(model, model.arch.graph.widths[0].name, keep)


def test_an_unknown_width_is_refused():
    with pytest.raises(ArchError, match="not a width"):
        cut(random_model(random_arch(3), 3), "nowhere", [0])
