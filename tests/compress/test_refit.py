from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lepton_automl.compress import loop, refit
from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.evaluation import int8_file
from lepton_automl.compress.loop import compress
from lepton_automl.compress.quantization import quantize
from lepton_automl.compress.steps import CompressionResult
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.training.loop import Diverged, initial_model
from lepton_automl.training.recipe import Recipe
from tests.compress.test_loop import smaller_by_half
from tests.helpers.killed_writes import until_done
from tests.helpers.nets import random_model, random_pixels


def labelled(model, count, seed):
    pixels = random_pixels(model.arch, count, seed)
    with torch.no_grad():
        labels = model.network()(model.preprocessing.apply(pixels)).argmax(1)
    return LabelledTensors(pixels, labels)


def setup(**more):
    model = random_model(chain((8, 8, 1), [Stem(8), Conv(8), Head()], 3), 1)
    settings = {"limits": Limits(max_drop=100.0), "epochs": 0, "refit_epochs": 2, **more}
    return model, CompressionContext(
        labelled(model, 64, 1),
        labelled(model, 32, 2),
        model,
        target=targets.load(),
        recipe=Recipe(batch_size=32, augment=0.0, lr=0.2, epochs=6, optimizer="sgd"),
        **settings,
    )


class Trainings:
    """`fit` that records what it is given and returns `model`, or what it is given."""

    def __init__(self, model=None, error=None):
        self.model, self.error, self.calls = model, error, []

    def __call__(self, model, data, recipe, **options):
        self.calls.append((model, data, recipe, options))
        if self.error is not None:
            raise self.error
        return self.model or model


def rows(*parts):
    """Each sample with its label as bytes, sorted."""
    return sorted(
        pixels.numpy().tobytes() + bytes([int(label)])
        for part in parts
        for pixels, label in zip(part.pixels, part.labels, strict=True)
    )


def test_every_sample_of_both_parts_is_trained_on_once_in_an_epoch(monkeypatch):
    model, context = setup()
    monkeypatch.setattr(refit, "fit", trainings := Trainings())
    made = refit.refit(model, context)
    [(started, data, recipe, options)] = trainings.calls
    assert started.arch == model.arch
    assert rows(data) == rows(context.train, context.validation)
    assert options["epochs"] == 2
    assert recipe == context.recipe
    assert made.model.parent == model.digest
    assert "all 96 training and validation samples" in made.why


def test_the_training_starts_between_the_trained_weights_and_new_ones():
    model, _ = setup()
    starts = [refit.shrunk(model, seed) for seed in (3, 4)]
    for name, weight in model.weights.items():
        first, second = (start.weights[name] for start in starts)
        if weight.ndim == 1:
            assert torch.equal(first, weight)
            continue
        assert not torch.equal(first, second)
        new = initial_model(model.arch, model.preprocessing, 3).weights[name]
        assert torch.allclose(first - new, 0.4 * (weight - new), atol=1e-6)


def test_classes_keep_their_equal_weight(monkeypatch):
    model, context = setup()
    balanced = dataclasses.replace(context.train, is_balanced=True)
    monkeypatch.setattr(refit, "fit", trainings := Trainings())
    refit.refit(model, dataclasses.replace(context, train=balanced))
    assert trainings.calls[0][1].is_balanced


def test_a_net_that_answers_validation_worse_after_learning_it_is_not_used(monkeypatch):
    model, context = setup()
    head = list(model.arch.graph.weighted_ops)[-1].name
    opposite = {name: -t if name.startswith(f"{head}.") else t for name, t in model.weights.items()}
    # Negative logits have their largest value at another class.
    wrong = dataclasses.replace(model, weights=opposite)
    monkeypatch.setattr(refit, "fit", Trainings(wrong))
    made = refit.refit(model, context)
    assert made.model is None
    assert "before 100.0%" in made.why


def test_a_net_that_has_forgotten_training_samples_is_used_if_it_knows_the_validation_part(
    monkeypatch,
):
    model, context = setup()
    # The labels of the training part are those of another net.
    other = dataclasses.replace(context.train, labels=(context.train.labels + 1) % 3)
    monkeypatch.setattr(refit, "fit", Trainings(model))
    assert refit.refit(model, dataclasses.replace(context, train=other)).model is not None


