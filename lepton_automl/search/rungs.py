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


def may_go_on(
    standings: Sequence[RungEntry], promoted: Collection[int], *, rung: int, closing: bool
) -> list[int]:
    """Who of those that finished a rung may go on: not yet promoted, not dropped, within quota.

    Half of them and one more may while new candidates come, since a good one need not wait for
    others, and one in three when none will. Intervals drop nobody at the first rung: recipes that
    are slow at first overtake others later (docs/decisions.md, "When a trial is dropped as surely
    worse").

    Parameters
    ----------
    standings : sequence of RungEntry
        All who have finished the rung.
    promoted : collection of int
        Numbers of those who went on already.
    rung : int
        Which one, from 0.
    closing : bool
        Nobody new will come.
    """
    count = len(standings)
    quota = max(1, count // ETA) if closing else count // 2 + 1
    if len({s.number for s in standings} & set(promoted)) >= quota:
        return []
    out = dropped(standings) if rung else set()
    return [s.number for s in standings if s.number not in promoted and s.number not in out]


def dropped(standings: Sequence[RungEntry]) -> set[int]:
    """Numbers of those that another is surely better than at no higher cost.

    Surely: the lower end of the other's 90 % interval (Wilson 1927) is above the upper end of
    theirs.
    """
    if not standings:
        return set()
    bounds = [wilson_interval(s.accuracy * s.samples, s.samples, SURE) for s in standings]
    low, high = (np.array(ends) for ends in zip(*bounds, strict=True))
    costs = np.array([s.costs for s in standings]).reshape(len(standings), -1)
    cheaper = (costs[:, None, :] <= costs[None, :, :]).all(2)
    out: NDArray[np.bool_] = np.any((low[:, None] > high[None, :]) & cheaper, axis=0)
    return {s.number for s, is_out in zip(standings, out, strict=True) if is_out}
