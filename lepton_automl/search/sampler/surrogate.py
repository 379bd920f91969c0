"""Gaussian process over points of a search space and rungs of training.

The value of a point at the end of its training is a sum of an additive part, with a term for each
parameter, a small joint part and a small part of the point alone. The deviation of a rung from the
end grows with the number of rungs between them (as in freeze-thaw Bayesian optimization, Swersky et
al. 2014, arXiv:1406.3896).
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Likeness = tuple[Floats, Floats, Floats]

LEVELS = 41
"""Levels of a parameter that has more values than that, evenly spaced over its range."""
LENGTH_SCALE = 0.6
"""Length scale of the kernel over one parameter, relative to its range."""
JOINT_DECAY = 7.0
"""Points that differ in every parameter have a joint similarity of exp(-JOINT_DECAY)."""
JOINT_VARIANCE, OWN_VARIANCE = 0.1, 0.02
"""Variances of the joint part and of the part of the point alone, relative to the additive part."""
EARLY_OWN_VARIANCE = 0.06
"""Variance, for each remaining rung, of the deviation of the point alone."""
LEVEL_VARIANCE, RUNG_LEVEL_VARIANCE = 4.0, 0.5
"""Variances of the common mean and of its difference at each rung: wide priors."""
NOISE = 0.1
"""Standard deviation between two trainings of the same point, relative to the scale."""
SCALES, EARLY_VARIANCES = (0.1, 0.2, 0.4, 0.8), (0.1, 0.3, 1.0)
"""Standard deviation of the additive part, and variance that each remaining rung adds, relative to
it: the pair with the highest likelihood is used."""
DRAWS, JITTER = 256, 1e-5
"""Joint samples for the expected improvement; diagonal of their covariance, in squared scales."""
LIKELIHOOD_RESULTS = 64
"""The likelihood is computed from the first results, at most so many."""


@dataclass(frozen=True)
class Result:
    """Value of a point at one rung; higher is better."""

    row: int
    """Index of the point."""
    rungs_left: int
    """Rungs between this result and the end of the training; 0 at the end."""
    value: float
    variance: float = 0.0
    """Sampling variance of the value."""


class Encoding:
    """One-hot encoding of the levels of parameters, and the similarity of two points.

    Numeric levels are similar to their neighbours (of a categorical parameter with numeric choices,
    too); other categories are equal or different. Absence of a parameter is a level of its own.

    Parameters
    ----------
    distributions : mapping
        Parameter name -> Optuna distribution, at least one.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self._axes = [(name, _Axis(one)) for name, one in distributions.items()]
        sizes = [axis.count + 1 for _, axis in self._axes]
        self._starts = np.cumsum([0, *sizes])[:-1]
        self._size, self._count = sum(sizes), max(1, len(sizes))
        floor = math.exp(-JOINT_DECAY / self._count)
        self._single = np.zeros((self._size, self._size))
        self._log_joint = np.zeros_like(self._single)
        for start, (_, axis) in zip(self._starts, self._axes, strict=True):
            here, similarity = slice(start, start + axis.count + 1), axis.similarity()
            self._single[here, here] = similarity
            self._log_joint[here, here] = np.log(floor + (1 - floor) * similarity)

    def rows(self, points: Sequence[Mapping[str, Any]]) -> Floats:
        """Points one-hot: a column for every level of every parameter.

        Returns
        -------
        ndarray
            (N, levels) of 0 and 1.
        """
        return self.one_hot([self.levels(point) for point in points])

    def levels(self, point: Mapping[str, Any]) -> tuple[int, ...]:
        """Level of every parameter of a point."""
        return tuple(
            axis.level(point[name]) if name in point else axis.count for name, axis in self._axes
        )

    def one_hot(self, levels: Sequence[tuple[int, ...]]) -> Floats:
        """Points by their levels as `rows` returns them."""
        rows = np.zeros((len(levels), self._size))
        places = np.array(levels, np.int64).reshape(-1, len(self._axes)) + self._starts
        rows[np.arange(len(levels))[:, None], places] = 1.0
        return rows

    def similarity(self, a: Floats, b: Floats) -> Likeness:
        """Similarity of points, 0 to 1: mean over parameters, joint, and identity.

        Parameters
        ----------
        a, b : ndarray
            (N, levels) and (M, levels) as `rows` returns them.

        Returns
        -------
        tuple of ndarray
            (N, M) each.
        """
        single = a @ self._single @ b.T / self._count
        joint = np.exp(a @ self._log_joint @ b.T)
        same = (a @ b.T > self._count - 0.5).astype(np.float64)
        return single, joint, same


