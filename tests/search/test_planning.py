from __future__ import annotations

import math
from pathlib import Path

import pytest

from lepton_automl.events import Event
from lepton_automl.search.ledger import EventKind
from lepton_automl.search.plan import Plan
from lepton_automl.search.planning import clock_for, make_plan, search_ends, seconds_left
from lepton_automl.search.task import Task, TaskResult
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import Trials
from tests.searching import InlineWorkers, candidate, work


class Slow(InlineWorkers):
    """A machine on which every cycle takes as long, as far as it tells."""

    def __init__(self, seconds: float = 10.0) -> None:
        super().__init__()
        self.seconds = seconds

    def run(self, task: Task) -> TaskResult:
        return TaskResult((99.0, self.seconds), "1:gA==")


class Broken(InlineWorkers):
    def run(self, task: Task) -> TaskResult:
        return TaskResult(failed="no")


def test_without_a_budget_every_recipe_keeps_its_epochs(tmp_path: Path) -> None:
    job, trials = work(tmp_path / "run"), Trials()
    trials.add(candidate(0))
    workers = InlineWorkers()
    plan = make_plan(job, Tasks(job, trials), trials[0], workers)
    assert plan.epochs is None
    assert workers.tasks == []
    assert seconds_left(job, None) == math.inf
    assert clock_for(job, plan).left() == math.inf
    job.ledger.close()


def test_with_a_budget_the_second_cycle_of_a_probe_tells_the_speed(tmp_path: Path) -> None:
    job, trials = work(tmp_path / "run", budget_seconds=100.0, trials=None), Trials()
    trials.add(candidate(0))
    tasks = Tasks(job, trials)
    plan = make_plan(job, tasks, trials[0], Slow())
    probe = tasks.probe(trials[0])
    work_units = (trials[0].cost.macs + 700_000) * tasks.samples * probe.cycles[-1][0]
    assert plan.seconds_per_work * work_units == 10.0
    assert job.ledger.get(EventKind.PLAN, "search") == plan.to_event()
    job.ledger.close()


def test_a_first_candidate_that_cannot_be_timed_does_not_stop_the_search(tmp_path: Path) -> None:
    job, trials = work(tmp_path / "run", budget_seconds=50.0), Trials()
    trials.add(candidate(0))
    plan = make_plan(job, Tasks(job, trials), trials[0], Broken())
    assert plan.seconds_per_work > 0
    job.ledger.close()


def test_the_time_left_is_that_of_the_run(tmp_path: Path) -> None:
    job = work(tmp_path / "run", trials=3)
    assert seconds_left(job, None) == math.inf
    job.ledger.close()
    job = work(tmp_path / "run", budget_seconds=5.0)
    assert 0 < seconds_left(job, None) <= 5.0
    job.ledger.close()


def test_more_is_kept_for_the_winner_where_candidates_are_cut_short(tmp_path: Path) -> None:
    def plan(budget_seconds: float, name: str) -> Plan:
        job = work(tmp_path / name, budget_seconds=budget_seconds, trials=None)
        trials = Trials()
        trials.add(candidate(0))
        made = make_plan(job, Tasks(job, trials), trials[0], Slow(1e4))
        kept = clock_for(job, made)
        left = seconds_left(job, made)
        job.ledger.close()
        assert kept.allows(0.0)
        assert left > 0
        return made

    own = candidate(0).recipe.epochs
    plenty, scarce = plan(1e9, "plenty"), plan(4e3, "scarce")
    whole = own * scarce.epoch_seconds
    some = plan(12 * whole, "some")
    assert (plenty.epochs or 0) >= own > (some.epochs or 0) > (scarce.epochs or 0)
    assert scarce.final_share > some.final_share > plenty.final_share
    assert [each.is_scarce for each in (scarce, some, plenty)] == [True, False, False]
    # Twice what the recipe asks for, with a margin, fits into what is kept.
    assert 1.15 * 2 * whole <= some.final_share * 12 * whole


def test_later_stages_are_kept_out_of_the_searchs_time_and_told(tmp_path: Path) -> None:
    told: list[Event] = []
    asked: list[tuple[float, int]] = []

    def later(epoch_seconds: float, epochs: int) -> dict[str, float]:
        asked.append((epoch_seconds, epochs))
        return {"compression": 30.0, "files and verdict": 10.0}

    job = work(tmp_path / "run", budget_seconds=100.0, trials=None, later=later, emit=told.append)
    trials = Trials()
    trials.add(candidate(0))
    tasks = Tasks(job, trials)
    plan = make_plan(job, tasks, trials[0], Slow())
    probed = tasks.probe(trials[0]).cycles[-1][0]
    assert set(asked) == {(plan.epoch_seconds, candidate(0).recipe.epochs)}
    assert plan.epoch_seconds == pytest.approx(10.0 / probed)
    assert search_ends(job, plan) == 60.0
    assert seconds_left(job, plan) == pytest.approx(60.0 - job.ledger.alive_seconds(), abs=0.1)
    assert "search 60 % (60 s), of these" in told[0].message
    assert "compression 30 % (30 s); files and verdict 10 % (10 s)" in told[0].message
    job.ledger.close()


def test_enough_is_kept_for_three_to_be_trained_to_the_end(tmp_path: Path) -> None:
    class Paced(InlineWorkers):
        def run(self, task: Task) -> TaskResult:
            return TaskResult((9.0, 0.12 * task.cycles[-1][0]), "1:gA==")

    job = work(tmp_path / "run", budget_seconds=60.0, trials=None)
    trials = Trials()
    trials.add(candidate(0))
    plan = make_plan(job, Tasks(job, trials), trials[0], Paced())
    kept = plan.final_share * 60.0
    assert plan.epochs is not None
    least = max(plan.epochs, 2 * min(plan.epochs, 9))
    assert 3 * least * 0.12 <= kept <= 0.4 * 60.0
    job.ledger.close()


def test_trainings_that_are_cut_short_need_less_time_after_the_search(tmp_path: Path) -> None:
    asked: list[int] = []

    def later(epoch_seconds: float, epochs: int) -> dict[str, float]:
        asked.append(epochs)
        return {"compression": epochs * epoch_seconds}

    job = work(tmp_path / "run", budget_seconds=8.0, trials=None, later=later)
    trials = Trials()
    trials.add(candidate(0))
    plan = make_plan(job, Tasks(job, trials), trials[0], Slow())
    assert plan.epochs is not None
    assert asked[0] == candidate(0).recipe.epochs
    assert plan.whole_epochs < candidate(0).recipe.epochs
    assert plan.whole_epochs <= plan.epochs
    assert search_ends(job, plan) == 8.0 - plan.whole_epochs * plan.epoch_seconds
    job.ledger.close()


def test_where_there_is_no_time_for_three_there_is_for_one(tmp_path: Path) -> None:
    class Paced(InlineWorkers):
        def run(self, task: Task) -> TaskResult:
            return TaskResult((9.0, 0.35 * task.cycles[-1][0]), "1:gA==")

    job = work(tmp_path / "run", budget_seconds=30.0, jobs=2, trials=None)
    trials = Trials()
    trials.add(candidate(0))
    plan = make_plan(job, Tasks(job, trials), trials[0], Paced())
    assert plan.epochs is not None
    least = max(9, plan.epochs, 2 * min(plan.epochs, 9)) * plan.epoch_seconds
    assert plan.epochs >= 9
    assert least <= plan.final_share * 30.0 < 2 * least  # two workers: three take twice as long
    job.ledger.close()
