"""How sure an accuracy or a drop is: intervals, paired differences, verdicts on limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lepton_automl import balance, grouping
from lepton_automl.balance import Strata
from lepton_automl.grouping import Interval

Status = Literal["holds", "broken", "undecided"]

ONE_SIDED_LEVEL = 0.90
"""The two-sided level whose two ends are one-sided 95 % bounds."""
_MAX_SAMPLES = 1e8
"""Where more samples than this would be needed, none are named."""


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
    """Samples only the reference gets right; as many as they count where classes count alike."""
    won: float
    """Samples only the file gets right; likewise."""


def wilson_interval(correct: float, n: float, level: float = 0.95) -> Interval:
    """Score interval of a share.

    Parameters
    ----------
    correct : float
        Successes, 0 to `n`; not whole where effective samples are counted.
    n : float
        Independent samples. With none the interval is (0, 1).
    level : float
        Two-sided confidence, 0 to 1.

    Returns
    -------
    (float, float)
        Low and high end, 0 to 1.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209; recommended by Brown, Cai and DasGupta
    2001, Statistical Science 16, 101, section 4.
    """
    if n == 0:
        return 0.0, 1.0
    z2 = grouping.normal_quantile(level) ** 2
    share = correct / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    low = 0.0 if correct == 0 else max(0.0, middle - half)
    high = 1.0 if correct == n else min(1.0, middle + half)
    return low, high


def accuracy_interval(
    correct: np.ndarray,
    groups: np.ndarray | None = None,
    strata: Strata = None,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval of an accuracy: Wilson's, or by draws where there are groups or classes count.

    Whole groups are drawn; without groups each class is drawn from itself. The wider of the
    bootstrap and of Wilson's interval for the effective number of samples; the latter also stands
    where the bootstrap has nothing to draw from, as when nothing is wrong.

    Parameters
    ----------
    correct : ndarray
        bool (N,), or shares of several trainings.
    groups, strata : ndarray, optional
        (N,), equal where samples belong together, of any sortable type; the class of each sample
        where every class counts alike.
    seed : int
        Of the draws.
    level : float
        Two-sided confidence, 0 to 1.

    Returns
    -------
    (float, float)
        Low and high end, 0 to 1.

    Source: Davison and Hinkley 1997, Bootstrap Methods, section 3.8 (groups are drawn); Hesterberg
    2015, The American Statistician 69, 371, section 5.1 (quantiles widened for few groups); Dean
    and Pacifici 2015, J. Survey Stat. Methodol. 3, 484 (Wilson's interval, effective samples).
    """
    right = np.asarray(correct).astype(float)
    share = balance.effective_fraction(right, groups, strata, level)
    score = wilson_interval(
        balance.balanced_total(right, strata) * share, len(right) * share, level
    )
    if (groups is None and strata is None) or not len(right):
        return score
    drawn = balance.bootstrap_interval(right, groups, strata, seed, level)
    # Influence values of groups that hold other classes than most may leave 0 to 1.
    return max(0.0, min(score[0], drawn[0])), min(1.0, max(score[1], drawn[1]))


def paired_drop(
    reference_correct: np.ndarray,
    file_correct: np.ndarray,
    groups: np.ndarray | None = None,
    strata: Strata = None,
    seed: int = 0,
) -> AccuracyDrop:
    """How much accuracy is lost between two classifiers on the same samples.

    Tango's score interval, whose one-sided bound is his test of non-inferiority; with groups, or
    where every class counts alike, the wider of that for the effective number of samples and of a
    bootstrap (see `bootstrap`).

    Parameters
    ----------
    reference_correct, file_correct : ndarray
        bool (N,), sample by sample.
    groups, strata : ndarray, optional
        (N,), as in `interval`.
    seed : int
        Of the bootstrap.

    Source: Tango 1998, Statistics in Medicine 17, 891, section 3; compared with others and
    recommended in Newcombe 1998, Statistics in Medicine 17, 2635 and Fagerland, Lydersen and
    Laake 2014, Statistics in Medicine 33, 2850.
    """
    before, after = np.asarray(reference_correct, bool), np.asarray(file_correct, bool)
    lost, won = (
        balance.balanced_total(before & ~after, strata),
        balance.balanced_total(after & ~before, strata),
    )
    change, n = before.astype(float) - after.astype(float), len(before)

    def bounds(level: float) -> Interval:
        share = balance.effective_fraction(change, groups, strata, level)
        score = tango_interval(lost * share, won * share, n * share, level)
        if (groups is None and strata is None) or not n:
            return score
        drawn = balance.bootstrap_interval(change, groups, strata, seed, level)
        return max(-1.0, min(score[0], drawn[0])), min(1.0, max(score[1], drawn[1]))

    low, high = bounds(0.95)
    lower, upper = bounds(ONE_SIDED_LEVEL)
    points = 100 * (lost - won) / n if n else 0.0
    return AccuracyDrop(points, 100 * low, 100 * high, 100 * lower, 100 * upper, n, lost, won)


