from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.study import StudyDirection, create_study
from optuna.trial import create_trial

from lepton_automl.metrics.intervals import wilson_interval
from lepton_automl.search.pareto import pareto_ranks
from lepton_automl.search.rungs import (
    SURE,
    Rung,
    RungEntries,
    RungEntry,
    cycles,
    milestones,
    promotable,
)
from lepton_automl.search.scheduler import successive_halving

MANY = 60_000


def test_rungs_end_after_a_ninth_a_third_and_all_of_the_epochs() -> None:
    assert milestones(27, MANY) == (3, 9, 27)
    assert cycles(27, MANY) == (3, 6, 18)
    assert milestones(1, MANY) == (1,)
    assert milestones(3, MANY) == (1, 3)


def test_small_data_get_a_longer_first_rung() -> None:
    assert milestones(27, 1_200) == (5, 9, 27)
    assert milestones(27, 100) == (27,)


@given(st.integers(1, 300), st.integers(1, 100_000))
def test_cycles_are_positive_and_add_up(epochs: int, samples: int) -> None:
    each = cycles(epochs, samples)
    assert sum(each) == epochs
    assert min(each) >= 1
    assert len(each) <= 3


def brute_force(points: np.ndarray) -> list[int]:
    left, ranks, rank = set(range(len(points))), [0] * len(points), 0
    while left:
        front = {
            i
            for i in left
            if not any(
                (points[j] <= points[i]).all() and (points[j] < points[i]).any() for j in left
            )
        }
        for i in front:
            ranks[i] = rank
        left, rank = left - front, rank + 1
    return ranks


@pytest.mark.parametrize("seed", range(20))
def test_pareto_ranks_equal_peeling_off_fronts_one_by_one(seed: int) -> None:
    for coordinates in (1, 2, 3):
        points = np.random.default_rng(seed).integers(0, 6, (25, coordinates)).astype(float)
        assert pareto_ranks(points).tolist() == brute_force(points)
    assert pareto_ranks(np.zeros((0, 2))).tolist() == []


def test_rank_0_is_what_optuna_calls_the_best_trials() -> None:
    points = np.random.default_rng(5).random((40, 2))
    study = create_study(directions=[StudyDirection.MINIMIZE] * 2)
    study.add_trials([create_trial(values=list(p)) for p in points])
    best = {trial.number for trial in study.best_trials}
    assert {int(n) for n in np.flatnonzero(pareto_ranks(points) == 0)} == best


def entry(number: int, accuracy: float, *costs: float, samples: int = 1000) -> RungEntry:
    return RungEntry(number, accuracy, costs, samples)


def at_first(entries: list[RungEntry], promoted: set[int], *, closing: bool) -> list[int]:
    return promotable([Rung(RungEntries(entries), promoted)], closing=closing)


def test_half_and_one_more_are_promoted_while_new_ones_come_and_one_in_three_at_the_end() -> None:
    six = [entry(n, 0.5 + n / 1000) for n in range(6)]
    assert at_first(six, {0, 1, 2}, closing=False) == [3, 4, 5]
    assert at_first(six, {0, 1, 2, 3}, closing=False) == []
    assert at_first(six, {0}, closing=True) == [1, 2, 3, 4, 5]
    assert at_first(six, {0, 1}, closing=True) == []
    assert at_first([], set(), closing=True) == []


def test_the_first_one_is_promoted_without_waiting_for_others() -> None:
    assert at_first([entry(0, 0.5)], set(), closing=False) == [0]
    assert at_first([entry(0, 0.5)], {0}, closing=False) == []


@pytest.mark.parametrize("costs", [0, 1, 3])
def test_dropped_are_those_of_every_pair_whenever_they_are_asked_for(costs: int) -> None:
    rng = np.random.default_rng(costs)
    known, all_ = RungEntries(), list[RungEntry]()
    for number in rng.permutation(150).tolist():
        each = entry(number, rng.random(), *rng.integers(0, 5, costs).tolist(), samples=100)
        known.add(each)
        all_.append(each)
        if rng.random() < 0.5:
            continue  # More are added before the next question.
        ends = {e.number: wilson_interval(e.accuracy * 100, 100, SURE) for e in all_}
        worse = {
            one.number
            for one in all_
            for other in all_
            if ends[one.number][1] < ends[other.number][0]
            and all(a <= b for a, b in zip(other.costs, one.costs, strict=True))
        }
        assert known.dropped == worse
    assert worse
    assert [each.number for each in known] == sorted(known.numbers) == list(range(150))


def test_the_surely_worse_is_dropped_unless_it_is_cheaper() -> None:
    good, bad, cheap = entry(0, 0.9, 10.0), entry(1, 0.8, 10.0), entry(2, 0.8, 9.0)
    assert RungEntries([good, bad, cheap]).dropped == {1}
    assert RungEntries([]).dropped == set()


def test_only_intervals_that_are_apart_drop() -> None:
    """At 0.9 and 0.8 of 50 samples the 90 % intervals (statsmodels: 0.81-0.95, 0.69-0.88) meet."""
    assert RungEntries([entry(0, 0.9, samples=50), entry(1, 0.8, samples=50)]).dropped == set()
    assert RungEntries([entry(0, 0.9, samples=500), entry(1, 0.8, samples=500)]).dropped == {1}


def test_the_first_rung_is_too_early_to_drop() -> None:
    rung = Rung(RungEntries([entry(0, 0.9), entry(1, 0.5)]), set())
    assert promotable([rung], closing=False) == [0, 1]
    assert promotable([Rung(RungEntries(), set()), rung], closing=False) == [0]


@pytest.mark.parametrize("seed", range(10))
def test_successive_halving_promotes_what_the_paper_promotes(seed: int) -> None:
    """Algorithm 2 of Li et al. 2020, `get_job`, written out: the top third of the highest rung."""
    rng = np.random.default_rng(seed)
    accuracy = {n: rng.random() for n in range(12)}
    at = [list(range(12)), list(range(rng.integers(1, 8)))]
    beyond = [set(at[1]), set(range(rng.integers(0, 2)))]
    expected = []
    for k in (1, 0):
        top = sorted(at[k], key=lambda n: -accuracy[n])[: len(at[k]) // 3]
        expected += [n for n in top if n not in beyond[k]]
    rungs = [
        Rung(RungEntries(entry(n, accuracy[n]) for n in here), gone)
        for here, gone in zip(at, beyond, strict=True)
    ]
    assert successive_halving(rungs, closing=False) == expected


def test_successive_halving_puts_the_pareto_front_first() -> None:
    entries = [entry(0, 0.9, 9.0), entry(1, 0.8, 9.0), entry(2, 0.5, 1.0)]
    six = [*entries, entry(3, 0.85, 9.0), entry(4, 0.4, 9.0), entry(5, 0.3, 9.0)]
    assert successive_halving([Rung(RungEntries(six), set())], closing=False) == [0, 2]


def test_at_the_end_successive_halving_promotes_the_best_of_few() -> None:
    rung = Rung(RungEntries([entry(0, 0.8), entry(1, 0.9)]), set())
    assert successive_halving([rung], closing=False) == []
    assert successive_halving([rung], closing=True) == [1]
