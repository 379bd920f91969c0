from __future__ import annotations

import math

import pytest

from lepton_automl.search.time_plan import (
    FEW_TRIALS,
    MAX_EPOCHS_FACTOR,
    Clock,
    mean_trial_epochs,
    planned_epochs,
    work_of,
)
from lepton_automl.search.trials import Plan

MANY = 60_000


def test_a_plan_survives_the_ledger() -> None:
    plan = Plan(18, 1e-10, 2.5)
    assert Plan.from_event(plan.to_event()) == plan


def test_on_average_a_candidate_is_trained_about_a_quarter_of_the_epochs() -> None:
    assert mean_trial_epochs(27, MANY) == pytest.approx(3 + 6 / 3 + 18 / 9)
    assert mean_trial_epochs(1, MANY) == 1


def test_plenty_of_time_lengthens_and_little_time_shortens_the_rungs() -> None:
    plenty = planned_epochs(27, 0.01, 10_000, 2, MANY)
    usual = planned_epochs(27, 1.0, 300, 1, MANY)
    little = planned_epochs(27, 10.0, 120, 1, MANY)
    none = planned_epochs(27, 1000.0, 1, 1, MANY)
    assert plenty == 27 * MAX_EPOCHS_FACTOR
    assert usual == 27
    assert 1 <= little < 27
    assert none == 1


def test_the_planned_length_gives_about_the_wanted_number_of_candidates() -> None:
    for seconds_per_epoch in (2.0, 5.0, 12.0):
        epochs = planned_epochs(27, seconds_per_epoch, 600, 2, MANY)
        candidates = 600 * 2 / (mean_trial_epochs(epochs, MANY) * seconds_per_epoch * 1.15 + 0.3)
        assert candidates >= FEW_TRIALS or epochs == 1


def test_the_clock_learns_from_what_tasks_really_took() -> None:
    clock = Clock(lambda: 100.0, 30.0, 1e-9)
    work = work_of(10**6, 1000, 1)
    first = clock.seconds(work)
    for _ in range(30):
        clock.learn(2 * 1e-9 * work, work, 0)
    assert clock.seconds(work) - 0.3 == pytest.approx(2 * (first - 0.3), rel=0.01)


def test_a_net_that_is_known_keeps_its_own_pace() -> None:
    clock = Clock(lambda: 100.0, 0.0, 1e-9)
    clock.learn(6.0, 1e9, 0)
    for number in (1, 2, 3):
        clock.learn(14.0, 1e9, number)
    assert clock.seconds(3e9, 0) == pytest.approx(1.15 * 18.0 + 0.3)
    assert clock.seconds(3e9, 0) < clock.seconds(3e9, 9) == clock.seconds(3e9) < 1.15 * 42.0
    assert clock.has_time(15e9, 0)
    assert not clock.has_time(15e9, 1)


def test_a_task_that_would_end_too_late_is_not_allowed() -> None:
    clock = Clock(lambda: 100.0, 30.0, 1e-9)
    assert clock.allows(50e9)
    assert not clock.allows(70e9)
    assert Clock(lambda: math.inf, 0.0, 0.0).allows(1e30)


def test_a_last_training_may_use_all_the_time_that_is_left() -> None:
    clock = Clock(lambda: 100.0, 30.0, 1e-9)
    assert clock.has_time(95e9)
    assert not clock.has_time(105e9)
    endless = Clock(lambda: math.inf, 0.0, 0.0)
    assert endless.has_time(1e30)


@pytest.mark.parametrize(
    ("epochs", "own", "wanted"),
    [(None, 40, False), (40, 40, False), (14, 40, False), (13, 40, True)],
)
def test_a_third_of_what_a_recipe_asks_for_is_too_brief(
    epochs: int | None, own: int, wanted: bool
) -> None:
    assert Plan(epochs, 1.0, 0.0, own_epochs=own).is_scarce is wanted