class _Axis:
    """Levels of one parameter and their positions in its range."""

    def __init__(self, distribution: BaseDistribution) -> None:
        self._distribution = distribution
        self._order: dict[Any, int] = {}
        self.positions: Floats | None = None
        """(count,) from 0 to 1; None for categories without an order."""
        if isinstance(distribution, CategoricalDistribution):
            choices: Sequence[Any] = distribution.choices
            self.count = len(choices)
            if all(type(choice) in (int, float) for choice in choices):
                self._order = {value: n for n, value in enumerate(sorted(set(choices)))}
                self.positions = np.linspace(0.0, 1.0, self.count)
        elif isinstance(distribution, IntDistribution | FloatDistribution):
            self.count = min(LEVELS, _count(distribution))
            self.positions = np.linspace(0.0, 1.0, self.count)
        else:
            raise TypeError(f"{distribution} is not a distribution of Optuna")

    def level(self, value: Any) -> int:
        """Level of a value; that of absence where the distribution does not contain it."""
        if isinstance(self._distribution, CategoricalDistribution):
            if self._order:
                return self._order.get(value, self.count)
            try:
                return int(self._distribution.to_internal_repr(value))
            except ValueError:
                return self.count
        assert isinstance(self._distribution, IntDistribution | FloatDistribution)
        return round(unit_position(self._distribution, value) * (self.count - 1))

    def similarity(self) -> Floats:
        """(count + 1, count + 1); absence, the last level, is similar to nothing else."""
        similarity = np.eye(self.count + 1)
        if self.positions is not None and self.count > 1:
            distance = (self.positions[:, None] - self.positions) / LENGTH_SCALE
            similarity[: self.count, : self.count] = np.exp(-0.5 * distance**2)
        return similarity


def unit_position(distribution: IntDistribution | FloatDistribution, value: float) -> float:
    """Position of a value in its range, 0 to 1, on the logarithmic scale if the range has one."""
    low, high = float(distribution.low), float(distribution.high)
    if high <= low:
        return 0.0
    value = min(max(float(value), low), high)
    if distribution.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _count(distribution: IntDistribution | FloatDistribution) -> int:
    """Number of values; `LEVELS` where the range has no step or a logarithmic scale."""
    if distribution.high <= distribution.low:
        return 1
    if distribution.log or distribution.step is None:
        return LEVELS
    return round((distribution.high - distribution.low) / distribution.step) + 1


