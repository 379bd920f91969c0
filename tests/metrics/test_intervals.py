"""Statistics against other implementations, brute force and simulated coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats
from sklearn.metrics import balanced_accuracy_score

from lepton_automl.metrics import balanced, paired
from lepton_automl.metrics.intervals import (
    ONE_SIDED_LEVEL,
    accuracy_interval,
    is_near_chance,
    judge_accuracy,
    wilson_interval,
)
from lepton_automl.metrics.paired import judge_drop, paired_drop, tango_interval


def pairs(both, lost, won, neither):
    """Two boolean arrays with the given numbers of each outcome."""
    reference = [1] * both + [1] * lost + [0] * won + [0] * neither
    file = [1] * both + [0] * lost + [1] * won + [0] * neither
    return np.array(reference, bool), np.array(file, bool)


@given(st.integers(1, 5000), st.data(), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_wilson_equals_scipy(n, data, level):
    correct = data.draw(st.integers(0, n))
    theirs = stats.binomtest(correct, n).proportion_ci(level, method="wilson")
    assert wilson_interval(correct, n, level) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_wilson_without_samples_is_0_to_1():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def constrained_score(lost, won, n, delta):
    """Tango's statistic with the nuisance parameter found by numeric maximum likelihood."""

    def loss(q):
        p = q + delta
        same = 1 - p - q
        return -(
            lost * math.log(max(p, 1e-300))
            + won * math.log(max(q, 1e-300))
            + (n - lost - won) * math.log(max(same, 1e-300))
        )

    low, high = max(0.0, -delta), (1 - delta) / 2
    q = optimize.minimize_scalar(
        loss, bounds=(low, high), method="bounded", options={"xatol": 1e-13}
    ).x
    return (lost - won - n * delta) / math.sqrt(n * (2 * q + delta - delta * delta))


@pytest.mark.parametrize(("lost", "won", "n"), [(7, 2, 100), (1, 9, 60), (12, 12, 300), (3, 1, 20)])
def test_tango_ends_are_where_the_likelihood_score_is_the_quantile(lost, won, n):
    low, high = tango_interval(lost, won, n)
    assert constrained_score(lost, won, n, low) == pytest.approx(1.95996, abs=1e-3)
    assert constrained_score(lost, won, n, high) == pytest.approx(-1.95996, abs=1e-3)


def test_tango_without_disagreement_is_wilson_of_no_success():
    low, high = tango_interval(0, 0, 360, ONE_SIDED_LEVEL)
    assert high == pytest.approx(wilson_interval(0, 360, ONE_SIDED_LEVEL)[1], abs=1e-9)
    assert low == pytest.approx(-high)


def test_tango_mirrors():
    low, high = tango_interval(5, 2, 80)
    other_low, other_high = tango_interval(2, 5, 80)
    assert (low, high) == pytest.approx((-other_high, -other_low))


@pytest.mark.parametrize(("p_lost", "p_won", "n"), [(0.02, 0.01, 360), (0.05, 0.05, 120)])
def test_one_sided_drop_bound_covers_by_exact_enumeration(p_lost, p_won, n):
    truth, missed = p_lost - p_won, 0.0
    for lost in range(31):
        for won in range(31):
            chance = stats.multinomial.pmf(
                [lost, won, n - lost - won], n, [p_lost, p_won, 1 - p_lost - p_won]
            )
            if chance > 1e-7 and tango_interval(lost, won, n, ONE_SIDED_LEVEL)[1] < truth:
                missed += chance
    assert missed < 0.06


@pytest.mark.parametrize(("share", "n"), [(0.9, 100), (0.98, 360), (0.99, 2000)])
def test_wilson_covers_by_exact_enumeration(share, n):
    covered = sum(
        stats.binom.pmf(k, n, share)
        for k in range(n + 1)
        if wilson_interval(k, n)[0] <= share <= wilson_interval(k, n)[1]
    )
    assert covered > 0.93


def grouped(rng, groups, size, share, correlation):
    """Correct or not, in groups that differ in how hard they are (beta-binomial)."""
    a, b = (x * (1 - correlation) / correlation for x in (share, 1 - share))
    hard = rng.beta(a, b, groups)
    member = np.repeat(np.arange(groups), rng.poisson(size, groups) + 1)
    return rng.random(len(member)) < hard[member], member


@pytest.mark.parametrize(("groups", "share"), [(12, 0.8), (40, 0.97)])
def test_group_bootstrap_covers_where_wilson_does_not(groups, share, monkeypatch):
    monkeypatch.setattr("lepton_automl.metrics.bootstrap.BOOTSTRAP_SAMPLES", 400)
    rng = np.random.default_rng(3)
    ours = theirs = 0
    for trial in range(200):
        right, member = grouped(rng, groups, 10, share, 0.3)
        low, high = accuracy_interval(right, member, seed=trial)
        ours += low <= share <= high
        low, high = wilson_interval(int(right.sum()), len(right))
        theirs += low <= share <= high
    assert ours >= 0.9 * 200
    assert theirs < 0.8 * 200


