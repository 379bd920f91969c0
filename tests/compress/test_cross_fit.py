from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lepton_automl.compress import acceptance, decisions, loop, recovery
from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.cross_fit import drop_on_folds, fold_context, with_references
from lepton_automl.compress.evaluation import int8_file
from lepton_automl.compress.loop import compress
from lepton_automl.compress.pruning import prune as pruning
from lepton_automl.compress.pruning.prune import prune
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.data.folds import EvaluatedSamples, Folds
from lepton_automl.metrics.paired import class_margins, smoothed_drop
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.model import Model
from lepton_automl.training.evaluate import predict_logits
from lepton_automl.training.recipe import Recipe
from tests.helpers.killed_writes import until_done
from tests.helpers.nets import random_model, random_pixels

ARCH = chain((8, 8, 1), [Stem(16), Conv(24), Head()], 3)
TRAIN, VALIDATION = 72, 24


def setup(**more) -> tuple[Model, CompressionContext]:
    """A net that is right on all samples; its validation part is one group of four, fold 0."""
    model, pixels = random_model(ARCH, 1), random_pixels(ARCH, TRAIN + VALIDATION, 1)
    with torch.no_grad():
        labels = model.network()(model.preprocessing.apply(pixels)).argmax(1)
    train = LabelledTensors(pixels[:TRAIN], labels[:TRAIN])
    validation = LabelledTensors(pixels[TRAIN:], labels[TRAIN:])
    groups = np.concatenate([np.arange(TRAIN) % 3 + 1, np.zeros(VALIDATION, np.int64)])
    folds = Folds(groups, EvaluatedSamples(labels.numpy(), groups))
    settings = {
        "limits": Limits(max_drop=100.0),
        "epochs": 1,
        "validation_groups": groups[TRAIN:],
        "folds": folds,
        "most_folds": 4,
        "fold_references": dict.fromkeys((1, 2, 3), model),
        **more,
    }
    recipe = Recipe(batch_size=32, augment=0.0, lr=1e-4, epochs=1)
    return model, CompressionContext(
        train, validation, model, target=targets.load(), recipe=recipe, **settings
    )


def turned(model: Model, amount: float) -> Model:
    """The net with other biases of its logits, so that it errs on some pictures."""
    name = next(n for n in model.weights if n.endswith("logits.bias"))
    bias = model.weights[name] + amount * torch.tensor([1.0, -1.0, 0.5])
    return dataclasses.replace(model, weights={**model.weights, name: bias})


def rows(data: LabelledTensors) -> set[bytes]:
    return {pixels.numpy().tobytes() for pixels in data.pixels}


def test_each_net_is_judged_on_its_own_fold_and_all_folds_count() -> None:
    model, context = setup()
    nets = {fold: turned(model, 0.1 * fold) for fold in (1, 2, 3)}
    found = drop_on_folds(turned(model, 0.05), context, context.acceptance, nets)
    everything = torch.cat([context.train.pixels, context.validation.pixels])
    labels = torch.cat([context.train.labels, context.validation.labels]).numpy()
    groups = context.folds.samples.groups
    before, after = np.zeros(len(labels)), np.zeros(len(labels))
    for fold, net in {0: turned(model, 0.05), **nets}.items():
        own = groups == fold
        pixels = everything[torch.from_numpy(own)]
        for margins, each in ((before, model), (after, net)):
            margins[own] = class_margins(predict_logits(each, pixels).numpy(), labels[own])
    expected = smoothed_drop(before, after, groups)
    assert found.points == pytest.approx(expected.points)
    assert found.error == pytest.approx(expected.error)
    assert (found.n, found.freedom) == (TRAIN + VALIDATION, 3)
    alone = drop_on_folds(turned(model, 0.05), context, context.acceptance, {})
    assert alone.n == VALIDATION


