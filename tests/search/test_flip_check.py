from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lepton_automl.data.dataset import Dataset
from lepton_automl.data.opening import open_dataset
from lepton_automl.runs.ledger import EventKind, recorded_decisions
from lepton_automl.search.finals import flip_check
from lepton_automl.search.finals.flip_check import check, compare, offers_both, without_flips
from lepton_automl.search.finals.mirror_test import FlipVerdict
from lepton_automl.search.finals.results import finalist_results
from lepton_automl.search.finals.selection import Option
from lepton_automl.search.finals.training import FinalTraining
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.time_plan import Clock, work_of
from lepton_automl.search.trials import Trials, read_trials
from lepton_automl.search.workers.task import Task, TaskResult, pack
from tests.helpers.search import (
    SPACE,
    InlineWorkers,
    make_trial,
    result,
    search_request,
    small_space,
)

FLIPS = SPACE.replace("epochs = 9", "flip = [true, false]\nepochs = 9")
ENDLESS = Clock(lambda: math.inf, 0.0, 0.0)


def bars(folder: Path, kinds: dict[str, slice]) -> Dataset:
    """Pictures of 8x12 with a bright bar in the columns of their class."""
    rng, files = np.random.default_rng(0), {}
    for part, each in (("train", 5), ("val", 40), ("test", 5)):
        labels = np.repeat(np.arange(len(kinds)), each)
        pictures = rng.integers(0, 80, (len(labels), 8, 12), dtype=np.uint8)
        for picture, label in zip(pictures, labels, strict=True):
            picture[:, list(kinds.values())[label]] = 200
        files |= {f"x_{part}": pictures, f"y_{part}": labels}
    path = folder / "bars.npz"
    np.savez(path, class_names=np.array(list(kinds)), **files)
    return open_dataset(str(path))


SIDES = {"left": slice(0, 3), "right": slice(9, 12), "middle": slice(5, 7)}
SYMMETRIC = {"middle": slice(4, 8), "all": slice(0, 12)}


def of_columns(kinds: dict[str, slice]) -> Any:
    """Answers from the columns of a picture, in place of a trained net."""

    def predict(model: object, pixels: Tensor, **_: Any) -> Tensor:
        del model
        x = pixels[..., 0].float()
        inside = [x[:, :, columns].mean((1, 2)) for columns in kinds.values()]
        widths = [len(range(*columns.indices(12))) for columns in kinds.values()]
        # A wider bar holds a narrower one, so its columns count for more.
        return torch.stack([m + w for m, w in zip(inside, widths, strict=True)], 1) / 20

    return predict


def searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: dict[str, slice]
) -> tuple[SearchRequest, TaskBuilder, Trials]:
    """A search of one trial, whose net is replaced by `of_columns`."""
    (tmp_path / "run").mkdir(parents=True, exist_ok=True)
    request = search_request(tmp_path / "run", dataset=bars(tmp_path, kinds))
    request = replace(request, space=small_space(tmp_path, FLIPS))
    trials = Trials()
    trials.add(make_trial(0))
    trials.add_result(result(0, "0", 150, epochs=9))
    tasks = TaskBuilder(request, trials)
    folder = tasks.checkpoint(trials.search_result(0).key)
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").touch()
    net = SimpleNamespace(arch=SimpleNamespace(size=(8, 12)))
    monkeypatch.setattr(flip_check.Model, "load", lambda path: net)
    monkeypatch.setattr(flip_check, "predict_logits", of_columns(kinds))
    return request, tasks, trials


def test_classes_that_differ_by_left_and_right_forbid_flips_once_and_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, tasks, trials = searched(tmp_path, monkeypatch, SIDES)
    assert check(request, tasks, trials, ENDLESS, 0) is FlipVerdict.OFF
    (event,) = request.ledger.all(EventKind.MIRROR_TEST).values()
    assert "'left' and 'right'" in event["reason"]
    monkeypatch.delattr(flip_check, "predict_logits")  # A resumed search tests nothing again.
    assert check(request, tasks, trials, ENDLESS, 0) is FlipVerdict.OFF
    request.ledger.close()


def test_symmetric_pictures_allow_flips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request, tasks, trials = searched(tmp_path, monkeypatch, SYMMETRIC)
    assert check(request, tasks, trials, ENDLESS, 0) is FlipVerdict.ON
    request.ledger.close()


def test_without_time_or_without_a_net_flips_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, tasks, trials = searched(tmp_path, monkeypatch, SIDES)
    assert check(request, tasks, trials, Clock(lambda: -1.0, 0.0, 1.0), 0) is FlipVerdict.OPEN
    tasks.delete(trials.search_result(0).key)
    assert check(request, tasks, trials, ENDLESS, 1) is FlipVerdict.OPEN
    request.ledger.close()


