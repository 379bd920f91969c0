from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from lepton_automl.metrics.resolution import resolution


@pytest.mark.parametrize("samples", [20, 120, 4000])
def test_the_smallest_limit_is_where_the_score_test_rejects_files_that_agree(samples):
    # Without any discordant pair Tango's score of a drop d is n d / sqrt(n d (1 - d)).
    z = norm.ppf(0.95)
    assert resolution(samples).smallest_limit == pytest.approx(100 * z**2 / (samples + z**2))


@pytest.mark.parametrize("samples", [20, 120, 4000])
def test_the_smallest_drop_is_the_first_that_the_score_test_shows(samples):
    # At a drop of 0 the score of k lost and no won pairs is sqrt(k), as in McNemar's test.
    lost = next(k for k in range(1, samples) if k**0.5 > norm.ppf(0.95))
    assert resolution(samples).smallest_drop == pytest.approx(100 * lost / samples)


def test_a_part_that_is_too_small_shows_no_drop():
    assert resolution(2).smallest_drop is None


def test_groups_show_as_little_as_so_many_samples():
    found, few = resolution(120, np.arange(120) // 10), resolution(12)
    assert (found.samples, found.independent) == (120, 12)
    assert found.smallest_drop == few.smallest_drop
    assert found.interval == few.interval
    # Intervals over few groups are wider than those over as many independent samples.
    assert few.smallest_limit < found.smallest_limit < 1.3 * few.smallest_limit
