from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student_t

from lepton_automl.config import Goal, Limits
from lepton_automl.cost.cost import Cost, violations
from lepton_automl.metrics.paired import is_significantly_below
from lepton_automl.search.finals.selection import (
    Option,
    by_accuracy,
    choose,
    finalists,
    ranked,
    within_limits,
)


def option(number: int, right: int, size: int, *, n: int = 400, ms: float | None = None) -> Option:
    correct = np.arange(n) < right
    return Option(number, correct, Cost(size, size // 2, size // 2, 1000 * size, 4096, ms))


def test_the_cheapest_that_is_not_significantly_below_the_best_is_chosen() -> None:
    options = [option(0, 396, 40_000), option(1, 395, 12_000), option(2, 380, 5_000)]
    chosen = choose(options, Goal())
    assert chosen.number == 1
    assert "cheapest" in chosen.reason


def test_what_few_samples_cannot_tell_apart_may_still_be_no_more_than_half_a_point_below() -> None:
    best = Option(0, np.arange(200) >= 4, Cost(40_000, 1, 1, 1, 1))
    other = Option(1, (np.arange(200) < 188) | (np.arange(200) % 2 == 1), Cost(5_000, 1, 1, 1, 1))
    assert best.accuracy - other.accuracy > 0.005
    assert not is_significantly_below(other.correct, best.correct)
    assert choose([best, other], Goal()).number == 0


def test_where_accuracy_is_the_only_objective_no_accuracy_is_given_away_for_costs() -> None:
    options = [option(0, 397, 40_000), option(1, 396, 12_000), option(2, 399, 90_000)]
    alone = Goal(Limits(max_size_bytes=50_000), objectives=("accuracy",))
    assert choose(options, alone).number == 0
    assert "highest accuracy" in choose(options, alone).reason
    assert [o.number for o in finalists(options, alone, 2)] == [0, 1]
    assert choose(options, Goal(alone.limits, objectives=("accuracy", "macs"))).number == 1
    least = dataclasses.replace(alone, limits=Limits(min_accuracy=0.9))
    assert choose(options, least).number == 1


def test_with_a_minimum_the_cheapest_whose_lower_bound_reaches_it_is_chosen() -> None:
    options = [option(0, 399, 40_000), option(1, 395, 12_000), option(2, 381, 5_000)]
    assert choose(options, Goal(Limits(min_accuracy=0.95))).number == 1
    assert choose(options, Goal(Limits(min_accuracy=0.90))).number == 2
    assert "none reaches" in choose(options, Goal(Limits(min_accuracy=0.999))).reason


def test_what_breaks_a_cost_limit_is_not_chosen_while_anything_keeps_it() -> None:
    options = [option(0, 399, 40_000), option(1, 300, 12_000)]
    assert choose(options, Goal(Limits(max_size_bytes=20_000))).number == 1
    assert choose(options, Goal(Limits(max_size_bytes=1_000))).number == 0


def test_latency_decides_where_it_is_preferred_and_close_times_do_not() -> None:
    slow_small = option(0, 395, 10_000, ms=0.015)
    fast_large = option(1, 395, 20_000, ms=0.010)
    much_slower = option(3, 395, 10_000, ms=0.030)
    assert choose([slow_small, fast_large], Goal()).number == 0
    assert choose([much_slower, fast_large], Goal()).number == 1
    assert choose([slow_small, fast_large], Goal(prefer="latency")).number == 1
    as_fast = option(2, 395, 10_000, ms=0.01005)
    assert choose([fast_large, as_fast], Goal(prefer="latency")).number == 2


def test_ranked_gives_each_choice_once_those_before_it_are_gone() -> None:
    options = [option(0, 396, 40_000), option(1, 395, 12_000), option(2, 300, 5_000)]
    assert [o.number for o in ranked(options, Goal(), 3)] == [1, 0, 2]
    assert [o.number for o in ranked(options, Goal(), 1)] == [1]


def test_the_excess_is_relative_and_only_of_stated_limits_and_known_costs() -> None:
    cost = Cost(30_000, 20_000, 21_000, 500_000, 8_000)
    limits = Limits(max_size_bytes=20_000, max_macs=600_000, max_latency_ms=0.001)
    assert violations(cost, limits) == pytest.approx({"max_size_bytes": 0.5})


def test_the_test_is_the_normal_one_sided_bound_of_the_paired_difference() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        best, other = rng.random(300) < 0.95, rng.random(300) < rng.uniform(0.85, 0.97)
        pairs = best.astype(float) - other
        bound = pairs.mean() - norm.ppf(0.9) * pairs.std() / np.sqrt(300)
        assert is_significantly_below(other, best) == (bound > 0)


def test_equal_answers_are_never_significantly_below() -> None:
    correct = np.arange(100) < 90
    assert not is_significantly_below(correct, correct)


def test_samples_in_groups_count_for_what_they_are_worth() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), 20)
    # All samples of a group are alike, so that 30 groups of 20 tell as much as 30 samples.
    alike = rng.random(30) < 0.15
    best = np.ones(600, bool)
    other = ~alike[groups]
    lost = np.array([float(alike[group]) for group in range(30)])
    bound = lost.mean() - student_t.ppf(0.9, 29) * lost.std(ddof=1) / np.sqrt(30)
    assert is_significantly_below(other, best, groups) == (bound > 0)
    few = np.arange(30) == 3
    assert is_significantly_below(~few[groups], best)
    assert not is_significantly_below(~few[groups], best, groups)


