from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lepton_automl.core.events import Event
from lepton_automl.runs.ledger import recorded_decisions
from lepton_automl.runs.time_budget import REFIT
from lepton_automl.search.finals import augmentation, finalists, training
from lepton_automl.search.finals.results import TrainingSpeed, finalist_results, winner_speed
from lepton_automl.search.finals.selection import Option
from lepton_automl.search.finals.training import FINALS, FinalTraining
from lepton_automl.search.progress import time_decision
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.time_plan import TASK_SECONDS, Clock
from lepton_automl.search.training_key import TrainingKey
from lepton_automl.search.trials import Plan, Trials, read_trials
from lepton_automl.search.workers.task import Task, TaskResult, pack
from tests.helpers.search import (
    SPACE,
    InlineWorkers,
    make_trial,
    result,
    search_request,
    small_space,
)

ENDLESS = Clock(lambda: math.inf, 0.0, 0.0)


class FixedWorkers(InlineWorkers):
    """Trains nothing; `right` says how many of 200 samples are correct after each task."""

    def __init__(self, right: dict[str, int], jobs: int = 1) -> None:
        super().__init__(jobs)
        self.right = right

    def run(self, task: Task) -> TaskResult:
        right = self.right[task.key]
        if right < 0:
            return TaskResult(failed="the loss became nan")
        return TaskResult((0.01,), pack(np.arange(200) < right))


def recorded_trials(request: SearchRequest, *right: int) -> tuple[Trials, list[Option]]:
    """Candidates, recorded, that got so many of 200 right; all of one size."""
    trials = Trials()
    for number, each in enumerate(right):
        trials.add(make_trial(number))
        trials.add_result(result(number, "0", each, epochs=9))
        request.ledger.record("trial", str(number), make_trial(number).to_event())
        packed = pack(np.arange(200) < each)
        event = {"epochs": 9, "correct": packed, "failed": "", "seconds": 1.0}
        request.ledger.record("rung", f"{number}-0", event)
    options = [Option(n, trials.best_result(n).correct, trials[n].cost) for n in trials]
    return trials, options


def pretend_trained(request: SearchRequest, trials: Trials) -> None:
    """As if every training had left its net."""
    tasks = TaskBuilder(request, trials)
    for number, right in trials.results.items():
        for each in [*right, *trials.finals.get(number, [])]:
            folder = tasks.checkpoint(each.key)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "weights.safetensors").touch()


def final_training(request: SearchRequest, trials: Trials) -> FinalTraining:
    return FinalTraining(request, TaskBuilder(request, trials), trials, 0)


def test_final_trainings_decide_and_not_the_results_of_the_search(tmp_path: Path) -> None:
    request = search_request(tmp_path / "run")
    trials, options = recorded_trials(request, 180, 190, 170, 185)
    workers = FixedWorkers({"1-final-0": 150, "3-final-0": 184, "0-final-0": 120})
    now = final_training(request, trials).train(options, workers, ENDLESS)
    assert {option.number: option.accuracy for option in now} == {1: 0.75, 3: 0.92, 0: 0.6}
    assert all(task.start == "" for task in workers.tasks)
    found = {
        c.number: (c.searched, c.accuracy) for c in finalist_results(request.ledger, trials, 0)
    }
    assert found == {1: (0.95, 0.75), 3: (0.925, 0.92), 0: (0.9, 0.6)}
    request.ledger.close()


@pytest.mark.parametrize(
    ("own", "choice", "evidence", "certainty"),
    [
        (150, "strength 1 ", "75.00% with 0.5, 85.00% with 1 of", "measured"),
        (-1, "strength 1 ", "3.0% of training samples and on 30.0%", "inferred"),
    ],
)
def test_the_augmentation_that_ships_is_recorded_with_its_evidence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: int,
    choice: str,
    evidence: str,
    certainty: str,
) -> None:
    text = SPACE.replace("[train]", "[train]\naugment = [0.0, 0.5, 1.0]")  # A recipe has 0.5.
    request = search_request(tmp_path / "run", space=small_space(tmp_path, text))
    monkeypatch.setattr(finalists, "training_error", lambda *given: 0.03)
    trials, options = recorded_trials(request, 140)
    workers = FixedWorkers({"0-final-0": own, "0-final-0-augment-1": 170})
    final_training(request, trials).train(options, workers, ENDLESS)
    final_training(request, trials).record_decisions(0)  # All it reads is in the ledger.
    made = {decision.name: decision for decision in recorded_decisions(request.ledger)}
    found = made["augmentation"]
    assert found.choice.startswith(choice)
    assert evidence in found.evidence
    assert (found.certainty, found.is_detail) == (certainty, True)
    assert "with augment 1 for trial 0" in made["final trainings"].choice
    request.ledger.close()


