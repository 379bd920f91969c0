from __future__ import annotations

import numpy as np
import pytest

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
