"""Rung lengths and the promotion rule of the search."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True, eq=False)
class Rung:
    """One rung of a search: its results, and the trials that are no candidates for promotion."""

    entries: Sequence[RungEntry]
    """All trials that have finished it."""
    promoted: Collection[int]
    """Numbers of trials that train or have trained longer, or have no further rung."""


def promotable(rungs: Sequence[Rung], *, closing: bool) -> list[int]:
    """Trials that the acquisition function may choose for their next rung.

    At most half of a rung's trials and one more are promoted while new trials start, so that a good
    trial does not wait for others, and a third of them afterwards. From the second rung on, trials
    are dropped that are significantly worse than another one of no higher cost; at the first rung
    none is, as recipes that are slow at first overtake others later (docs/decisions.md,
    "Scheduler").

    Parameters
    ----------
    rungs : sequence of Rung
        From the first one on.
    closing : bool
        No new trials will start.

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
    """Numbers of trials that are significantly worse than another one of no higher cost.

    The upper end of their 90 % interval (Wilson 1927) is below the lower end of the other's.
    """
    if not entries:
        return set()
    bounds = [_interval(s.accuracy * s.samples, s.samples) for s in entries]
    low, high = (np.array(ends) for ends in zip(*bounds, strict=True))
    costs = np.array([s.costs for s in entries]).reshape(len(entries), -1)
    if costs.shape[1] == 1:  # Thousands of trials: not every pair.
        order = np.argsort(costs[:, 0])
        cheaper_or_equal = np.searchsorted(costs[order, 0], costs[:, 0], side="right") - 1
        out: NDArray[np.bool_] = np.maximum.accumulate(low[order])[cheaper_or_equal] > high
    else:
        cheaper = (costs[:, None, :] <= costs[None, :, :]).all(2)
        out = np.any((low[:, None] > high[None, :]) & cheaper, axis=0)
    return {s.number for s, is_out in zip(entries, out, strict=True) if is_out}


@functools.lru_cache(maxsize=1 << 15)
def _interval(correct: float, samples: int) -> tuple[float, float]:
    return wilson_interval(correct, samples, SURE)
