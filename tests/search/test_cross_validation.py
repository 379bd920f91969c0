"""Finalists are compared on several folds where data are small; trainings are stubs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from lepton_automl.data.dataset import Dataset
from lepton_automl.data.opening import open_dataset
from lepton_automl.metrics.intervals import wilson_interval
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model
from lepton_automl.models.quantization import Preprocessing
from lepton_automl.runs.ledger import EventKind, recorded_decisions
from lepton_automl.search.finals.cross_validation import Variant, fold_results, training_shares
from lepton_automl.search.finals.finalists import FinalRun
from lepton_automl.search.finals.flip_check import choose
from lepton_automl.search.finals.results import finalist_results
from lepton_automl.search.finals.selection import Option
from lepton_automl.search.finals.training import FinalTraining
from lepton_automl.search.finals.winner import load_winner_fold_nets
from lepton_automl.search.loop import search
from lepton_automl.search.request import SearchRequest, SearchResult
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.time_plan import Clock, work_of
from lepton_automl.search.training_key import TrainingKey
from lepton_automl.search.trials import RungResult, Trials, read_trials
from lepton_automl.search.workers.task import Task, TaskResult, pack
from lepton_automl.training.loop import initial_model
from tests.helpers.search import InlineWorkers, make_trial, result, search_request

ENDLESS = Clock(lambda: math.inf, 0.0, 0.0)
COMPARISON = "comparison of finalists"


class SharesWorkers(InlineWorkers):
    """Trains nothing: `shares` of a task's key, else of its label, are its correct samples."""

    def __init__(self, shares: Mapping[str, float], jobs: int = 1) -> None:
        super().__init__(jobs)
        self.shares = shares

    def run(self, task: Task) -> TaskResult:
        label = task.key.partition("-")[2]
        share = self.shares.get(task.key, self.shares.get(label, 0.5))
        if share < 0:
            return TaskResult((0.01,), failed="the loss became nan")
        if task.out:
            preprocessing = Preprocessing(task.zero_point, task.scale)
            initial_model(Arch.from_json(task.arch), preprocessing, task.seed).save(Path(task.out))
        count = len(np.load(task.validation[1]))
        return TaskResult((0.01,) * len(task.cycles), pack(np.arange(count) < share * count))


def two_finalists(request: SearchRequest) -> tuple[FinalTraining, Trials, list[Option]]:
    """Trials 0 and 1, recorded, 0 the better one in the search."""
    trials = Trials()
    for number, right in enumerate((190, 180)):
        trials.add(make_trial(number))
        trials.add_result(result(number, "0", right, epochs=9))
        request.ledger.record("trial", str(number), make_trial(number).to_event())
        event = {"epochs": 9, "correct": pack(np.arange(200) < right), "failed": ""}
        request.ledger.record("rung", f"{number}-0", event | {"seconds": 1.0})
    options = [Option(n, trials.best_result(n).correct, trials[n].cost) for n in trials]
    return FinalTraining(request, TaskBuilder(request, trials), trials, 0), trials, options


SHARES = {
    "0-final-0": 0.9,
    "0-final-0-fold-1": 0.5,
    "0-final-0-fold-2": 0.5,
    "1-final-0": 0.8,
    "1-final-0-fold-1": 0.9,
    "1-final-0-fold-2": 0.9,
}
"""Trial 0 is better on validation, trial 1 on the folds together."""


def out_of_fold(request: SearchRequest, shares: list[float]) -> np.ndarray:
    """What a stub answers on fold 0, 1, ..."""
    sizes = [int((request.folds.of_sample == fold).sum()) for fold in range(len(shares))]
    return np.concatenate(
        [np.arange(n) < share * n for n, share in zip(sizes, shares, strict=True)]
    )


