from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

from lepton_automl.compress import acceptance
from lepton_automl.compress.context import CompressionContext, last_pictures
from lepton_automl.compress.evaluation import measured_drop, validation_accuracy
from lepton_automl.compress.pruning.cut import cut_channels
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.metrics.paired import SmoothedDrop
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.training.recipe import Recipe
from tests.helpers.nets import random_model, random_pixels

ARCH = chain((8, 8, 1), [Stem(8), Conv(8), Head()], 3)


def answers(model, pixels):
    with torch.no_grad():
        return model.network()(model.preprocessing.apply(pixels)).argmax(1)


def context_for(count=120, **more):
    """A reference that is always right, and the pictures that it is right on."""
    model, pixels = random_model(ARCH, 1), random_pixels(ARCH, count, 1)
    with torch.no_grad():
        middle = model.network()(model.preprocessing.apply(pixels)).median(0).values
    model = changed(model, -middle)
    data = LabelledTensors(pixels, answers(model, pixels))
    settings = {"limits": Limits(), **more}
    return CompressionContext(data, data, model, target=targets.load(), recipe=Recipe(), **settings)


def changed(model, amount):
    """The net with other biases of its logits, so that it errs on some pictures."""
    name = next(n for n in model.weights if n.endswith("logits.bias"))
    each = amount * torch.tensor([1.0, -1.0, 0.5]) if isinstance(amount, float) else amount
    bias = model.weights[name] + each
    return dataclasses.replace(model, weights={**model.weights, name: bias})


def drop_of(points=0.3, error=0.5, freedom=200.0, n=100):
    return SmoothedDrop(points, error, freedom, n)


@pytest.mark.parametrize(("tries", "freedom"), [(1, 1e6), (5, 1e6), (2, 3.0)])
def test_the_expected_drop_is_the_mean_of_the_posterior(tries, freedom):
    """Integrated on a grid: normal prior times normal likelihood."""
    made = acceptance.judge(drop_of(0.7, 0.6, freedom), 0.5, tries, (0.4, 1.0), has_groups=False)
    risk = 0.1 / tries
    error = 0.6 * stats.t.ppf(1 - risk, freedom) / stats.norm.ppf(1 - risk)
    grid = np.linspace(-12, 12, 200_001)
    density = stats.norm.pdf(grid, 0.25, 0.4) * stats.norm.pdf(0.7, grid, error)
    density /= density.sum()
    assert made.expected == pytest.approx((grid * density).sum(), abs=1e-3)
    above = density[grid > made.bound].sum()
    assert above == pytest.approx(risk, rel=0.02)


def test_more_tries_and_groups_widen_the_bound_and_more_pictures_narrow_it():
    def bound(error=0.5, tries=1, has_groups=False, share=0.5):
        made = acceptance.judge(
            drop_of(error=error), share, tries, (0.4, 1.0), has_groups=has_groups
        )
        return made.bound

    assert bound(tries=4) > bound()
    assert bound(has_groups=True) > bound()
    assert bound(error=0.1) < bound()
    assert bound(share=0.2) > bound()


def test_expectation_and_bound_both_decide():
    drop = drop_of()
    assert acceptance.Judgement(drop, 0.3, 0.9, 0.4, 1.0).is_accepted
    assert not acceptance.Judgement(drop, 0.3, 0.9, 0.2, 1.0).is_accepted
    assert not acceptance.Judgement(drop, 0.3, 0.9, 0.2, 1.0).is_undecided
    wide = acceptance.Judgement(drop, 0.3, 1.1, 0.4, 1.0)
    assert not wide.is_accepted
    assert wide.is_undecided
    assert "too few samples to tell" in str(wide)


def test_a_cut_is_judged_by_its_own_pictures_and_size():
    context = context_for()
    model = changed(context.reference, 0.002)
    drop = measured_drop(model, context, context.acceptance)
    assert drop.points > 0
    made = acceptance.judge_pruned(model, context, 3)
    assert made == acceptance.judge(drop, 1.0, 3, (0.4, 1.0), has_groups=False)
    half = cut_channels(model, model.arch.graph.widths[0].name, [0, 1, 2, 3])
    sizes = [len(random_int8_onnx(each.arch, 64)) for each in (half, model)]
    made = acceptance.judge_pruned(half, context, 3)
    drop = measured_drop(half, context, context.acceptance)
    share = sizes[0] / sizes[1]
    assert made == acceptance.judge(drop, share, 3, (0.4, 1.0), has_groups=False)


