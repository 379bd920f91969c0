"""Threshold on the greatest probability at a bound on the share of samples below it."""

from __future__ import annotations

import math

import numpy as np

DOUBT = 0.05
"""One-sided: greatest probability that more new samples than the rate are below the threshold."""


def samples_needed(rate: float) -> int:
    """Least number of independent samples with which a rate, between 0 and 1, can be shown.

    That is the least n with (1 - rate)^n <= 0.05 (Wilks 1941, Ann. Math. Stat. 12, 91).
    """
    return math.ceil(math.log(DOUBT) / math.log1p(-rate))


def rejection_threshold(greatest: np.ndarray, rate: float, independent: int) -> float:
    """Threshold below which at most a share `rate` of new samples like these are.

    It is the k-th smallest of the values, with the greatest k for which the share of new samples
    below it is at most `rate` with 95 % confidence: the upper bound of that share is the Clopper
    and Pearson bound of k - 1 events among n samples (Clopper and Pearson 1934, Biometrika 26,
    404; tolerance limits of Wilks 1941, Ann. Math. Stat. 12, 91).

    Parameters
    ----------
    greatest : float array (N,)
        Greatest probability of each sample.
    rate : float
        Share of new samples that may be below, between 0 and 1.
    independent : int
        Independent samples among them, at most N: the number of groups where there are groups. Then
        k is found for that number and scaled to N, which is an approximation.

    Returns
    -------
    float
        0 where the samples are too few to show the rate (`samples_needed`): none is below.
    """
    from scipy.special import bdtr  # Slow to import; workers do without.

    # P(share below the k-th smallest > rate) <= P(binomial(n, rate) < k), for any distribution.
    below = np.arange(independent)
    count = int((bdtr(below, independent, rate) <= DOUBT).sum())
    place = count * len(greatest) // independent
    return float(np.sort(greatest)[place - 1]) if place else 0.0
