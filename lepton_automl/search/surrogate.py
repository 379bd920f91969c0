"""Gaussian-process surrogate over parameters and rungs."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lepton_automl.search.space.parameters import Parameter

REACH = 0.6
"""Distance between numbers, as a share of their range, at which one tells less of the other."""
JOINT_DECAY = 7.0
"""Points that differ in everything are alike by exp(-7) as far as parameters act together."""
Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Likeness = tuple[Floats, Floats, Floats]
JOINT, OWN = 0.1, 0.02
"""Variance of what parameters do together, and of what is a net's own, as shares of what they do
one by one."""
EARLY_OWN = 0.06
"""Of what a rung tells of that net alone and the next one does not."""
LEVEL, RUNG_LEVEL = 4.0, 0.5
"""Variances of the mean of all nets, and of how it differs at each rung: nothing is presumed."""
NOISE = 0.1
"""Deviation of one training from another with the same net, in scales."""
PAIRED = 0.5
"""Share of the sampling variance that nets judged on the same samples do not have in common."""
SCALES, EARLY = (0.1, 0.2, 0.4, 0.8), (0.1, 0.3, 1.0)
"""How far nets differ, in logarithms of the error, and how much more of it each rung still to come
may change: taken are those under which what was seen is likeliest."""
DRAWS, JITTER = 256, 1e-5
"""Ends drawn at a time; variance, in squared scales, that keeps their covariance positive."""
JUDGED = 64
"""Results that this choice looks at, the first ones: it takes time, and they tell enough."""


class Encoding:
    """Every parameter's values as levels; numbers keep their order, names are only equal or not.

    A parameter that a point does not have (of a layer that was not chosen, say) has a level of
    its own.

    Parameters
    ----------
    knobs : mapping
        The open parameters of a space.
    """

    def __init__(self, knobs: Mapping[str, Parameter]) -> None:
        sizes = [len(knob.values) + 1 for knob in knobs.values()]
        starts = [sum(sizes[:place]) for place in range(len(sizes))]
        self._places = [
            (start, path, _levels(knob))
            for start, (path, knob) in zip(starts, knobs.items(), strict=True)
        ]
        self._size, self._count = sum(sizes), max(1, len(sizes))
        self._alike = np.zeros((self._size, self._size))
        floor = math.exp(-JOINT_DECAY / self._count)
        self._log_joint = np.zeros_like(self._alike)
        for start, knob, size in zip(starts, knobs.values(), sizes, strict=True):
            here = slice(start, start + size)
            self._alike[here, here] = _alike(knob)
            self._log_joint[here, here] = np.log(floor + (1 - floor) * _alike(knob))

    def rows(self, points: Sequence[Mapping[str, Any]]) -> Floats:
        """Points as 0 and 1: a column for every level of every parameter.

        Returns
        -------
        ndarray
            (N, levels).
        """
        rows = np.zeros((len(points), self._size))
        columns = [self._columns(point) for point in points]
        rows[np.arange(len(points))[:, None], np.array(columns, np.int64)] = 1.0
        return rows

    def _columns(self, point: Mapping[str, Any]) -> list[int]:
        return [
            first + (levels[point[path]] if path in point else len(levels))
            for first, path, levels in self._places
        ]

    def likeness(self, a: Floats, b: Floats) -> tuple[Floats, Floats, Floats]:
        """How alike points are, 0 to 1: one parameter at a time, all together, and identical.

        Parameters
        ----------
        a, b : ndarray
            (N, levels) and (M, levels) as `rows` gives them.

        Returns
        -------
        tuple of ndarray
            (N, M) each.
        """
        single = a @ self._alike @ b.T / self._count
        joint = np.exp(a @ self._log_joint @ b.T)
        same = (a @ b.T > self._count - 0.5).astype(np.float64)
        return single, joint, same


def _levels(knob: Parameter) -> dict[Any, int]:
    values = sorted(knob.values) if _is_ordered(knob) else list(knob.values)
    return {value: level for level, value in enumerate(values)}


def _is_ordered(knob: Parameter) -> bool:
    return all(type(value) in (int, float) for value in knob.values)


def _alike(knob: Parameter) -> Floats:
    """Of the levels of one parameter; the last one, its absence, is like nothing else."""
    count = len(knob.values)
    alike = np.eye(count + 1)
    if _is_ordered(knob) and count > 1:
        place = np.arange(count) / (count - 1)
        alike[:count, :count] = np.exp(-0.5 * ((place[:, None] - place) / REACH) ** 2)
    return alike


@dataclass(frozen=True)
class Seen:
    """What one training reached."""

    row: int
    """Which point."""
    left: int
    """Rungs the point still had before it after this one; 0 at the end."""
    accuracy: float
    samples: int
    """Of the validation part."""

    @property
    def value(self) -> float:
        """Minus the logarithm of the error: halving it is worth the same everywhere."""
        return -math.log(self._error)

    @property
    def variance(self) -> float:
        """Of the value, for the samples it was judged on."""
        return PAIRED * (1 - self._error) / (self.samples * self._error)

    @property
    def _error(self) -> float:
        return (self.samples * (1 - self.accuracy) + 0.5) / (self.samples + 1)


class Surrogate:
    """A Gaussian process over points and rungs (Swersky et al. 2014, arXiv:1406.3896).

    What a point reaches at the end is a sum of what each of its parameters does, a little of what
    they do together and a little that is its own; an earlier rung shows the same but for a
    deviation that is smaller the later the rung is.

    Parameters
    ----------
    encoding : Encoding
        Of the space.
    rows : ndarray
        (N, levels): all points to be asked about, as `encoding.rows` gives them.
    seen : sequence of Seen
        At least one.
    """

    def __init__(self, encoding: Encoding, rows: Floats, seen: Sequence[Seen]) -> None:
        self._encoding, self._rows = encoding, rows
        self._at = np.array([s.row for s in seen])
        self._left = np.array([s.left for s in seen])
        self._values = np.array([s.value for s in seen])
        self._variances = np.array([s.variance for s in seen])
        self._mean = float(self._values.mean())
        self._scale, self._early = self._likeliest(min(JUDGED, len(seen)))
        self._solve()

    def supposing(self, ahead: Sequence[tuple[int, int]]) -> Surrogate:
        """As if trainings at work had given what is expected (Ginsbourger et al. 2010).

        Parameters
        ----------
        ahead : sequence of (int, int)
            Row and rungs left of each.
        """
        rows, left = (np.array(part) for part in zip(*ahead, strict=True))
        supposed = copy.copy(self)
        supposed._values = np.append(self._values, self._expected(rows, left))
        supposed._at, supposed._left = np.append(self._at, rows), np.append(self._left, left)
        supposed._variances = np.append(self._variances, np.zeros(len(rows)))
        supposed._solve()
        return supposed

    def at_end(self) -> Floats:
        """Mean of minus the logarithm of the error that every point is expected to reach, (N,)."""
        expected: Floats = self._mean + self._ends @ self._weights
        return expected

    def shares(self, rows: Sequence[int], reached: Sequence[int], seed: int) -> Floats:
        """What each point adds to the improvement that all of them together promise.

        Many ends are drawn from the joint distribution; in each, only the best point counts, with
        what it is above the best that was reached: the expected improvement of a batch
        (Ginsbourger et al. 2010, section 3.1), divided among those that bring it. Points that are
        much alike then do not push each other forward.

        Parameters
        ----------
        rows : sequence of int
            Points that may be trained, at least one.
        reached : sequence of int
            Points that were trained to the end; if none, the middle one of `rows` counts.
        seed : int
            Of the draws.

        Returns
        -------
        ndarray
            (len(rows),), at least 0, in logarithms of the error.
        """
        everybody = np.array([*rows, *reached])
        ends = self._draws(everybody, seed)
        ours, theirs = ends[: len(rows)], ends[len(rows) :]
        rival = theirs.max(0) if len(reached) else np.median(ours, axis=0)
        gain = np.maximum(ours.max(0) - rival, 0)
        shares: Floats = ((ours == ours.max(0)) * gain).mean(1)
        return shares

    def bound(self) -> Floats:
        """Upper bound of what every point will reach at the end, (N,)."""
        before = self._scale**2 * (1 + JOINT + OWN) + LEVEL + RUNG_LEVEL
        bound: Floats = self.at_end() + np.sqrt(np.maximum(before - (self._ends**2).sum(1), 0))
        return bound

    def _draws(self, rows: Whole, seed: int) -> Floats:
        """(rows, DRAWS) values at the end, drawn together."""
        ends = self._ends[rows]
        left = np.zeros_like(rows)
        covariance = self._kernel(rows, left, rows, left, self._scale, self._early) - ends @ ends.T
        covariance[np.diag_indices(len(rows))] += JITTER * self._scale**2
        normal = np.random.default_rng(seed).standard_normal((len(rows), DRAWS))
        drawn: Floats = self.at_end()[rows, None] + np.linalg.cholesky(covariance) @ normal
        return drawn

    def _solve(self) -> None:
        likeness = self._alike(len(self._values))
        self._factor = self._cholesky(likeness, self._scale, self._early)
        self._weights = _solved(self._factor, self._values - self._mean)
        everybody = np.arange(len(self._rows))
        self._ends = self._explained(everybody, np.zeros_like(everybody))

    def _expected(self, rows: Whole, left: Whole) -> Floats:
        expected: Floats = self._mean + self._explained(rows, left) @ self._weights
        return expected

    def _explained(self, rows: Whole, left: Whole) -> Floats:
        """(rows, seen): products of these are the covariances that the results explain."""
        among = self._kernel(self._at, self._left, rows, left, self._scale, self._early)
        return _solved(self._factor, among).T

    def _likeliest(self, count: int) -> tuple[float, float]:
        values, likeness = self._values[:count] - self._values[:count].mean(), self._alike(count)

        def likelihood(pair: tuple[float, float]) -> float:
            factor = self._cholesky(likeness, *pair)
            weights = _solved(factor, values)
            return float(-0.5 * weights @ weights - np.log(np.diag(factor)).sum())

        return max(((s, e) for s in SCALES for e in EARLY), key=likelihood)

    def _alike(self, count: int) -> Likeness:
        """Of the first so many results."""
        rows = self._rows[self._at[:count]]
        return self._encoding.likeness(rows, rows)

    def _cholesky(self, likeness: Likeness, scale: float, early: float) -> Floats:
        count = len(likeness[0])
        left = self._left[:count]
        kernel = _covariance(likeness, left, left, scale, early)
        kernel[np.diag_indices(count)] += self._variances[:count] + (NOISE * scale) ** 2
        return np.asarray(np.linalg.cholesky(kernel), np.float64)

    def _kernel(
        self, a: Whole, left_a: Whole, b: Whole, left_b: Whole, scale: float, early: float
    ) -> Floats:
        likeness = self._encoding.likeness(self._rows[a], self._rows[b])
        return _covariance(likeness, left_a, left_b, scale, early)


def _covariance(
    likeness: Likeness, left_a: Whole, left_b: Whole, scale: float, early: float
) -> Floats:
    single, joint, same = likeness
    alike = single + JOINT * joint + OWN * same
    still = np.minimum(left_a[:, None], left_b) * (early * single + EARLY_OWN * same)
    level = LEVEL + RUNG_LEVEL * (left_a[:, None] == left_b)
    covariance: Floats = scale**2 * (alike + still) + level
    return covariance


def _solved(factor: Floats, values: Floats) -> Floats:
    """What a lower triangle times it is `values`; numpy knows no triangles and takes 3 times."""
    columns = torch.from_numpy(values.reshape(len(values), -1))
    solved = torch.linalg.solve_triangular(torch.from_numpy(factor), columns, upper=False)
    return np.asarray(solved.numpy(), np.float64).reshape(values.shape)
