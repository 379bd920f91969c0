from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.study import StudyDirection, create_study
from optuna.trial import create_trial

from lepton_automl.search.rungs import (
    Standing,
    cycles,
    milestones,
    order,
    pareto_ranks,
    promotable,
)

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
    points = np.random.default_rng(seed).integers(0, 6, (25, 3)).astype(float)
    assert pareto_ranks(points).tolist() == brute_force(points)


def test_rank_0_is_what_optuna_calls_the_best_trials() -> None:
    points = np.random.default_rng(5).random((40, 2))
    study = create_study(directions=[StudyDirection.MINIMIZE] * 2)
    study.add_trials([create_trial(values=list(p)) for p in points])
    best = {trial.number for trial in study.best_trials}
    assert {int(n) for n in np.flatnonzero(pareto_ranks(points) == 0)} == best


def test_one_in_three_goes_on_and_nobody_twice() -> None:
    finished = order([Standing(n, 0.5 + n / 100, (100.0,)) for n in range(7)])
    promoted: set[int] = set()
    while (number := promotable(finished, promoted, closing=False)) is not None:
        assert number not in promoted
        promoted.add(number)
    assert promoted == {6, 5}


def test_nobody_goes_on_before_three_finished_unless_the_search_closes() -> None:
    finished = [0, 1]
    assert promotable(finished, set(), closing=False) is None
    assert promotable(finished, set(), closing=True) == 0
    assert promotable(finished, {0}, closing=True) is None
    assert promotable([], set(), closing=True) is None


def test_a_dominated_candidate_comes_after_its_dominator_whatever_else_there_is() -> None:
    small, large, best = (
        Standing(0, 0.90, (10.0,)),
        Standing(1, 0.89, (20.0,)),
        Standing(2, 0.95, (30.0,)),
    )
    assert order([large, small, best]) == [2, 0, 1]
