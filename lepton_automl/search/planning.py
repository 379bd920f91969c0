"""Planning: the speed of this machine, measured, becomes the length of the rungs."""

from __future__ import annotations

import dataclasses
import math

from lepton_automl.events import Event
from lepton_automl.search.executor import Workers
from lepton_automl.search.plan import (
    FINAL_SHARE,
    SCARCE_FINAL_SHARE,
    Clock,
    Plan,
    planned_epochs,
    work_of,
)
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
        plan = _planned(work, tasks, first.recipe.epochs, epoch)
        plan = dataclasses.replace(plan, seconds_per_work=speed, begun=begun)
        message = f"an epoch takes about {epoch:.2g} s; candidates get up to {plan.epochs}"
        work.emit(Event("search", message))
    work.ledger.record(PLAN, "search", plan.to_event())
    return plan


def _planned(work: SearchWork, tasks: Tasks, own: int, seconds_per_epoch: float) -> Plan:
    """Keep more for the end where candidates get fewer epochs than their recipe asks for."""
    left = max(0.0, seconds_left(work))

    def epochs(share: float) -> int:
        seconds = (1 - share) * left
        return planned_epochs(own, seconds_per_epoch, seconds, work.jobs, tasks.samples)

    share = FINAL_SHARE if epochs(FINAL_SHARE) >= own else SCARCE_FINAL_SHARE
    return Plan(epochs(share), 0.0, 0.0, share)


def clock_for(work: SearchWork, plan: Plan) -> Clock:
    """Time left and the time of tasks, under `plan`."""
    kept = 0.0
    if work.budget_seconds is not None:
        kept = plan.final_share * max(0.0, work.budget_seconds - plan.begun)
    return Clock(lambda: seconds_left(work), kept, plan.seconds_per_work)


def _seconds_per_work(tasks: Tasks, first: Candidate, workers: Workers) -> float:
    probe = tasks.probe(first)
    result = workers.call(probe)
    if result.failed:
        return USUAL_SECONDS_PER_WORK
    return result.seconds[-1] / work_of(first.cost.macs, probe.samples, probe.cycles[-1][0])