def test_no_net_is_cut_or_recovered_with_samples_of_its_fold(monkeypatch) -> None:
    model, context = setup()
    monkeypatch.setattr(recovery, "MIN_BATCHES", 2)
    seen: list[tuple[Model, set[bytes], Model]] = []
    ranked: list[set[bytes]] = []

    def recover(net, own, budget, seed=0):
        seen.append((own.reference, rows(budget.data), net))
        return net

    own_cut = pruning.apply_cut

    def apply_cut(net, cut, own):
        ranked.append(rows(own.train))
        return own_cut(net, cut, own)

    monkeypatch.setattr(pruning, "recover", recover)
    monkeypatch.setattr(pruning, "apply_cut", apply_cut)
    references = {fold: turned(model, 0.01 * fold) for fold in (1, 2, 3)}
    context = dataclasses.replace(context, fold_references=references)
    made = prune(model, context, 0.3, fold_nets=references)
    assert sorted(made.fold_nets) == [1, 2, 3]
    assert {net.arch for net in made.fold_nets.values()} == {made.model.arch}
    assert made.judgement.folds == 4
    assert f"{TRAIN + VALIDATION} samples of 4 folds" in made.why
    recoveries = made.recoveries
    own = seen[recoveries:]
    assert len(own) == 3 * recoveries
    everything = rows(context.train) | rows(context.validation)
    for fold in (1, 2, 3):
        kept_out = rows(fold_context(context, fold).validation)
        assert len(kept_out) == TRAIN // 3
        assert ranked[fold - 1] == everything - kept_out
        for reference, data, _ in own[(fold - 1) * recoveries : fold * recoveries]:
            assert reference.digest == references[fold].digest
            assert data == everything - kept_out


def test_several_groups_accept_a_cut_that_one_group_cannot() -> None:
    model, context = setup(limits=Limits(max_drop=2.0))
    nets = dict.fromkeys((1, 2, 3), model)
    alone = acceptance.judge_pruned(model, context, 30)
    assert (alone.is_accepted, alone.folds) == (False, 1)
    together = acceptance.judge_pruned(model, context, 30, nets)
    assert (together.is_accepted, together.folds) == (True, 4)
    assert acceptance.judge_end(model, context, 30, nets).is_accepted
    assert not acceptance.judge_end(model, context, 30).is_accepted
    bad = nets | {2: turned(model, 1.0)}
    assert not acceptance.judge_pruned(model, context, 30, bad).is_accepted


def test_folds_are_left_out_where_the_time_is_not_enough(monkeypatch) -> None:
    model, context = setup()
    candidates = pruning.pruning_candidates(model, context, 0.3, frozenset())
    monkeypatch.setattr(pruning, "pruning_candidates", lambda *_: candidates)
    monkeypatch.setattr(pruning, "recovery_budget", lambda *_: None)
    left = iter([1e9, 1e9, 0.0])
    timed = dataclasses.replace(context, seconds_left=lambda: next(left), quantize_seconds=1.0)
    made = prune(model, timed, 0.3, fold_nets=context.fold_references)
    assert list(made.fold_nets) == [1, 2]
    assert made.judgement.folds == 3


def test_a_compression_with_folds_killed_at_any_write_ends_alike(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(recovery, "MIN_BATCHES", 2)
    monkeypatch.setattr(loop, "_MAX_CUTS", 2)
    model, context = setup(fold_references={}, most_folds=2)
    whole = compress(model, context, tmp_path / "whole")
    judged = [step for step in whole.steps if step.samples]
    assert {step.folds for step in judged} == {2}
    assert {step.samples for step in judged} == {VALIDATION + TRAIN // 3}
    assert "samples of 2 folds" in decisions.pruning_decision(whole.steps, context).evidence

    def call():
        return compress(model, context, tmp_path / "killed")

    writes = (0, 5, 9, 3, 200)
    made, tries = until_done(monkeypatch, loop.files, call, writes)
    assert tries > 3
    assert made.steps == whole.steps
    assert int8_file(made.int8) == int8_file(whole.int8)


def test_nets_of_folds_are_trained_only_without_a_time_limit(tmp_path) -> None:
    _, context = setup(fold_references={})
    trained = with_references(context, tmp_path / "a").fold_references
    assert sorted(trained) == [1, 2, 3]
    again = with_references(context, tmp_path / "a").fold_references
    assert {k: net.digest for k, net in again.items()} == {
        k: net.digest for k, net in trained.items()
    }
    timed = dataclasses.replace(context, seconds_left=lambda: 1e9)
    assert not with_references(timed, tmp_path / "b").fold_references