@pytest.mark.parametrize("fixed", [False, True])
def test_a_space_that_leaves_nothing_open_is_not_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fixed: bool
) -> None:
    request, tasks, trials = searched(tmp_path, monkeypatch, SIDES)
    request = replace(request, space=request.space.with_fixed("flip", value=fixed))
    assert check(request, tasks, trials, ENDLESS, 0) is FlipVerdict.OFF
    assert not request.ledger.all(EventKind.MIRROR_TEST)
    assert without_flips(request) is request
    request.ledger.close()


def test_trials_are_trained_without_flips(tmp_path: Path) -> None:
    request = replace(search_request(tmp_path / "run"), space=small_space(tmp_path, FLIPS))
    assert offers_both(request.space)
    space = without_flips(request).space
    assert {v for p in space.train_parameters("flip") for v in p.values} == {False}
    assert not any("flip" in path for path in space.parameters())
    request.ledger.close()


# The choice after the final trainings.


class FixedWorkers(InlineWorkers):
    """Trains nothing; `right` says which validation samples are correct after each task."""

    def __init__(self, right: dict[str, np.ndarray]) -> None:
        super().__init__(1)
        self.right = right

    def run(self, task: Task) -> TaskResult:
        return TaskResult((0.01,), pack(self.right[task.key]))


def first(count: int, of: int = 120) -> np.ndarray:
    return np.arange(of) < count


def finals(
    request: SearchRequest, right: dict[str, np.ndarray], clock: Clock = ENDLESS
) -> tuple[FixedWorkers, Trials, list[Option]]:
    """The final trainings of two trials, 0 the better one."""
    for number, each in ((0, 110), (1, 105)):
        request.ledger.record(EventKind.TRIAL, str(number), make_trial(number).to_event())
        event = {"epochs": 9, "correct": pack(first(each)), "failed": "", "seconds": 1.0}
        request.ledger.record(EventKind.RUNG, f"{number}-0", event)
    trials, workers = read_trials(request.ledger), FixedWorkers(right)
    options = [Option(n, trials.best_result(n).correct, trials[n].cost) for n in trials]
    training = FinalTraining(request, TaskBuilder(request, trials), trials, 0)
    return workers, trials, training.train(options, workers, clock)


def mirror_tested(tmp_path: Path, verdict: FlipVerdict, **changes: Any) -> SearchRequest:
    """A search whose mirror test has ended."""
    (tmp_path / "run").mkdir(exist_ok=True)
    request = search_request(tmp_path / "run", dataset=bars(tmp_path, SIDES), **changes)
    request = replace(request, space=small_space(tmp_path, FLIPS))
    event = {"verdict": str(verdict), "reason": "because", "certainty": "measured"}
    event["prefers_flips"] = False
    request.ledger.record(EventKind.MIRROR_TEST, "0", event)
    return request


def flips_of(workers: FixedWorkers) -> dict[str, bool]:
    return {task.key: json.loads(task.recipe)["flip"] for task in workers.tasks}


@pytest.mark.parametrize(
    ("verdict", "flips", "choice"),
    [
        (FlipVerdict.OFF, {"0-final-0": False, "1-final-0": False}, "no random flips"),
        (
            FlipVerdict.ON,
            {"0-final-0-flip": True, "1-final-0-flip": True},
            "random flips in the final trainings",
        ),
    ],
)
def test_the_mirror_test_decides_all_final_trainings(
    tmp_path: Path, verdict: FlipVerdict, flips: dict[str, bool], choice: str
) -> None:
    request = mirror_tested(tmp_path, verdict)
    workers, _, _ = finals(request, dict.fromkeys(flips, first(90)))
    assert flips_of(workers) == flips
    (decision,) = recorded_decisions(request.ledger)
    assert (decision.name, decision.choice, decision.certainty) == ("flip", choice, "measured")
    assert decision.evidence == "because"
    assert read_trials(request.ledger).complete_recipe(0).flip is (verdict is FlipVerdict.ON)
    request.ledger.close()


