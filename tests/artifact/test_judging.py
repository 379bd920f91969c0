from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from lepton_automl.artifact import judging
from lepton_automl.artifact.judging import (
    choose_primary,
    judge,
    keeps_exact_limits,
    paired,
    undecided_without_run,
)
from lepton_automl.config import Limits
from lepton_automl.metrics.paired import Evidence
from tests.helpers.artifacts import figures, target_latency


def evidence(correct: int, n: int, groups=None) -> Evidence:
    return Evidence(np.arange(n) < correct, groups)


def judged(limits: Limits, file: Evidence, reference: Evidence | None = None, **changes):
    (limit,) = judge(limits, figures(**changes), file, reference or file)
    return limit


def test_only_stated_limits_are_judged():
    file = evidence(90, 100)
    assert judge(Limits(), figures(), file, file) == ()
    names = [x.name for x in judge(Limits(max_macs=1, min_accuracy=0.5), figures(), file, file)]
    assert names == ["max_macs", "min_accuracy"]


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("max_size_bytes", "size_bytes"),
        ("max_macs", "macs"),
        ("max_peak_ram_bytes", "peak_ram_bytes"),
    ],
)
def test_exact_limits_hold_up_to_the_last_byte(name, field):
    file = evidence(9, 10)
    for measured, status in ((1000, "holds"), (1001, "broken")):
        limit = judged(Limits(**{name: 1000}), file, **{field: measured})
        assert (limit.status, limit.measured, limit.interval) == (status, measured, None)


@pytest.mark.parametrize(
    ("interval", "status"),
    [((0.8, 1.0), "holds"), ((0.8, 1.01), "undecided"), ((1.01, 1.2), "broken")],
)
def test_latency_is_judged_by_its_whole_interval(interval, status):
    limit = judged(Limits(max_latency_ms=1.0), evidence(9, 10), latency_interval=interval)
    assert limit.status == status
    assert limit.n_needed is None


@pytest.mark.parametrize(
    ("correct", "n", "status"), [(980, 1000, "holds"), (91, 100, "undecided"), (50, 100, "broken")]
)
def test_accuracy_is_judged_by_its_bound(correct, n, status):
    limit = judged(Limits(min_accuracy=0.9), evidence(correct, n))
    assert limit.status == status
    assert limit.measured == correct / n
    assert (limit.n_needed is not None) == (status == "undecided")


def test_as_many_samples_as_named_decide():
    limit = judged(Limits(min_accuracy=0.9), evidence(91, 100))
    assert limit.n_needed is not None
    right = round(0.91 * limit.n_needed)
    assert judged(Limits(min_accuracy=0.9), evidence(right + 1, limit.n_needed)).status == "holds"
    few = limit.n_needed // 2
    assert judged(Limits(min_accuracy=0.9), evidence(round(0.91 * few), few)).status == "undecided"


def test_the_accuracy_interval_is_wilsons():
    n, p, z = 360, 355 / 360, 1.959963984540054
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = np.array([middle - half, middle + half]) / (1 + z * z / n)
    np.testing.assert_allclose(evidence(355, 360).interval, expected)


def test_groups_widen_the_interval_and_may_undo_a_verdict():
    correct = np.arange(400) < 376
    groups = np.arange(400) // 40  # the errors are all in one of ten groups
    alone, together = Evidence(correct), Evidence(correct, groups)
    assert together.interval[0] < alone.interval[0]
    assert judged(Limits(min_accuracy=0.91), alone).status == "holds"
    assert judged(Limits(min_accuracy=0.91), together).status == "undecided"


@pytest.mark.parametrize(
    ("lost", "won", "n", "status"),
    [(0, 0, 2000, "holds"), (3, 2, 300, "undecided"), (60, 0, 1000, "broken")],
)
def test_a_drop_is_judged_on_pairs(lost, won, n, status):
    before, after = np.ones(n, bool), np.ones(n, bool)
    after[:lost] = False
    before[n - won :] = False
    limit = judged(Limits(max_drop=0.5), Evidence(after), Evidence(before))
    assert limit.status == status
    assert limit.measured == pytest.approx(100 * (before.mean() - after.mean()))


