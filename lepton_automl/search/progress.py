"""Rows, front and progress of a search, for tables and screens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lepton_automl.core.decisions import SEARCH_TIME, Decision
from lepton_automl.core.events import Event
from lepton_automl.core.units import counted, duration, epochs_text
from lepton_automl.search.objectives import Objective
from lepton_automl.search.pareto import on_front
from lepton_automl.search.request import SearchRequest, TrialRow
from lepton_automl.search.time_plan import FEW_TRIALS
from lepton_automl.search.trials import Trials


def row_of(trials: Trials, number: int) -> TrialRow:
    """The table row of a trial."""
    candidate, scores = trials[number], trials.results[number]
    failed = scores[-1].failed if scores else ""
    score = trials.best_result(number) if scores and not scores[0].failed else None
    compared = trials.cross_validated.get(number)
    return TrialRow(
        number=number,
        params=candidate.params,
        arch=candidate.arch,
        recipe=candidate.recipe,
        cost=candidate.cost,
        accuracy=score.accuracy if score else None,
        interval=score.interval if score else None,
        rung=len(scores) - 1,
        epochs=score.epochs if score else 0,
        feasible=not scores or score is not None,
        note=failed,
        cross_validation=compared.accuracy if compared else None,
    )


def front_of(trials: Trials, objectives: Sequence[Objective]) -> tuple[TrialRow, ...]:
    """Rows of the Pareto front, the most accurate first."""
    alive = trials.trained()
    if not alive:
        return ()
    known = [(trials.best_result(n).accuracy, trials[n].cost) for n in alive]
    points = [[o.sign * o.value(accuracy, cost) for o in objectives] for accuracy, cost in known]
    best = on_front(np.array(points, dtype=np.float64))
    rows = [row_of(trials, n) for n, is_best in zip(alive, best, strict=True) if is_best]
    return tuple(sorted(rows, key=lambda row: (-(row.accuracy or 0.0), row.cost.size_bytes)))


def progress(
    last: TrialRow,
    best: TrialRow | None,
    front: Sequence[TrialRow],
    *,
    started: int,
    done: float,
    total: float,
    seconds: float,
) -> Event:
    """Progress of a search after a training.

    Parameters
    ----------
    last : TrialRow
        The trial that was trained.
    best : TrialRow or None
        The trial that would win now.
    front : sequence of TrialRow
        The front so far.
    started : int
        Number of trials so far.
    done, total : float
        Seconds of the budget, or epochs of all trials.
    seconds : float
        Estimated time left; infinity where it is not known.
    """
    about = f"trial {last.number}, {epochs_text(last.epochs)}: {_short(last)}"
    leader = "" if best is None else f"; best so far: trial {best.number}, {_short(best)}"
    if best is not None and best.number == last.number:
        leader = " (best so far)"
    left = "" if math.isinf(seconds) else f"; about {duration(seconds)} left"
    data = {
        "trial": _facts(last),
        "best": _facts(best) if best else None,
        "front": [_facts(row) for row in front],
        "trials": started,
        "eta_seconds": None if math.isinf(seconds) else seconds,
    }
    return Event("search", about + leader + left, min(done, total), total, data)


def time_decision(trials: Trials, number: int, request: SearchRequest) -> Decision | None:
    """How the budget was used by the search; None without a budget.

    Its certainty is `assumed` where the net was hardly chosen by comparison: after fewer than
    `FEW_TRIALS` trials that had an end in the time only, or with fewer epochs than its recipe has.

    Parameters
    ----------
    trials : Trials
        All trials of the search.
    number : int
        The winner.
    request : SearchRequest
        With the budget, the number of trials and the time that has passed.
    """
    plan, config = trials.plan, request.config
    budget = config.seconds_in_all
    if plan is None or budget is None:
        return None
    trained, result = trials.trained(), trials.best_result(number)
    longest = max(trials.search_epochs(each) for each in trained)
    own = trials[number].recipe.epochs
    is_few = len(trained) < min(FEW_TRIALS, config.trials or FEW_TRIALS)
    is_short = result.epochs < own
    planned = ""
    if result.planned_epochs:  # Trainings were slower than planned.
        planned = f"; planned: {result.planned_epochs}, but trainings became slower"
    count = f"{counted(len(trained), 'trial')} of up to {epochs_text(longest)}"
    if is_few or is_short:
        choice = f"the search had time for {count} only"
        choice += f", and the winner was trained for {epochs_text(result.epochs)} "
        choice += f"(its recipe: {own}{planned})"
    else:
        choice = f"{count}; the winner was trained for {result.epochs}{planned}"
    evidence = f"{duration(budget)} budget; an epoch took about {plan.epoch_seconds:.2g} s"
    if is_few or is_short:
        larger = f"--budget {request.continuing_budget(plan.epoch_seconds)}"
        return Decision(SEARCH_TIME, choice, evidence, "assumed", larger)
    return Decision(SEARCH_TIME, choice, evidence, "measured", "--budget")


def ended(winner: TrialRow, front: Sequence[TrialRow], started: int) -> Event:
    """Progress at the end of a search, with the figures after the final trainings."""
    return progress(winner, winner, front, started=started, done=1.0, total=1.0, seconds=math.inf)


def _short(row: TrialRow) -> str:
    if row.accuracy is None:
        return row.note or "not trained yet"
    cost, latency = row.cost, ""
    if cost.latency_ms is not None:
        called = "" if cost.latency_basis == "measured" else f" {cost.latency_basis}"
        latency = f", {cost.latency_ms * 1e3:.0f} us{called}"
    reached = f"{row.accuracy:.1%}"
    if row.cross_validation is not None:
        reached = f"{row.cross_validation.accuracy:.1%} by cross-validation"
    return f"{reached} in {cost.size_bytes / 1e3:.1f} kB{latency}"


def _facts(row: TrialRow) -> dict[str, object]:
    return {
        "number": row.number,
        "accuracy": row.accuracy,
        "size_bytes": row.cost.size_bytes,
        "macs": row.cost.macs,
        "latency_ms": row.cost.latency_ms,
        "latency_basis": row.cost.latency_basis,
        "rung": row.rung,
        "epochs": row.epochs,
        "note": row.note,
    }
