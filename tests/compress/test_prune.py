from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from lepton_automl import targets
from lepton_automl.arch import chain
from lepton_automl.compress import Work
from lepton_automl.compress.fold import fold
from lepton_automl.compress.prune import Prune, channel_steps, chosen, cut
from lepton_automl.compress.savings import Savings
from lepton_automl.config import Limits
from lepton_automl.dataset import Labelled
from lepton_automl.errors import ArchError
from lepton_automl.graph import ACTIVATIONS
from lepton_automl.layers.conv import Conv
from lepton_automl.layers.head import Head
from lepton_automl.layers.mbconv import MBConv
from lepton_automl.layers.stem import Stem
from lepton_automl.recipe import Recipe
from lepton_automl.targets import ChannelStep
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
        model = random_model(random_arch(seed, input=(8, 8, 3), activations=ACTIVATIONS), seed)
        if seed % 2:
            model = fold(model)
        pixels = random_pixels(model.arch, 2, seed)
        widths = model.arch.graph.widths
        for width in rng.sample(widths, min(2, len(widths))):
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


def small_net():
    return chain((8, 8, 1), [Stem(20), Conv(32), Conv(16), Head()], 3)


def test_cuts_go_where_least_is_lost_and_end_at_whole_steps():
    arch = small_net()
    scores = {w.name: torch.ones(w.size) for w in arch.graph.widths}
    scores["1/out"] = torch.full((32,), 1e-6)
    sizes = chosen(arch, scores, dict.fromkeys(scores, 8), 0.3, Savings(arch, 0.5, 0.5))
    assert set(sizes) == {"1/out"}
    assert sizes["1/out"] in {8, 16, 24}
    every = chosen(arch, scores, dict.fromkeys(scores, 8), 0.999, Savings(arch, 0.5, 0.5))
    assert every == {"0/out": 8, "1/out": 8, "2/out": 8}  # nothing below one step
    coarse = dict.fromkeys(scores, 64)
    assert chosen(arch, scores, coarse, 0.3, Savings(arch, 0.5, 0.5)) == {}


def test_the_cost_that_is_cut_is_the_share_that_was_asked():
    arch = small_net()
    scores = {w.name: torch.arange(w.size) + 1.0 for w in arch.graph.widths}
    sizes = chosen(arch, scores, dict.fromkeys(scores, 1), 0.4, Savings(arch, 0.0, 1.0))
    assert 0.55 < arch.with_widths(sizes).graph.macs / arch.graph.macs <= 0.6


def test_widths_behind_a_depthwise_filter_are_cut_in_its_steps():
    arch = chain((16, 16, 3), [Stem(16), MBConv(16), Head()], 5)
    steps = channel_steps(arch, ChannelStep(dense=8, depthwise=16))
    assert steps == {"0/out": 8, "1/hidden": 16}


def work_for(model, **more):
    pixels = random_pixels(model.arch, 128, 1)
    with torch.no_grad():
        labels = model.network()(model.preprocessing.apply(pixels)).argmax(1)
    data = Labelled(pixels, labels)
    settings = {"limits": Limits(max_drop=100.0), "epochs": 4, **more}
    return Work(data, data, model, target=targets.load(), recipe=Recipe(batch_size=32), **settings)


def test_a_cut_that_keeps_the_accuracy_is_kept():
    model = random_model(small_net(), 1)
    work = work_for(model)
    pruned = Prune(0.3)(model, work)
    assert pruned.arch.graph.macs < 0.75 * model.arch.graph.macs
    assert all(w.size % 8 == 0 for w in pruned.arch.graph.widths if w.name != "0/out")
    assert pruned.parent == model.digest
    assert Prune(0.3)(model, work).digest == pruned.digest


def test_a_cut_that_loses_too_much_is_put_back():
    model = random_model(small_net(), 1)
    x = model.preprocessing.apply(random_pixels(model.arch, 128, 1))
    with torch.no_grad():  # answers spread over all classes, so that there is much to lose
        middle = model.network()(x).median(0).values
    bias = {"3/logits.bias": model.weights["3/logits.bias"] - middle}
    model = dataclasses.replace(model, weights={**model.weights, **bias})
    work = work_for(model, limits=Limits(max_drop=1.0))
    work = dataclasses.replace(work, recipe=Recipe(lr=1e-6))
    tried = Prune(0.6).attempt(model, work)
    assert not tried.is_accepted
    assert "points lost" in tried.why
    assert Prune(0.6)(model, work) is model


def slower(files):
    """Each smaller width alone saves a half, all together save nothing."""
    return {name: {"whole": 1.0, "b": 1.0, "a": 1.5}.get(name, 0.5) for name in files}


def test_a_cut_that_is_measured_to_be_slower_is_refused_before_any_training():
    model = random_model(small_net(), 1)
    work = work_for(model, measure=slower, epochs=10**9)
    tried = Prune(0.3).attempt(model, work)
    assert not tried.is_accepted
    assert "slower" in tried.why


def test_nothing_is_tried_without_time_or_twice():
    model = random_model(small_net(), 1)
    tired = Prune(0.3).attempt(model, work_for(model, seconds_left=lambda: 0.0))
    assert (tired.model, tired.why) == (None, "no time left to recover")
    tried = Prune(0.3).attempt(model, work_for(model))
    again = Prune(0.3, frozenset({tried.model.arch.hash})).attempt(model, work_for(model))
    assert again.model is None