@pytest.mark.parametrize(
    ("chosen", "errors", "evidence", "certainty"),
    [
        (0.5, (0.06, 0.1), "not below 0.5 of it; 1 has no result", "inferred"),
        (1.0, (0.04, 0.1), ", below 0.5 of it; 0.5 has no result", "inferred"),
        (0.5, None, "no other strength has a result", "assumed"),
    ],
)
def test_the_only_strength_that_was_trained_follows_from_the_errors_of_the_search(
    chosen: float, errors: tuple[float, float] | None, evidence: str, certainty: str
) -> None:
    made = augmentation.decision(0.5, 1.0, chosen, {chosen: 0.9}, "9 samples", errors)
    assert evidence in made.evidence
    assert made.certainty == certainty
    assert ("stronger than in its recipe" in made.choice) == (chosen == 1.0)


def test_a_process_group_trains_one_finalist_after_the_other_and_is_recorded(
    tmp_path: Path,
) -> None:
    class OneAtATime(FixedWorkers):
        def start(self, task: Task) -> None:
            assert not self.busy
            super().start(task)

    request = search_request(tmp_path / "run", jobs=2, final_jobs=2)
    trials, options = recorded_trials(request, 180, 190)
    workers = OneAtATime({"1-final-0": 150, "0-final-0": 184}, jobs=2)
    final_training(request, trials).train(options, workers, ENDLESS)
    assert [task.ranks for task in workers.tasks] == [2, 2]
    request.ledger.close()
    again = search_request(tmp_path / "run", final_jobs=1)
    assert [final.ranks for final in final_training(again, trials).runs] == [2, 2]
    again.ledger.close()


def test_a_finalist_with_several_seeds_counts_by_their_mean(tmp_path: Path) -> None:
    request = search_request(tmp_path / "run", budget_seconds=1000.0, trials=None)
    trials, options = recorded_trials(request, 180)
    clock = Clock(lambda: 1000.0, 0.0, 1e-12)
    workers = FixedWorkers({"0-final-0": 180, "0-final-0-1": 170, "0-final-0-2": 160})
    (only,) = final_training(request, trials).train(options, workers, clock)
    assert only.accuracy == pytest.approx(0.85)
    (about,) = finalist_results(request.ledger, trials, 0)
    assert about.accuracies == (0.9, 0.85, 0.8)
    assert about.spread == pytest.approx(0.1)
    assert trials.best_result(0).key.label in {"0", "final-0"}
    request.ledger.close()


def test_after_an_interruption_only_what_is_missing_is_trained(tmp_path: Path) -> None:
    request = search_request(tmp_path / "run")
    trials, options = recorded_trials(request, 180, 190, 170)

    class Interrupted(FixedWorkers):
        def run(self, task: Task) -> TaskResult:
            if len(self.tasks) == 2:
                raise KeyboardInterrupt
            return super().run(task)

    right = {"0-final-0": 170, "1-final-0": 180, "2-final-0": 160}
    first = Interrupted(right)
    with pytest.raises(KeyboardInterrupt):
        final_training(request, trials).train(options, first, ENDLESS)
    again, trials = FixedWorkers(right), read_trials(request.ledger)
    now = final_training(request, trials).train([], again, ENDLESS)
    assert [task.key for task in again.tasks] == [first.tasks[1].key, "2-final-0"][:2]
    assert {o.number: o.accuracy for o in now} == {0: 0.85, 1: 0.9, 2: 0.8}
    request.ledger.close()