def test_a_drop_is_reference_minus_file():
    drop = paired(evidence(90, 100), evidence(80, 100))
    assert drop.points == pytest.approx(10)
    assert drop.low < 10 < drop.high
    assert drop.n == 100


INT8 = figures(latency_interval=(0.012, 0.014))
FAST = figures("model.fp32.onnx", size_bytes=40_000, latency_interval=(0.008, 0.011))
CLOSE = figures("model.fp32.onnx", size_bytes=40_000, latency_interval=(0.008, 0.0125))


@pytest.mark.parametrize(
    ("floating", "limits", "prefer", "expected"),
    [
        (FAST, Limits(), "size", "int8"),
        (FAST, Limits(), "latency", "float"),
        (CLOSE, Limits(), "latency", "int8"),
        (FAST, Limits(max_size_bytes=20_000), "latency", "int8"),
        (FAST, Limits(max_size_bytes=50_000), "latency", "float"),
        (FAST, Limits(max_size_bytes=1_000), "latency", "float"),
    ],
)
def test_the_faster_file_ships_only_if_asked_for_and_legal(floating, limits, prefer, expected):
    assert choose_primary(INT8, floating, limits, prefer) == expected


def test_latency_and_accuracy_are_no_exact_limits():
    limits = Limits(max_latency_ms=1e-9, min_accuracy=1.0, max_drop=0.0)
    assert keeps_exact_limits(limits, INT8)


@pytest.mark.parametrize(
    ("basis", "limit_ms", "status"),
    [
        ("predicted", 3.0, "holds"),
        ("predicted", 2.9, "undecided"),
        ("predicted", 0.9, "broken"),
        ("estimated", 3.0, "undecided"),
        ("estimated", 300.0, "undecided"),
        ("estimated", 0.9, "broken"),
    ],
)
def test_on_another_device_its_latency_is_judged_and_an_estimate_proves_nothing(
    basis, limit_ms, status
):
    here = {"latency_ms": 0.001, "latency_interval": (0.001, 0.001)}
    told = target_latency(basis)
    limit = judged(Limits(max_latency_ms=limit_ms), evidence(9, 10), target_latency=told, **here)
    assert (limit.status, limit.basis) == (status, basis)
    assert limit.measured == 2.0
    assert limit.interval == (1.0, 3.0)
    assert f"{basis} 2" in str(limit)


def test_int8_ships_where_nothing_tells_which_is_faster():
    slow = figures(latency_interval=(2.0, 3.0))
    fast = figures("model.fp32.onnx", latency_interval=(0.1, 0.2))
    assert choose_primary(slow, fast, Limits(), "latency") == "float"
    there = figures(latency_interval=(2.0, 3.0), target_latency=target_latency())
    assert choose_primary(there, fast, Limits(), "latency") == "int8"


def test_where_classes_count_alike_accuracy_drop_and_limits_are_balanced():
    labels = np.repeat([0, 1, 2], [500, 60, 40])
    before = np.arange(600) % 20 != 0
    after = before & ~((labels == 2) & (np.arange(600) % 2 == 0))
    file, reference = Evidence(after, strata=labels), Evidence(before, strata=labels)
    answers = [np.where(right, labels, (labels + 1) % 3) for right in (before, after)]
    scores = [balanced_accuracy_score(labels, answer) for answer in answers]
    assert (reference.accuracy, file.accuracy) == pytest.approx(scores)
    assert file.interval[0] < file.accuracy < file.interval[1]
    drop = paired(reference, file)
    assert drop.points == pytest.approx(100 * (scores[0] - scores[1]))
    assert drop.low < drop.points < drop.upper
    assert judged(Limits(min_accuracy=0.85), file).status == "broken"
    assert judged(Limits(min_accuracy=0.85), Evidence(after)).status == "holds"
    limit = judged(Limits(max_drop=10), file, reference)
    assert (limit.status, limit.measured) == ("broken", pytest.approx(drop.points))
    undecided = judged(Limits(min_accuracy=0.77), file)
    assert undecided.status == "undecided"
    assert undecided.n_needed > 600


