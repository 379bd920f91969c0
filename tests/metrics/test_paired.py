from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from lepton_automl.metrics import paired
from lepton_automl.metrics.paired import (
    Evidence,
    class_drops,
    paired_drop,
    tango_interval,
    unpaired_difference,
    worst_class_drop,
)

LABELS = np.repeat([0, 3, 7], [100, 10, 50])


def evidence(*right: int) -> Evidence:
    """So many correct samples of each class."""
    counts = zip((100, 10, 50), right, strict=True)
    correct = np.concatenate([np.arange(count) < n for count, n in counts])
    return Evidence(correct, labels=LABELS)


def test_the_worst_class_drop_is_the_largest_drop_of_one_class_in_points() -> None:
    reference, file = evidence(90, 9, 40), evidence(88, 8, 45)
    assert worst_class_drop(reference, file) == pytest.approx(10)
    assert worst_class_drop(file, reference) == pytest.approx(10)  # Class 7.


def test_the_worst_class_drop_needs_labels() -> None:
    plain = Evidence(np.ones(3, bool))
    with pytest.raises(ValueError, match="labels"):
        worst_class_drop(plain, plain)


def test_an_unpaired_difference_covers_the_truth_and_regards_groups():
    rng, hits, grouped_hits = np.random.default_rng(0), 0, 0
    for _ in range(200):
        first, second = rng.random(150) < 0.9, rng.random(90) < 0.8
        _, (low, high) = unpaired_difference(Evidence(first), Evidence(second), 0.95)
        hits += low <= 0.1 <= high
        groups = np.repeat(np.arange(30), 5)
        alike = np.repeat(rng.random(30) < 0.9, 5)  # Five copies of 30 pictures.
        grouped = Evidence(alike, groups)
        _, (low, high) = unpaired_difference(grouped, Evidence(second), 0.95)
        grouped_hits += low <= 0.1 <= high
    assert 183 <= hits <= 199
    assert grouped_hits >= 183


def test_an_unpaired_difference_without_groups_is_newcombes():
    # Newcombe 1998, table II, row (a), method 10: 56/70 - 48/80 = 0.2, [0.0524, 0.3339].
    first, second = np.arange(70) < 56, np.arange(80) < 48
    difference, (low, high) = unpaired_difference(Evidence(first), Evidence(second), 0.95)
    assert difference == pytest.approx(0.2)
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_thousands_of_classes_cost_as_many_intervals_as_there_are_different_counts(monkeypatch):
    rng = np.random.default_rng(3)
    labels = rng.permutation(np.repeat(np.arange(3000), 4))
    before = rng.random(len(labels)) < 0.8
    after = before ^ (rng.random(len(labels)) < 0.1)
    roots = []
    root = paired._root
    monkeypatch.setattr(paired, "_root", lambda *given: roots.append(1) or root(*given))
    tango_interval.cache_clear()
    drops = class_drops(Evidence(before, labels=labels), Evidence(after, labels=labels))
    assert len(roots) <= 4 * 15  # Two ends at two levels of each (lost, won) of 4 samples.
    assert sorted(drops) == list(range(3000))
    for label in (0, 17, 2999):
        chosen = labels == label
        assert drops[label] == paired_drop(before[chosen], after[chosen])


def test_a_class_without_change_is_as_certain_as_its_groups_allow():
    groups = np.repeat(np.arange(5), 2)
    right = np.ones(10, bool)
    drop = paired_drop(right, right, groups)
    assert drop.points == 0
    assert drop.low < 0 < drop.high
    assert drop.high > paired_drop(right, right).high  # Five groups tell less than ten samples.


def normal_margins(rng, n, shift=0.1, noise=0.3):
    """Margins of two nets, and the accuracy points that the second one loses in truth."""
    before = rng.normal(1.0, 1.0, n)
    after = before - shift + rng.normal(0.0, noise, n)
    truth = stats.norm.cdf(1.0) - stats.norm.cdf((1.0 - shift) / np.hypot(1.0, noise))
    return before, after, 100 * truth


def test_margins_are_those_of_the_true_class():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
    margins = paired.class_margins(scores, labels)
    for row, label, margin in zip(scores, labels, margins, strict=True):
        assert margin == row[label] - max(np.delete(row, label))
    assert ((margins > 0) == (scores.argmax(1) == labels)).all()


def test_a_smoothed_drop_is_near_the_truth_with_less_error_than_counting():
    rng = np.random.default_rng(1)
    before, after, truth = normal_margins(rng, 40_000)
    drop = paired.smoothed_drop(before, after)
    assert drop.points == pytest.approx(truth, abs=0.35)
    counted = (before > 0).astype(float) - (after > 0)
    assert drop.error < 0.7 * 100 * counted.std() / 200


def test_the_bound_of_a_smoothed_drop_covers_as_often_as_it_says():
    rng, covered, points = np.random.default_rng(2), 0, []
    middle = paired.smoothed_drop(*normal_margins(rng, 100_000)[:2]).points
    for _ in range(400):
        drop = paired.smoothed_drop(*normal_margins(rng, 200)[:2])
        points.append(drop.points)
        covered += drop.upper(0.1) >= middle
    assert 0.86 < covered / 400 < 0.97  # Half a sample is added to the error.
    assert drop.error == pytest.approx(np.std(points), rel=0.35)


def test_a_smoothed_drop_ignores_how_sure_a_net_is():
    before, after, _ = normal_margins(np.random.default_rng(3), 500)
    plain, sure = (paired.smoothed_drop(before, scale * after) for scale in (1.0, 10.0))
    assert sure.points == pytest.approx(plain.points)
    assert paired.smoothed_drop(before, 3 * before).points == pytest.approx(0.0, abs=1e-6)


def test_copies_of_a_sample_in_one_group_are_one_sample():
    before, after, _ = normal_margins(np.random.default_rng(4), 300)
    alone = paired.smoothed_drop(before, after)
    copies = [np.repeat(each, 5) for each in (before, after, np.arange(300))]
    grouped = paired.smoothed_drop(copies[0], copies[1], copies[2])
    assert grouped.points == pytest.approx(alone.points)
    assert grouped.freedom == 299
    assert grouped.error == pytest.approx(alone.error, rel=0.1)
    assert paired.smoothed_drop(copies[0], copies[1]).error < 0.6 * grouped.error
    one = paired.smoothed_drop(before, after, np.zeros(300))
    assert one.upper(0.1) == math.inf


def test_classes_have_equal_weight_in_a_smoothed_drop():
    before, after, _ = normal_margins(np.random.default_rng(5), 400)
    strata = np.repeat([0, 1], [360, 40])
    change = paired.smoothed_change(before, after)
    wanted = 50 * (change[:360].mean() + change[360:].mean())
    drop = paired.smoothed_drop(before, after, None, strata)
    assert drop.points == pytest.approx(wanted)
    spread = np.hypot(change[:360].std() / 360**0.5, change[360:].std() / 40**0.5) / 2
    assert drop.error == pytest.approx(np.hypot(100 * spread, 50 / 144), rel=0.05)


def test_equal_answers_still_leave_the_error_of_half_a_sample():
    before = np.full(200, 2.0)
    assert paired.smoothed_drop(before, before).error == pytest.approx(0.25)
    assert paired.smoothed_drop(before[:0], before[:0]).upper(0.1) == math.inf
