"""Groups against scipy and sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lepton_automl.metrics import bootstrap


def test_quantiles_are_scipys():
    assert bootstrap.normal_quantile(0.95) == pytest.approx(stats.norm.ppf(0.975))
    assert bootstrap.student_quantile(0.9, 8) == pytest.approx(stats.t.ppf(0.95, 7))


def test_draws_of_many_equal_groups_spread_as_the_standard_error_says():
    rng = np.random.default_rng(0)
    means = rng.normal(size=200)
    values, groups = np.repeat(means, 5), np.repeat(np.arange(200), 5)
    low, high = bootstrap.cluster_bootstrap_interval(values, groups, 0, 0.95)
    half = stats.t.ppf(0.975, 199) * means.std(ddof=1) / np.sqrt(200)
    assert (high - low) / 2 == pytest.approx(half, rel=0.05)
    assert (high + low) / 2 == pytest.approx(means.mean(), abs=0.1 * half)


def test_draws_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    values, groups = np.arange(30.0), np.repeat(np.arange(10), 3)
    at_once = bootstrap.cluster_bootstrap_interval(values, groups, 4, 0.95)
    monkeypatch.setattr(bootstrap, "_MAX_DRAWS", 70)
    assert bootstrap.cluster_bootstrap_interval(values, groups, 4, 0.95) == at_once


def test_equal_samples_of_a_group_have_one_effective_sample():
    values = np.repeat(np.random.default_rng(0).random(400) < 0.7, 6).astype(float)
    share = bootstrap.cluster_effective_fraction(values, np.repeat(np.arange(400), 6), 0.95)
    assert share == pytest.approx(1 / 6, rel=0.02)


def test_independent_samples_stay_effective_and_few_groups_reduce_them():
    values = (np.random.default_rng(0).random(4000) < 0.7).astype(float)
    assert bootstrap.cluster_effective_fraction(values, np.arange(4000), 0.95) == pytest.approx(
        1, abs=0.01
    )
    few = (1.95996 / stats.t.ppf(0.975, 7)) ** 2
    assert bootstrap.cluster_effective_fraction(values, np.arange(4000) % 8, 0.95) <= few * (
        1 + 1e-4
    )


def test_values_that_all_agree_count_once_a_group():
    share = bootstrap.cluster_effective_fraction(np.ones(60), np.repeat(np.arange(12), 5), 0.95)
    assert share == pytest.approx((1.95996 / stats.t.ppf(0.975, 11)) ** 2 / 5, rel=1e-4)


def test_quantiles_of_few_groups_are_widened_to_students():
    values, groups = np.array([0.1, 0.5, 0.7, 0.2, 0.4, 0.8]), np.arange(6)
    low, high = bootstrap.cluster_bootstrap_interval(values, groups, 0, 0.8)
    half = stats.t.ppf(0.9, 5) * values.std(ddof=1) / np.sqrt(6)
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)
