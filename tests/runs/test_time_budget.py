from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_automl.core.units import duration, percent
from lepton_automl.option_texts import seconds
from lepton_automl.runs.time_budget import (
    MAX_COMPRESS_SHARE,
    MAX_REFIT_SHARE,
    BudgetInputs,
    allowed_overrun,
    least_stage_seconds,
    stage_budget,
    start_seconds,
    sufficient_budget,
)

INPUTS = BudgetInputs(train=10_000, validation=2_000, test=2_000, start_seconds=2.0)


@given(st.floats(1.0, 1e6), st.floats(0.0, 1e4), st.integers(0, 500), st.floats(1.5, 60.0))
def test_the_search_keeps_what_the_later_stages_do_not_need(
    budget: float, epoch_seconds: float, epochs: int, start_seconds: float
) -> None:
    inputs = BudgetInputs(1000, 200, 200, start_seconds)
    reserved = stage_budget(budget, inputs, epoch_seconds, epochs)
    least = least_stage_seconds(inputs, epoch_seconds)
    search = budget - sum(reserved.by_stage.values())
    assert search >= (1 - MAX_COMPRESS_SHARE) * budget - least - 1e-6 * budget
    assert search >= -1e-9 * budget
    assert sum(reserved.by_stage.values()) >= min(budget, least) * (1 - 1e-9)
    assert 0 <= reserved.quantize <= reserved.compress
    assert reserved.verify > 0


@given(st.floats(0.1, 1e6))
def test_a_sufficient_budget_is_a_short_text_of_at_least_so_many_seconds(needed: float) -> None:
    text = sufficient_budget(needed)
    assert needed <= seconds(text) <= max(5.0, 1.2 * needed, needed + 5.0)
    assert len(text) <= 7


def test_a_run_may_end_later_by_some_process_starts_or_a_tenth() -> None:
    assert allowed_overrun(10.0, 2.0) == allowed_overrun(70.0, 2.0) > 2.0
    assert allowed_overrun(600.0, 2.0) == pytest.approx(60.0)
    assert allowed_overrun(10.0, 4.0) == 2 * allowed_overrun(10.0, 2.0)


def test_slow_training_a_slow_machine_and_a_large_test_part_reserve_more() -> None:
    usual = stage_budget(1000.0, INPUTS, 1.0, 20)
    assert stage_budget(1000.0, INPUTS, 2.0, 20).compress > usual.compress
    slow = stage_budget(1000.0, BudgetInputs(10_000, 2_000, 2_000, 6.0), 1.0, 20)
    assert slow.verify == pytest.approx(usual.verify + 3.0 * 4.0)
    large = stage_budget(1000.0, BudgetInputs(10_000, 2_000, 20_000, 2.0), 1.0, 20)
    # Three files classify 18,000 more samples, each in a third of a training step's 100 us.
    assert large.verify == pytest.approx(usual.verify + 3 * 18_000 * 1e-4 / 3)


def test_four_recoveries_of_half_a_training_with_distillation_are_reserved() -> None:
    short, long = (stage_budget(1e5, INPUTS, 1.0, epochs).compress for epochs in (2000, 4000))
    assert long - short == pytest.approx(4 * 1.5 * 1000)


def test_a_training_on_all_samples_is_as_long_as_that_of_the_winner_and_has_a_share_at_most() -> (
    None
):
    inputs = dataclasses.replace(INPUTS, refit_epochs=27)
    assert stage_budget(1000.0, INPUTS, 1.0, 60).refit == 0.0
    assert stage_budget(1000.0, inputs, 1.0, 9).refit == pytest.approx(27 * 1.2)
    assert stage_budget(1000.0, inputs, 1.0, 60).refit == pytest.approx(60 * 1.2)
    assert stage_budget(1000.0, inputs, 1.0, 300).refit == pytest.approx(MAX_REFIT_SHARE * 1000.0)
    # Nothing where that is not enough for half of a recipe.
    assert stage_budget(1000.0, inputs, 20.0, 300).refit == 0.0


def test_a_slow_first_read_of_the_disk_does_not_count_as_a_slow_machine() -> None:
    assert start_seconds(4.0, 3.0) == 4.0
    assert start_seconds(40.0, 3.0) == 9.0
    assert start_seconds(0.0, 3.0) == start_seconds(0.1, 0.1) > 0


def test_a_share_is_printed_with_its_seconds() -> None:
    assert percent(72.0, 120.0) == "60 % (72 s)"


def test_durations_are_printed_in_the_largest_fitting_units() -> None:
    texts = [duration(seconds) for seconds in (0.4, 99, 130, 5999, 7500)]
    assert texts == ["0 s", "99 s", "2 min", "1 h 40 min", "2 h 05 min"]
