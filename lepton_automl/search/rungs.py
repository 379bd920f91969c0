"""Rung lengths and the promotion rule of the search."""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Iterable, Iterator, Set
from dataclasses import dataclass

import numpy as np

from lepton_automl.metrics.intervals import wilson_interval

ETA = 3
"""Ratio of the epochs of successive rungs, and of the numbers of their trials."""

RUNGS = 3

SURE = 0.9
"""Level of the confidence intervals that drop a trial."""

LEAST_SAMPLES = 6000
"""Least training samples of the first rung, of all its epochs: after fewer, nets hardly differ."""


@dataclass(frozen=True)
class RungEntry:
    """A trial that has finished a rung."""

    number: int
    accuracy: float
    """Validation accuracy after this rung."""
    costs: tuple[float, ...]
    """Costs that are objectives; lower is better."""
    samples: int = 1
    """Number of validation samples."""


def milestones(epochs: int, samples: int) -> tuple[int, ...]:
    """Total epochs of a trial after each rung: E/9, E/3 and E, without repetitions.

    Parameters
    ----------
    epochs : int
        E, at least 1.
    samples : int
        Number of training samples, at least 1.
    """
    least = least_epochs(epochs, samples)
    wanted = [max(least, round(epochs / ETA**power)) for power in reversed(range(RUNGS))]
    return tuple(sorted(set(wanted)))


def least_epochs(epochs: int, samples: int) -> int:
    """Least epochs of the first rung of a trial of `epochs`: those that `LEAST_SAMPLES` need."""
    return min(epochs, math.ceil(LEAST_SAMPLES / samples))


def cycles(epochs: int, samples: int) -> tuple[int, ...]:
    """Epochs of each rung alone; each is a complete learning-rate schedule."""
    reached = milestones(epochs, samples)
    return tuple(after - before for before, after in zip((0, *reached), reached, strict=False))


class RungEntries:
    """Trials that have finished a rung, in the order of their numbers.

    Entries are only added, and what is known of those before is kept: with thousands of trials each
    decision looks at all of them.

    Parameters
    ----------
    entries : iterable of RungEntry
        The first ones.
    """

    def __init__(self, entries: Iterable[RungEntry] = ()) -> None:
        self._entries: list[RungEntry] = []
        self._numbers: set[int] = set()
        self._added: list[RungEntry] = []
        """In the order they came in; those from `_judged` on are in none of the arrays below."""
        self._judged = 0
        self._low = self._high = np.empty(0)
        """Ends of the intervals; with room for more."""
        self._costs = np.empty((0, 0))
        self._dropped: set[int] = set()
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[RungEntry]:
        return iter(self._entries)

    @property
    def numbers(self) -> Set[int]:
        """Numbers of the trials."""
        return self._numbers

    def add(self, entry: RungEntry) -> None:
        """Add a trial that is not among them."""
        bisect.insort(self._entries, entry, key=lambda each: each.number)
        self._numbers.add(entry.number)
        self._added.append(entry)

    @property
    def dropped(self) -> Set[int]:
        """Numbers of trials that are significantly worse than another one of no higher cost.

        The upper end of their 90 % interval (Wilson 1927) is below the lower end of the other's.
        More entries drop more trials and bring none back.
        """
        while self._judged < len(self._added):
            self._judge(self._added[self._judged])
        return self._dropped

    def _judge(self, entry: RungEntry) -> None:
        """Compare an entry with those before it."""
        count = self._judged
        if count == len(self._low):
            self._make_room(len(entry.costs))
        low, high = wilson_interval(entry.accuracy * entry.samples, entry.samples, SURE)
        lows, highs, costs = self._low[:count], self._high[:count], self._costs[:count]
        if ((lows > high) & (costs <= entry.costs).all(1)).any():
            self._dropped.add(entry.number)
        worse = (highs < low) & (costs >= entry.costs).all(1)
        self._dropped.update(self._added[place].number for place in np.flatnonzero(worse))
        self._low[count], self._high[count], self._costs[count] = low, high, entry.costs
        self._judged += 1

    def _make_room(self, costs: int) -> None:
        more = max(64, len(self._low))
        self._low, self._high = (
            np.append(ends, np.empty(more)) for ends in (self._low, self._high)
        )
        before = self._costs if len(self._costs) else np.empty((0, costs))
        self._costs = np.vstack([before, np.empty((more, costs))])


@dataclass(frozen=True, eq=False)
class Rung:
    """One rung of a search: its results, and the trials that are no candidates for promotion."""

    entries: RungEntries
    """All trials that have finished it."""
    promoted: Set[int]
    """Numbers of trials that train or have trained longer, or have no further rung."""


def promotable(rungs: Collection[Rung], *, closing: bool) -> list[int]:
    """Trials that the acquisition function may choose for their next rung.

    At most half of a rung's trials and one more are promoted while new trials start, so that a good
    trial does not wait for others, and a third of them afterwards. From the second rung on, trials
    are dropped that are significantly worse than another one of no higher cost; at the first rung
    none is, as recipes that are slow at first overtake others later (docs/decisions.md,
    "Scheduler").

    Parameters
    ----------
    rungs : collection of Rung
        From the first one on.
    closing : bool
        No new trials will start.

    Returns
    -------
    list of int
        Numbers, from the first rung on.
    """
    found: list[int] = []
    for number, rung in enumerate(rungs):
        count = len(rung.entries)
        quota = max(1, count // ETA) if closing else count // 2 + 1
        left = rung.entries.numbers - rung.promoted
        if count - len(left) >= quota:
            continue
        found += sorted(left - rung.entries.dropped if number else left)
    return found
