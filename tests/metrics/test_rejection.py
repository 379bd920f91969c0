"""The threshold for "none of these" holds its rate, by direct sums and by simulation."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from lepton_automl.metrics.rejection import rejection_threshold, samples_needed


def rank(count, rate):
    """Greatest k for which fewer than k of `count` events of this rate have 5 % chance at most."""
    chance, found = 0.0, 0
    for k in range(count):
        chance += comb(count, k) * rate**k * (1 - rate) ** (count - k)
        if chance > 0.05:
            break
        found = k + 1
    return found


@pytest.mark.parametrize(("count", "rate"), [(59, 0.05), (93, 0.05), (500, 0.05), (700, 0.01)])
def test_it_is_the_order_statistic_of_the_exact_binomial_bound(count, rate):
    values = np.random.default_rng(count).random(count)
    wanted = sorted(values.tolist())[rank(count, rate) - 1]
    assert rejection_threshold(values, rate, count) == wanted


def test_of_new_samples_more_than_the_rate_are_below_in_5_percent_of_draws_at_most():
    draws = np.random.default_rng(0).random((4000, 216))
    # Of uniform values the share below a threshold is the threshold.
    above = np.mean([rejection_threshold(row, 0.05, len(row)) > 0.05 for row in draws])
    assert 0.01 < above < 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(draws))


@pytest.mark.parametrize(("rate", "count"), [(0.05, 59), (0.01, 299), (0.5, 5)])
def test_too_few_samples_give_no_threshold(rate, count):
    assert samples_needed(rate) == count
    assert rank(count, rate) == 1
    assert rank(count - 1, rate) == 0
    assert rejection_threshold(np.linspace(0.1, 1, count), rate, count) == 0.1
    assert rejection_threshold(np.linspace(0.1, 1, count - 1), rate, count - 1) == 0


def test_groups_count_once():
    values = np.sort(np.random.default_rng(2).random(1000))
    assert rejection_threshold(values, 0.05, 58) == 0
    assert rejection_threshold(values, 0.05, 100) == values[rank(100, 0.05) * 10 - 1]


def test_of_equal_values_none_is_below():
    values = np.ones(100)
    assert not (values < rejection_threshold(values, 0.05, 100)).any()
