from __future__ import annotations

import math
from pathlib import Path

from lepton_automl.search.plan import Plan
from lepton_automl.search.planning import clock_for, make_plan, seconds_left
from lepton_automl.search.task import Task, TaskResult
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import PLAN, Trials
from tests.searching import InlineWorkers, candidate, work


class Slow(InlineWorkers):
    """A machine on which every cycle takes ten seconds, as far as it tells."""

    def run(self, task: Task) -> TaskResult:
        return TaskResult((99.0, 10.0), "1:gA==")


class Broken(InlineWorkers):
    def run(self, task: Task) -> TaskResult:
        return TaskResult(failed="no")


def test_without_a_budget_every_recipe_keeps_its_epochs(tmp_path: Path) -> None:
    job, trials = work(tmp_path / "run"), Trials()
    trials.add(candidate(0))
    workers = InlineWorkers()
    plan = make_plan(job, Tasks(job, trials), trials.candidates[0], workers)
    assert plan.epochs is None
    assert workers.tasks == []
    assert seconds_left(job) == math.inf
    assert clock_for(job, plan).is_endless
    job.ledger.close()


def test_with_a_budget_the_second_cycle_of_a_probe_tells_the_speed(tmp_path: Path) -> None:
    job, trials = work(tmp_path / "run", budget_seconds=100.0, trials=None), Trials()
    trials.add(candidate(0))
    tasks = Tasks(job, trials)
    plan = make_plan(job, tasks, trials.candidates[0], Slow())
    probe = tasks.probe(trials.candidates[0])
    work_units = (trials.candidates[0].cost.macs + 700_000) * tasks.samples * probe.cycles[-1][0]
    assert plan.seconds_per_work * work_units == 10.0
    assert job.ledger.get(PLAN, "search") == plan.to_event()
    job.ledger.close()


def test_a_first_candidate_that_cannot_be_timed_does_not_stop_the_search(tmp_path: Path) -> None:
    job, trials = work(tmp_path / "run", budget_seconds=50.0), Trials()
    trials.add(candidate(0))
    plan = make_plan(job, Tasks(job, trials), trials.candidates[0], Broken())
    assert plan.seconds_per_work > 0
    job.ledger.close()


def test_the_time_left_is_that_of_the_run_and_of_the_command(tmp_path: Path) -> None:
    job = work(tmp_path / "run", budget_seconds=100.0, deadline=lambda: 7.0)
    assert seconds_left(job) == 7.0
    job.ledger.close()
    job = work(tmp_path / "run", budget_seconds=5.0, deadline=lambda: 7.0)
    assert 0 < seconds_left(job) <= 5.0
    job.ledger.close()


def test_more_is_kept_for_the_winner_where_candidates_are_cut_short(tmp_path: Path) -> None:
    def plan(budget_seconds: float, name: str) -> Plan:
        job = work(tmp_path / name, budget_seconds=budget_seconds, trials=None)
        trials = Trials()
        trials.add(candidate(0))
        made = make_plan(job, Tasks(job, trials), trials.candidates[0], Slow())
        kept = clock_for(job, made)
        left = seconds_left(job)
        job.ledger.close()
        assert kept.allows(0.0)
        assert left > 0
        return made

    plenty, scarce = plan(1e6, "plenty"), plan(6.0, "scarce")
    own = candidate(0).recipe.epochs
    assert (plenty.epochs or 0) >= own > (scarce.epochs or 0)
    assert scarce.final_share > plenty.final_share
