"""FinalTraining: the few best trained to the end with fresh seeds, so no luck is carried over."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lepton_automl.artifact.provenance import FinalistResult
from lepton_automl.core.events import Emit, Event
from lepton_automl.core.units import duration, epochs_text
from lepton_automl.runs.ledger import EventKind, LedgerView
from lepton_automl.runs.time_budget import COMPRESSION
from lepton_automl.search.finals.finalists import (
    Finalist,
    FinalistSelection,
    FinalRun,
    plan_final_runs,
    planned_final_runs,
)
from lepton_automl.search.finals.selection import Option
from lepton_automl.search.request import SearchWork
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.time_plan import TASK_SECONDS, Clock
from lepton_automl.search.training_key import Stage, TrainingKey
from lepton_automl.search.trials import RungResult, Trials, result_event
from lepton_automl.search.workers.pool import Workers
from lepton_automl.search.workers.task import Task, TaskResult
from lepton_automl.training.distributed import expected_speedup
from lepton_automl.training.precision import MIN_MEASURED_SECONDS

CONFIRM = "confirm"
"""The stage that its progress is told as."""
GRACE_SECONDS, GRACE_SHARE = 3.0, 0.5
"""So long after its end a search waits for a last training that takes longer than expected; and
for one that will probably end by then, this share of what is kept for the compression: minutes of
training are not thrown away for want of seconds."""


class FinalTraining:
    """The last trainings of one round; every longer search that was asked for makes a round.

    Parameters
    ----------
    work : SearchWork
        Goal and ledger.
    tasks : Tasks
        Makes the trainings.
    trials : Trials
        What is known; added to.
    round_number : int
        0, 1, ...
    """

    def __init__(self, work: SearchWork, tasks: Tasks, trials: Trials, round_number: int) -> None:
        self._work, self._tasks, self._trials = work, tasks, trials
        self._round = round_number

    @property
    def finals(self) -> list[FinalRun]:
        """The last trainings that were decided on; none before."""
        return planned_final_runs(self._work.ledger, f"{Stage.FINAL}-{self._round}")

    def run(self, options: Sequence[Option], workers: Workers, clock: Clock) -> list[Option]:
        """Train the few best of `options` to the end; what each is then.

        A training that the ledger knows is not repeated; one that cannot end in time is left out,
        and so is a candidate without any: its figures of the search are those of a lucky one.
        """
        key = f"{Stage.FINAL}-{self._round}"
        if self._work.ledger.get(EventKind.PLAN, key) is None:
            entrants = FinalistSelection(self._work, self._tasks, self._trials, clock).of(options)
            plan = plan_final_runs(entrants, self._work.finals_at_once, clock.left() - TASK_SECONDS)
            plan = [
                dataclasses.replace(final, ranks=self._work.config.final_jobs) for final in plan
            ]
            self._work.ledger.record(
                EventKind.PLAN, key, {"finals": [final.to_event() for final in plan]}
            )
            self._tell(_told(plan, len(_numbers(entrants))))
        self._train(self.finals, workers, clock)
        return [self._option(n) for n in _numbers(self.finals) if self._scores(n)]

    def _train(self, finals: Sequence[FinalRun], workers: Workers, clock: Clock) -> None:
        left = [final for final in finals if self._score_of(final) is None]
        bar = Bar(len(left), self._work.emit)
        while True:
            while left and self._has_room(workers):
                final = left.pop(0)
                if clock.has_time(self._work_of(final), final.number):
                    workers.start(final_task(final, self._round, self._tasks, self._trials))
            if not workers.busy:
                return
            for task, result in workers.finished():
                self._record(task, result)
            bar.show(len(left) + len(workers.busy), workers.facts()["workers"])
            if workers.busy and self._is_too_late(-clock.left(), workers.seconds_to_go()):
                late = _listed(task.key for task in workers.busy)
                self._tell(f"the time is over: the last training of trial {late} is left out")
                return

    def _has_room(self, workers: Workers) -> bool:
        """Whether one more training finds as many idle workers as it has processes."""
        busy, team = len(workers.busy), self._work.config.final_jobs
        return workers.free > 0 and (not busy or team * (busy + 1) <= workers.free + busy)

    def _is_too_late(self, late: float, to_go: float) -> bool:
        """Whether the search ended `late` s ago, and what is at work will not end soon enough."""
        plan, reserved = self._trials.plan, 0.0
        if plan is not None:
            stages = self._work.stage_budget(plan.epoch_seconds, plan.whole_epochs)
            reserved = stages.get(COMPRESSION, 0.0)
        return late > GRACE_SECONDS and late + to_go > GRACE_SHARE * reserved

    def _record(self, task: Task, result: TaskResult) -> None:
        key = TrainingKey.parse(task.key)
        number = key.trial
        final = next(f for f in self.finals if f.key(self._round) == key)
        before = 0 if final.is_fresh else self._trials.search_epochs(number)
        event = result_event(result, before + final.epochs, self._work.dataset.validation)
        self._work.ledger.record(EventKind.RUNG, task.key, event)
        score = RungResult.from_event(key, event)
        self._trials.add_result(score)
        searched = self._trials.search_result(number)
        now = score.failed or f"{score.accuracy:.2%} after {epochs_text(score.epochs)}"
        before_it = f"{searched.accuracy:.2%} after {searched.epochs} in the search"
        how = "" if final.augment is None else f" with augment {final.augment:g}"
        self._tell(f"trial {number} trained to the end{how}: {now}, {before_it}{pace_text(result)}")

    def _work_of(self, final: FinalRun) -> float:
        return self._tasks.work(final.number, final.epochs) / expected_speedup(final.ranks)

    def _option(self, number: int) -> Option:
        """A candidate as its last trainings show it: the mean over seeds, not the luckiest.

        Where it was trained with stronger changes as well, the better of the two counts.
        """
        share = np.mean([score.correct for score in self._scores(number)], axis=0)
        part = self._work.dataset.validation
        return Option(number, share, self._trials[number].cost, part.groups, part.strata)

    def _scores(self, number: int) -> list[RungResult]:
        """Of a candidate's last trainings, those that did not fail."""
        return _good(self._trials, self.finals, number, self._round)

    def _score_of(self, final: FinalRun) -> RungResult | None:
        return self._trials.final_result(final.key(self._round))

    def _tell(self, message: str) -> None:
        self._work.emit(Event("search", message))