def test_a_stated_drop_is_the_bound_itself_and_cost_limits_leave_none():
    assert acceptance.max_bound(context_for()) == 1.0
    assert acceptance.max_bound(context_for(limits=Limits(max_drop=2.0))) == 2.0
    assert acceptance.max_bound(context_for(is_aim=True)) == math.inf


def test_pictures_of_one_group_cannot_accept_a_cut():
    context = context_for(validation_groups=np.zeros(120, np.int64))
    made = acceptance.judge_pruned(context.reference, context, 1)
    assert made.weight == 0.0
    assert not made.is_accepted
    assert "all of one group" in str(made)
    assert not acceptance.is_hopeless(changed(context.reference, 5.0), context)
    aim = dataclasses.replace(context, is_aim=True)
    assert acceptance.judge_pruned(aim.reference, aim, 1).is_accepted


def test_a_net_is_given_up_only_when_its_loss_is_shown():
    context = context_for()
    assert not acceptance.is_hopeless(context.reference, context)
    assert acceptance.is_hopeless(changed(context.reference, 5.0), context)


def test_a_net_whose_loss_may_be_chance_is_not_given_up():
    context, limit = context_for(40), 0.4
    seen = set()
    for amount in np.geomspace(0.001, 1.0, 12):
        model = changed(context.reference, float(amount))
        drop = measured_drop(model, context, context.acceptance)
        # One-sided 90 % bound of Student's distribution.
        is_shown = drop.points - stats.t.ppf(0.9, drop.freedom) * drop.error > limit
        assert acceptance.is_hopeless(model, context) is bool(is_shown)
        seen.add((drop.points > limit, bool(is_shown)))
    assert seen == {(False, False), (True, False), (True, True)}


@pytest.mark.parametrize("seed", [0, 7])
def test_a_third_of_every_class_is_kept_for_the_end(seed):
    labels = np.repeat([0, 1, 2], [300, 240, 90])
    chosen = last_pictures(labels, None, seed)
    assert np.abs(np.bincount(labels[chosen]) - np.array([100, 80, 30])).max() <= 1
    assert (chosen == last_pictures(labels, None, seed)).all()
    assert (chosen != last_pictures(labels, None, seed + 1)).any()
    assert not last_pictures(labels[:599], None, seed).any()


def test_groups_are_kept_whole_and_few_of_them_are_not_split():
    rng = np.random.default_rng(0)
    groups = np.sort(rng.integers(0, 60, 900))
    labels = rng.integers(0, 3, 900)
    chosen = last_pictures(labels, groups, 0)
    assert {len(set(chosen[groups == group])) for group in groups} == {1}
    assert 0.23 < chosen.mean() < 0.43
    assert not last_pictures(labels, groups % 29, 0).any()


def test_the_last_pictures_accept_nothing():
    """Noise instead of the last part's pictures changes no judgement of a step, but the end's."""
    context = context_for(700)
    model = changed(context.reference, 0.02)
    last = last_pictures(context.validation.labels.numpy(), None, context.seed)
    pixels = context.validation.pixels.clone()
    pixels[last] = 255 - pixels[last]
    other = dataclasses.replace(
        context, validation=dataclasses.replace(context.validation, pixels=pixels)
    )
    steps, ends = zip(
        *(
            (
                (acceptance.judge_pruned(model, each, 2), validation_accuracy(model, each)),
                acceptance.judge_end(model, each, 2),
            )
            for each in (context, other)
        ),
        strict=True,
    )
    assert steps[0] == steps[1]
    assert ends[0] != ends[1]
    assert context.last is not None
    assert len(context.last.data) + len(context.acceptance.data) == 700
    pixels = pixels.clone()
    pixels[~last] = 255 - pixels[~last]
    other = dataclasses.replace(
        context, validation=dataclasses.replace(context.validation, pixels=pixels)
    )
    assert acceptance.judge_pruned(model, other, 2) != steps[0][0]


def test_a_loss_that_the_last_part_shows_ends_the_chain():
    context = context_for(900)
    good = acceptance.judge_end(context.reference, context, 1)
    assert good.is_accepted
    assert good.drop.n == 900
    bad = acceptance.judge_end(changed(context.reference, 5.0), context, 1)
    assert not bad.is_accepted
    assert bad.drop.n == len(context.last.data)
