"""Planning: the speed of this machine, measured, becomes the length of the rungs."""

from __future__ import annotations

import dataclasses
import math

from lepton_automl.events import Event
from lepton_automl.parallel import expected_speedup
from lepton_automl.search.executor import Workers
from lepton_automl.search.finals import FINALISTS, Entrant, makespan
from lepton_automl.search.ledger import EventKind
from lepton_automl.search.orientation import FLIP
from lepton_automl.search.plan import (
    FINAL_SHARES,
    SAFETY,
    SCARCE_FINAL_SHARES,
    Clock,
    Plan,
    planned_epochs,
    work_of,
)
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import Trial
from lepton_automl.search.work import SearchWork
from lepton_automl.shares import percent

USUAL_SECONDS_PER_WORK = 1e-10
"""Where the first candidate cannot be timed."""


def search_ends(work: SearchWork, plan: Plan | None) -> float:
    """Seconds the run may have been alive when the search ends: the budget less later stages."""
    if work.config.seconds_in_all is None:
        return math.inf
    later = work.later(plan.epoch_seconds, plan.whole_epochs) if plan else {}
    return work.config.seconds_in_all - sum(later.values())


def seconds_left(work: SearchWork, plan: Plan | None) -> float:
    """Until the search must end."""
    return search_ends(work, plan) - work.ledger.alive_seconds()


def make_plan(work: SearchWork, tasks: Tasks, first: Trial, workers: Workers) -> Plan:
    """The plan, recorded and told; without a budget every recipe's own epochs count."""
    plan = Plan(None, 0.0, 0.0)
    if work.config.seconds_in_all is not None:
        begun = work.ledger.alive_seconds()
        known = work.ledger.get(EventKind.PLAN, FLIP) or {}
        speed = known.get("speed") or _seconds_per_work(tasks, first, workers)
        epoch = speed * work_of(first.cost.macs, tasks.samples, 1)
        own = first.recipe.epochs
        plan = _planned(work, tasks, Plan(None, speed, begun, 0.0, epoch, own, own))
        # Cut short, trainings leave less to recover after a cut: the search gets that time too.
        plan = dataclasses.replace(plan, whole_epochs=min(own, plan.epochs or own))
        plan = _planned(work, tasks, plan)
        work.emit(Event("plan", _told(work, plan)))
    work.ledger.record(EventKind.PLAN, "search", plan.to_event())
    return plan


def _planned(work: SearchWork, tasks: Tasks, plan: Plan) -> Plan:
    """`plan` with the epochs of candidates and what is kept for the end.

    Enough for three trainings from nothing, else for one. Where candidates would get fewer epochs
    than their recipe asks for, enough for one of twice as many, or nearly all there is.
    """
    left, own = max(0.0, seconds_left(work, plan)), plan.own_epochs
    known: dict[float, int] = {}
    for share in (*FINAL_SHARES, *SCARCE_FINAL_SHARES):
        seconds = (1 - share) * left
        known[share] = planned_epochs(own, plan.epoch_seconds, seconds, work.jobs, tasks.samples)

    def is_enough(share: float, count: int, times: int = 1) -> bool:
        epoch_seconds = SAFETY * plan.epoch_seconds / expected_speedup(work.config.final_jobs)
        entrant = Entrant(0, known[share], own, epoch_seconds)
        each = times * entrant.least * entrant.seconds_per_epoch
        lasting = makespan([each] * count, work.finals_at_once)
        return lasting <= share * left

    whole = [share for share in FINAL_SHARES if known[share] >= own and is_enough(share, FINALISTS)]
    some = [share for share in known if known[share] >= own and is_enough(share, 1)]
    short = [share for share in SCARCE_FINAL_SHARES if is_enough(share, 1, times=2)]
    plans = [
        dataclasses.replace(plan, epochs=known[share], final_share=share)
        for share in (*whole, *some, *short, SCARCE_FINAL_SHARES[-1])
    ]
    return next((plan for plan in plans if not plan.is_scarce), plans[-1])


def _told(work: SearchWork, plan: Plan) -> str:
    """The shares in a line, with the speed they follow from."""
    budget = work.config.seconds_in_all or 0.0
    search = search_ends(work, plan)
    final = plan.final_share * max(0.0, search - plan.begun)
    later = work.later(plan.epoch_seconds, plan.whole_epochs)
    parts = [f"search {percent(search, budget)}, of these {final:.0f} s to confirm the best"]
    parts += [f"{stage} {percent(seconds, budget)}" for stage, seconds in later.items()]
    pace = f"an epoch takes about {plan.epoch_seconds:.2g} s, candidates get up to {plan.epochs}"
    few = "; time is scarce: a known-good one is trained to the end" if plan.is_scarce else ""
    return f"{'; '.join(parts)}; {pace}{few}"


def clock_for(work: SearchWork, plan: Plan) -> Clock:
    """Time left and the time of tasks, under `plan`."""
    kept = 0.0
    if work.config.seconds_in_all is not None:
        kept = plan.final_share * max(0.0, search_ends(work, plan) - plan.begun)
    return Clock(lambda: seconds_left(work, plan), kept, plan.seconds_per_work)


def _seconds_per_work(tasks: Tasks, first: Trial, workers: Workers) -> float:
    probe = tasks.probe(first)
    result = workers.call(probe)
    if result.failed:
        return USUAL_SECONDS_PER_WORK
    return result.seconds[-1] / work_of(first.cost.macs, probe.samples, probe.cycles[-1][0])
