from __future__ import annotations

import dataclasses

import pytest
import torch

from lepton_automl.compress import recovery
from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.pruning import prune as pruning
from lepton_automl.compress.pruning.prune import MAX_RECOVERIES, MAX_RECOVERIES_TO_LIMITS, prune
from lepton_automl.compress.recovery import recover
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.recipe import Recipe
from tests.helpers.nets import random_model, random_pixels


def small_net():
    return chain((8, 8, 1), [Stem(20), Conv(32), Conv(16), Head()], 3)


def spread():
    """A net whose answers are spread over all classes, so that there is much to lose."""
    model = random_model(small_net(), 1)
    x = model.preprocessing.apply(random_pixels(model.arch, 128, 1))
    with torch.no_grad():
        middle = model.network()(x).median(0).values
    bias = {"3/logits.bias": model.weights["3/logits.bias"] - middle}
    return dataclasses.replace(model, weights={**model.weights, **bias})


def context_for(model, **more):
    pixels = random_pixels(model.arch, 128, 1)
    with torch.no_grad():
        labels = model.network()(model.preprocessing.apply(pixels)).argmax(1)
    data = LabelledTensors(pixels, labels)
    settings = {"limits": Limits(max_drop=100.0), "epochs": 4, **more}
    return CompressionContext(
        data, data, model, target=targets.load(), recipe=Recipe(batch_size=32), **settings
    )


def test_a_cut_that_keeps_the_accuracy_is_kept():
    model = random_model(small_net(), 1)
    context = context_for(model)
    tried = prune(model, context, 0.3)
    pruned = tried.model
    assert tried.is_accepted
    assert pruned.arch.graph.macs < 0.75 * model.arch.graph.macs
    assert all(w.size % 8 == 0 for w in pruned.arch.graph.widths if w.name != "0/out")
    assert pruned.parent == model.digest
    assert prune(model, context, 0.3).model.digest == pruned.digest


def test_a_cut_that_loses_too_much_is_rejected():
    model = spread()
    context = context_for(model, limits=Limits(max_drop=1.0))
    context = dataclasses.replace(context, recipe=Recipe(lr=1e-6))
    tried = prune(model, context, 0.6)
    assert not tried.is_accepted
    assert "points on validation (limit 0.50)" in tried.why


def slower(files):
    """Each smaller width alone saves a half, all together save nothing."""
    return {name: {"whole": 1.0, "b": 1.0, "a": 1.5}.get(name, 0.5) for name in files}


def test_a_cut_that_is_measured_to_be_slower_is_refused_before_any_training():
    model = random_model(small_net(), 1)
    context = context_for(model, measure=slower, epochs=10**9)
    tried = prune(model, context, 0.3)
    assert not tried.is_accepted
    assert "slower" in tried.why


@pytest.mark.parametrize(
    ("limits", "is_refused"),
    [
        (Limits(max_drop=100.0, max_size_bytes=2000), False),
        (Limits(max_drop=100.0, max_macs=1000), False),
        (Limits(max_drop=100.0, max_size_bytes=2000, max_latency_ms=0.1), True),
    ],
)
def test_a_slower_cut_is_refused_only_where_time_is_the_aim(limits, is_refused):
    model = random_model(small_net(), 1)
    context = context_for(model, measure=slower, limits=limits, is_aim=True)
    tried = prune(model, context, 0.3)
    assert ("slower" in tried.why) == is_refused
    assert tried.is_accepted != is_refused


def test_nothing_is_tried_without_time_or_twice():
    model = random_model(small_net(), 1)
    tired = prune(model, context_for(model, seconds_left=lambda: 0.0), 0.3)
    assert "not fine-tuned" in tired.why
    tried = prune(model, context_for(model), 0.3)
    again = prune(model, context_for(model), 0.3, frozenset({tried.model.arch.hash}))
    assert again.model.arch.hash != tried.model.arch.hash


def test_a_cut_that_misses_by_chance_is_recovered_further_and_no_other(monkeypatch):
    monkeypatch.setattr(recovery, "MIN_BATCHES", 8)
    model = spread()
    once = prune(model, context_for(model, limits=Limits(max_drop=0.0), epochs=1), 0.4)
    right = is_correct(once.model, context_for(model).validation).mean()
    lost = 100 * (1 - right)  # of 128 pictures; a standard error is 3 points
    assert (once.recoveries, once.is_accepted, lost > 8) == (1, False, True)

    far = context_for(model, limits=Limits(max_drop=2 * (lost - 8)), epochs=1)
    assert prune(model, far, 0.4).recoveries == 1
    near = context_for(model, limits=Limits(max_drop=2 * (lost - 2)), epochs=1)
    more = prune(model, near, 0.4)
    assert 2 <= more.recoveries <= MAX_RECOVERIES
    assert ("fine-tuned twice" if more.recoveries == 2 else "fine-tuned 3 times") in more.why
    by_hand = recover(once.model, near, recovery.recovery_budget(once.model, near), near.seed + 1)
    if more.recoveries == 3:
        by_hand = recover(by_hand, near, recovery.recovery_budget(by_hand, near), near.seed + 2)
    assert all(torch.equal(more.model.weights[n], w) for n, w in by_hand.weights.items())
    missed = 100 * (1 - is_correct(more.model, near.validation).mean())
    assert more.is_accepted == (missed <= lost - 2 + 1e-9)
    assert more.model.parent == model.digest

    efforts = iter([recovery.recovery_budget(once.model, near), None])
    monkeypatch.setattr(pruning, "recovery_budget", lambda *_: next(efforts))
    assert prune(model, near, 0.4).recoveries == 1


def test_a_cut_that_reaches_the_limits_is_recovered_as_long_as_it_gets_better(monkeypatch):
    monkeypatch.setattr(recovery, "MIN_BATCHES", 8)
    model = spread()
    whole = context_for(model, limits=Limits(max_drop=0.0), epochs=1)
    small = prune(model, whole, 0.4).model.arch.graph.macs
    limits = Limits(max_drop=0.0, max_macs=small)
    context = dataclasses.replace(whole, limits=limits, is_aim=True)
    tried = prune(model, context, 0.4)
    assert tried.model.arch.graph.macs <= small
    now = prune(model, dataclasses.replace(context, is_aim=False), 0.4).model
    shares = [is_correct(now, context.validation).mean()]
    while len(shares) < MAX_RECOVERIES_TO_LIMITS and (len(shares) < 2 or shares[-1] > shares[-2]):
        now = recover(
            now, context, recovery.recovery_budget(now, context), context.seed + len(shares)
        )
        shares.append(is_correct(now, context.validation).mean())
    assert tried.recoveries == len(shares) > 1
    assert tried.model.metrics["validation_accuracy"] == pytest.approx(shares[-1])
    beyond = dataclasses.replace(context, limits=Limits(max_drop=0.0, max_macs=small // 2))
    assert prune(model, beyond, 0.4).recoveries == 1