def test_groups_of_one_are_nearly_independent_samples():
    rng = np.random.default_rng(0)
    right = rng.random(500) < 0.9
    alone = wilson_interval(int(right.sum()), 500)
    assert accuracy_interval(right, np.arange(500)) == pytest.approx(alone, abs=0.006)


def test_groups_that_all_agree_count_as_one_sample_each():
    low, high = accuracy_interval(np.ones(1000, bool), np.repeat(np.arange(10), 100))
    assert high == 1.0
    assert low == pytest.approx(wilson_interval(10, 10)[0], abs=0.07)
    assert low < wilson_interval(10, 10)[0]


def test_group_names_may_be_text_and_the_draws_repeat():
    right = np.array([1, 0, 1, 1, 0, 1], bool)
    names = np.array(["a", "a", "b", "b", "c", "c"])
    assert accuracy_interval(right, names, seed=5) == accuracy_interval(
        right, np.repeat([0, 1, 2], 2), seed=5
    )


def test_one_group_gives_a_wide_interval():
    low, high = accuracy_interval(np.array([1, 1, 1, 0], bool), np.zeros(4))
    assert (low, high) == (0.0, 1.0)


def test_a_drop_is_reference_minus_file_in_points():
    drop = paired_drop(*pairs(340, 9, 3, 8))
    assert (drop.points, drop.lost, drop.won, drop.n) == (pytest.approx(600 / 360), 9, 3, 360)
    assert drop.low < drop.lower < drop.points < drop.upper < drop.high


def test_groups_widen_a_drop():
    reference, file = pairs(300, 24, 0, 36)
    alone = paired_drop(reference, file)
    together = paired_drop(reference, file, np.repeat(np.arange(15), 24))
    assert together.points == alone.points
    assert together.upper > alone.upper
    assert together.lower < alone.lower


def test_a_drop_holds_breaks_or_stays_undecided():
    assert judge_drop(paired_drop(*pairs(9000, 10, 10, 980)), 0.5) == ("holds", None)
    assert judge_drop(paired_drop(*pairs(8000, 300, 50, 1650)), 0.5) == ("broken", None)
    status, needed = judge_drop(paired_drop(*pairs(355, 0, 0, 5)), 0.5)
    assert (status, needed) == ("undecided", 539)  # z^2 / (n + z^2) <= 0.005


@pytest.mark.parametrize(("lost", "won", "limit"), [(4, 3, 1.0), (9, 1, 1.0), (2, 0, 1.5)])
def test_as_many_samples_as_named_do_decide_a_drop(lost, won, limit):
    status, needed = judge_drop(paired_drop(*pairs(350 - lost, lost, won, 10 - won)), limit)
    assert status == "undecided"

    def ends(n):
        return [100 * e for e in tango_interval(lost * n / 360, won * n / 360, n, ONE_SIDED_LEVEL)]

    lower, upper = ends(needed)
    assert upper <= limit + 1e-9 or lower > limit - 1e-9
    lower, upper = ends(needed - 2)
    assert lower <= limit < upper


def test_the_samples_that_decide_a_drop_are_where_its_bound_passes_the_limit():
    for lost, won, limit in itertools.product((2, 3, 5, 9), (0, 1, 4), (0.3, 1.0, 1.7, 2.9)):
        drop = paired_drop(*pairs(350 - lost, lost, won, 10 - won))
        status, needed = judge_drop(drop, limit)
        assert (status == "undecided") == (drop.lower <= limit < drop.upper)
        if needed is None:
            continue
        shares, end = (lost / 360, won / 360), 1 if drop.points < limit else 0
        bounds = [
            100 * tango_interval(shares[0] * n, shares[1] * n, n, ONE_SIDED_LEVEL)[end]
            for n in (needed - 1.001, needed + 0.001)
        ]
        assert min(bounds) - 1e-9 <= limit <= max(bounds) + 1e-9


def test_a_verdict_takes_a_few_hundred_evaluations_of_the_score(monkeypatch):
    drop, variance, calls = paired_drop(*pairs(346, 4, 3, 7)), paired._variance, []
    monkeypatch.setattr(paired, "_variance", lambda *given: calls.append(1) or variance(*given))
    assert judge_drop(drop, 1.0)[0] == "undecided"
    assert len(calls) <= 250  # Two bounds by bisection, once; not once for each number tried.


def test_a_drop_at_its_limit_is_never_decided():
    assert judge_drop(paired_drop(*pairs(95, 1, 0, 4)), 1.0) == ("undecided", None)
    assert judge_drop(paired_drop(*pairs(95, 0, 0, 5)), 0.0) == ("undecided", None)


def test_grouped_samples_need_more_to_decide():
    reference, file = pairs(340, 8, 6, 6)
    alone = judge_drop(paired_drop(reference, file), 2.0)
    together = judge_drop(paired_drop(reference, file, np.repeat(np.arange(12), 30)), 2.0)
    assert alone[0] == together[0] == "undecided"
    assert together[1] > alone[1]


