"""Confidence intervals of accuracies, and whether they decide a minimum."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from lepton_automl.metrics import balanced, bootstrap
from lepton_automl.metrics.balanced import Strata
from lepton_automl.metrics.bootstrap import Interval

Status = Literal["holds", "broken", "undecided"]

_MIN_RATIO_TO_CHANCE = 1.5
"""Minimum accuracy of a trained net, relative to chance."""

ONE_SIDED_LEVEL = 0.90
"""The two-sided level whose two ends are one-sided 95 % bounds."""

_MAX_SAMPLES = 1e8
"""No number of samples is suggested above this."""


def wilson_interval(correct: float, n: float, level: float = 0.95) -> Interval:
    """Wilson score interval of a proportion.

    Parameters
    ----------
    correct : float
        Successes, 0 to `n`; fractional with effective samples.
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
    """Confidence interval of an accuracy: Wilson, or a bootstrap with groups or `strata`.

    The bootstrap draws whole groups, or each class from itself without groups. The result is the
    wider of the bootstrap and of Wilson's interval for the effective number of samples, which
    remains where the bootstrap has no variance, as when every prediction is correct.

    Parameters
    ----------
    correct : ndarray
        bool (N,), or means over several trainings.
    groups, strata : ndarray, optional
        (N,): group of each sample, of any sortable type; its class for balanced accuracy.
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
    values = np.asarray(correct).astype(float)
    share = balanced.effective_fraction(values, groups, strata, level)
    score = wilson_interval(
        balanced.balanced_total(values, strata) * share, len(values) * share, level
    )
    if (groups is None and strata is None) or not len(values):
        return score
    drawn = balanced.bootstrap_interval(values, groups, strata, seed, level)
    # The bootstrap of influence values may exceed 0 to 1 where groups differ in their classes.
    return max(0.0, min(score[0], drawn[0])), min(1.0, max(score[1], drawn[1]))


def judge_accuracy(
    correct: float, n: int, minimum: float, bounds: Interval | None = None
) -> tuple[Status, int | None]:
    """Judge whether an accuracy is at least `minimum` by one-sided 95 % bounds.

    Parameters
    ----------
    correct, n : float, int
        Correct samples (reweighted for balanced accuracy), and all samples.
    minimum : float
        Accuracy, 0 to 1.
    bounds : (float, float), optional
        One-sided 95 % bounds if not Wilson's: `accuracy_interval(level=ONE_SIDED_LEVEL)`.

    Returns
    -------
    (str, int or None)
        `holds`, `broken` or `undecided`; if undecided, the number of samples that would decide at
        the same accuracy (None: no number would).
    """
    score = wilson_interval(correct, n, ONE_SIDED_LEVEL)
    low, high = bounds or score
    if low >= minimum:
        return "holds", None
    if high < minimum:
        return "broken", None
    accuracy = correct / n if n else minimum
    if accuracy == minimum:
        return "undecided", None
    # Wilson's bound passes `minimum` where the score test does, so its equation solves for n.
    needed = (
        minimum
        * (1 - minimum)
        * (bootstrap.normal_quantile(ONE_SIDED_LEVEL) / (accuracy - minimum)) ** 2
    )
    end = 0 if accuracy > minimum else 1
    return "undecided", whole_samples(needed * inflation(accuracy, (low, high)[end], score[end]), n)


def is_near_chance(accuracy: float, classes: int) -> bool:
    """Whether an accuracy, 0 to 1, is below 1.5 times that of guessing."""
    return accuracy < min(1.0, _MIN_RATIO_TO_CHANCE / classes)


def inflation(estimate: float, bound: float, independent_bound: float) -> float:
    """Factor by which groups increase the samples needed, from how much they widen a bound."""
    if independent_bound == estimate:
        return 1.0
    return max(1.0, ((bound - estimate) / (independent_bound - estimate)) ** 2)


def whole_samples(needed: float, n: int) -> int | None:
    """`needed` rounded up, at least `n` + 1; None above `_MAX_SAMPLES`."""
    return None if needed > _MAX_SAMPLES else max(math.ceil(needed), n + 1)
