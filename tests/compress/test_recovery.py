from __future__ import annotations

import dataclasses

import pytest
import torch

from lepton_automl.compress import recovery
from lepton_automl.compress.context import CompressionContext
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.data import tensors
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.training.loop import fit
from lepton_automl.training.recipe import Recipe
from tests.helpers.nets import random_model, random_pixels


def setup(**more):
    model = random_model(chain((8, 8, 1), [Stem(8), Head()], 2), 0)
    data = LabelledTensors(random_pixels(model.arch, 1000), torch.arange(1000) % 2)
    return model, CompressionContext(
        data, data, model, Limits(), targets.load(), Recipe(batch_size=16), **more
    )


def test_without_a_clock_every_recovery_takes_the_same_share_of_the_epochs():
    model, context = setup(epochs=200)
    share = recovery.recovery_budget(model, context)
    assert share.data is context.train
    assert share.epochs == 200 // recovery.RECOVERIES_PLANNED


def test_few_epochs_are_made_enough_batches_to_recover_at_all():
    model, context = setup(epochs=1)
    assert recovery.recovery_budget(model, context).epochs == round(
        recovery.MIN_BATCHES * 16 / 1000 + 0.5
    )


def test_no_epochs_is_no_training():
    model, context = setup(epochs=0)
    assert recovery.recovery_budget(model, context) is None


def test_a_pass_too_long_for_the_clock_is_made_over_fewer_pictures(monkeypatch):
    monkeypatch.setattr(recovery, "_seconds_per_sample", lambda model, context: 0.01)
    model, context = setup(epochs=100, seconds_left=lambda: 10.0)
    share = recovery.recovery_budget(model, context)
    assert share.epochs == 1
    assert len(share.data) == 300
    assert torch.bincount(share.data.labels).tolist() == [150, 150]
    model, context = setup(epochs=100, seconds_left=lambda: 100.0)
    assert recovery.recovery_budget(model, context).epochs == 3
    model, context = setup(epochs=100, seconds_left=lambda: 4.0)
    assert recovery.recovery_budget(model, context) is None


def test_the_pace_is_measured_and_leaves_the_model_alone():
    model, context = setup(epochs=50, seconds_left=lambda: 1e6)
    before = model.digest
    assert recovery.recovery_budget(model, context).epochs == 50
    assert model.digest == before


def test_seconds_kept_for_later_are_not_spent_on_a_recovery(monkeypatch):
    monkeypatch.setattr(recovery, "_seconds_per_sample", lambda model, context: 0.01)
    model, context = setup(epochs=100, seconds_left=lambda: 14.0)
    assert len(recovery.recovery_budget(model, context, reserved_seconds=4.0).data) == 300
    assert recovery.recovery_budget(model, context, reserved_seconds=14.0) is None


def test_a_training_stops_at_the_batch_after_which_no_time_is_left():
    times = iter([3.0, 2.0, 1.0, 0.0])
    model, context = setup(epochs=9, seconds_left=lambda: next(times))
    done = []

    def tick(step, total):
        done.append(step)
        recovery.time_limit(context)(step, total)

    with pytest.raises(recovery.OutOfTime):
        fit(model, context.train, context.recipe, epochs=1, seed=0, on_batch=tick)
    assert done == [1, 2, 3, 4]
    _, endless = setup(epochs=9)
    fit(
        model,
        context.train,
        context.recipe,
        epochs=1,
        seed=0,
        on_batch=recovery.time_limit(endless),
    )


def test_a_subset_counts_as_the_whole_does():
    _, context = setup()
    assert not tensors.subset(context.train, 10, 0).is_balanced
    assert tensors.subset(dataclasses.replace(context.train, is_balanced=True), 10, 0).is_balanced
