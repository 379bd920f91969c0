from __future__ import annotations

import dataclasses

import pytest
import torch

from lepton_automl.compress import acceptance, recovery
from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.evaluation import measured_drop
from lepton_automl.compress.pruning import prune as pruning
from lepton_automl.compress.pruning.prune import MAX_RECOVERIES_TO_LIMITS, RECOVERIES, prune
from lepton_automl.compress.recovery import recover
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
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
    assert "128 validation samples" in tried.why
    assert "(limit 0.80)" in tried.why
    assert tried.judgement.drop.points > 0.8


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


def test_a_cut_is_recovered_twice_and_judged_once(monkeypatch):
    monkeypatch.setattr(recovery, "MIN_BATCHES", 8)
    judged = []
    own = pruning.judge_pruned

    def counted(model, context, tries, *more):
        judged.append(tries)
        return own(model, context, tries, *more)

    monkeypatch.setattr(pruning, "judge_pruned", counted)
    model = spread()
    context = context_for(model, epochs=1)
    tried = prune(model, context, 0.4, tries=3)
    assert (tried.recoveries, judged) == (RECOVERIES, [3])
    assert "fine-tuned twice, " in tried.why
    assert tried.model.parent == model.digest

    efforts = iter([recovery.recovery_budget(tried.model, context), None])
    monkeypatch.setattr(pruning, "recovery_budget", lambda *_: next(efforts))
    once = prune(model, context, 0.4)
    assert once.recoveries == 1
    part = recovery.RecoveryBudget(context.train.first(32), 1)
    efforts = iter([recovery.recovery_budget(tried.model, context), part])
    assert "fine-tuned twice on 32 of 128 samples" in prune(model, context, 0.4).why
    monkeypatch.undo()
    monkeypatch.setattr(recovery, "MIN_BATCHES", 8)
    budget = recovery.recovery_budget(once.model, context)
    by_hand = recover(once.model, context, budget, context.seed + 1)
    assert all(torch.equal(tried.model.weights[n], w) for n, w in by_hand.weights.items())


def test_a_cut_that_is_shown_to_lose_too_much_is_given_up_after_one_recovery(monkeypatch):
    monkeypatch.setattr(recovery, "MIN_BATCHES", 8)
    model = spread()
    context = context_for(model, limits=Limits(max_drop=0.1), epochs=1)
    tried = prune(model, context, 0.4)
    assert (tried.recoveries, tried.is_accepted) == (1, False)
    assert acceptance.is_hopeless(tried.model, context)


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
    drops = [measured_drop(now, context, context.acceptance).points]
    while len(drops) < MAX_RECOVERIES_TO_LIMITS and (len(drops) < 2 or drops[-1] < drops[-2]):
        now = recover(
            now, context, recovery.recovery_budget(now, context), context.seed + len(drops)
        )
        drops.append(measured_drop(now, context, context.acceptance).points)
    assert tried.recoveries == len(drops) > 1
    assert tried.judgement.drop.points == pytest.approx(drops[-1])
