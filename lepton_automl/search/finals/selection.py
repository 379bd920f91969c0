"""Select the trained net that serves the goal best: limits, accuracy, then cost."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_automl.config import Goal, Limits
from lepton_automl.cost.cost import Cost, violations
from lepton_automl.metrics import balanced
from lepton_automl.metrics.balanced import Strata
from lepton_automl.metrics.bootstrap import cluster_effective_fraction
from lepton_automl.metrics.intervals import accuracy_interval
from lepton_automl.metrics.paired import is_significantly_below

_Z, _TAIL = 1.2816, 0.1
"""Standard errors of a one-sided 90 % bound, and the probability beyond it."""

MAX_GAP = 0.005
"""Accuracy that a cheaper net may be below the best: on a small validation part even large
differences are not significant."""

_COST_STEP = math.log(1.05)
"""Costs within about 5 % count as equal: two measurements of one file differ by as much."""


@dataclass(frozen=True, eq=False)
class Option:
    """A trained net that can be selected."""

    number: int
    """Number of the trial; the smallest is selected where all else is equal."""
    correct: NDArray[np.bool_ | np.float64]
    """(N,): share of its trainings, 0 to 1, that classify each sample correctly; the same samples
    for every option, those of the validation part or of several folds."""
    cost: Cost
    groups: NDArray[np.int64] | None = None
    """(N,): group of each sample; None: samples are independent."""
    strata: Strata = None
    """(N,): class of each sample where classes have equal weight; None: samples have."""
    where: str = "on validation"
    """What the samples are, in words."""

    @functools.cached_property
    def accuracy(self) -> float:
        """Accuracy, 0 to 1; balanced accuracy where classes have equal weight."""
        return balanced.balanced_mean(self.correct, self.strata)


@dataclass(frozen=True)
class Selection:
    """The number of the selected option, and the reason in words."""

    number: int
    reason: str


def choose(options: Sequence[Option], goal: Goal) -> Selection:
    """Select the option that serves the goal best.

    Options within the cost limits come first. With `min_accuracy` the cheapest one that reaches it
    is selected (by its lower confidence bound, if there is one), by latency and then bytes.
    Without, the cheapest one whose accuracy is not significantly below the best, and at most
    `MAX_GAP` below it; or the most accurate, where accuracy is the only objective.

    Parameters
    ----------
    options : sequence of Option
        At least one.
    goal : Goal
        Of its limits those on costs and `min_accuracy` are used; `max_drop` is for the compression.
        With `prefer` set to `latency` options are sorted by latency, then bytes, as with
        `min_accuracy`; with `size` by the product of both.
    """
    feasible = within_limits(options, goal.limits)
    if goal.limits.min_accuracy is not None:
        return _cheapest_reaching(feasible, goal.limits.min_accuracy)
    best = by_accuracy(feasible)[0]
    measure = "accuracy" if best.strata is None else "balanced accuracy"
    if not goal.prefers_cheaper:
        return Selection(best.number, f"the highest {measure} within the limits")
    by_cost = sorted(feasible, key=lambda o: _cost_key(o, latency_first=goal.prefer == "latency"))
    near = [o for o in by_cost if best.accuracy - o.accuracy <= MAX_GAP]
    chosen = next(
        o for o in near if not is_significantly_below(o.correct, best.correct, o.groups, o.strata)
    )
    return Selection(
        chosen.number,
        f"the cheapest whose {measure} is not significantly below the best (at most 0.5 points)",
    )


def ranked(options: Sequence[Option], goal: Goal, count: int) -> list[Option]:
    """The first `count` choices: `choose`, repeated without the options chosen before."""
    left, chosen = list(options), list[Option]()
    while left and len(chosen) < count:
        number = choose(left, goal).number
        chosen += [o for o in left if o.number == number]
        left = [o for o in left if o.number != number]
    return chosen


def finalists(options: Sequence[Option], goal: Goal, count: int) -> list[Option]:
    """Options for a final training: the first choices, and the most accurate option.

    A net is selected by comparison with the best one, so the best must have a final training too.
    """
    chosen, limits = ranked(options, goal, count), goal.limits
    best = by_accuracy(within_limits(options, limits))[0]
    if limits.min_accuracy is None and count > 1 and best.number not in {o.number for o in chosen}:
        chosen[-1:] = [best]
    return chosen


def by_accuracy(options: Sequence[Option]) -> list[Option]:
    """Options sorted by accuracy, highest first; ties by size in bytes, then by number."""
    return sorted(options, key=lambda o: (-o.accuracy, o.cost.size_bytes, o.number))


def within_limits(options: Sequence[Option], limits: Limits) -> list[Option]:
    """Options that satisfy the cost limits; all options if none does."""
    return [o for o in options if not violations(o.cost, limits)] or list(options)


def _effective_samples(values: NDArray[np.float64], groups: NDArray[np.int64] | None) -> float:
    if groups is None:
        return len(values)
    return len(values) * cluster_effective_fraction(values, groups, 1 - 2 * _TAIL)


def _cheapest_reaching(options: list[Option], minimum: float) -> Selection:
    reaching = [o for o in options if o.accuracy >= minimum]
    sure = [o for o in reaching if _lower_bound(o) >= minimum]
    if not reaching:
        best = by_accuracy(options)[0]
        return Selection(best.number, f"the highest accuracy: none reaches {minimum:.2%}")
    chosen = min(sure or reaching, key=lambda o: _cost_key(o, latency_first=True))
    bound = " with its lower 90 % bound" if sure else ""
    reason = f"the cheapest that reaches {minimum:.2%} {chosen.where}{bound}"
    return Selection(chosen.number, reason)


def _lower_bound(option: Option) -> float:
    """One-sided 90 % bound: Wilson 1927, or by bootstrap where classes have equal weight."""
    if option.strata is not None:
        return accuracy_interval(option.correct, option.groups, option.strata, level=1 - 2 * _TAIL)[
            0
        ]
    share = option.accuracy
    n = _effective_samples(option.correct.astype(np.float64), option.groups)
    z2 = _Z**2
    centre = share + z2 / (2 * n)
    spread = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return (centre - spread) / (1 + z2 / n)


def _cost_key(option: Option, *, latency_first: bool) -> tuple[float, ...]:
    cost = option.cost
    latency_ms, size = cost.latency_ms or 1.0, cost.size_bytes
    first = (_step(latency_ms), _step(size)) if latency_first else (_step(latency_ms * size),)
    return (*first, -option.accuracy, size, option.number)


def _step(value: float) -> float:
    return float(round(math.log(max(value, 1e-9)) / _COST_STEP))