def test_a_loss_that_is_not_finite_leaves_the_net_before(monkeypatch, tmp_path):
    model, context = setup()
    monkeypatch.setattr(refit, "fit", Trainings(error=Diverged("the loss became nan", fix="")))
    made = compress(model, context, tmp_path)
    assert [(step.name, step.is_accepted) for step in made.steps] == [
        ("reference", True),
        ("refit", False),
        ("quantized", True),
    ]
    assert not made.is_refit
    assert made.pruned_float.digest == model.digest
    assert "the loss became nan" in made.steps[1].why


def test_epochs_are_those_that_the_time_left_after_quantization_allows(monkeypatch):
    model, context = setup(refit_epochs=10, least_refit_epochs=3, quantize_seconds=5.0)
    context = dataclasses.replace(context, recipe=dataclasses.replace(context.recipe, batch_size=8))
    now = 0.0

    class Timed(Trainings):
        """Two seconds before the first of its 8 batches, then 1/12 s a batch less the safety."""

        def __call__(self, model, data, recipe, **options):
            nonlocal now
            now += 2.0
            report = options.get("on_batch", lambda *_: None)  # Only where it is timed.
            for done in range(1, 9):
                now += 1 / 12 / refit.SAFETY
                report(done, 8)
            return super().__call__(model, data, recipe, **options)

    monkeypatch.setattr(refit.time, "monotonic", lambda: now)
    trained = []
    for left, wanted in ((12.5, 7), (25.0, 10), (7.0, 0)):
        monkeypatch.setattr(refit, "fit", trainings := Timed())
        # An epoch has 12 batches.
        given = dataclasses.replace(context, seconds_left=lambda left=left: left)
        made = refit.refit(model, given)
        trained.append(sum(call[3]["epochs"] for call in trainings.calls[1:]))
        assert (made.model is not None) == (wanted > 0)
    assert trained == [7, 10, 0]


def test_the_shipped_net_is_the_one_trained_on_all_samples(tmp_path):
    model, context = setup()
    made = compress(model, context, tmp_path)
    assert [step.name for step in made.steps] == ["reference", "refit", "quantized"]
    assert made.is_refit
    assert made.pruned_float.digest != model.digest
    assert made.pruned_float.parent == model.digest
    names = [op.name for op in model.arch.graph.weighted_ops]
    assert any(
        not torch.equal(made.pruned_float.weights[f"{n}.weight"], model.weights[f"{n}.weight"])
        for n in names
    )
    assert made.steps[-1].size_bytes == len(int8_file(made.int8))
    plain = compress(model, dataclasses.replace(context, refit_epochs=0), tmp_path / "plain")
    assert not plain.is_refit
    # The net has seen the validation part, so its accuracy there is that of the net before.
    for step in made.steps[1:]:
        assert (step.accuracy, step.interval) == (
            plain.steps[-1].accuracy,
            plain.steps[-1].interval,
        )


def test_no_step_is_judged_after_the_validation_part_was_trained_on(tmp_path, monkeypatch):
    model, context = setup(epochs=4)
    judged, trained = [], []
    for name in ("judge_end",):
        own = getattr(loop, name)

        def spied(net, *arguments, own=own):
            judged.append(len(trained))
            return own(net, *arguments)

        monkeypatch.setattr(loop, name, spied)
    own_refit = loop.refit
    monkeypatch.setattr(loop, "refit", lambda *given: trained.append(1) or own_refit(*given))
    made = compress(model, context, tmp_path)
    assert any(step.name.startswith("pruned") and step.is_accepted for step in made.steps)
    assert judged
    assert set(judged) == {0}
    assert len(trained) == 1
    assert made.int8.arch == made.pruned_float.arch != model.arch
    assert made.steps[-1].drop == made.steps[-2].drop


def test_quantization_leaves_the_time_that_is_kept_for_it(monkeypatch):
    model, context = setup(seconds_left=lambda: 10.0, refit_seconds=11.0, epochs=1)
    budgets = []
    own = quantize.recovery_budget
    monkeypatch.setattr(
        quantize, "recovery_budget", lambda *given: budgets.append(own(*given)) or budgets[-1]
    )
    monkeypatch.setattr(quantize, "keeps_class_limit", lambda *_: False)  # Asks for fine-tuning.
    quantize.quantize_model(model, context)
    assert budgets == [None]
    quantize.quantize_model(model, dataclasses.replace(context, refit_seconds=0.0))
    assert budgets[1] is not None