def tango_interval(lost: float, won: float, n: float, level: float = 0.95) -> Interval:
    """Score interval of the difference (lost - won) / n of two paired shares, each -1 to 1.

    Source: Tango 1998, Statistics in Medicine 17, 891, equations 8 to 13.
    """
    if n <= 0:
        return -1.0, 1.0
    z, seen = grouping.normal_quantile(level), (lost - won) / n

    def beyond(delta: float) -> float:
        """How far the score at `delta` is outside the interval; falls with |delta - seen|."""
        return abs(lost - won - n * delta) - z * math.sqrt(n * _variance(lost, won, n, delta))

    low = -1.0 if seen <= -1 else _root(lambda d: -beyond(d), -1.0, seen)
    high = 1.0 if seen >= 1 else _root(beyond, seen, 1.0)
    return low, high


def judge_accuracy(
    correct: float, n: int, minimum: float, bounds: Interval | None = None
) -> tuple[Status, int | None]:
    """Whether an accuracy is at least `minimum`, as a one-sided 95 % bound says.

    Parameters
    ----------
    correct, n : float, int
        Right samples (as many as they count where classes count alike), samples.
    minimum : float
        Share, 0 to 1.
    bounds : (float, float), optional
        One-sided 95 % bounds where they are not Wilson's: `interval(level=ONE_SIDED)`.

    Returns
    -------
    (str, int or None)
        `holds`, `broken` or `undecided`; if undecided, how many samples would decide should the
        share stay as it is (None: no number would).
    """
    alone = wilson_interval(correct, n, ONE_SIDED_LEVEL)
    low, high = bounds or alone
    if low >= minimum:
        return "holds", None
    if high < minimum:
        return "broken", None
    seen = correct / n if n else minimum
    if seen == minimum:
        return "undecided", None
    # Wilson's bound passes `minimum` where the score test does, so its equation solves for n.
    needed = (
        minimum
        * (1 - minimum)
        * (grouping.normal_quantile(ONE_SIDED_LEVEL) / (seen - minimum)) ** 2
    )
    end = 0 if seen > minimum else 1
    return "undecided", _whole(needed * _inflation(seen, (low, high)[end], alone[end]), n)


def judge_drop(drop: AccuracyDrop, limit: float) -> tuple[Status, int | None]:
    """Whether a drop is at most `limit` points, as a one-sided 95 % bound says.

    Returns
    -------
    (str, int or None)
        `holds`, `broken` or `undecided`; if undecided, how many samples would decide should the
        rates stay as they are (None: no number would).
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
    drop : Drop
        Of which neither bound decides.
    limit : float
        Accuracy points, 0 to 100.

    Returns
    -------
    int or None
        More than `drop.n`; None where no number, or more than `MOST_SAMPLES`, would decide.
    """
    if drop.n == 0 or drop.points == limit:
        return None
    pair = _variance(drop.lost, drop.won, drop.n, limit / 100)
    needed = pair * (100 * grouping.normal_quantile(ONE_SIDED_LEVEL) / (drop.points - limit)) ** 2
    end = 1 if drop.points < limit else 0
    alone = 100 * tango_interval(drop.lost, drop.won, drop.n, ONE_SIDED_LEVEL)[end]
    return _whole(needed * _inflation(drop.points, (drop.lower, drop.upper)[end], alone), drop.n)


def _variance(lost: float, won: float, n: float, delta: float) -> float:
    """Variance of one pair's difference where the true difference is `delta` (Tango, eq. 12)."""
    a, c = 2 * n, -won * delta * (1 - delta)
    b = -lost - won + (2 * n - lost + won) * delta
    other = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    return max(2 * other + delta * (1 - delta), 0.0)


def _inflation(seen: float, end: float, alone: float) -> float:
    """How many times the samples that groups cost, from how much wider they make a bound."""
    return 1.0 if alone == seen else max(1.0, ((end - seen) / (alone - seen)) ** 2)


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


def _whole(needed: float, n: int) -> int | None:
    return None if needed > _MAX_SAMPLES else max(math.ceil(needed), n + 1)
