from __future__ import annotations

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_automl.search.finals import (
    FINALISTS,
    MOST_SEEDS,
    Entrant,
    Final,
    makespan,
    plan_finals,
)


def some(count: int = 5, epochs: int = 9, each: float = 1.0) -> list[Entrant]:
    return [Entrant(number, epochs, 9, each) for number in range(count)]


def lasting(plan: list[Final], entrants: list[Entrant], jobs: int) -> float:
    """By trying: at every moment the first free worker takes the next training."""
    pace = {e.number: e.seconds_per_epoch for e in entrants}
    ends = [0.0] * jobs
    for final in plan:
        worker = ends.index(min(ends))
        ends[worker] += final.epochs * pace[final.number]
    return max(ends)


def test_without_a_clock_the_three_best_get_the_planned_epochs_once() -> None:
    assert plan_finals(some(), 2, math.inf) == [Final(number, 9) for number in range(FINALISTS)]
    assert plan_finals(some(2), 1, math.inf) == [Final(0, 9), Final(1, 9)]


def test_scarce_time_confirms_fewer_and_then_goes_on_from_the_search() -> None:
    least = some()[0].least
    numbers = {
        seconds: [f.number for f in plan_finals(some(), 1, seconds)]
        for seconds in (3 * least + 0.5, 2 * least + 0.5, least + 0.5)
    }
    assert list(numbers.values()) == [[0, 1, 2], [0, 1], [0]]
    assert plan_finals(some(), 1, 5.5) == [Final(0, 5, is_fresh=False)]
    assert plan_finals(some(), 2, 5.5) == [Final(n, 5, is_fresh=False) for n in (0, 1)]
    assert plan_finals(some(), 1, 0.5) == []


def test_a_fresh_training_gets_its_recipes_length_and_twice_what_the_search_gave() -> None:
    assert Entrant(0, 5, 27, 1.0).least == 27
    assert Entrant(0, 20, 27, 1.0).least == 40
    assert Entrant(0, 27, 27, 1.0).least == 54
    assert Entrant(0, 81, 27, 1.0).least == 81


def test_more_time_makes_them_longer_and_then_again_with_other_seeds() -> None:
    longest = some()[0].longest
    longer = plan_finals(some(), 1, 3 * longest - 8.0)
    assert [f.seed for f in longer] == [0, 0, 0]
    assert some()[0].least <= longer[0].epochs < longest
    again = plan_finals(some(), 1, 7.5 * longest + 0.5)
    assert [(f.number, f.seed) for f in again] == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1)]
    endless = plan_finals(some(), 1, 1e9)
    assert len(endless) == FINALISTS * MOST_SEEDS
    assert {f.epochs for f in endless} == {longest}


def test_time_for_a_lesson_is_kept_before_other_seeds_get_any() -> None:
    longest = some()[0].longest
    # Three who answer take half as long each: no time for a lesson, then for one, then for both.
    counts = [len(plan_finals(some(), 1, times * longest)) for times in (5.4, 5.6, 6.6)]
    assert counts == [5, 3, 4]
    # Who is alone has nobody to learn from.
    assert len(plan_finals(some(1), 1, 3.1 * longest)) == 3


def test_a_worker_that_would_idle_trains_another_seed() -> None:
    plan = plan_finals(some(), 2, 2 * some()[0].least + 0.5)
    assert [(f.number, f.seed) for f in plan] == [(0, 0), (1, 0), (2, 0), (0, 1)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(0.01, 5.0), min_size=1, max_size=5),
    st.integers(1, 30),
    st.integers(1, 4),
    st.floats(0.1, 5000.0),
)
def test_what_is_planned_ends_in_time(
    paces: list[float], epochs: int, jobs: int, seconds: float
) -> None:
    entrants = [Entrant(n, epochs, 9, pace) for n, pace in enumerate(paces)]
    plan = plan_finals(entrants, jobs, seconds)
    assert lasting(plan, entrants, jobs) <= seconds * (1 + 1e-9)
    assert len({f.key(0) for f in plan}) == len(plan)
    assert {f.number for f in plan} <= set(range(FINALISTS if jobs <= 3 else jobs))


def test_the_makespan_is_that_of_handing_out_in_order() -> None:
    for jobs, order in itertools.product((1, 2, 3), itertools.permutations((5.0, 2.0, 4.0, 1.0))):
        ends = [0.0] * jobs
        for each in order:
            ends[ends.index(min(ends))] += each
        assert makespan(order, jobs) == max(ends)


def test_a_final_survives_the_ledger_and_has_a_name_of_its_own() -> None:
    final = Final(7, 40, 2, is_fresh=False)
    assert Final.from_event(final.to_event()) == final
    assert [str(Final(7, 40, seed).key(1)) for seed in (0, 1)] == ["7-final-1", "7-final-1-1"]
    taught = Final(7, 40, teachers=("3-final-1", "7-final-1"))
    assert Final.from_event(taught.to_event()) == taught
    assert taught.key(1).label == "final-1-taught"
    # Written before there were lessons.
    assert Final.from_event({"number": 7, "epochs": 40, "seed": 2, "is_fresh": False}) == final