def by_class(kept: dict[int, tuple[int, int, int]]) -> tuple[Evidence, Evidence]:
    """Reference and file; of each class so many samples, right before, right after."""
    labels = np.concatenate([np.full(n, label) for label, (n, _, _) in kept.items()])
    before = np.concatenate([np.arange(n) < one for n, one, _ in kept.values()])
    after = np.concatenate([np.arange(n) < two for n, _, two in kept.values()])
    return Evidence(before, labels=labels), Evidence(after, labels=labels)


@pytest.mark.parametrize(
    ("kept", "status", "of"),
    [
        ({0: (5000, 4500, 4495), 1: (5000, 4500, 4500)}, "holds", 0),
        ({0: (5000, 4500, 4500), 1: (5000, 4500, 4200)}, "broken", 1),
        ({0: (5000, 4500, 4500), 1: (40, 36, 35)}, "undecided", 1),
    ],
)
def test_a_drop_is_judged_by_the_class_that_stands_worst(kept, status, of):
    reference, file = by_class(kept)
    limit = judged(Limits(max_class_drop=2.0), file, reference)
    assert (limit.status, limit.of) == (status, of)
    n, before, after = kept[of]
    assert limit.measured == pytest.approx(100 * (before - after) / n)
    assert status != "undecided" or limit.n_needed > len(file.correct)


def test_of_many_undecided_classes_only_the_one_that_is_named_is_solved_for(monkeypatch):
    reference, file = by_class({c: (200 + c, 180, 179 - (c == 33)) for c in range(60)})
    solved, solve = [], judging.samples_to_decide

    def counted(drop, limit):
        solved.append(drop.points)
        return solve(drop, limit)

    monkeypatch.setattr(judging, "samples_to_decide", counted)
    limit = judged(Limits(max_class_drop=2.0), file, reference)
    assert (limit.status, limit.of) == ("undecided", 33)
    assert solved == [pytest.approx(100 * 2 / 233)]
    alone = np.isin(reference.labels, 33)
    (pair,) = judge(
        Limits(max_drop=2.0),
        figures(),
        Evidence(file.correct[alone]),
        Evidence(reference.correct[alone]),
    )
    assert limit.n_needed == pair.n_needed * len(file.correct) // 233


def test_of_many_classes_one_that_seems_to_break_it_by_chance_does_not():
    draws = np.random.default_rng(0)
    broken = 0
    for _ in range(60):
        labels = np.repeat(np.arange(40), 100)
        before = draws.random(len(labels)) < 0.9
        flips = draws.random(len(labels)) < 0.06  # As many lost as won: no class loses anything.
        after = np.where(flips, draws.random(len(labels)) < 0.5, before)
        pair = Evidence(before, labels=labels), Evidence(after, labels=labels)
        broken += judged(Limits(max_class_drop=2.0), pair[1], pair[0]).status == "broken"
    assert broken <= 6


@pytest.mark.parametrize(
    ("flash", "limit", "status", "basis"),
    [
        ({"flash_bytes": 10_000}, 10_000, "holds", "measured"),
        ({"flash_bytes": 10_001}, 10_000, "broken", "measured"),
        ({"flash_bytes": 9_500, "flash_basis": "predicted"}, 10_000, "holds", "predicted"),
        ({"flash_bytes": 9_600, "flash_basis": "predicted"}, 10_000, "undecided", "predicted"),
        ({"flash_bytes": 10_600, "flash_basis": "predicted"}, 10_000, "broken", "predicted"),
        ({"size_bytes": 9_000}, 10_000, "undecided", "estimated"),
        ({"size_bytes": 10_001}, 10_000, "broken", "estimated"),
    ],
)
def test_flash_is_exact_where_measured_and_has_an_interval_where_predicted(
    flash, limit, status, basis
):
    right = evidence(90, 100)
    (found,) = judge(Limits(max_flash_bytes=limit), figures(**flash), right, right)
    assert (found.status, found.basis) == (status, basis)
    assert (found.interval is None) == (basis == "measured")
    held = undecided_without_run((found,))[0]
    assert held.status == ("undecided" if status == "holds" else status)
