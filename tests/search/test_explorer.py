from __future__ import annotations

from pathlib import Path

import pytest

from lepton_automl.search import rungs
from lepton_automl.search.explorer import HOPELESS, Explorer
from lepton_automl.search.quiet import Quiet
from lepton_automl.search.task import Task, TaskResult
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import Trials, read_trials
from lepton_automl.search.winner import Winners
from lepton_automl.search.work import SearchWork
from tests.searching import InlineWorkers, ScoredWorkers, work


def explored(job: SearchWork, workers: InlineWorkers) -> Trials:
    trials = read_trials(job.ledger)
    tasks = Tasks(job, trials)
    quiet = Quiet(job.folder / "checkpoints")
    Explorer(job, tasks, trials, Winners(job, tasks, trials), workers, quiet).explore()
    return trials


@pytest.fixture(autouse=True)
def _three_rungs(monkeypatch):
    monkeypatch.setattr(rungs, "LEAST_SAMPLES", 1)


def test_one_in_three_is_promoted_and_at_the_end_the_best_reaches_the_top(tmp_path: Path) -> None:
    job = work(tmp_path / "run", trials=9)
    trials = explored(job, ScoredWorkers())
    reached = [len(scores) for scores in trials.scores.values()]
    assert len(reached) == 9
    assert sum(n >= 2 for n in reached) >= 3
    assert sum(n == 3 for n in reached) >= 1
    job.ledger.close()


def test_what_was_interrupted_is_trained_first(tmp_path: Path) -> None:
    job = work(tmp_path / "run", trials=3)
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

    job = work(tmp_path / "run", trials=6)
    trials = explored(job, Moody())
    assert trials.alive() == [0, 2, 3, 4, 5]
    job.ledger.close()


def test_a_search_in_which_nothing_can_be_trained_gives_up(tmp_path: Path) -> None:
    class Hopeless(ScoredWorkers):
        def run(self, task: Task) -> TaskResult:
            return TaskResult(failed="diverged")

    job = work(tmp_path / "run", trials=100)
    trials = explored(job, Hopeless())
    assert len(trials) == HOPELESS
    job.ledger.close()


def test_no_task_is_started_that_the_time_does_not_allow(tmp_path: Path) -> None:
    left = iter([100.0] * 8)
    job = work(tmp_path / "run", trials=50, budget_seconds=1e9, deadline=lambda: next(left, -1.0))
    workers = ScoredWorkers()
    trials = explored(job, workers)
    assert 1 <= len(trials) < 50
    job.ledger.close()