def test_a_finalist_whose_final_training_fails_is_left_out(tmp_path: Path) -> None:
    request = search_request(tmp_path / "run")
    trials, options = recorded_trials(request, 180, 190)
    final = final_training(request, trials)
    now = final.train(options, FixedWorkers({"0-final-0": 181, "1-final-0": -1}), ENDLESS)
    assert {o.number: o.accuracy for o in now} == {0: 0.905}
    assert [c.number for c in finalist_results(request.ledger, trials, 0)] == [0]
    request.ledger.close()


def test_with_little_time_the_best_trial_continues(tmp_path: Path) -> None:
    events = []
    request = search_request(tmp_path / "run", budget_seconds=9.0, trials=None, emit=events.append)
    trials, options = recorded_trials(request, 180, 190)
    units = TaskBuilder(request, trials).samples * (make_trial(1).cost.macs + 700_000)
    clock = Clock(lambda: 5.0, 0.0, 1.0 / units)
    workers = FixedWorkers({"1-final-0": 192})
    final = final_training(request, trials)
    final.train(options, workers, clock)
    assert len(workers.tasks) == 1
    assert "not enough time for a training from scratch: trial 1 continues for" in events[0].message
    assert len(workers.tasks[0].cycles) == 2  # its rung, whose checkpoint is gone, and more
    assert finalist_results(request.ledger, trials, 0) == ()
    request.ledger.close()


def test_a_training_that_takes_far_longer_than_planned_is_left_out(tmp_path: Path) -> None:
    events = []

    class Observer(FixedWorkers):
        def finished(self, timeout: float = 1.0) -> list[tuple[Task, TaskResult]]:
            return [] if self.tasks else super().finished(timeout)

    request = search_request(tmp_path / "run", budget_seconds=9.0, trials=None, emit=events.append)
    trials, options = recorded_trials(request, 180, 190)
    workers = Observer({"1-final-0": 192, "0-final-0": 180}, jobs=2)
    times = iter([100.0] * 12 + [-10.0] * 1000)
    clock = Clock(lambda: next(times), 0.0, 1e-9)
    now = final_training(request, trials).train(options, workers, clock)
    assert "final training stopped, the time is over" in events[-1].message
    assert [option.number for option in now] == [1]
    request.ledger.close()


@pytest.mark.parametrize(("late", "is_kept"), [(29.0, True), (31.0, False)])
def test_a_late_training_is_waited_for_as_long_as_pruning_can_spare(
    tmp_path: Path, late: float, is_kept: bool
) -> None:
    class Late(FixedWorkers):
        def finished(self, timeout: float = 1.0) -> list[tuple[Task, TaskResult]]:
            if next(turns) < 5:
                return []
            return super().finished(timeout)

    request = with_compression(search_request(tmp_path / "run", budget_seconds=9.0, trials=None))
    trials, options = recorded_trials(request, 180)
    trials.plan = Plan(9, 1e-9, 0.0)
    turns, workers = iter(range(1000)), Late({"0-final-0": 192})
    left = [100.0] * 6 + [-late] * 1000
    times = iter(left)
    final_training(request, trials).train(options, workers, Clock(lambda: next(times), 0.0, 1e-9))
    assert bool(trials.final_result(TrainingKey.parse("0-final-0"))) is is_kept
    request.ledger.close()


def labels(*numbers: int) -> list[str]:
    """Keys of the final trainings of trials with every seed."""
    return [f"{n}-final-0{again}" for n in numbers for again in ("", "-1", "-2")]


def with_compression(request: SearchRequest) -> SearchRequest:
    """`request` with 60 s for pruning."""
    stages = {"compression": 60.0, "files": 10.0}
    return replace(request, stage_budget=lambda epoch_seconds, epochs: stages)


class Shortened(FixedWorkers):
    """Half of the batches of every training were in time."""

    changes = ((8, 1.5), (16, 3.0))

    def run(self, task: Task) -> TaskResult:
        return replace(super().run(task), share=0.5, schedule_changes=self.changes)