@pytest.mark.parametrize(("folds", "better"), [("auto", 1), ("3", 1), ("off", 0)])
def test_finalists_are_compared_on_the_samples_of_all_folds(
    tmp_path: Path, folds: str, better: int
) -> None:
    request = search_request(tmp_path / "run", folds=folds)
    final, trials, options = two_finalists(request)
    workers = SharesWorkers(SHARES)
    now = {option.number: option for option in final.train(options, workers, ENDLESS)}
    assert max(now, key=lambda number: now[number].accuracy) == better
    decided = [d for d in recorded_decisions(request.ledger) if d.name == COMPARISON]
    if folds == "off":
        assert {task.key for task in workers.tasks} == {"0-final-0", "1-final-0"}
        assert not trials.cross_validated
        assert finalist_results(request.ledger, trials, 0)[0].cross_validation is None
        assert not decided
        request.ledger.close()
        return
    # Fold 0 of all finalists comes first, then fold 1.
    first = [f"{n}-final-0{ending}" for ending in ("", "-fold-1", "-fold-2") for n in (0, 1)]
    assert [task.key for task in workers.tasks] == first
    expected = {0: out_of_fold(request, [0.9, 0.5, 0.5]), 1: out_of_fold(request, [0.8, 0.9, 0.9])}
    for known in (trials, read_trials(request.ledger)):
        for number, correct in expected.items():
            np.testing.assert_array_equal(now[number].correct, correct)
            compared = known.cross_validated[number].accuracy
            assert compared.accuracy == correct.mean()
            assert (compared.low, compared.high) == pytest.approx(
                wilson_interval(int(correct.sum()), len(correct))
            )
            assert (compared.folds, compared.samples) == (3, len(correct))
            # Everything that is judged on validation later keeps its result there.
            assert len(known.best_result(number).correct) == len(request.dataset.validation)
            assert [r.key.fold for r in known.final_results(number)] == [0]
        found = finalist_results(request.ledger, known, 0)
        assert [each.accuracy for each in found] == [c.mean() for c in expected.values()]
        assert [len(each.accuracies) for each in found] == [1, 1]
    final.record_decisions(better)
    (made,) = [d for d in recorded_decisions(request.ledger) if d.name == COMPARISON] or [None]
    if folds == "auto":
        assert made is not None
        assert (made.option, made.certainty) == ("--folds off", "inferred")
        assert "3 folds with" in made.choice
        assert "(below 3,000)" in made.evidence
    else:
        assert made is None  # The user decided it.
    request.ledger.close()


def searched(folder: Path, folds: str) -> tuple[SearchRequest, SharesWorkers, SearchResult]:
    """A whole search of two trials, of which trial 0 is better on validation, 1 on the folds."""
    rungs = {str(rung): 0.7 for rung in range(4)}
    workers = SharesWorkers(rungs | SHARES)
    folder.mkdir()
    request = search_request(
        folder / "run", folds=folds, trials=2, objectives=("accuracy",), sampler="random"
    )
    return request, workers, search(request, workers)