@pytest.mark.parametrize(("flipped", "is_used"), [(115, True), (90, False), (100, False)])
def test_left_open_one_finalist_is_trained_both_ways_and_validation_decides(
    tmp_path: Path, flipped: int, is_used: bool
) -> None:
    request = mirror_tested(tmp_path, FlipVerdict.OPEN)
    right = {
        "0-final-0": first(100),
        "0-final-0-flip": first(flipped),
        "1-final-0": first(60),
    }
    workers, _, options = finals(request, right)
    assert flips_of(workers) == {key: "flip" in key for key in right}
    (decision,) = recorded_decisions(request.ledger)
    assert decision.choice == (
        "random flips in the final trainings" if is_used else "no random flips"
    )
    assert (decision.certainty, decision.option) == (
        "measured",
        f"--flip {'off' if is_used else 'on'}",
    )
    assert options[0].accuracy == ((flipped if is_used else 100) / 120)
    request.ledger.close()

    again = mirror_tested(
        tmp_path, FlipVerdict.OPEN
    )  # As after a kill: all follows from the ledger.
    workers, trials, _ = finals(again, {})
    assert not workers.tasks
    assert recorded_decisions(again.ledger) == (decision,)
    assert trials.best_result(0).key.flip is is_used
    assert read_trials(again.ledger).best_result(0).key.flip is is_used
    assert finalist_results(again.ledger, trials, 0)[0].accuracies == (options[0].accuracy,)
    assert read_trials(again.ledger).complete_recipe(1).flip is is_used
    again.ledger.close()


def test_left_open_without_time_for_both_there_are_no_flips_and_it_is_said(
    tmp_path: Path,
) -> None:
    request = mirror_tested(tmp_path, FlipVerdict.OPEN, budget_seconds=100.0, trials=None)
    trial, samples = make_trial(0), len(request.dataset.train)
    # A training from scratch takes about a minute.
    per_work = 60.0 / work_of(trial.cost.macs, samples, 9)
    keys = ["0-final-0", "0-final-0-1", "1-final-0"]
    workers, _, _ = finals(
        request, dict.fromkeys(keys, first(90)), Clock(lambda: 100.0, 0.0, per_work)
    )
    assert not any(flips_of(workers).values())
    (decision,) = recorded_decisions(request.ledger)
    assert (decision.choice, decision.certainty) == ("no random flips", "assumed")
    assert "because" in decision.evidence
    request.ledger.close()


def test_a_class_that_flips_harm_forbids_them_though_the_mean_is_better(tmp_path: Path) -> None:
    part = bars(tmp_path, SIDES).validation
    plain = np.where(part.labels == 0, np.arange(120) % 40 < 38, np.arange(120) % 40 < 20)
    better = np.where(part.labels == 0, plain, True)
    harmed = np.where(part.labels == 0, np.arange(120) % 40 < 10, True)
    assert harmed.mean() > plain.mean()
    assert compare(plain.astype(float), better.astype(float), part)[0]
    assert not compare(plain.astype(float), harmed.astype(float), part)[0]


def test_trainings_with_rejected_flips_are_used_nowhere_however_accurate(tmp_path: Path) -> None:
    request = mirror_tested(tmp_path, FlipVerdict.OPEN)
    label, place = request.dataset.validation.labels, np.arange(120) % 40
    plain = np.where(label == 0, place < 38, place < 20)
    harmed = np.where(label == 0, place < 10, True)  # More accurate, but not on the first class.
    right = {"0-final-0": plain, "0-final-0-flip": harmed, "1-final-0": first(60)}
    _, trials, options = finals(request, right)
    assert options[0].accuracy == plain.mean()
    for known in (trials, read_trials(request.ledger)):
        assert [result.key.flip for result in known.final_results(0)] == [False]
        assert finalist_results(request.ledger, known, 0)[0].accuracies == (plain.mean(),)
    request.ledger.close()


def test_trained_both_ways_comes_before_stronger_augmentation(tmp_path: Path) -> None:
    request = mirror_tested(tmp_path, FlipVerdict.OPEN)
    both = FLIPS.replace("[train]", "[train]\naugment = [0.5, 1.0]")
    request = replace(request, space=small_space(tmp_path, both))
    keys = ("0-final-0", "0-final-0-flip", "1-final-0")
    workers, _, _ = finals(request, dict.fromkeys(keys, first(60)))
    assert tuple(flips_of(workers)) == keys
    request.ledger.close()


def test_where_no_class_is_in_doubt_flips_are_used_unless_they_are_significantly_worse(
    tmp_path: Path,
) -> None:
    part = bars(tmp_path, SIDES).validation
    place = np.arange(120) % 40
    plain, clearly = ((place < most).astype(float) for most in (30, 20))
    slightly = ((place >= 2) & (place < 31)).astype(float)  # Six are lost, three are won.
    assert not compare(plain, slightly, part)[0]
    assert compare(plain, slightly, part, prefers_flips=True)[0]
    assert not compare(plain, clearly, part, prefers_flips=True)[0]
