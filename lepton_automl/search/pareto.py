"""Rungs: how long candidates are trained, and who goes on; nothing here trains or waits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.cost.cost import Cost
from lepton_automl.runs.ledger import EventKind, Ledger, LedgerView
from lepton_automl.search.objectives import Objective
from lepton_automl.search.training_key import Stage, TrainingKey
from lepton_automl.search.trials import RungResult, Trial, Trials

REFERENCE = "reference"
"""Key of the `EventKind.HYPERVOLUME` event with the reference point."""
ROOM = 2.0
"""Doublings: a net up to four times as costly as the first candidate still counts."""
DIGITS = 6
BLOCK = 300
"""Points compared each with each at once; more are taken by halves, to save memory."""
Points = NDArray[np.float64]


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


def hypervolume(points: Points, reference: Points) -> float:
    """Volume that `points` dominate, up to `reference`; exact.

    Up to three objectives are counted on the grid of the points' coordinates, more are cut into
    slices of one less (While et al. 2006, A Faster Algorithm for Calculating Hypervolume, HSO).

    Parameters
    ----------
    points : ndarray
        (N, D), every coordinate to be minimised; those beyond the reference count nothing.
    reference : ndarray
        (D,), the worst value of each coordinate.
    """
    inside = points[(points < reference).all(1)]
    return _volume(front_of(inside), reference) if len(inside) else 0.0


def front_of(points: Points) -> Points:
    """The points that no other one dominates, each once, in lexicographic order."""
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
    """The depth in the last coordinate over each cell of the others' grid."""
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


class Progress:
    """Writes the hypervolume of all trained candidates down after every rung.

    Accuracy counts as it is, costs as their logarithm to base 2: halving a cost is worth the same
    everywhere. The volume is counted from a reference point that the first candidate fixes: the
    accuracy of guessing, and costs four times its own. It follows from the ledger alone.

    Parameters
    ----------
    ledger : Ledger
        Where values are written; call this object with every event recorded from now on.
    objectives : sequence of Objective
        The axes.
    trials : Trials
        What the ledger knows; rungs whose value is missing are made good at once.
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
        """Take notice of one event."""
        if kind == EventKind.TRIAL:
            self._enter(int(key), Trial.from_event(dict(value)))
        elif kind == EventKind.RUNG:
            self._learn(key, value)
            self._record(key)

    def _catch_up(self) -> None:
        """A kill may have come between a rung and its value."""
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
        # A last training that was a step back is undone.
        if score.failed or (is_final and known is not None and score.accuracy < known):
            return
        self._accuracy[number] = score.accuracy
        self._move(number, self._point(score.accuracy, self._costs[number]))

    def _move(self, number: int, point: Points) -> None:
        """The candidate is elsewhere now; the front is made anew only where it has left it."""
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
            assert self._reference is not None, "fixed by the first candidate"
            self._value = round(hypervolume(self._front, self._reference), DIGITS)
        seconds = round(self._ledger.alive_seconds(), 3)
        self._ledger.record(EventKind.HYPERVOLUME, key, {"value": self._value, "seconds": seconds})

    def _known_reference(self) -> Points | None:
        known = self._ledger.get(EventKind.HYPERVOLUME, REFERENCE)
        return None if known is None else np.array(known["point"])

    def _point(self, accuracy: float, cost: Cost) -> Points:
        return np.array([coordinate(o, accuracy, cost) for o in self._objectives])


def coordinate(objective: Objective, accuracy: float, cost: Cost) -> float:
    """The figure as the volume counts it: less is better, costs by their doublings."""
    value = objective.value(accuracy, cost)
    return objective.sign * (value if objective.needs_training else math.log2(max(value, 1e-9)))


def series(ledger: LedgerView) -> Iterator[tuple[float, float]]:
    """(seconds the run had been alive, hypervolume) after every rung, in order."""
    for key, value in ledger.all(EventKind.HYPERVOLUME).items():
        if key != REFERENCE:
            yield value["seconds"], value["value"]