def test_a_search_chooses_by_folds_and_ships_the_net_of_the_training_part(tmp_path: Path) -> None:
    winners = {}
    for folds in ("auto", "off"):
        request, workers, found = searched(tmp_path / folds, folds)
        winners[folds] = found.number
        key = f"{found.number}-final-0"
        own = next(task for task in workers.tasks if task.key == key)
        assert np.load(own.train[1]).tolist() == request.dataset.train.labels.tolist()
        # The net is that of the training part alone; it is evaluated on the validation part.
        best = Model.load(request.folder.best)
        weights = [f / "weights.safetensors" for f in (request.folder.best, Path(own.out))]
        assert weights[0].read_bytes() == weights[1].read_bytes()
        assert best.metrics["validation_accuracy"] == pytest.approx(
            {"auto": 0.8, "off": 0.9}[folds], abs=0.06
        )
        assert ("cross_validation_accuracy" in best.metrics) is (folds == "auto")
        assert len(found.correct) == len(request.dataset.validation)
        row = next(row for row in found.rows if row.number == found.number)
        assert row.accuracy == best.metrics["validation_accuracy"]
        assert (row.cross_validation is not None) is (folds == "auto")
        # As after a kill before a checkpoint was deleted; the same command again deletes it.
        stale = request.folder.checkpoints / f"{1 - found.number:05d}-final-0-fold-1"
        stale.mkdir()
        (stale / "weights.safetensors").touch()
        assert search(request, workers).number == found.number
        left = [path.name for path in request.folder.checkpoints.glob("[0-9]*")]
        assert left
        kept = {"auto": {"00001-final-0-fold-1", "00001-final-0-fold-2"}, "off": set()}
        assert {name for name in left if "fold" in name} == kept[folds]
        # The compression judges its cuts on these nets too, but on no other folds than their own.
        nets = load_winner_fold_nets(request.folder.best, request.folds)
        trained = {task.key: Path(task.out) for task in workers.tasks}
        assert {fold: net.digest for fold, net in nets.items()} == {
            fold: Model.load(trained[f"1-final-0-fold-{fold}"]).digest
            for fold in ((1, 2) if folds == "auto" else ())
        }
        other = dataclasses.replace(request.folds, of_sample=request.folds.of_sample[::-1])
        assert not load_winner_fold_nets(request.folder.best, other)
        assert not list(request.folder.cache.glob("fold-*"))
        # Observers of results on the validation part receive no others.
        assert not any("fold" in key for key in request.ledger.all(EventKind.RUNG))
        assert not any("fold" in key for key in request.ledger.all(EventKind.HYPERVOLUME))
        request.ledger.close()
    assert winners == {"auto": 1, "off": 0}


def test_after_an_interruption_only_missing_folds_are_trained(tmp_path: Path) -> None:
    class Interrupted(SharesWorkers):
        def run(self, task: Task) -> TaskResult:
            if len(self.tasks) == 4:
                raise KeyboardInterrupt
            return super().run(task)

    request = search_request(tmp_path / "run", folds="auto")
    final, _, options = two_finalists(request)
    with pytest.raises(KeyboardInterrupt):
        final.train(options, Interrupted(SHARES), ENDLESS)
    request.ledger.close()
    again = search_request(tmp_path / "run", folds="auto")
    trials, workers = read_trials(again.ledger), SharesWorkers(SHARES)
    final = FinalTraining(again, TaskBuilder(again, trials), trials, 0)
    now = {option.number: option.accuracy for option in final.train([], workers, ENDLESS)}
    keys = ["1-final-0-fold-1", "0-final-0-fold-2", "1-final-0-fold-2"]
    assert [task.key for task in workers.tasks] == keys
    assert now[1] == out_of_fold(again, [0.8, 0.9, 0.9]).mean()
    assert now[0] == out_of_fold(again, [0.9, 0.5, 0.5]).mean()
    again.ledger.close()


def test_a_fold_that_one_finalist_lacks_is_left_out(tmp_path: Path) -> None:
    request = search_request(tmp_path / "run", folds="auto")
    final, trials, options = two_finalists(request)
    now = final.train(options, SharesWorkers(SHARES | {"0-final-0-fold-1": -1.0}), ENDLESS)
    for option, shares in zip(now, ([0.9, 0.5], [0.8, 0.9]), strict=True):
        parts = [request.folds.evaluated_index(fold) for fold in (0, 2)]
        expected = [np.arange(len(p)) < s * len(p) for p, s in zip(parts, shares, strict=True)]
        np.testing.assert_array_equal(option.correct, np.concatenate(expected))
    assert trials.cross_validated[0].accuracy.folds == 2
    request.ledger.close()


def test_a_finalist_without_a_net_gets_no_further_trainings(tmp_path: Path) -> None:
    request = search_request(tmp_path / "run", folds="auto")
    final, trials, options = two_finalists(request)
    workers = SharesWorkers(SHARES | {"0-final-0": -1.0})
    (only,) = final.train(options, workers, ENDLESS)
    assert only.number == 1
    assert not any(task.key.startswith("0-final-0-fold") for task in workers.tasks)
    assert list(trials.cross_validated) == [1]
    request.ledger.close()


