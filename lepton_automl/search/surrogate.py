"""Surrogate: what a net will reach at the end, from all that is known of it and of others."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_automl.search.encoding import Encoding, Floats

Whole = NDArray[np.int64]

JOINT, OWN = 0.4, 0.03
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
UNREACHED = 0.3
"""Doubt about the best itself where it was not trained to the end, in those about the others."""
JUDGED = 64
"""Results that this choice looks at, the first ones: it takes time, and they tell enough."""


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
        self._likeness = encoding.likeness(rows, rows)
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

    def improvement(self, best: int, *, reached: bool = True) -> Floats:
        """Expected improvement of every point at the end (Mockus 1978) over the point `best`.

        Parameters
        ----------
        best : int
            Row of a point.
        reached : bool
            It was trained to the end. One that was not may do so itself, which is worth
            something where no other is likely to be better.

        Returns
        -------
        ndarray
            (N,) logarithms of it.
        """
        mean = self.at_end()
        known = ((self._ends - self._ends[best]) ** 2).sum(1)
        deviation = np.sqrt(np.maximum(self._difference_before(best) - known, 1e-10))
        if not reached:
            deviation[best] = UNREACHED * np.median(deviation)
        return _log_improvement(mean - mean[best], deviation)

    def _solve(self) -> None:
        self._factor = self._cholesky(len(self._values), self._scale, self._early)
        self._weights = _solved(self._factor, self._values - self._mean)
        everybody = np.arange(len(self._likeness[0]))
        self._ends = self._explained(everybody, np.zeros_like(everybody))

    def _expected(self, rows: Whole, left: Whole) -> Floats:
        expected: Floats = self._mean + self._explained(rows, left) @ self._weights
        return expected

    def _explained(self, rows: Whole, left: Whole) -> Floats:
        """(rows, seen): products of these are the covariances that the results explain."""
        among = self._kernel(self._at, self._left, rows, left, self._scale, self._early)
        return _solved(self._factor, among).T

    def _difference_before(self, best: int) -> Floats:
        """Variance of the difference of every point to `best` before anything was seen."""
        single, joint, same = (part[:, best] for part in self._likeness)
        alike = single + JOINT * joint + OWN * same
        difference: Floats = 2 * self._scale**2 * (1 + JOINT + OWN - alike)
        return difference

    def _likeliest(self, count: int) -> tuple[float, float]:
        values = self._values[:count] - self._values[:count].mean()

        def likelihood(pair: tuple[float, float]) -> float:
            factor = self._cholesky(count, *pair)
            weights = _solved(factor, values)
            return float(-0.5 * weights @ weights - np.log(np.diag(factor)).sum())

        return max(((s, e) for s in SCALES for e in EARLY), key=likelihood)

    def _cholesky(self, count: int, scale: float, early: float) -> Floats:
        at, left = self._at[:count], self._left[:count]
        kernel = self._kernel(at, left, at, left, scale, early)
        kernel[np.diag_indices(count)] += self._variances[:count] + (NOISE * scale) ** 2
        return np.asarray(np.linalg.cholesky(kernel), np.float64)

    def _kernel(
        self, a: Whole, left_a: Whole, b: Whole, left_b: Whole, scale: float, early: float
    ) -> Floats:
        single, joint, same = (part[np.ix_(a, b)] for part in self._likeness)
        alike = single + JOINT * joint + OWN * same
        still = np.minimum(left_a[:, None], left_b) * (early * single + EARLY_OWN * same)
        level = LEVEL + RUNG_LEVEL * (left_a[:, None] == left_b)
        kernel: Floats = scale**2 * (alike + still) + level
        return kernel


def _solved(factor: Floats, values: Floats) -> Floats:
    return np.asarray(np.linalg.solve(factor, values), np.float64)


def _log_improvement(gain: Floats, deviation: Floats) -> Floats:
    u = gain / deviation
    density = np.exp(-0.5 * u**2) / math.sqrt(2 * math.pi)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in u])
    improvement: Floats = np.log(np.maximum(deviation * (u * below + density), 1e-300))
    return improvement