@pytest.mark.parametrize(("batches", "is_used"), [(50, True), (20, False)])
def test_a_training_that_is_late_is_shortened_and_used_if_it_is_long_enough(
    monkeypatch, batches, is_used
):
    model, context = setup(
        refit_epochs=10, least_refit_epochs=3, quantize_seconds=5.0, refit_seconds=10.0
    )
    left = 1000.0
    context = dataclasses.replace(context, seconds_left=lambda: left)

    class Late(Trainings):
        """Of 100 batches so many are in time."""

        def __call__(self, model, data, recipe, **options):
            nonlocal left
            if self.calls:
                schedule = options["schedule"]
                schedule.begin(100)
                schedule.changes = [(4, 96 / (batches - 4))]
                schedule.batches = batches
                left = 3.0  # All but what quantization needs, and a fifth of what was planned.
                assert schedule._seconds_left() == 0.0
            return super().__call__(model, data, recipe, **options)

    monkeypatch.setattr(refit, "fit", Late())
    made = refit.refit(model, context)
    assert (made.model is not None) == is_used
    assert made.is_out_of_time == (not is_used)
    assert ("trained for 5 of 10 epochs" in made.why) == is_used


def test_pruning_leaves_the_time_of_the_training_also_where_a_cut_is_withdrawn(
    monkeypatch, tmp_path
):
    """Each quantization takes all that was kept for one, each cut as long."""
    left, given = 100.0, []
    model, context = setup(epochs=4, quantize_seconds=10.0, refit_seconds=30.0)
    context = dataclasses.replace(context, seconds_left=lambda: left)
    own, own_prune, own_judge = loop.quantize_model, smaller_by_half, loop.judge_end

    def quantized(*arguments):
        nonlocal left
        left -= context.quantize_seconds
        return own(*arguments)

    def cut(model, context, share, known, tries, fold_nets):
        nonlocal left
        left -= 10.0
        few = dataclasses.replace(context, seconds_left=None)
        return own_prune(model, few, share, frozenset(), tries, fold_nets)

    def trained(model, context):
        given.append(left - context.quantize_seconds)
        return refit.Refit(None, "", is_out_of_time=True)

    monkeypatch.setattr(loop, "quantize_model", quantized)
    monkeypatch.setattr(loop, "prune", cut)
    monkeypatch.setattr(loop, "refit", trained)
    limits = iter([-1e9, 1e9])
    monkeypatch.setattr(
        loop, "judge_end", lambda *args: dataclasses.replace(own_judge(*args), limit=next(limits))
    )
    made = compress(model, context, tmp_path)
    cuts = [step for step in made.steps if step.name.startswith("pruned")]
    assert [step.is_withdrawn for step in cuts] == [False, False, False, True]
    assert given[0] >= context.refit_seconds


@pytest.mark.parametrize("rejected", [False, True])
def test_killed_at_any_write_it_goes_on_to_the_same_end(tmp_path, monkeypatch, rejected):
    model, context = setup(epochs=4)
    if rejected:
        monkeypatch.setattr(refit, "fit", Trainings(error=Diverged("nan", fix="")))
    whole = compress(model, context, tmp_path / "whole")
    made, tries = until_done(
        monkeypatch,
        loop.files,
        lambda: compress(model, context, tmp_path / "killed"),
        (1, 4, 2, 6, 3, 5, 100),
    )
    assert tries > 3
    assert made.steps == whole.steps
    assert int8_file(made.int8) == int8_file(whole.int8)
    assert CompressionResult.load(tmp_path / "killed").is_refit == (not rejected)


def test_equal_calls_give_equal_nets():
    model, context = setup()
    first, second = (refit.refit(model, context).model for _ in range(2))
    assert first.digest == second.digest
    other = refit.refit(model, dataclasses.replace(context, seed=1)).model
    assert other.digest != first.digest
    assert np.isfinite(first.weights[next(iter(first.weights))].numpy()).all()