class Surrogate:
    """The Gaussian process, fitted to results.

    Parameters
    ----------
    encoding : Encoding
        Encoding of the search space.
    rows : ndarray
        (N, levels): all points of interest, as `encoding.rows` returns them.
    results : sequence of Result
        At least one.
    """

    def __init__(self, encoding: Encoding, rows: Floats, results: Sequence[Result]) -> None:
        self._encoding, self._rows = encoding, rows
        self._at = np.array([r.row for r in results])
        self._left = np.array([r.rungs_left for r in results])
        self._values = np.array([r.value for r in results])
        self._variances = np.array([r.variance for r in results])
        self._mean = float(self._values.mean())
        self._scale, self._early = self._likeliest(min(LIKELIHOOD_RESULTS, len(results)))
        self._solve()

    def supposing(self, pending: Sequence[tuple[int, int]]) -> Surrogate:
        """Copy in which pending trainings have their posterior means (Ginsbourger et al. 2010).

        Parameters
        ----------
        pending : sequence of (int, int)
            Row and rungs left of each pending training.
        """
        rows, left = (np.array(part) for part in zip(*pending, strict=True))
        supposed = copy.copy(self)
        supposed.__dict__.pop("_ends", None)
        supposed._values = np.append(self._values, self._expected(rows, left))
        supposed._at, supposed._left = np.append(self._at, rows), np.append(self._left, left)
        supposed._variances = np.append(self._variances, np.zeros(len(rows)))
        supposed._solve()
        return supposed

    def mean(self) -> Floats:
        """Posterior mean of every point at the end of its training, (N,)."""
        expected: Floats = self._mean + self._ends @ self._weights
        return expected

    def deviation(self) -> Floats:
        """Posterior standard deviation of every point at the end of its training, (N,)."""
        prior = self._scale**2 * (1 + JOINT_VARIANCE + OWN_VARIANCE)
        prior += LEVEL_VARIANCE + RUNG_LEVEL_VARIANCE
        deviation: Floats = np.sqrt(np.maximum(prior - (self._ends**2).sum(1), 0))
        return deviation

    def improvement_shares(self, rows: Sequence[int], reached: Sequence[int], seed: int) -> Floats:
        """Each point's share of the expected improvement of the batch of all points.

        Values at the end are drawn from the joint posterior. In each draw the improvement of the
        best point over the best of `reached` counts for that point alone: the expected improvement
        of a batch (Ginsbourger et al. 2010, section 3.1), divided among its points. Similar points
        therefore share one improvement.

        Parameters
        ----------
        rows : sequence of int
            Points of the batch, at least one.
        reached : sequence of int
            Points that were trained to the end; without any, the median of `rows` is used.
        seed : int
            Seed of the draws.

        Returns
        -------
        ndarray
            (len(rows),), at least 0, in the unit of the values.
        """
        ends = self._draws(np.array([*rows, *reached]), seed)
        ours, theirs = ends[: len(rows)], ends[len(rows) :]
        best = theirs.max(0) if len(reached) else np.median(ours, axis=0)
        gain = np.maximum(ours.max(0) - best, 0)
        shares: Floats = ((ours == ours.max(0)) * gain).mean(1)
        return shares

    def _draws(self, rows: Ints, seed: int) -> Floats:
        """(rows, DRAWS) values at the end, drawn jointly."""
        ends = self._ends[rows]
        left = np.zeros_like(rows)
        covariance = self._kernel(rows, left, rows, left, self._scale, self._early) - ends @ ends.T
        covariance.flat[:: len(rows) + 1] += JITTER * self._scale**2
        normal = np.random.default_rng(seed).standard_normal((len(rows), DRAWS))
        drawn: Floats = self.mean()[rows, None] + np.linalg.cholesky(covariance) @ normal
        return drawn

    def _solve(self) -> None:
        similarity = self._similarity(len(self._values))
        self._factor = self._cholesky(similarity, self._scale, self._early)
        self._weights = _solved(self._factor, self._values - self._mean)

    @functools.cached_property
    def _ends(self) -> Floats:
        """(N, results), as `_explained`, of all points at the end of their training."""
        every = np.arange(len(self._rows))
        return self._explained(every, np.zeros_like(every))

    def _expected(self, rows: Ints, left: Ints) -> Floats:
        expected: Floats = self._mean + self._explained(rows, left) @ self._weights
        return expected

    def _explained(self, rows: Ints, left: Ints) -> Floats:
        """(rows, results); their products are the covariances that the results explain."""
        among = self._kernel(self._at, self._left, rows, left, self._scale, self._early)
        return _solved(self._factor, among).T

    def _likeliest(self, count: int) -> tuple[float, float]:
        values = self._values[:count] - self._values[:count].mean()
        similarity = self._similarity(count)

        def likelihood(pair: tuple[float, float]) -> float:
            factor = self._cholesky(similarity, *pair)
            weights = _solved(factor, values)
            return float(-0.5 * weights @ weights - np.log(np.diag(factor)).sum())

        return max(((s, e) for s in SCALES for e in EARLY_VARIANCES), key=likelihood)

    def _similarity(self, count: int) -> Likeness:
        """Similarity of the points of the first `count` results."""
        rows = self._rows[self._at[:count]]
        return self._encoding.similarity(rows, rows)

    def _cholesky(self, similarity: Likeness, scale: float, early: float) -> Floats:
        count = len(similarity[0])
        left = self._left[:count]
        kernel = _covariance(similarity, left, left, scale, early)
        kernel.flat[:: count + 1] += self._variances[:count] + (NOISE * scale) ** 2
        return np.asarray(np.linalg.cholesky(kernel), np.float64)

    def _kernel(
        self, a: Ints, left_a: Ints, b: Ints, left_b: Ints, scale: float, early: float
    ) -> Floats:
        similarity = self._encoding.similarity(self._rows[a], self._rows[b])
        return _covariance(similarity, left_a, left_b, scale, early)


def _covariance(
    similarity: Likeness, left_a: Ints, left_b: Ints, scale: float, early: float
) -> Floats:
    single, joint, same = similarity
    end = single + JOINT_VARIANCE * joint + OWN_VARIANCE * same
    still = np.minimum(left_a[:, None], left_b) * (early * single + EARLY_OWN_VARIANCE * same)
    level = LEVEL_VARIANCE + RUNG_LEVEL_VARIANCE * (left_a[:, None] == left_b)
    covariance: Floats = scale**2 * (end + still) + level
    return covariance


def _solved(factor: Floats, values: Floats) -> Floats:
    """Solve a lower triangular system; numpy has no triangular solver and takes 3 times as long."""
    columns = torch.from_numpy(values.reshape(len(values), -1))
    solved = torch.linalg.solve_triangular(torch.from_numpy(factor), columns, upper=False)
    return np.asarray(solved.numpy(), np.float64).reshape(values.shape)