def test_a_final_training_is_shortened_rather_than_lost(tmp_path: Path) -> None:
    events: list[Event] = []
    request = search_request(
        tmp_path / "run", budget_seconds=900.0, trials=None, emit=events.append
    )
    request = with_compression(request)
    trials, options = recorded_trials(request, 180, 190)
    trials.plan = Plan(9, 1e-9, 0.0)
    right = dict.fromkeys(labels(0), 181) | dict.fromkeys(labels(1), 192)
    workers = Shortened(right)
    clock = Clock(lambda: 120.0, 0.0, seconds_per_work(request, trials, 1.0))
    final = final_training(request, trials)
    final.train(options, workers, clock)
    (epochs,) = {run.epochs for run in final.runs}
    # Two finalists of about one size, one after the other: each has half of what search and
    # pruning can spare.
    assert all(task.is_shortened for task in workers.tasks)
    assert workers.tasks[0].max_seconds == pytest.approx((120.0 + 15.0) / 2, rel=0.02)
    assert workers.tasks[1].max_seconds == pytest.approx(120.0 + 15.0)
    result = read_trials(request.ledger).best_result(1)
    assert (result.epochs, result.planned_epochs) == (round(epochs / 2), epochs)
    assert result.schedule_changes == Shortened.changes
    assert any(f"of {epochs} planned, as it was slower" in event.message for event in events)
    # The checkpoint is gone: the same training, not that of all epochs.
    tasks = TaskBuilder(request, trials)
    again = training.rebuild_checkpoint(result.key, tasks, trials, request.ledger)
    assert again is not None
    assert (again.schedule_changes, again.max_seconds) == (Shortened.changes, 0.0)
    said = time_decision(read_trials(request.ledger), 1, request)
    assert said is None or f"planned: {epochs}, but trainings became slower" in said.choice
    request.ledger.close()


def seconds_per_work(request: SearchRequest, trials: Trials, epoch_seconds: float) -> float:
    """So many seconds an epoch of trial 0."""
    return epoch_seconds / TaskBuilder(request, trials).work(0, 1)


@pytest.mark.parametrize(("left", "count"), [(1.1, 2), (0.65, 2), (0.5, 1), (0.01, 0)])
def test_what_does_not_fit_is_left_out_but_for_one_final_training(
    tmp_path: Path, left: float, count: int
) -> None:
    """The time left, relative to that of a whole training, falls after the plan is made."""
    request = search_request(tmp_path / "run", budget_seconds=900.0, trials=None)
    trials, options = recorded_trials(request, 180, 190)
    trials.plan = Plan(9, 1e-9, 0.0)
    final, planned = final_training(request, trials), [1e4]
    speed = seconds_per_work(request, trials, 1.0)
    clock = Clock(lambda: planned[0], 0.0, speed)

    class Slower(Shortened):
        """After the plan is made there is little time."""

        @property
        def free(self) -> int:
            runs = [run for run in final.runs if not run.seed and not run.fold]
            planned[0] = left * (runs[0].epochs + TASK_SECONDS)
            return super().free

    workers = Slower(dict.fromkeys(labels(0, 1), 185))
    final.train(options, workers, clock)
    assert len({task.key for task in workers.tasks} & {"0-final-0", "1-final-0"}) == count
    request.ledger.close()


@pytest.mark.parametrize(("seconds", "goes_on"), [(12.0, True), (-5.0, True), (-15.0, False)])
def test_an_interrupted_training_that_is_nearly_done_goes_on(
    tmp_path: Path, seconds: float, goes_on: bool
) -> None:
    """Late final trainings may take 15 s of the time for pruning."""
    request = search_request(tmp_path / "run", budget_seconds=900.0, trials=None)
    request = with_compression(request)
    trials, options = recorded_trials(request, 180, 190)
    trials.plan = Plan(9, 1e-9, 0.0)
    final, left = final_training(request, trials), [1e4]
    clock = Clock(lambda: left[0], 0.0, seconds_per_work(request, trials, 1.0))

    class Killed(FixedWorkers):
        def run(self, task: Task) -> TaskResult:
            Path(task.out).mkdir(parents=True)
            metadata = {"key": "", "step": "880", "share": "0.88"}
            save_file({"a": torch.zeros(1)}, Path(task.out) / "resume.safetensors", metadata)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        final.train(options, Killed({}), clock)
    first = final.runs[0]
    assert 0.12 * first.epochs < 12.0 < 0.6 * first.epochs
    left[0] = seconds
    workers, again = FixedWorkers({str(first.key(0)): 192}), read_trials(request.ledger)
    again.plan = trials.plan
    final_training(request, again).train([], workers, clock)
    assert [task.key for task in workers.tasks] == [str(first.key(0))] * goes_on
    request.ledger.close()


