from __future__ import annotations

import dataclasses

import torch

from lepton_automl import targets
from lepton_automl.arch import chain
from lepton_automl.compress import Work
from lepton_automl.compress.prune import Prune
from lepton_automl.config import Limits
from lepton_automl.dataset import Labelled
from lepton_automl.layers.conv import Conv
from lepton_automl.layers.head import Head
from lepton_automl.layers.stem import Stem
from lepton_automl.recipe import Recipe
from tests.nets import random_model, random_pixels


def small_net():
    return chain((8, 8, 1), [Stem(20), Conv(32), Conv(16), Head()], 3)


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
    assert "not trained" in tired.why
    tried = Prune(0.3).attempt(model, work_for(model))
    again = Prune(0.3, frozenset({tried.model.arch.hash})).attempt(model, work_for(model))
    assert again.model.arch.hash != tried.model.arch.hash