def test_without_time_for_a_fold_the_validation_part_decides(tmp_path: Path) -> None:
    request = search_request(tmp_path / "run", folds="auto", budget_seconds=1e4, trials=None)
    final, trials, options = two_finalists(request)
    # Each training takes a second by the plan; when fold 0 has been trained, no time is left.
    per_work = 1.0 / work_of(trials[0].cost.macs, len(request.dataset.train), 100)
    workers = SharesWorkers(SHARES)
    clock = Clock(lambda: 1e4 if len(workers.tasks) < 2 else 0.0, 0.0, per_work)
    now = {option.number: option.correct for option in final.train(options, workers, clock)}
    assert {run.fold for run in final.runs} >= {0, 1, 2}
    assert [task.key for task in workers.tasks] == ["0-final-0", "1-final-0"]
    assert {len(correct) for correct in now.values()} == {len(request.dataset.validation)}
    assert request.ledger.get(EventKind.CROSS_VALIDATION, "0") is None
    request.ledger.close()


def answered(request: SearchRequest, correct: Mapping[str, np.ndarray | None]) -> Trials:
    """Trial 0 with the answers of final trainings by their keys; None: the training failed."""
    trials = Trials()
    trials.add(make_trial(0))
    for key, right in correct.items():
        packed, failed = ("", "the loss became nan") if right is None else (pack(right), "")
        trials.add_result(RungResult(TrainingKey.parse(key), 9, packed, failed))
    return trials


def test_a_variant_that_failed_on_validation_is_not_compared_on_other_folds(tmp_path: Path) -> None:
    request = search_request(tmp_path / "run", folds="2")
    sizes = [len(request.folds.evaluated_index(fold)) for fold in (0, 1)]
    half, all_right = ([np.arange(n) < share * n for n in sizes] for share in (0.5, 1.0))
    correct = {"0-final-0": half[0], "0-final-0-fold-1": half[1], "0-final-0-flip": None}
    trials = answered(request, correct | {"0-final-0-fold-1-flip": all_right[1]})
    runs = [FinalRun(0, 9, flip=flip, fold=fold) for fold in (0, 1) for flip in (False, True)]
    found = fold_results(request, trials, runs, 0)
    assert found.best(0) == Variant(0, None, flip=False)
    assert found.folds == (0, 1)
    assert list(found.correct) == [Variant(0, None, flip=False)]
    np.testing.assert_array_equal(found.correct[found.best(0)], np.concatenate(half))
    request.ledger.close()


@pytest.mark.parametrize("by_folds", [True, False])
def test_samples_of_a_group_that_are_right_together_count_as_one(
    tmp_path: Path, by_folds: bool
) -> None:
    data = grouped_data(tmp_path, 60, 6)
    request = search_request(tmp_path / "run", dataset=data, folds="2")
    every = np.concatenate([data.train.groups, data.validation.groups])
    groups = [every[request.folds.of_sample == fold] for fold in (0, 1)]
    correct = [own % 3 > 0 for own in groups]
    keys = ("0-final-0", "0-final-0-fold-1")
    trials = answered(request, dict(zip(keys, correct, strict=True)))
    runs = [FinalRun(0, 9, fold=fold) for fold in (0, 1)]
    event = fold_results(request, trials, runs, 0, by_folds=by_folds).to_event()
    used = np.unique(np.concatenate(groups) if by_folds else groups[0])
    known = binomtest(int((used % 3 > 0).sum()), len(used)).proportion_ci(method="wilson")
    (made,) = event["finalists"]
    assert made["low"] < known.low
    assert made["high"] > known.high
    request.ledger.close()


AUGMENTED = {
    "0-final-0": 0.9,
    "0-final-0-augment-1": 0.8,
    "0-final-0-fold-1": 0.5,
    "0-final-0-fold-1-augment-1": 0.8,
}


