"""Accuracy drops of a file against its reference, paired on the same samples."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_automl.metrics import balanced, bootstrap, intervals
from lepton_automl.metrics.balanced import Strata
from lepton_automl.metrics.bootstrap import Interval
from lepton_automl.metrics.intervals import ONE_SIDED_LEVEL, Status, inflation, whole_samples

_Z, _TAIL = 1.2816, 0.1
"""Standard errors of a one-sided 90 % bound, and the probability beyond it."""


@dataclass(frozen=True)
class AccuracyDrop:
    """Accuracy points (0 to 100) that a file loses against its reference on the same samples.

    Negative where the file is better. Intervals are two-sided 95 %, bounds one-sided 95 %.
    """

    points: float
    low: float
    high: float
    lower: float
    """One-sided bound: the drop is at least this."""
    upper: float
    """One-sided bound: the drop is at most this."""
    n: int
    lost: float
    """Samples that only the reference gets right; reweighted for balanced accuracy."""
    won: float
    """Samples that only the file gets right; likewise."""


def paired_drop(
    reference_correct: np.ndarray,
    file_correct: np.ndarray,
    groups: np.ndarray | None = None,
    strata: Strata = None,
    seed: int = 0,
) -> AccuracyDrop:
    """Accuracy lost between two classifiers on the same samples, with its confidence interval.

    Tango's score interval, whose one-sided bound is his test of non-inferiority; with groups or
    `strata` the wider of that for the effective number of samples and of a bootstrap.

    Parameters
    ----------
    reference_correct, file_correct : ndarray
        bool (N,), sample by sample.
    groups, strata : ndarray, optional
        (N,), as in `intervals.accuracy_interval`.
    seed : int
        Of the bootstrap.

    Source: Tango 1998, Statistics in Medicine 17, 891, section 3; compared with others and
    recommended in Newcombe 1998, Statistics in Medicine 17, 2635 and Fagerland, Lydersen and
    Laake 2014, Statistics in Medicine 33, 2850.
    """
    before, after = np.asarray(reference_correct, bool), np.asarray(file_correct, bool)
    lost, won = (
        balanced.balanced_total(before & ~after, strata),
        balanced.balanced_total(after & ~before, strata),
    )
    change, n = before.astype(float) - after.astype(float), len(before)

    def bounds(level: float) -> Interval:
        share = balanced.effective_fraction(change, groups, strata, level)
        score = tango_interval(lost * share, won * share, n * share, level)
        if (groups is None and strata is None) or not n:
            return score
        if not change.any():  # The same for every draw; of many classes most have no change.
            return min(score[0], 0.0), max(score[1], 0.0)
        drawn = balanced.bootstrap_interval(change, groups, strata, seed, level)
        return max(-1.0, min(score[0], drawn[0])), min(1.0, max(score[1], drawn[1]))

    low, high = bounds(0.95)
    lower, upper = bounds(ONE_SIDED_LEVEL)
    points = 100 * (lost - won) / n if n else 0.0
    return AccuracyDrop(points, 100 * low, 100 * high, 100 * lower, 100 * upper, n, lost, won)


@functools.lru_cache(maxsize=1 << 16)  # Of thousands of classes most have the same few counts.
def tango_interval(lost: float, won: float, n: float, level: float = 0.95) -> Interval:
    """Score interval of the difference (lost - won) / n of two paired shares, each -1 to 1.

    Source: Tango 1998, Statistics in Medicine 17, 891, equations 8 to 13.
    """
    if n <= 0:
        return -1.0, 1.0
    z, seen = bootstrap.normal_quantile(level), (lost - won) / n

    def excess(delta: float) -> float:
        """Score at `delta` minus its critical value; at most 0 inside the interval."""
        return abs(lost - won - n * delta) - z * math.sqrt(n * _variance(lost, won, n, delta))

    low = -1.0 if seen <= -1 else _root(lambda d: -excess(d), -1.0, seen)
    high = 1.0 if seen >= 1 else _root(excess, seen, 1.0)
    return low, high


@dataclass(frozen=True)
class SmoothedDrop:
    """Accuracy points (0 to 100) lost between two nets on the same samples, smoothed."""

    points: float
    error: float
    """Standard error in points, robust to groups; infinite where one group holds all samples."""
    freedom: float
    """Degrees of freedom of `error`."""
    n: int
    """Samples."""

    def upper(self, probability: float) -> float:
        """One-sided bound: the drop is larger with `probability` (0 to 0.5) at most, in points."""
        return self.points + self._half(probability)

    def lower(self, probability: float) -> float:
        """One-sided bound: the drop is smaller with `probability` (0 to 0.5) at most, in points."""
        return self.points - self._half(probability)

    def _half(self, probability: float) -> float:
        if math.isinf(self.error):
            return math.inf
        from scipy.special import stdtrit  # Slow to import; workers do without.

        return float(stdtrit(self.freedom, 1 - probability)) * self.error


def class_margins(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Score of the true class minus the best other score, (N,); above 0 if the prediction is right.

    Parameters
    ----------
    scores : ndarray
        (N, classes): logits or log-probabilities.
    labels : ndarray
        int (N,): true classes.
    """
    index = np.arange(len(labels))
    others = scores.astype(np.float64)
    true = others[index, labels].copy()
    others[index, labels] = -np.inf
    margins: np.ndarray = true - others.max(1)
    return margins


