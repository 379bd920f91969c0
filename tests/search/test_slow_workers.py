"""Which tasks the search gives to a worker that is slower than others."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from lepton_automl.search import rungs
from lepton_automl.search.finals.winner import WinnerStore
from lepton_automl.search.loop import SearchLoop
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.time_plan import Clock
from lepton_automl.search.training_key import TrainingKey
from lepton_automl.search.trials import read_trials
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.task import Task, TaskResult
from tests.helpers.search import ScoredWorkers, search_request

SLOWNESS = 6.0


@pytest.fixture(autouse=True)
def _three_rungs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rungs, "LEAST_SAMPLES", 1)


def explore(job: SearchRequest, workers: ScoredWorkers) -> None:
    trials = read_trials(job.ledger)
    tasks = TaskBuilder(job, trials)
    lock = MeasurementLock(job.folder.checkpoints)
    SearchLoop(job, tasks, trials, WinnerStore(job, tasks, trials), workers, lock).run()
    lock.close()


class TwoSpeeds(ScoredWorkers):
    """A fast worker and a slow one; a task is done when its simulated time is over."""

    def __init__(self) -> None:
        super().__init__(2)
        self.now = 0.0
        self.on_slow: list[tuple[Task, bool]] = []
        """Tasks of the slow worker, and whether the other one was busy."""
        self._ends: dict[int, tuple[float, bool]] = {}

    @property
    def slowness(self) -> float:
        return SLOWNESS if self._is_fast_busy else 1.0

    @property
    def _is_fast_busy(self) -> bool:
        return any(not slow for _, slow in self._ends.values())

    def is_worth_starting(self, work: float) -> bool:
        ends = [end for end, slow in self._ends.values() if not slow]
        return not ends or min(ends) + work > self.now + SLOWNESS * work

    def start(self, task: Task) -> None:
        slow = self._is_fast_busy
        if slow:
            self.on_slow.append((task, bool(self._ends)))
        self._waiting.append(task)
        self._ends[id(task)] = (self.now + task.work * (SLOWNESS if slow else 1.0), slow)

    def finished(self, timeout: float = 1.0) -> list[tuple[Task, TaskResult]]:
        task = min(self._waiting, key=lambda each: self._ends[id(each)][0])
        self._waiting.remove(task)
        self.tasks.append(task)
        self.now, slow = self._ends.pop(id(task))
        result = replace(self.run(task), slowness=SLOWNESS if slow else 1.0)
        return [(task, result)]


def test_a_slow_worker_gets_first_rungs_and_short_promotions_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = search_request(tmp_path / "run", trials=16)
    workers = TwoSpeeds()
    explore(job, workers)
    job.ledger.close()
    longest = max(task.work for task in workers.tasks)
    slow = [task for task, is_fast_busy in workers.on_slow if is_fast_busy]
    promoted = [task for task in slow if TrainingKey.parse(task.key).round]
    assert len(promoted) < len(slow)
    assert [task.key for task in promoted if SLOWNESS * task.work > longest] == []
    # Without the rule it gets such promotions too.
    monkeypatch.setattr(SearchLoop, "_longest_work", lambda self, slowness: math.inf)
    again, any_work = search_request(tmp_path / "again", trials=16), TwoSpeeds()
    explore(again, any_work)
    again.ledger.close()
    assert any(SLOWNESS * task.work > longest for task, _ in any_work.on_slow)


@pytest.mark.parametrize(("slowness", "is_recorded"), [(1.0, 2.0), (4.0, 0.5)])
def test_the_clock_counts_the_time_of_the_fastest_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slowness: float, is_recorded: float
) -> None:
    class Slow(ScoredWorkers):
        def run(self, task: Task) -> TaskResult:
            seconds = (2.0,) * len(task.cycles)
            return replace(super().run(task), seconds=seconds, slowness=slowness)

    learnt: list[float] = []
    monkeypatch.setattr(Clock, "learn", lambda self, seconds, work, number: learnt.append(seconds))
    job = search_request(tmp_path / "run", trials=2)
    explore(job, Slow())
    job.ledger.close()
    assert set(learnt) == {is_recorded}
