"""Pareto ranks, exact hypervolume, and the hypervolume of a search after every rung."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.cost.cost import Cost
from lepton_automl.runs.ledger import REFERENCE, EventKind, Ledger, LedgerView
from lepton_automl.search.objectives import Objective
from lepton_automl.search.training_key import Stage, TrainingKey
from lepton_automl.search.trials import RungResult, Trial, Trials

ROOM = 2.0
"""Doublings of the first trial's costs up to the reference point."""
DIGITS = 6
_SWEPT = 2
"""Coordinates up to which ranks are found by one pass over sorted points."""
BLOCK = 300
"""Points compared in one matrix; more are split in halves, to save memory."""
Points = NDArray[np.float64]


def pareto_ranks(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rank 0 for points that none dominates, 1 for those that only rank 0 dominates, and so on.

    Parameters
    ----------
    points : ndarray
        (N, D), every coordinate to be minimized.

    Returns
    -------
    ndarray
        int64 (N,).
    """
    if points.shape[1] <= _SWEPT:
        return _swept_ranks(points)
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


def _swept_ranks(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Ranks of thousands of points of one or two coordinates, without a matrix of all pairs.

    In lexicographic order, only points before one dominate it: those of each rank whose least
    second coordinate is at most its own.
    """
    ranks = np.zeros(len(points), dtype=np.int64)
    least: list[float] = []
    """Of the second coordinate, by rank; it grows with the rank."""
    order = np.lexsort(points.T[::-1]).tolist()
    rows = [(row[0], row[-1] if len(row) > 1 else 0.0) for row in points.tolist()]
    for before, place in zip([None, *order], order, strict=False):
        if before is not None and rows[before] == rows[place]:
            ranks[place] = ranks[before]
            continue
        last = rows[place][1]
        ranks[place] = rank = bisect.bisect_right(least, last)
        least[rank : rank + 1] = [last]
    return ranks


def on_front(points: Points) -> NDArray[np.bool_]:
    """Which points no other one dominates: those of rank 0, without a matrix of all pairs.

    Parameters
    ----------
    points : ndarray
        (N, D), every coordinate to be minimized.

    Returns
    -------
    ndarray
        bool (N,); equal points do not dominate each other.
    """
    best = set(map(tuple, front_of(points).tolist()))
    return np.array([tuple(point) in best for point in points.tolist()], np.bool_)


def hypervolume(points: Points, reference: Points) -> float:
    """Exact volume that `points` dominate, up to `reference`.

    Up to three dimensions are summed on the grid of the points' coordinates; more are cut into
    slices of one dimension less (hypervolume by slicing objectives, While et al. 2006).

    Parameters
    ----------
    points : ndarray
        (N, D), every coordinate to be minimized; those beyond the reference have no volume.
    reference : ndarray
        (D,), the worst value of each coordinate.
    """
    inside = points[(points < reference).all(1)]
    return _volume(front_of(inside), reference) if len(inside) else 0.0


def front_of(points: Points) -> Points:
    """The points that no other dominates, without repetitions, in lexicographic order."""
    if len(points) > BLOCK:
        halves = [front_of(half) for half in np.array_split(points, 2)]
        if sum(map(len, halves)) < len(points):
            return front_of(np.vstack(halves))
    # In this order no point dominates or repeats one before it.
    points = points[np.lexsort(points.T[::-1])]
    dominates = (points[:, None] <= points[None, :]).all(2)
    return points[~np.triu(dominates, 1).any(0)]


def _volume(points: Points, reference: Points) -> float:
    if len(reference) <= 3:
        return _on_grid(points, reference)
    points = points[points[:, -1].argsort()]
    thickness = np.diff(points[:, -1], append=reference[-1])
    return sum(
        float(thick) * _volume(points[: count + 1, :-1], reference[:-1])
        for count, thick in enumerate(thickness)
        if thick
    )


def _on_grid(points: Points, reference: Points) -> float:
    """Sum over the grid cells of the other coordinates of the depth in the last one."""
    *others, last = points.T
    if not others:
        return float(reference[0] - last.min())
    orders = [column.argsort() for column in others]
    depth = np.zeros([len(points)] * len(others))
    depth[tuple(order.argsort() for order in orders)] = reference[-1] - last
    for axis in range(len(others)):
        depth = np.maximum.accumulate(depth, axis)
    edges = [
        np.diff(column[order], append=end)
        for column, order, end in zip(others, orders, reference, strict=False)
    ]
    for edge in reversed(edges):
        depth = depth @ edge
    return float(depth)


class HypervolumeRecorder:
    """Records the hypervolume of all trials after every rung.

    Accuracy is used as it is, costs as their logarithm to base 2. The first trial fixes the
    reference point: chance accuracy, and costs four times its own. The values follow from the
    ledger alone.

    Parameters
    ----------
    ledger : Ledger
        Values are recorded here; call this object with every new event.
    objectives : sequence of Objective
        Objectives of the search.
    trials : Trials
        Trials of the ledger; missing values are recorded at once.
    """

    def __init__(self, ledger: Ledger, objectives: Sequence[Objective], trials: Trials) -> None:
        self._ledger, self._objectives = ledger, objectives
        self._costs: dict[int, Cost] = {}
        self._accuracy: dict[int, float] = {}
        self._points: dict[int, Points] = {}
        self._front: Points = np.zeros((0, len(objectives)))
        self._value: float | None = 0.0
        self._reference = self._known_reference()
        for number, candidate in trials.items():
            self._enter(number, candidate)
        self._catch_up()

    def __call__(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Process one new event."""
        if kind == EventKind.TRIAL:
            self._enter(int(key), Trial.from_event(dict(value)))
        elif kind == EventKind.RUNG:
            self._learn(key, value)
            self._record(key)

    def _catch_up(self) -> None:
        """Record missing values: a kill may have come between a rung and its value."""
        known = self._ledger.all(EventKind.HYPERVOLUME)
        for key, value in self._ledger.all(EventKind.RUNG).items():
            self._learn(key, value)
            if key not in known:
                self._record(key)

    def _enter(self, number: int, candidate: Trial) -> None:
        self._costs[number] = candidate.cost
        if self._reference is None:
            worst = self._point(1 / candidate.arch.classes, candidate.cost)
            worst += [0.0 if o.needs_training else ROOM for o in self._objectives]
            self._ledger.record(
                EventKind.HYPERVOLUME, REFERENCE, {"point": worst.round(DIGITS).tolist()}
            )
            self._reference = self._known_reference()

    def _learn(self, key: str, value: Mapping[str, Any]) -> None:
        score = RungResult.from_event(TrainingKey.parse(key), dict(value))
        number, is_final = score.key.trial, score.key.stage is Stage.FINAL
        known = self._accuracy.get(number)
        # A final training with a lower accuracy is not used.
        if score.failed or (is_final and known is not None and score.accuracy < known):
            return
        self._accuracy[number] = score.accuracy
        self._move(number, self._point(score.accuracy, self._costs[number]))

    def _move(self, number: int, point: Points) -> None:
        """Move the trial's point; the front is computed again only where the point leaves it."""
        old = self._points.get(number)
        self._points[number] = point
        if old is not None and (self._front == old).all(1).any() and not (point <= old).all():
            self._front = front_of(np.array(list(self._points.values())))
        elif (self._front <= point).all(1).any():
            return
        else:
            rest = self._front[~(point <= self._front).all(1)]
            self._front = np.vstack([rest, point])
        self._value = None

    def _record(self, key: str) -> None:
        if self._value is None:
            assert self._reference is not None, "fixed by the first trial"
            self._value = round(hypervolume(self._front, self._reference), DIGITS)
        seconds = round(self._ledger.alive_seconds(), 3)
        self._ledger.record(EventKind.HYPERVOLUME, key, {"value": self._value, "seconds": seconds})

    def _known_reference(self) -> Points | None:
        known = self._ledger.get(EventKind.HYPERVOLUME, REFERENCE)
        return None if known is None else np.array(known["point"])

    def _point(self, accuracy: float, cost: Cost) -> Points:
        return np.array([coordinate(o, accuracy, cost) for o in self._objectives])


def coordinate(objective: Objective, accuracy: float, cost: Cost) -> float:
    """Coordinate in the hypervolume: lower is better, costs as logarithms to base 2."""
    value = objective.value(accuracy, cost)
    return objective.sign * (value if objective.needs_training else math.log2(max(value, 1e-9)))


def series(ledger: LedgerView) -> Iterator[tuple[float, float]]:
    """(seconds of the run, hypervolume) after every rung, in order."""
    for key, value in ledger.all(EventKind.HYPERVOLUME).items():
        if key != REFERENCE:
            yield value["seconds"], value["value"]
