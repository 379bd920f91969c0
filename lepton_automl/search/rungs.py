"""Rungs: how long candidates are trained, and who goes on; nothing here trains or waits."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_automl.metrics.intervals import wilson_interval

ETA = 3
"""One in so many candidates goes on to the next rung, which is so many times longer."""

RUNGS = 3

SURE = 0.9
"""Level of the intervals that drop a candidate."""

LEAST_SAMPLES = 6000
"""The first rung shows a net at least so many pictures: with fewer, all nets look alike."""


@dataclass(frozen=True)
class RungEntry:
    """A candidate that has finished a rung."""

    number: int
    accuracy: float
    """Share of validation samples it gets right after this rung."""
    costs: tuple[float, ...]
    """Known costs that are objectives; less is better."""
    samples: int = 1
    """Of the validation part."""


def milestones(epochs: int, samples: int) -> tuple[int, ...]:
    """Epochs a candidate has had in all after each rung: E/9, E/3 and E, none twice.

    Parameters
    ----------
    epochs : int
        E, at least 1.
    samples : int
        Of the training part, at least 1.
    """
    least = min(epochs, math.ceil(LEAST_SAMPLES / samples))
    wanted = [max(least, round(epochs / ETA**power)) for power in reversed(range(RUNGS))]
    return tuple(sorted(set(wanted)))


def cycles(epochs: int, samples: int) -> tuple[int, ...]:
    """Epochs of each rung by itself; every one is a whole schedule that ends annealed."""
    reached = milestones(epochs, samples)
    return tuple(after - before for before, after in zip((0, *reached), reached, strict=False))


@dataclass(frozen=True, eq=False)
class Rung:
    """One rung of a search: its results, and which of its trials need no promotion."""

    entries: Sequence[RungEntry]
    """All that have finished it."""
    promoted: Collection[int]
    """Numbers of those that train or have trained longer, or have no further rung."""


def promotable(rungs: Sequence[Rung], *, closing: bool) -> list[int]:
    """Trials that an acquisition function may choose for their next rung.

    Half of a rung's trials and one more may be promoted while new trials come, since a good one
    need not wait for others, and one in three when none will. From the second rung on a trial is
    dropped that another one surely beats at no higher cost; at the first rung none is, as recipes
    that are slow at first overtake others later (docs/decisions.md, "Scheduler").

    Parameters
    ----------
    rungs : sequence of Rung
        From the first one on.
    closing : bool
        No new trials will come.

    Returns
    -------
    list of int
        Numbers, from the first rung on.
    """
    found = []
    for number, rung in enumerate(rungs):
        count = len(rung.entries)
        quota = max(1, count // ETA) if closing else count // 2 + 1
        promoted = set(rung.promoted)
        if len({e.number for e in rung.entries} & promoted) >= quota:
            continue
        excluded = promoted | dropped(rung.entries) if number else promoted
        found += [e.number for e in rung.entries if e.number not in excluded]
    return found


def dropped(entries: Sequence[RungEntry]) -> set[int]:
    """Numbers of trials that another one surely beats at no higher cost.

    Surely: the lower end of the other's 90 % interval (Wilson 1927) is above the upper end.
    """
    if not entries:
        return set()
    bounds = [wilson_interval(s.accuracy * s.samples, s.samples, SURE) for s in entries]
    low, high = (np.array(ends) for ends in zip(*bounds, strict=True))
    costs = np.array([s.costs for s in entries]).reshape(len(entries), -1)
    cheaper = (costs[:, None, :] <= costs[None, :, :]).all(2)
    out: NDArray[np.bool_] = np.any((low[:, None] > high[None, :]) & cheaper, axis=0)
    return {s.number for s, is_out in zip(entries, out, strict=True) if is_out}