def test_the_variant_of_a_trial_is_chosen_by_folds_and_its_net_goes_on(tmp_path: Path) -> None:
    request = search_request(tmp_path / "run", folds="2")
    final, trials, _ = two_finalists(request)
    runs = [FinalRun(0, 9, augment=a, fold=fold) for fold in (0, 1) for a in (None, 1.0)]
    plan = {"finals": [run.to_event() for run in runs]}
    request.ledger.record(EventKind.PLAN, "final-0", plan)
    (option,) = final.train([], SharesWorkers(AUGMENTED), ENDLESS)
    np.testing.assert_array_equal(option.correct, out_of_fold(request, [0.8, 0.8]))
    for known in (trials, read_trials(request.ledger)):
        # Validation, and the rung of the search, are better without.
        assert known.best_result(0).key == TrainingKey.parse("0-final-0-augment-1")
        (about,) = finalist_results(request.ledger, known, 0)
        assert about.augment == 1.0
    request.ledger.close()


@pytest.mark.parametrize(("flipped", "is_used"), [(0.9, True), (0.3, False)])
def test_flips_are_chosen_by_folds(tmp_path: Path, flipped: float, is_used: bool) -> None:
    request = search_request(tmp_path / "run", folds="2")
    final, trials, _ = two_finalists(request)
    runs = [FinalRun(0, 9, flip=flip, fold=fold) for fold in (0, 1) for flip in (False, True)]
    plan = {"finals": [run.to_event() for run in runs]}
    request.ledger.record(EventKind.PLAN, "final-0", plan)
    test = {"verdict": "open", "reason": "", "certainty": "assumed", "prefers_flips": False}
    request.ledger.record(EventKind.MIRROR_TEST, "0", test)
    # On validation alone it is the other way round.
    other = 0.4 if is_used else 0.6
    shares = {"0-final-0": 0.5, "0-final-0-flip": other, "0-final-0-fold-1": 0.5}
    final.train([], SharesWorkers(shares | {"0-final-0-fold-1-flip": flipped}), ENDLESS)
    (decision,) = [d for d in recorded_decisions(request.ledger) if d.name == "flip"]
    assert f"of {len(out_of_fold(request, [0, 0]))} samples of 2 folds" in decision.evidence
    assert trials.best_result(0).key.flip is is_used
    choose(request, trials, final.runs, 0)
    assert trials.best_result(0).key.flip is is_used
    request.ledger.close()


def grouped_data(folder: Path, groups: int, per_group: int) -> Dataset:
    """Noise of three classes in `groups` groups."""
    draws, count = np.random.default_rng(0), groups * per_group
    x = draws.integers(0, 256, (count, 8, 8), np.uint8)
    np.savez(
        folder / "d.npz", x=x, y=np.arange(count) % 3, group=np.repeat(np.arange(groups), per_group)
    )
    return open_dataset(str(folder / "d.npz"))


def shares_of(folder: Path, data: Dataset, folds: str, seconds: float) -> list[float]:
    request = search_request(folder / "run", dataset=data, folds=folds)
    found = training_shares(request, seconds)
    request.ledger.close()
    return found


@pytest.mark.parametrize(
    ("folds", "seconds", "count"),
    [
        ("auto", math.inf, 3),
        ("auto", 60.0, 5),
        ("off", 60.0, 1),
        ("2", 60.0, 2),
        ("4", math.inf, 4),
    ],
)
def test_the_option_the_data_and_the_budget_decide_how_many_folds_there_are(
    tmp_path: Path, folds: str, seconds: float, count: int
) -> None:
    found = search_request(tmp_path / "run", folds=folds)
    shares = training_shares(found, seconds)
    assert len(shares) == count
    assert shares[0] == 1.0
    sizes = [len(found.folds.training_index(fold)) for fold in range(1, count)]
    assert shares[1:] == [size / len(found.dataset.train) for size in sizes]
    found.ledger.close()


def test_all_of_few_groups_are_folds_however_many_samples_they_have(tmp_path: Path) -> None:
    few: dict[str, Any] = {"data": grouped_data(tmp_path, 6, 900), "seconds": math.inf}
    # A group of six is the test part.
    assert len(shares_of(tmp_path, folds="auto", **few)) == 5
    many = grouped_data(tmp_path, 60, 90)
    assert len(shares_of(tmp_path, many, "auto", math.inf)) == 1
    assert len(shares_of(tmp_path, many, "3", math.inf)) == 3
