"""Pick: which of the trained candidates is the one the user asked for."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_automl.config import Goal, Limits
from lepton_automl.cost.cost import Cost, excess
from lepton_automl.metrics import balanced
from lepton_automl.metrics.balanced import Strata
from lepton_automl.metrics.bootstrap import cluster_effective_fraction
from lepton_automl.metrics.intervals import accuracy_interval

CLEARLY, BEYOND = 1.2816, 0.1
"""Standard errors of a one-sided 90 % bound, and what lies beyond it."""

LARGEST_GAP = 0.005
"""Share of samples that a cheaper candidate may be below the best: on a small validation part
hardly anything is distinguishable, and that is no reason to give accuracy away."""

SAME_COST = math.log(1.05)
"""Costs within about 5 % count as equal: two timings of one file differ by as much."""


@dataclass(frozen=True, eq=False)
class Option:
    """A candidate as the choice sees it."""

    number: int
    """Its trial number; the smaller one wins where all else is equal."""
    correct: NDArray[np.bool_ | np.float64]
    """(N,): how often it gets each validation sample right, 0 to 1, over its trainings; the same
    samples for every option."""
    cost: Cost
    groups: NDArray[np.int64] | None = None
    """(N,): samples of one group belong together; None: each stands for itself."""
    strata: Strata = None
    """(N,): class of each sample where every class counts alike; None: every sample does."""

    @functools.cached_property
    def accuracy(self) -> float:
        """Share of correct samples; of each class, on average, where every class counts alike."""
        return balanced.balanced_mean(self.correct, self.strata)


@dataclass(frozen=True)
class Choice:
    """The option chosen and why, in words."""

    number: int
    reason: str


def choose(options: Sequence[Option], goal: Goal) -> Choice:
    """The option that serves the goal best.

    Those within the cost limits come first. With `min_accuracy` it is the cheapest whose accuracy
    reaches it (surely, if any does), by latency and then bytes. Without, it is the cheapest
    whose accuracy is not distinguishably below the best, and at most `LARGEST_GAP` below it; or
    the most accurate, where accuracy is the only objective.

    Parameters
    ----------
    options : sequence of Option
        At least one.
    goal : Goal
        Of its limits those of cost and `min_accuracy` count; `max_drop` is for the compression.
        `prefer` is `latency`: latency decides first, then bytes, as it does with `min_accuracy`.
        `size`: the product of the two does, so that half the bytes pay for twice the time.
    """
    legal = within_limits(options, goal.limits)
    if goal.limits.min_accuracy is not None:
        return _cheapest_reaching(legal, goal.limits.min_accuracy)
    best = by_accuracy(legal)[0]
    measure = "accuracy" if best.strata is None else "balanced accuracy"
    if not goal.minds_costs:
        return Choice(best.number, f"the best {measure} of those within the limits")
    by_price = sorted(legal, key=lambda o: _price(o, latency_first=goal.prefer == "latency"))
    near = [o for o in by_price if best.accuracy - o.accuracy <= LARGEST_GAP]
    chosen = next(o for o in near if not clearly_below(o.correct, best.correct, o.groups, o.strata))
    return Choice(
        chosen.number,
        f"the cheapest whose {measure} is not distinguishably below the best, half a point at most",
    )


def ranked(options: Sequence[Option], goal: Goal, count: int) -> list[Option]:
    """The first `count` choices: each is what `choose` takes once those before it are gone."""
    left, chosen = list(options), list[Option]()
    while left and len(chosen) < count:
        number = choose(left, goal).number
        chosen += [o for o in left if o.number == number]
        left = [o for o in left if o.number != number]
    return chosen


def finalists(options: Sequence[Option], goal: Goal, count: int) -> list[Option]:
    """Who is worth a last training: the first choices, and the most accurate among them.

    "Not distinguishably below the best" means little unless the best itself is trained to the end.
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
    return [o for o in options if not excess(o.cost, limits)] or list(options)


def clearly_below(
    correct: NDArray[np.bool_ | np.float64],
    best: NDArray[np.bool_ | np.float64],
    groups: NDArray[np.int64] | None = None,
    strata: Strata = None,
) -> bool:
    """Whether the one-sided 90 % bound says that `correct` is worse than `best`.

    Paired: only samples that the two answer differently count (McNemar 1947). Samples in groups
    count as effective samples (`bootstrap.cluster_effective_fraction`); with `strata` every class
    counts alike.
    """
    lost = balanced.influence_values(best.astype(np.float64) - correct, strata)
    return bool(lost.mean() > CLEARLY * lost.std() / math.sqrt(_worth(lost, groups)))


def _worth(values: NDArray[np.float64], groups: NDArray[np.int64] | None) -> float:
    """Independent samples that tell as much."""
    if groups is None:
        return len(values)
    return len(values) * cluster_effective_fraction(values, groups, 1 - 2 * BEYOND)


def _cheapest_reaching(options: list[Option], minimum: float) -> Choice:
    reaching = [o for o in options if o.accuracy >= minimum]
    sure = [o for o in reaching if _lower_bound(o) >= minimum]
    if not reaching:
        best = by_accuracy(options)[0]
        return Choice(best.number, f"the best there is: none reaches {minimum:.2%}")
    chosen = min(sure or reaching, key=lambda o: _price(o, latency_first=True))
    how = "surely reaches" if sure else "reaches"
    return Choice(chosen.number, f"the cheapest that {how} {minimum:.2%} on validation")


def _lower_bound(option: Option) -> float:
    """One-sided 90 % Wilson bound (Wilson 1927); by draws where every class counts alike."""
    if option.strata is not None:
        return accuracy_interval(
            option.correct, option.groups, option.strata, level=1 - 2 * BEYOND
        )[0]
    share = option.accuracy
    n = _worth(option.correct.astype(np.float64), option.groups)
    z2 = CLEARLY**2
    centre = share + z2 / (2 * n)
    spread = CLEARLY * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return (centre - spread) / (1 + z2 / n)


def _price(option: Option, *, latency_first: bool) -> tuple[float, ...]:
    cost = option.cost
    latency_ms, size = cost.latency_ms or 1.0, cost.size_bytes
    first = (_step(latency_ms), _step(size)) if latency_first else (_step(latency_ms * size),)
    return (*first, -option.accuracy, size, option.number)


def _step(value: float) -> float:
    return float(round(math.log(max(value, 1e-9)) / SAME_COST))
