"""Cluster bootstrap and effective number of samples for samples that come in groups."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

Interval = tuple[float, float]
"""Low and high end."""

BOOTSTRAP_SAMPLES = 4000
"""Bootstrap replicates: the 2.5 % quantile is then known to about 0.25 % of probability."""
_MAX_DRAWS = 2_000_000
"""Draws in memory at once, where there are many groups."""


def cluster_bootstrap_interval(
    values: np.ndarray, groups: np.ndarray, seed: int, level: float
) -> Interval:
    """Cluster bootstrap interval of the mean: whole groups are drawn with replacement.

    Parameters
    ----------
    values, groups : ndarray
        float (N,) and (N,); samples with equal `groups` belong together.
    seed : int
        Of the draws.
    level : float
        Two-sided confidence, 0 to 1.

    Source: Davison and Hinkley 1997, Bootstrap Methods, section 3.8; Hesterberg 2015, The American
    Statistician 69, 371, section 5.1 (quantiles widened for few groups).
    """
    sizes, sums = _by_group(values, groups)
    count = len(sizes)
    if count < 2:
        return float(values.min()), float(values.max())
    rng = np.random.default_rng(seed)
    means = np.empty(BOOTSTRAP_SAMPLES)
    at_once = max(1, _MAX_DRAWS // count)
    for start in range(0, BOOTSTRAP_SAMPLES, at_once):
        draws = rng.integers(0, count, (min(at_once, BOOTSTRAP_SAMPLES - start), count))
        means[start : start + at_once] = sums[draws].sum(1) / sizes[draws].sum(1)
    # Few groups spread too little by (count - 1) / count and need Student's quantile.
    widened = math.sqrt(count / (count - 1)) * student_quantile(level, count)
    tail = NormalDist().cdf(-widened)
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def cluster_effective_fraction(values: np.ndarray, groups: np.ndarray, level: float) -> float:
    """Effective samples divided by samples, 0 to 1, for samples that come in groups.

    The inverse of the design effect: the variance of a mean of independent samples over that of a
    mean of whole groups, further reduced for few groups. Where all `values` agree each group
    counts as one sample.

    Source: Korn and Graubard 1998, Survey Methodology 24, 193 (effective samples, few groups).
    """
    sizes, sums = _by_group(values, groups)
    count, n = len(sizes), len(values)
    few_groups = (normal_quantile(level) / student_quantile(level, count)) ** 2
    independent = float(values.var()) / n
    if count < 2 or independent == 0:
        return few_groups * count / n
    clustered = float(((sums - values.mean() * sizes) ** 2).sum()) / n**2 * count / (count - 1)
    return few_groups * min(1.0, independent / clustered) if clustered else few_groups


def normal_quantile(level: float) -> float:
    """Two-sided quantile of the normal distribution: 1.96 for 0.95."""
    return NormalDist().inv_cdf((1 + level) / 2)


def student_quantile(level: float, count: int) -> float:
    """Two-sided quantile of Student's distribution for `count` groups."""
    from scipy.special import stdtrit  # Slow to import; workers do without.

    return float(stdtrit(max(count - 1, 1), (1 + level) / 2))


def _by_group(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of samples and sum of `values` of every group."""
    _, member = np.unique(groups, return_inverse=True)
    return np.bincount(member).astype(float), np.bincount(member, weights=values)
