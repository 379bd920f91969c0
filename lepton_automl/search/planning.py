"""Planning: the speed of this machine, measured, becomes the length of the rungs."""

from __future__ import annotations

import math

from lepton_automl.events import Event
from lepton_automl.search.executor import Workers
from lepton_automl.search.plan import FINAL_SHARE, Clock, Plan, planned_epochs, work_of
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import PLAN, Candidate
from lepton_automl.search.work import SearchWork

USUAL_SECONDS_PER_WORK = 1e-10
"""Where the first candidate cannot be timed."""


def seconds_left(work: SearchWork) -> float:
    """Until the search must end."""
    budget = math.inf if work.budget_seconds is None else work.budget_seconds
    return min(budget - work.ledger.alive_seconds(), work.deadline())


def make_plan(work: SearchWork, tasks: Tasks, first: Candidate, workers: Workers) -> Plan:
    """The plan, recorded; without a budget every recipe's own epochs count."""
    plan = Plan(None, 0.0, 0.0)
    if work.budget_seconds is not None:
        begun = work.ledger.alive_seconds()
        speed = _seconds_per_work(tasks, first, workers)
        epoch = speed * work_of(first.cost.macs, tasks.samples, 1)
        seconds = (1 - FINAL_SHARE) * max(0.0, seconds_left(work))
        own, jobs = first.recipe.epochs, work.jobs
        plan = Plan(planned_epochs(own, epoch, seconds, jobs, tasks.samples), speed, begun)
        message = f"an epoch takes about {epoch:.2g} s; candidates get up to {plan.epochs}"
        work.emit(Event("search", message))
    work.ledger.record(PLAN, "search", plan.to_event())
    return plan


def clock_for(work: SearchWork, plan: Plan) -> Clock:
    """Time left and the time of tasks, under `plan`."""
    kept = 0.0
    if work.budget_seconds is not None:
        kept = FINAL_SHARE * max(0.0, work.budget_seconds - plan.begun)
    return Clock(lambda: seconds_left(work), kept, plan.seconds_per_work)


def _seconds_per_work(tasks: Tasks, first: Candidate, workers: Workers) -> float:
    probe = tasks.probe(first)
    result = workers.call(probe)
    if result.failed:
        return USUAL_SECONDS_PER_WORK
    return result.seconds[-1] / work_of(first.cost.macs, probe.samples, probe.cycles[-1][0])