def test_slow_finalists_leave_the_time_of_a_training_on_all_samples(tmp_path: Path) -> None:
    """Time was kept for it at the speed of the nets that were trained first."""

    def stages(epoch_seconds: float, epochs: int) -> dict[str, float]:
        return {REFIT: 1.2 * epoch_seconds * epochs}

    def planned(**more: Any) -> tuple[float, float]:
        """Seconds of the plan, and of a training of the slowest finalist on all samples."""
        folder = tmp_path / f"run{len(more)}"
        request = replace(
            search_request(folder, budget_seconds=900.0, trials=None, folds="off"), **more
        )
        trials, options = recorded_trials(request, 180, 190)
        trials.plan = Plan(9, 1e-9, 0.0, epoch_seconds=0.1, whole_epochs=9)
        clock = Clock(lambda: 100.0, 0.0, seconds_per_work(request, trials, 1.0))
        workers = FixedWorkers(dict.fromkeys(labels(0, 1), 185))
        final = final_training(request, trials)
        final.train(options, workers, clock)
        tasks = TaskBuilder(request, trials)
        seconds = [clock.seconds(tasks.work(r.number, r.epochs), r.number) for r in final.runs]
        epoch = max(clock.seconds(tasks.work(run.number, 1), run.number) for run in final.runs)
        made = sum(seconds), 1.2 * epoch * final.runs[0].epochs
        request.ledger.close()
        return made

    plain, _ = planned()
    assert plain > 80.0
    shorter, refit = planned(stage_budget=stages)
    assert shorter < plain
    kept = stages(0.1, 9)[REFIT]
    assert shorter + refit - kept < 110.0  # An epoch of one net is rounded.


@pytest.mark.parametrize(
    ("best", "speed"),
    [
        ("0-final-0", (2.5, 12)),
        ("0-final-0-1", (1.0, 24)),  # It continued from 9 epochs to 33.
        ("0-1", (3.0, 9)),  # Two rungs, of 3 and 6 epochs.
        ("0-2", None),  # Trained elsewhere.
    ],
)
def test_the_speed_of_the_winner_is_that_of_its_training(
    tmp_path: Path, best: str, speed: tuple[float, int] | None
) -> None:
    request = search_request(tmp_path / "run")
    ledger = request.ledger
    ledger.record("trial", "0", make_trial(0).to_event())
    seconds = {"0-0": (7.0, 3), "0-1": (20.0, 9), "0-2": (9.0, 27)}
    seconds |= {"0-final-0": (30.0, 12), "0-final-0-1": (24.0, 33)}
    is_final = "final" in best
    for key, (duration, epochs) in seconds.items():
        if ("final" in key and not is_final) or (key == "0-2" and best != key):
            continue
        correct = pack(np.arange(200) < (190 if key == best else 10))
        event = {"epochs": epochs, "correct": correct, "failed": "", "seconds": duration}
        ledger.record("rung", key, event | ({"host": "far"} if key == "0-2" else {}))
    runs = [finalists.FinalRun(0, 12), finalists.FinalRun(0, 24, seed=1, from_scratch=False)]
    ledger.record("plan", "final-0", {"finals": [run.to_event() for run in runs]})
    assert winner_speed(ledger) is None
    ledger.record("winner", "0", {"number": 0, "reason": ""})
    found = winner_speed(ledger)
    assert found == (None if speed is None else TrainingSpeed(*speed))
    ledger.close()