class Bar:
    """How far last trainings are.

    Parameters
    ----------
    count : int
        Trainings.
    emit : callable
        Is told.
    """

    def __init__(self, count: int, emit: Emit) -> None:
        self._count, self._emit, self._begun = count, emit, time.monotonic()

    def show(self, left: int, workers: Sequence[Mapping[str, Any]]) -> None:
        """Tell it, where `left` have not ended and `workers` are at them."""
        at_work = [worker for worker in workers if worker["task"]]
        done = self._count - left + sum(worker["share"] for worker in at_work)
        if not done:
            return
        seconds = (time.monotonic() - self._begun) * (self._count / done - 1)
        numbers = _listed(worker["task"] for worker in at_work)
        who = f"trial {numbers} to the end, about {duration(seconds)} left" if numbers else "done"
        self._emit(Event(CONFIRM, who, done, float(self._count)))


def _listed(keys: Iterable[str]) -> str:
    """Whose trainings these are, each candidate once."""
    return ", ".join(dict.fromkeys(str(TrainingKey.parse(key).trial) for key in keys))


def pace_text(result: TaskResult) -> str:
    """How fast a training went; nothing where it was too short to tell."""
    if not result.pictures_per_second or result.seconds[-1] < MIN_MEASURED_SECONDS:
        return ""
    return f"; {result.pictures_per_second:.0f} pictures/s"


def confirmed(ledger: LedgerView, trials: Trials, round_number: int) -> tuple[FinalistResult, ...]:
    """What trainings from nothing made of each of the few best."""
    finals = [
        final
        for final in planned_final_runs(ledger, f"{Stage.FINAL}-{round_number}")
        if final.is_fresh
    ]
    return tuple(
        FinalistResult(
            number=number,
            searched=trials.search_result(number).accuracy,
            searched_epochs=trials.search_result(number).epochs,
            accuracies=tuple(score.accuracy for score in scores),
            epochs=scores[0].epochs,
            augment=scores[0].key.augment,
        )
        for number in _numbers(finals)
        if (scores := _good(trials, finals, number, round_number))
    )


def _good(
    trials: Trials, finals: Sequence[FinalRun], number: int, round_number: int
) -> list[RungResult]:
    """Of the better strategy, where there are two."""
    mine = [final.key(round_number) for final in finals if final.number == number]
    found = [trials.final_result(key) for key in mine]
    by_strategy: dict[float | None, list[RungResult]] = {}
    for score in found:
        if score is not None and not score.failed:
            by_strategy.setdefault(score.key.augment, []).append(score)
    return max(by_strategy.values(), key=_mean_accuracy, default=[])


def _mean_accuracy(scores: Sequence[RungResult]) -> float:
    return sum(score.accuracy for score in scores) / len(scores)


def _numbers(finals: Sequence[FinalRun | Finalist]) -> list[int]:
    return list(dict.fromkeys(final.number for final in finals))


def _told(plan: Sequence[FinalRun], count: int) -> str:
    """The decision in a line."""
    numbers = _numbers(plan)
    if not numbers:
        return (
            "no time is left to train the best to the end: the net ships as the search trained it; "
            "the same command with a larger --budget continues the search"
        )
    who = f"trial {', '.join(map(str, numbers))}"
    if not plan[0].is_fresh:
        return f"time is scarce: {who} goes on from the search for {plan[0].epochs} more epochs"
    few = "" if len(numbers) == count else f" (no time for {count})"
    again = f" in {len(plan)} trainings" if len(plan) > len(numbers) else ""
    changes = [f"augment {f.augment:g} for trial {f.number}" for f in plan if f.augment is not None]
    more = f", also with {changes[0]}" if changes else ""
    length = epochs_text(plan[0].epochs)
    return f"confirming {who}{few}: from nothing, fresh seeds, {length}{again}{more}"


def final_task(final: FinalRun, round_number: int, tasks: Tasks, trials: Trials) -> Task:
    """The training that `final` stands for."""
    candidate, key = trials[final.number], final.key(round_number)
    if final.is_fresh:
        task = tasks.from_scratch(candidate, final.epochs, key)
    else:
        done = len([s for s in trials.results[final.number] if not s.failed])
        task = tasks.continued(candidate, done, final.epochs, key)
    return dataclasses.replace(task, ranks=final.ranks)


def rebuild_checkpoint(
    key: TrainingKey, tasks: Tasks, trials: Trials, ledger: LedgerView
) -> list[Task]:
    """What is to be trained, in this order, before a net is there; nothing where it is.

    Parameters
    ----------
    key : TrainingKey
        The training that ends with that net.
    tasks, trials : Tasks, Trials
        Where checkpoints lie, and what is known of the candidates.
    ledger : LedgerView
        Knows the last trainings that were decided on.
    """
    if tasks.is_complete(tasks.checkpoint(key)):
        return []
    if key.stage is Stage.RUNG:
        return [tasks.rung(trials[key.trial], key.round)]
    finals = planned_final_runs(ledger, f"{Stage.FINAL}-{key.round}")
    final = next(f for f in finals if f.key(key.round) == key)
    return [final_task(final, key.round, tasks, trials)]