def test_with_groups_the_lower_bound_is_lower() -> None:
    groups = np.repeat(np.arange(20), 20)
    correct = np.arange(400) < 388
    grouped = Option(0, correct, Cost(5_000, 1, 1, 1, 1), groups)
    alone = dataclasses.replace(grouped, groups=None)
    assert "lower 90 % bound" in choose([alone], Goal(Limits(min_accuracy=0.95))).reason
    assert "lower 90 % bound" not in choose([grouped], Goal(Limits(min_accuracy=0.95))).reason


def test_the_most_accurate_is_first_and_of_equal_ones_the_smallest() -> None:
    options = [option(0, 180, 9000), option(1, 198, 300), option(2, 200, 12_000)]
    options += [option(3, 198, 200), option(4, 198, 200)]
    assert [o.number for o in by_accuracy(options)] == [2, 3, 4, 1, 0]


def test_options_beyond_the_limits_count_only_if_there_are_no_others() -> None:
    options = [option(0, 180, 9000), option(1, 200, 12_000), option(2, 198, 300)]
    assert [o.number for o in within_limits(options, Limits(max_size_bytes=9000))] == [0, 2]
    assert within_limits(options, Limits(max_size_bytes=200)) == options


def test_the_most_accurate_is_always_among_the_finalists() -> None:
    samples = np.arange(400)
    options = [
        Option(n, (samples // 10 != n) | (samples % 10 >= 5 - (n == 0)), Cost(size, 1, 1, 1, 1))
        for n, size in enumerate((10_000, 8_000, 6_000, 4_000))
    ]
    ordered = [o.number for o in ranked(options, Goal(), 2)]
    assert 0 not in ordered
    assert [o.number for o in finalists(options, Goal(), 2)] == [ordered[0], 0]
    assert [o.number for o in finalists(options, Goal(), 1)] == ordered[:1]


UNEVEN = np.repeat([0, 1], [380, 20])


def balanced(number: int, wrong: tuple[int, int], size: int) -> Option:
    """Some samples of the common class are wrong and some of the rare one."""
    correct = np.concatenate([np.arange(380) >= wrong[0], np.arange(20) >= wrong[1]])
    return Option(number, correct, Cost(size, 1, 1, 1, 1), strata=UNEVEN)


def test_with_balanced_classes_a_rare_one_decides() -> None:
    fair, common = balanced(0, (40, 0), 40_000), balanced(1, (0, 12), 5_000)
    assert fair.accuracy == pytest.approx((340 / 380 + 1) / 2)
    chosen = choose([fair, common], Goal())
    assert chosen.number == 0
    assert "balanced accuracy" in chosen.reason
    alone = [dataclasses.replace(o, strata=None) for o in (fair, common)]
    assert choose(alone, Goal()).number == 1
    assert "balanced" not in choose(alone, Goal()).reason


def test_the_test_is_the_stratified_normal_bound_with_balanced_classes() -> None:
    rng, answers = np.random.default_rng(2), []
    for _ in range(200):
        best = rng.random(400) < 0.95
        other = rng.random(400) < np.array([0.94, rng.uniform(0.7, 0.97)])[UNEVEN]
        each = np.split(best.astype(float) - other, [380])
        error = np.sqrt(sum(lost.var() / len(lost) for lost in each)) / 2
        bound = np.mean([lost.mean() for lost in each]) - norm.ppf(0.9) * error
        answers.append(is_significantly_below(other, best, None, UNEVEN))
        assert answers[-1] == (bound > 0)
    assert 20 < sum(answers) < 180


def test_a_minimum_is_not_reached_by_the_lower_bound_of_a_few_samples_of_a_rare_class() -> None:
    option = balanced(0, (4, 0), 5_000)
    assert "lower 90 % bound" not in choose([option], Goal(Limits(min_accuracy=0.97))).reason
    assert "lower 90 % bound" in choose([option], Goal(Limits(min_accuracy=0.85))).reason
    alone = dataclasses.replace(option, strata=None)
    assert "lower 90 % bound" in choose([alone], Goal(Limits(min_accuracy=0.97))).reason


def test_a_net_that_is_significantly_below_in_a_rare_class_is_not_chosen() -> None:
    strata, place = np.repeat([0, 1], [20_000, 2_000]), np.arange(22_000)
    best = Option(0, place >= 60, Cost(40_000, 1, 1, 1, 1), strata=strata)
    other = Option(1, place < 22_000 - 16, Cost(5_000, 1, 1, 1, 1), strata=strata)
    assert 0 < best.accuracy - other.accuracy < 0.005
    assert choose([best, other], Goal()).number == 0
