"""How sure an accuracy or a drop is: intervals, paired differences, verdicts on limits."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from lepton_automl.metrics import balanced, bootstrap
from lepton_automl.metrics.balanced import Strata
from lepton_automl.metrics.bootstrap import Interval

Status = Literal["holds", "broken", "undecided"]

LEAST_TIMES_CHANCE = 1.5
"""A trained net gets at least so many times the accuracy of guessing."""

ONE_SIDED_LEVEL = 0.90
"""The two-sided level whose two ends are one-sided 95 % bounds."""

_MAX_SAMPLES = 1e8
"""Where more samples than this would be needed, none are named."""


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
    z2 = bootstrap.normal_quantile(level) ** 2
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
    share = balanced.effective_fraction(right, groups, strata, level)
    score = wilson_interval(
        balanced.balanced_total(right, strata) * share, len(right) * share, level
    )
    if (groups is None and strata is None) or not len(right):
        return score
    drawn = balanced.bootstrap_interval(right, groups, strata, seed, level)
    # Influence values of groups that hold other classes than most may leave 0 to 1.
    return max(0.0, min(score[0], drawn[0])), min(1.0, max(score[1], drawn[1]))


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
        * (bootstrap.normal_quantile(ONE_SIDED_LEVEL) / (seen - minimum)) ** 2
    )
    end = 0 if seen > minimum else 1
    return "undecided", whole_samples(needed * inflation(seen, (low, high)[end], alone[end]), n)


def is_near_chance(accuracy: float, classes: int) -> bool:
    """Whether an accuracy, 0 to 1, is below 1.5 times what guessing gets."""
    return accuracy < min(1.0, LEAST_TIMES_CHANCE / classes)


def inflation(seen: float, end: float, alone: float) -> float:
    """How many times the samples that groups cost, from how much wider they make a bound."""
    return 1.0 if alone == seen else max(1.0, ((end - seen) / (alone - seen)) ** 2)


def whole_samples(needed: float, n: int) -> int | None:
    """`needed` as a whole number above `n`; None beyond `_MAX_SAMPLES`."""
    return None if needed > _MAX_SAMPLES else max(math.ceil(needed), n + 1)
