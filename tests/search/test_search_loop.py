from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lepton_automl.models.arch import Arch
from lepton_automl.runs.ledger import Ledger
from lepton_automl.search import rungs
from lepton_automl.search.finals.winner import WinnerStore
from lepton_automl.search.loop import MOST_FAILURES, SearchLoop
from lepton_automl.search.proposals.proposer import Proposer
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.trials import Trials, read_trials
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.task import Task, TaskResult, pack
from tests.helpers.search import InlineWorkers, ScoredWorkers, search_request


def explored(job: SearchRequest, workers: InlineWorkers) -> Trials:
    trials = read_trials(job.ledger)
    tasks = TaskBuilder(job, trials)
    lock = MeasurementLock(job.folder.checkpoints)
    SearchLoop(job, tasks, trials, WinnerStore(job, tasks, trials), workers, lock).run()
    return trials


@pytest.fixture(autouse=True)
def _three_rungs(monkeypatch):
    monkeypatch.setattr(rungs, "LEAST_SAMPLES", 1)


def test_one_in_three_is_promoted_and_at_the_end_the_best_reaches_the_top(tmp_path: Path) -> None:
    job = search_request(tmp_path / "run", trials=9)
    trials = explored(job, ScoredWorkers())
    reached = [len(scores) for scores in trials.results.values()]
    assert len(reached) == 9
    assert sum(n >= 2 for n in reached) >= 3
    assert sum(n == 3 for n in reached) >= 1
    job.ledger.close()


def test_what_was_interrupted_is_trained_first(tmp_path: Path) -> None:
    job = search_request(tmp_path / "run", trials=3)
    workers = ScoredWorkers()

    def stop(task: Task) -> TaskResult:
        raise InterruptedError(task.key)

    workers.run = stop  # type: ignore[method-assign]
    with pytest.raises(InterruptedError):
        explored(job, workers)
    again = ScoredWorkers()
    explored(job, again)
    assert again.tasks[0].key == "0-0"
    assert len([t for t in again.tasks if t.key.endswith("-0")]) == 3
    job.ledger.close()


def test_candidates_that_diverge_do_not_stop_the_others(tmp_path: Path) -> None:
    class Moody(ScoredWorkers):
        def run(self, task: Task) -> TaskResult:
            return TaskResult(failed="diverged") if task.key.startswith("1-") else super().run(task)

    job = search_request(tmp_path / "run", trials=6)
    trials = explored(job, Moody())
    assert trials.trained() == [0, 2, 3, 4, 5]
    job.ledger.close()


def test_a_search_in_which_nothing_can_be_trained_gives_up(tmp_path: Path) -> None:
    class Hopeless(ScoredWorkers):
        def run(self, task: Task) -> TaskResult:
            return TaskResult(failed="diverged")

    job = search_request(tmp_path / "run", trials=100)
    trials = explored(job, Hopeless())
    assert len(trials) == MOST_FAILURES
    job.ledger.close()


def test_no_task_is_started_that_the_time_does_not_allow(tmp_path: Path) -> None:
    class Clock(Ledger):
        """The budget ends after the clock was read some times."""

        reads = 0

        def alive_seconds(self) -> float:
            self.reads += 1
            return 0.0 if self.reads < 40 else 101.0

    clock = Clock(tmp_path / "run" / "ledger.db")
    job = search_request(tmp_path / "run", clock, trials=50, budget_seconds=100.0)
    workers = ScoredWorkers()
    trials = explored(job, workers)
    assert 1 <= len(trials) < 50
    job.ledger.close()


def test_a_slow_sampler_proposes_nothing_that_does_not_fit_in_the_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proposal takes longer than the whole search."""
    messages: list[str] = []
    job = search_request(
        tmp_path / "run",
        trials=50,
        budget_seconds=100.0,
        emit=lambda event: messages.append(event.message),
    )
    monkeypatch.setattr(Proposer, "seconds", property(lambda _: 1000.0))
    trials = explored(job, ScoredWorkers())
    assert len(trials) == 1
    assert len(trials.results[0]) == 3  # Known trials continue.
    said = [message for message in messages if "--sampler lepton takes 1e+03 s" in message]
    assert len(said) == 1
    job.ledger.close()


def test_several_workers_are_advised_while_others_are_at_work(tmp_path: Path) -> None:
    job = search_request(tmp_path / "run", trials=9, jobs=3)
    workers = ScoredWorkers(jobs=3)
    trials = explored(job, workers)
    keys = [task.key for task in workers.tasks]
    assert len(keys) == len(set(keys))
    assert len(trials) == 9
    assert max(len(scores) for scores in trials.results.values()) == 3
    job.ledger.close()


def test_a_promising_candidate_goes_on_before_all_newcomers_have_started(tmp_path: Path) -> None:
    class Honest(ScoredWorkers):
        """Known after its parameters: the wider the better, the more epochs the better."""

        def run(self, task: Task) -> TaskResult:
            net = Arch.from_json(task.arch)
            width = sum(op.weight_shape[0] for op in net.graph.weighted_ops)
            error = 0.5 * (30 / width) ** 0.5 * 0.7 ** len(task.cycles)
            return TaskResult((0.01,), pack(np.arange(200) < 200 * (1 - error)))

    job = search_request(tmp_path / "run", trials=12, objectives=("accuracy",))
    workers = Honest()
    explored(job, workers)
    keys = [task.key for task in workers.tasks]
    first_end = next(place for place, key in enumerate(keys) if key.endswith("-2"))
    assert first_end < keys.index("11-0")
    assert sum(key.endswith("-2") for key in keys) < 6
    job.ledger.close()