def smoothed_change(reference_margins: np.ndarray, file_margins: np.ndarray) -> np.ndarray:
    """Change of each sample's smoothed correctness between two nets, (N,), -1 to 1.

    Correctness, a step function of the margin (`class_margins`), is replaced by the probability
    that the margin stays above 0 under normal noise of the size by which the margins of the two
    nets differ. Samples near the border count in part instead of by chance, so that the mean varies
    less than the difference of two accuracies and shows losses that no sample of a small part shows
    yet. Margins of the second net are scaled to the first one's median first, because a training
    with distillation changes how sure a net is.

    Source: smoothed error counts, Glick 1978, Pattern Recognition 10, 211; Snapinn and Knoke 1985,
    Technometrics 27, 199 (normal smoothing).
    """
    if not len(reference_margins):
        return np.zeros(0)
    middle = float(np.median(np.abs(file_margins)))
    scale = float(np.median(np.abs(reference_margins))) / middle if middle > 0 else 1.0
    after = file_margins * (scale if scale > 0 else 1.0)
    noise = math.sqrt(float(((reference_margins - after) ** 2).mean()))
    if noise == 0:
        return np.zeros(len(after))
    from scipy.special import ndtr  # Slow to import; workers do without.

    change: np.ndarray = ndtr(reference_margins / noise) - ndtr(after / noise)
    return change


def smoothed_drop(
    reference_margins: np.ndarray,
    file_margins: np.ndarray,
    groups: np.ndarray | None = None,
    strata: Strata = None,
) -> SmoothedDrop:
    """Accuracy lost between two nets on the same samples, by `smoothed_change`.

    The standard error is that of independent samples or, with groups, that of independent groups,
    whichever is larger, and at least that of half a sample in one class of all, since no part of
    finite size shows an error of 0.

    Parameters
    ----------
    reference_margins, file_margins : ndarray
        (N,): `class_margins` of the same samples.
    groups, strata : ndarray, optional
        (N,), as in `intervals.accuracy_interval`.

    Source: Cameron and Miller 2015, Journal of Human Resources 50, 317, section 2 (cluster-robust
    standard error, Student's distribution with one degree of freedom less than groups).
    """
    n = len(reference_margins)
    if not n:
        return SmoothedDrop(0.0, math.inf, 1.0, 0)
    values = balanced.influence_values(smoothed_change(reference_margins, file_margins), strata)
    mean, freedom = float(values.mean()), max(n - 1.0, 1.0)
    least = 0.5 / (n * balanced.effective_fraction(np.zeros(n), None, strata, 0.95))
    variance = float(values.var()) / freedom + least**2
    if groups is not None:
        names, member = np.unique(groups, return_inverse=True)
        count = len(names)
        if count < 2:
            return SmoothedDrop(100 * mean, math.inf, 1.0, n)
        sums = np.bincount(member, weights=values - mean)
        between = float((sums**2).sum()) / n**2 * count / (count - 1)
        variance, freedom = max(variance, between + least**2), count - 1.0
    return SmoothedDrop(100 * mean, 100 * math.sqrt(variance), freedom, n)


def is_significantly_below(
    correct: NDArray[np.bool_ | np.float64],
    best: NDArray[np.bool_ | np.float64],
    groups: NDArray[np.int64] | None = None,
    strata: Strata = None,
) -> bool:
    """Whether `correct` is worse than `best` by a paired one-sided test at 90 %.

    Only samples that the two classify differently matter (McNemar 1947). With groups the effective
    number of samples is used (`bootstrap.cluster_effective_fraction`); with `strata` classes have
    equal weight.

    Parameters
    ----------
    correct, best : ndarray
        (N,): share of the trainings of a net, 0 to 1, that classify each sample correctly.
    groups, strata : ndarray, optional
        (N,), as in `intervals.accuracy_interval`.
    """
    lost = balanced.influence_values(best.astype(np.float64) - correct, strata)
    samples = float(len(lost))
    if groups is not None:
        samples *= bootstrap.cluster_effective_fraction(lost, groups, 1 - 2 * _TAIL)
    return bool(lost.mean() > _Z * lost.std() / math.sqrt(samples))


def judge_drop(drop: AccuracyDrop, limit: float) -> tuple[Status, int | None]:
    """Judge whether a drop is at most `limit` points by one-sided 95 % bounds.

    Returns
    -------
    (str, int or None)
        `holds`, `broken` or `undecided`; if undecided, the number of samples that would decide at
        the same rates (None: no number would).
    """
    status = drop_status(drop, limit)
    return status, samples_to_decide(drop, limit) if status == "undecided" else None