def test_an_accuracy_holds_breaks_or_stays_undecided():
    assert judge_accuracy(990, 1000, 0.98) == ("holds", None)
    assert judge_accuracy(950, 1000, 0.98) == ("broken", None)
    assert judge_accuracy(98, 100, 0.98) == ("undecided", None)
    assert judge_accuracy(0, 0, 0.5) == ("undecided", None)


@pytest.mark.parametrize(("correct", "n", "minimum"), [(356, 360, 0.98), (349, 360, 0.98)])
def test_as_many_samples_as_named_do_decide_an_accuracy(correct, n, minimum):
    status, needed = judge_accuracy(correct, n, minimum)
    assert status == "undecided"
    low, high = wilson_interval(correct / n * needed, needed, ONE_SIDED_LEVEL)
    assert low >= minimum or high < minimum
    low, high = wilson_interval(correct / n * (needed - 1), needed - 1, ONE_SIDED_LEVEL)
    assert low < minimum <= high


def test_wide_bounds_of_groups_decide_an_accuracy():
    assert judge_accuracy(990, 1000, 0.98, bounds=(0.95, 1.0))[0] == "undecided"
    alone = judge_accuracy(356, 360, 0.98)[1]
    assert judge_accuracy(356, 360, 0.98, bounds=(0.94, 1.0))[1] > alone


def test_a_drop_is_broken_by_its_one_sided_bound():
    drop = paired_drop(*pairs(340, 9, 3, 8))
    between = (drop.low + drop.lower) / 2
    assert judge_drop(drop, between) == ("broken", None)
    assert judge_drop(drop, (drop.upper + drop.high) / 2) == ("holds", None)


UNEVEN = np.repeat([0, 1, 2], [300, 60, 12])


@pytest.mark.parametrize(
    "chances", [(0.95, 0.9, 0.7), (0.98, 0.98, 0.98), (0.9, 0.6, 0.9), (0.7, 0.95, 0.95)]
)
def test_balanced_intervals_cover_as_often_as_they_say(chances, monkeypatch):
    monkeypatch.setattr(balanced, "BOOTSTRAP_SAMPLES", 600)
    rng, hits, sure = np.random.default_rng(5), 0, 0
    for trial in range(300):
        right = rng.random(len(UNEVEN)) < np.array(chances)[UNEVEN]
        low, high = accuracy_interval(right, None, UNEVEN, trial)
        hits += low <= np.mean(chances) <= high
        sure += accuracy_interval(right, None, UNEVEN, trial, ONE_SIDED_LEVEL)[0] <= np.mean(
            chances
        )
    assert min(hits, sure) >= 0.91 * 300


def test_a_rare_class_that_is_all_right_is_not_taken_for_perfect():
    right = np.arange(len(UNEVEN)) >= 15
    low, high = accuracy_interval(right, None, UNEVEN)
    assert low < 0.95 < high
    assert accuracy_interval(np.ones(372, bool), None, UNEVEN)[1] == 1.0


def test_a_balanced_drop_is_the_difference_of_balanced_accuracies_and_covers(monkeypatch):
    monkeypatch.setattr(balanced, "BOOTSTRAP_SAMPLES", 600)
    rng, hits, sure = np.random.default_rng(6), 0, 0
    for trial in range(300):
        before = rng.random(len(UNEVEN)) < 0.9
        after = before & (rng.random(len(UNEVEN)) >= np.array([0.02, 0.05, 0.2])[UNEVEN])
        drop = paired_drop(before, after, None, UNEVEN, trial)
        seen = [balanced_accuracy_score(UNEVEN, (UNEVEN + ~r) % 3) for r in (before, after)]
        assert drop.points == pytest.approx(100 * (seen[0] - seen[1]))
        hits += drop.low <= 90 * (0.02 + 0.05 + 0.2) / 3 <= drop.high
        sure += drop.upper >= 90 * (0.02 + 0.05 + 0.2) / 3
    assert min(hits, sure) >= 0.92 * 300


def test_classes_of_one_size_count_as_samples_do_but_for_the_draws():
    labels, right = np.repeat([0, 1], 400), np.arange(800) % 11 > 0
    assert accuracy_interval(right, None, labels) == pytest.approx(
        wilson_interval(right.sum(), 800), abs=0.004
    )
    pair = right, right & (np.arange(800) % 13 > 0)
    assert paired_drop(*pair, None, labels).upper == pytest.approx(
        paired_drop(*pair).upper, abs=0.3
    )


@pytest.mark.parametrize(("classes", "least"), [(2, 0.75), (10, 0.15), (1, 1.0)])
def test_guessing_with_half_as_much_again_is_not_enough(classes, least):
    assert is_near_chance(least - 1e-9, classes)
    assert not is_near_chance(least + 1e-9, classes)
