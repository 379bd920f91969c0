"""Rungs: how long candidates are trained, and who goes on; nothing here trains or waits."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ETA = 3
"""One in so many candidates goes on to the next rung, which is so many times longer."""
RUNGS = 3
LEAST_SAMPLES = 6000
"""The first rung shows a net at least so many pictures: with fewer, all nets look alike."""


@dataclass(frozen=True)
class Standing:
    """A candidate that has finished a rung."""

    number: int
    accuracy: float
    """Share of validation samples it gets right after this rung."""
    costs: tuple[float, ...]
    """Known costs that are objectives; less is better."""


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


def promotable(finished: Sequence[int], promoted: Collection[int], *, closing: bool) -> int | None:
    """Who of those that finished a rung goes on now, if anybody.

    Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934, algorithm 2) on the Pareto
    rank of accuracy and known costs instead of on one loss.

    Parameters
    ----------
    finished : sequence of int
        Numbers of all who have finished the rung, best first, as `order` gives them.
    promoted : collection of int
        Numbers of those who went on already.
    closing : bool
        Nobody new will come: the best goes on even if there are fewer than three.
    """
    quota = max(len(finished) // ETA, 1 if closing else 0)
    quota = min(quota, len(finished))
    return next((number for number in finished[:quota] if number not in promoted), None)


def order(standings: Sequence[Standing]) -> list[int]:
    """Numbers, best first: by Pareto rank, within a rank by accuracy, then cost, then number."""
    if not standings:
        return []
    points = np.array([(-s.accuracy, *s.costs) for s in standings], dtype=np.float64)
    ranks = pareto_ranks(points)
    keys = [
        (int(rank), -s.accuracy, s.costs, s.number)
        for rank, s in zip(ranks, standings, strict=True)
    ]
    return [key[-1] for key in sorted(keys)]


def pareto_ranks(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rank 0 for points nothing dominates, 1 for those that only rank 0 dominates, and so on.

    Parameters
    ----------
    points : ndarray
        (N, D), every coordinate to be minimised.

    Returns
    -------
    ndarray
        int64 (N,).
    """
    columns = [(column[:, None], column[None, :]) for column in points.T]
    dominates = np.logical_and.reduce([a <= b for a, b in columns])
    dominates &= np.logical_or.reduce([a < b for a, b in columns])
    dominators = dominates.sum(0)
    ranks = np.full(len(points), -1, dtype=np.int64)
    rank = 0
    while (front := (dominators == 0) & (ranks < 0)).any():
        ranks[front] = rank
        dominators -= dominates[front].sum(0)
        rank += 1
    return ranks