def first_trained(request: SearchRequest, trials: Trials, options: list[Option]) -> int:
    """Of two candidates the one that is trained to the end first."""
    workers = FixedWorkers(dict.fromkeys(labels(0, 1, 2), 190))
    final_training(request, trials).train(options, workers, Clock(lambda: 1000.0, 0.0, 1e-9))
    request.ledger.close()
    return int(workers.tasks[0].key.partition("-")[0])


@pytest.mark.parametrize(("planned", "right", "first"), [(3, 179, 0), (9, 180, 1)])
def test_after_a_few_epochs_accuracy_decides_and_not_cost(
    tmp_path: Path, planned: int, right: int, first: int
) -> None:
    request = search_request(tmp_path / "run", budget_seconds=1000.0, trials=None)
    trials, options = recorded_trials(request, 180, right)
    small = replace(options[0].cost, size_bytes=options[0].cost.size_bytes // 2)
    options[1] = Option(1, options[1].correct, small)  # As many multiply-accumulates.
    trials.plan = Plan(planned, 1e-9, 0.0, own_epochs=9)
    assert first_trained(request, trials, options) == first


def test_after_a_few_epochs_the_larger_of_nets_that_are_as_good_is_trained_to_the_end(
    tmp_path: Path,
) -> None:
    request = search_request(tmp_path / "run", budget_seconds=1000.0, trials=None)
    trials, options = recorded_trials(request, 180, 179)
    large = replace(options[0].cost, macs=2 * options[0].cost.macs)
    options[1] = Option(1, options[1].correct, large)
    trials.plan = Plan(3, 1e-9, 0.0, own_epochs=9)
    assert first_trained(request, trials, options) == 1


@pytest.mark.parametrize(("planned", "first"), [(3, 0), (9, 1)])
def test_after_a_few_epochs_known_good_candidates_come_before_more_accurate_trials(
    tmp_path: Path, planned: int, first: int
) -> None:
    request = search_request(tmp_path / "run", budget_seconds=1000.0, trials=None)
    trials, options = recorded_trials(request, 120, 180)
    for number, width in ((0, 8), (1, 16)):
        trials.replace(replace(make_trial(number), params={"stem.out": width}))
    assert request.space.candidates[0]["stem.out"] == 8
    trials.plan = Plan(planned, 1e-9, 0.0, own_epochs=9)
    assert first_trained(request, trials, options) == first


@pytest.mark.parametrize(("first_trial", "first"), [(0, 1), (2, 2)])
def test_a_net_that_is_trained_in_place_of_a_known_good_one_above_a_limit_is_like_one(
    tmp_path: Path, first_trial: int, first: int
) -> None:
    """The last of three trials is the known-good point, the first two are nets near others."""
    request = search_request(tmp_path / "run", budget_seconds=1000.0, trials=None)
    trials, options = recorded_trials(request, 150, 180, 120)
    for number, width in ((0, 16), (1, 16), (2, 8)):
        trials.replace(replace(make_trial(number), params={"stem.out": width}))
    # Those of an earlier plan are not the first ones of this one.
    plan = Plan(3, 1e-9, 0.0, own_epochs=9, first=(0, 1, 2), first_trial=first_trial)
    trials.plan = plan
    if first_trial:
        trials.earlier_plans = [replace(plan, first_trial=0)]
    assert first_trained(request, trials, options) == first


def test_progress_and_remaining_time_of_final_trainings_are_emitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    request = search_request(tmp_path / "run", emit=events.append)
    trials, options = recorded_trials(request, 180, 180, 180)
    now = iter(range(0, 10_000, 50))
    ticking = SimpleNamespace(monotonic=lambda: float(next(now)))
    monkeypatch.setattr(training, "time", ticking)  # Of this module alone: threads look too.
    workers = FixedWorkers({f"{n}-final-0": 190 for n in range(3)}, jobs=2)
    final_training(request, trials).train(options, workers, ENDLESS)
    progress = [event for event in events if event.stage == FINALS]
    # One has ended after 50 s, another is half done, the third has not begun; and so on.
    assert [(event.done, event.total) for event in progress] == [(1.5, 3), (2.5, 3), (3, 3)]
    assert progress[0].message == "trial 1: final training, about 50 s left"
    assert progress[1].message == "trial 2: final training, about 20 s left"
    request.ledger.close()
