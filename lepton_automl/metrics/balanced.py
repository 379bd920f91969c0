"""Balanced accuracy: means, effective samples and bootstrap where classes have equal weight."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_automl.metrics import bootstrap
from lepton_automl.metrics.bootstrap import BOOTSTRAP_SAMPLES, Interval

UNEVEN_RATIO = 1 / 3
"""Training samples of the rarest class over those of the most frequent one, below which accuracy is
balanced by default. Data usually reported by plain accuracy are above it: 0.34 for SVHN. With two
classes it is where always predicting the frequent one is right three times in four."""

_MAX_CLASS_WEIGHT = 50.0
"""Largest weight of a sample in the loss; larger ones make trainings diverge (docs/decisions.md,
classes of unequal size)."""

Strata = NDArray[np.int64] | None
"""(N,): class of each sample for balanced accuracy; None for plain accuracy."""
Groups = NDArray[np.generic] | None
"""(N,): equal for samples of one group; None without groups."""
Values = NDArray[np.generic]


def is_uneven(labels: NDArray[np.int64]) -> bool:
    """Whether the rarest class has less than a third of the samples of the most frequent one."""
    counts = _counts(labels)
    return bool(counts.min() < UNEVEN_RATIO * counts.max())


def is_even(labels: NDArray[np.int64]) -> bool:
    """Whether all classes have equally many samples, so that balanced and plain accuracy agree."""
    return len(set(_counts(labels).tolist())) == 1


def class_weights(labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Loss weight of each class, inverse to its number of samples; 1 on average over samples.

    At most `_MAX_CLASS_WEIGHT`; 0 for absent classes.

    Parameters
    ----------
    labels : ndarray
        int64 (N,), N at least 1.

    Returns
    -------
    ndarray
        float32 (largest label + 1,).
    """
    counts = np.bincount(labels)
    each = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts > 0, each, 0.0).clip(max=_MAX_CLASS_WEIGHT).astype(np.float32)


def balanced_mean(values: Values, strata: Strata) -> float:
    """Mean over samples; with `strata` the mean of the class means, as in balanced accuracy.

    Classes without a sample are left out.
    """
    if strata is None:
        return float(values.mean())
    _, member, counts = np.unique(strata, return_inverse=True, return_counts=True)
    return float((np.bincount(member, weights=values) / counts).mean())


def balanced_total(values: Values, strata: Strata) -> float:
    """Sum of the values; with `strata` the number of samples times their balanced mean."""
    return float(values.sum()) if strata is None else len(values) * balanced_mean(values, strata)


def influence_values(values: Values, strata: Strata) -> NDArray[np.float64]:
    """Influence values (N,) of `balanced_mean`: their mean and standard error are its own.

    Each is the balanced mean plus the weighted distance of the sample from its class mean, so that
    statistics of plain means apply to them.

    Source: Davison and Hinkley 1997, Bootstrap Methods, section 2.7 (influence values).
    """
    plain = values.astype(np.float64)
    if strata is None or not len(plain):
        return plain
    _, member, counts = np.unique(strata, return_inverse=True, return_counts=True)
    means = np.bincount(member, weights=plain) / counts
    weights = len(plain) / (len(counts) * counts)
    around: NDArray[np.float64] = means.mean() + weights[member] * (plain - means[member])
    return around


def effective_fraction(values: Values, groups: Groups, strata: Strata, level: float) -> float:
    """Effective samples divided by samples, 0 to 1, for unequal classes and for groups.

    From the sizes of the classes, or from the variance of `values` within them if that gives less.

    Parameters
    ----------
    values : ndarray
        (N,).
    groups, strata : ndarray or None
        (N,): group of each sample; class of each sample for balanced accuracy.
    level : float
        Two-sided confidence, 0 to 1.

    Source: Kish 1965, Survey Sampling, section 11.7 (unequal weights); Korn and Graubard 1998,
    Survey Methodology 24, 193 (variance of independent samples over that of the estimate).
    """
    if not len(values):
        return 1.0
    share = 1.0
    if strata is not None:
        counts = _counts(strata)
        share = float(len(counts) ** 2 / (1 / counts).sum() / len(strata))
        spread = float(influence_values(values, strata).var())
        alone = (
            balanced_mean(values.astype(np.float64) ** 2, strata)
            - balanced_mean(values, strata) ** 2
        )
        share = min(share, alone / spread) if spread > 0 else share
    if groups is not None:
        share *= bootstrap.cluster_effective_fraction(
            influence_values(values, strata), groups, level
        )
    return share


def bootstrap_interval(
    values: Values, groups: Groups, strata: Strata, seed: int, level: float
) -> Interval:
    """Bootstrap interval of `balanced_mean`, over whole groups or else stratified by class.

    Parameters
    ----------
    values : ndarray
        (N,), N at least 1.
    groups, strata : ndarray or None
        As in `effective_share`; without either each sample is a group.
    seed : int
        Of the draws.
    level : float
        Two-sided confidence, 0 to 1.

    Source: Davison and Hinkley 1997, Bootstrap Methods, section 3.2 (several samples); Hesterberg
    2015, The American Statistician 69, 371, section 5.1 (draws from n samples spread too little).
    """
    if groups is not None or strata is None:
        alone = np.arange(len(values)) if groups is None else groups
        return bootstrap.cluster_bootstrap_interval(
            influence_values(values, strata), alone, seed, level
        )
    rng, means = np.random.default_rng(seed), np.zeros(BOOTSTRAP_SAMPLES)
    order = np.argsort(strata, kind="stable")
    labels, starts = np.unique(strata[order], return_index=True)
    for own_values in np.split(values[order].astype(np.float64), starts[1:]):
        known, counts = np.unique(own_values, return_counts=True)
        n = int(counts.sum())
        own = float(known @ counts) / n
        if len(known) == 1:  # Every draw is the same, and takes no random number.
            means += own
            continue
        # With few distinct values, the counts of each are one multinomial draw.
        drawn = rng.multinomial(n, counts / n, BOOTSTRAP_SAMPLES) @ known / n
        means += own + (drawn - own) * np.sqrt(n / max(n - 1, 1))
    low, high = np.quantile(means / len(labels), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _counts(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = np.unique(labels, return_counts=True)[1]
    return counts