def drop_status(drop: AccuracyDrop, limit: float) -> Status:
    """Compare the one-sided 95 % bounds of a drop with `limit`, in accuracy points."""
    if drop.upper <= limit:
        return "holds"
    return "broken" if drop.lower > limit else "undecided"


def samples_to_decide(drop: AccuracyDrop, limit: float) -> int | None:
    """Samples at which the one-sided 95 % bound passes `limit` points if the rates stay.

    Tango's bound passes `limit` where his score at `limit` is the normal quantile. With fixed
    rates the variance of one pair does not depend on the number of samples, so the equation
    n (seen - limit)^2 = z^2 variance has one solution. It grows by what groups widen the bound.

    Parameters
    ----------
    drop : AccuracyDrop
        An undecided one.
    limit : float
        Accuracy points, 0 to 100.

    Returns
    -------
    int or None
        More than `drop.n`; None where no number, or only an unreasonable one, would decide.
    """
    if drop.n == 0 or drop.points == limit:
        return None
    pair = _variance(drop.lost, drop.won, drop.n, limit / 100)
    needed = pair * (100 * bootstrap.normal_quantile(ONE_SIDED_LEVEL) / (drop.points - limit)) ** 2
    end = 1 if drop.points < limit else 0
    alone = 100 * tango_interval(drop.lost, drop.won, drop.n, ONE_SIDED_LEVEL)[end]
    return whole_samples(
        needed * inflation(drop.points, (drop.lower, drop.upper)[end], alone), drop.n
    )


def _variance(lost: float, won: float, n: float, delta: float) -> float:
    """Variance of one pair's difference where the true difference is `delta` (Tango, eq. 12)."""
    a, c = 2 * n, -won * delta * (1 - delta)
    b = -lost - won + (2 * n - lost + won) * delta
    other = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    return max(2 * other + delta * (1 - delta), 0.0)


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function passes 0 between `low` and `high`, to the last bit."""
    for _ in range(100):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True, eq=False)
class Evidence:
    """Correctness of a file's predictions on the test samples."""

    correct: np.ndarray
    """bool (N,)."""
    groups: np.ndarray | None = None
    """(N,): group of each sample."""
    strata: Strata = None
    """(N,): class of each sample for balanced accuracy; None for plain accuracy."""
    labels: np.ndarray | None = None
    """(N,): class of each sample, for limits on each class."""

    @property
    def accuracy(self) -> float:
        """Accuracy, 0 to 1; balanced accuracy with `strata`."""
        return balanced.balanced_mean(self.correct, self.strata)

    @property
    def interval(self) -> Interval:
        """95 % confidence interval of `accuracy`."""
        return intervals.accuracy_interval(self.correct, self.groups, self.strata)


def unpaired_difference(first: Evidence, second: Evidence, level: float) -> tuple[float, Interval]:
    """Accuracy of `first` minus that of `second`, on other samples, and its interval.

    The interval combines those of the two accuracies, so that it regards groups and class weights.

    Parameters
    ----------
    first, second : Evidence
        One file, or two, on independent samples.
    level : float
        Two-sided confidence, 0 to 1.

    Returns
    -------
    (float, (float, float))
        Difference and its ends, -1 to 1.

    Source: Newcombe 1998, Statistics in Medicine 17, 873, method 10; Zou and Donner 2008,
    Statistics in Medicine 27, 1693 (for any two intervals).
    """
    a, b = first.accuracy, second.accuracy
    (a_low, a_high), (b_low, b_high) = (
        intervals.accuracy_interval(each.correct, each.groups, each.strata, level=level)
        for each in (first, second)
    )
    low = a - b - ((a - a_low) ** 2 + (b_high - b) ** 2) ** 0.5
    high = a - b + ((a_high - a) ** 2 + (b - b_low) ** 2) ** 0.5
    return a - b, (low, high)


def worst_class_drop(reference: Evidence, file: Evidence) -> float:
    """Largest drop of the accuracy of one class, in points, on the same samples.

    Raises
    ------
    ValueError
        If `reference` has no labels.
    """
    if reference.labels is None:
        raise ValueError("the drop of a class needs the labels of the samples")
    _, member, counts = np.unique(reference.labels, return_inverse=True, return_counts=True)
    lost = reference.correct.astype(float) - file.correct
    return float((100 * np.bincount(member, weights=lost) / counts).max())


def class_drops(reference: Evidence, file: Evidence) -> dict[int, AccuracyDrop]:
    """Drop of each class's recall between two files on the same samples."""
    assert reference.labels is not None, "class drops need the labels"
    order = np.argsort(reference.labels, kind="stable")
    labels, starts = np.unique(reference.labels[order], return_index=True)
    drops = {}
    for label, places in zip(labels.tolist(), np.split(order, starts[1:]), strict=True):
        groups = None if file.groups is None else file.groups[places]
        drops[int(label)] = paired_drop(reference.correct[places], file.correct[places], groups)
    return drops
