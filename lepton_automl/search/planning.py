"""Plan the time of a search from the measured speed: epochs of trials, shares of the stages."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

from lepton_automl.core.events import Event
from lepton_automl.core.units import duration, epochs_text, percent
from lepton_automl.errors import ConfigError
from lepton_automl.runs.ledger import EventKind
from lepton_automl.runs.time_budget import sufficient_budget
from lepton_automl.search.executors import Executor
from lepton_automl.search.finals.finalists import FINALISTS, Finalist, makespan
from lepton_automl.search.proposals import portfolio
from lepton_automl.search.proposals.portfolio import KnownNet
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.rungs import ETA, least_epochs
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.time_plan import (
    FINAL_SHARES,
    SAFETY,
    SCARCE_FINAL_SHARES,
    TASK_SECONDS,
    Clock,
    planned_epochs,
    probe_seconds,
    work_of,
)
from lepton_automl.search.trials import Plan, Trial, Trials, record_plan
from lepton_automl.training.distributed import expected_speedup

_SPEED = "speed"
"""Key of the `EventKind.PLAN` event with the measured speed."""
_LONGER = 2
"""A new plan is followed if its trials are trained so many times as long as those before."""
_USUAL_SECONDS_PER_WORK = 1e-10
"""Speed of training where the first candidate cannot be timed."""


def make_plan(
    work: SearchRequest,
    tasks: TaskBuilder,
    first: Trial,
    workers: Executor,
    nets: Sequence[KnownNet] = (),
) -> Plan:
    """Plan the search and record it; without a budget every trial has the epochs of its recipe.

    Parameters
    ----------
    work : SearchRequest
        Time, data, ledger.
    tasks : TaskBuilder
        Builds the task that measures the speed.
    first : Trial
        The first trial.
    workers : Executor
        One of them measures the speed.
    nets : sequence of KnownNet
        The known-good nets, that of the first trial first; by default it is the only one.

    Raises
    ------
    ConfigError
        If the budget is too short for one epoch of the first trial and the stages after it.
    """
    plan = Plan(None, 0.0, 0.0)
    if work.config.seconds_in_all is not None:
        speed = _seconds_per_work(work, tasks, first, workers)
        work = with_workers(work, workers)
        plan = _plan_at(work, tasks, first, speed, nets)
        check_time(work, plan, SAFETY * speed * work_of(first.cost.macs, tasks.samples, 1))
        for line in _plan_lines(work, plan):
            work.emit(Event("plan", line))
    record_plan(work.ledger, plan)
    return plan


def extend_plan(
    work: SearchRequest,
    tasks: TaskBuilder,
    trials: Trials,
    workers: Executor,
    nets: Sequence[KnownNet] = (),
) -> None:
    """Follow a plan with longer trainings from the next trial on, where the budget allows it.

    The trials so far keep their results; as they were trained briefly, the known-good candidates
    are trained again.
    """
    old, first = trials.plan, trials[0]
    assert old is not None
    if work.config.seconds_in_all is None:
        plan = Plan(None, 0.0, 0.0, first_trial=len(trials))
    else:
        speed = old.seconds_per_work or _seconds_per_work(work, tasks, first, workers)
        work = with_workers(work, workers)
        plan = _plan_at(work, tasks, first, speed, nets)
        if not old.seconds_per_work and old.epochs is None:
            share = FINAL_SHARES[0]
            plan = dataclasses.replace(plan, epochs=None, final_share=share, first=old.first)
        elif not trials.trained():
            pass  # Nothing was trained by the old plan.
        elif plan.epochs_or_own < _LONGER * old.epochs_or_own:
            plan = dataclasses.replace(
                plan, epochs=old.epochs, first=old.first, first_trial=old.first_trial
            )
        else:
            plan = dataclasses.replace(plan, first_trial=len(trials))
    if plan.first_trial > old.first_trial:
        longer = epochs_text(plan.epochs_or_own) if plan.own_epochs else "all epochs"
        text = f"new trials are trained for up to {longer}, those before them for "
        text += f"{epochs_text(old.epochs_or_own)}"
        work.emit(Event("plan", text))
    record_plan(work.ledger, plan)
    trials.follow(plan)


def needs_new_plan(work: SearchRequest, plan: Plan) -> bool:
    """Whether the budget is larger than that of a plan whose trials were trained too briefly.

    Also where a run without a budget gets one: the speed of this machine is not known then.
    """
    budget = work.config.seconds_in_all
    if budget is None:
        return plan.is_scarce
    return not plan.seconds_per_work or (plan.is_scarce and budget > plan.budget_seconds)


def with_workers(work: SearchRequest, workers: Executor) -> SearchRequest:
    """`work` with the number of workers, where this machine does not decide it."""
    if not work.config.trains_elsewhere:
        return work
    return dataclasses.replace(work, worker_count=max(1, round(workers.equivalent_jobs)))


def search_ends(work: SearchRequest, plan: Plan | None) -> float:
    """Seconds of the run after which the search ends: the budget less that of later stages."""
    if work.config.seconds_in_all is None:
        return math.inf
    stages = work.stage_budget(plan.epoch_seconds, plan.whole_epochs) if plan else {}
    return work.config.seconds_in_all - sum(stages.values())


def seconds_left(work: SearchRequest, plan: Plan | None) -> float:
    """Seconds until the search ends, final trainings included."""
    return search_ends(work, plan) - work.ledger.alive_seconds()


def clock_for(work: SearchRequest, plan: Plan) -> Clock:
    """Clock of a search with this plan."""
    kept = 0.0
    if work.config.seconds_in_all is not None:
        kept = plan.final_share * max(0.0, search_ends(work, plan) - plan.begun)
    return Clock(lambda: seconds_left(work, plan), kept, plan.seconds_per_work)


def check_time(work: SearchRequest, plan: Plan | None, training_seconds: float) -> None:
    """Refuse a budget in which not even the first training and the later stages would end.

    Raises
    ------
    ConfigError
        If they would end later than `SearchRequest.allowed_overrun` allows.
    """
    if work.config.seconds_in_all is None or plan is None:
        return
    if training_seconds > seconds_to_spare(work, plan):
        raise too_short(work, plan, training_seconds)


def seconds_to_spare(work: SearchRequest, plan: Plan) -> float:
    """Seconds that the first training may take; negative where the later stages take too long."""
    budget = work.config.seconds_in_all or 0.0
    later = work.least_stage_seconds(plan.epoch_seconds)
    # The time that has passed is lost: only what is still to come decides.
    left = max(0.0, budget - work.ledger.alive_seconds())
    return left + work.allowed_overrun - later


def too_short(work: SearchRequest, plan: Plan | None, training_seconds: float) -> ConfigError:
    """The error for a budget in which the first training of `training_seconds` does not end."""
    budget, ledger = work.config.seconds_in_all or 0.0, work.ledger
    later = work.least_stage_seconds(plan.epoch_seconds if plan else 0.0)
    # The next command opens the data again, and what this one took counts too.
    begins = ledger.alive_seconds() + ledger.session_seconds()
    enough = sufficient_budget(SAFETY * (begins + training_seconds + later))
    stages = f", quantization and verification about {later:.0f} s" if later else ""
    return ConfigError(
        f"--budget {duration(budget)} is too short for these data: the first training takes about "
        f"{max(1.0, training_seconds):.0f} s here{stages}, and {ledger.alive_seconds():.0f} s have "
        "passed",
        fix=f"give --budget {enough}: the same command goes on with what is done",
    )


def _plan_at(
    work: SearchRequest,
    tasks: TaskBuilder,
    first: Trial,
    speed: float,
    nets: Sequence[KnownNet] = (),
) -> Plan:
    """The plan for the time left at a speed in seconds per unit of `work_of`."""
    begun, own = work.ledger.alive_seconds(), first.recipe.epochs
    nets = nets or (KnownNet(work_of(first.cost.macs, tasks.samples, 1), own),)
    left, rung = max(0.0, seconds_left(work, None)), least_epochs(own, tasks.samples)
    kept = portfolio.affordable(nets, rung, speed, left, work.jobs)
    epoch = speed * sum(nets[index].work for index in kept) / len(kept)
    budget = work.config.seconds_in_all or 0.0
    plan = Plan(None, speed, begun, 0.0, epoch, own, own, tuple(kept), budget)
    # Shorter trainings need shorter fine-tuning after a cut: the search gets that time too. The
    # time that is kept is the least one that is enough for the epochs it leaves to the trials.
    plans = (
        _planned(work, tasks, dataclasses.replace(plan, whole_epochs=whole))
        for whole in range(1, own + 1)
    )
    return next(each for each in plans if min(own, each.epochs or own) <= each.whole_epochs)


def _planned(work: SearchRequest, tasks: TaskBuilder, plan: Plan) -> Plan:
    """`plan` with the epochs of trials and the share of the time for the final trainings.

    The share is enough for three final trainings from scratch, else for one. Where trials get fewer
    epochs than their recipe has, several known-good nets are trained for one short rung and all
    other time is that of the final training; with one known-good net the trials get the most epochs
    such that the share is enough for a training of twice those, or the largest share.
    """
    left, own = max(0.0, seconds_left(work, plan)), plan.own_epochs
    nets = len(plan.first or (0,))
    known: dict[float, int] = {}
    for share in (*FINAL_SHARES, *SCARCE_FINAL_SHARES):
        seconds = (1 - share) * left
        known[share] = planned_epochs(own, plan.epoch_seconds, seconds, work.jobs, tasks.samples)

    def is_enough(share: float, epochs: int, count: int, times: int = 1) -> bool:
        epoch_seconds = SAFETY * plan.epoch_seconds / expected_speedup(work.config.final_jobs)
        finalist = Finalist(0, epochs, own, epoch_seconds)
        each = times * finalist.min_epochs * finalist.seconds_per_epoch
        return makespan([each] * count, work.finals_at_once) <= share * left

    def planned(share: float, epochs: int) -> Plan:
        return dataclasses.replace(plan, epochs=epochs, final_share=share)

    for count in (FINALISTS, 1):
        for share in FINAL_SHARES if count == FINALISTS else known:
            if known[share] >= own and is_enough(share, known[share], count):
                return planned(share, known[share])
    epochs = least_epochs(own, tasks.samples)
    if nets > 1 and left > 0 and ETA * epochs <= own:
        rung = nets * (SAFETY * plan.epoch_seconds * epochs + TASK_SECONDS) / work.jobs
        share = min(max(SCARCE_FINAL_SHARES[0], 1 - rung / left), SCARCE_FINAL_SHARES[-1])
        return planned(share, epochs)
    return _short_plan(plan, known, functools.partial(is_enough, count=1, times=2))


def _short_plan(
    plan: Plan, known: Mapping[float, int], is_enough: Callable[[float, int], bool]
) -> Plan:
    """The plan with the most epochs of trials for which the share of the final training is enough.

    With the largest share, where no share is enough or the epochs are too few for a comparison.
    """
    most = {
        share: max((n for n in range(known[share] + 1) if is_enough(share, n)), default=0)
        for share in SCARCE_FINAL_SHARES
    }
    share = max(most, key=lambda each: most[each])
    longest = dataclasses.replace(plan, epochs=max(1, most[share]), final_share=share)
    if not most[share] or longest.is_scarce:
        share = SCARCE_FINAL_SHARES[-1]
        return dataclasses.replace(plan, epochs=known[share], final_share=share)
    return longest


def _seconds_per_work(
    work: SearchRequest, tasks: TaskBuilder, first: Trial, workers: Executor
) -> float:
    """Measured seconds for one unit of `work_of`, from a training of a small part of the budget.

    It is recorded: the budget that a message names for this speed must suffice in the next command.
    """
    known = work.ledger.get(EventKind.PLAN, _SPEED)
    if known is not None:
        return float(known["seconds_per_work"])
    limit = probe_seconds(work.config.seconds_in_all)
    probe = dataclasses.replace(tasks.probe(first), max_seconds=limit)
    speed = workers.probe(probe).seconds_per_work(probe, first.cost.macs)
    if speed:
        work.ledger.record(EventKind.PLAN, _SPEED, {"seconds_per_work": speed})
    return speed or _USUAL_SECONDS_PER_WORK


def _plan_lines(work: SearchRequest, plan: Plan) -> tuple[str, str]:
    """How the budget is shared out, and the measured speed from which this follows."""
    budget = work.config.seconds_in_all or 0.0
    search = search_ends(work, plan)
    final = plan.final_share * max(0.0, search - plan.begun)
    stages = work.stage_budget(plan.epoch_seconds, plan.whole_epochs)
    parts = [f"search {percent(search, budget)}, of which {final:.0f} s for final trainings"]
    parts += [f"{stage} {percent(seconds, budget)}" for stage, seconds in stages.items()]
    shares = f"{duration(budget)} budget (--budget): {'; '.join(parts)}"
    speed = f"an epoch takes about {plan.epoch_seconds:.2g} s; trials are trained for "
    speed += f"up to {epochs_text(plan.epochs or plan.own_epochs)}"
    if plan.is_scarce:
        speed += f" of {plan.own_epochs}: with a larger --budget the search compares more trials"
    return shares, speed
