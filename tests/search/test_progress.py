from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import binomtest

from lepton_automl.option_texts import seconds
from lepton_automl.search.objectives import load
from lepton_automl.search.progress import front_of, progress, row_of, time_decision
from lepton_automl.search.trials import Plan, Trials
from tests.helpers.search import make_trial, result, search_request

OBJECTIVES = [load("accuracy"), load("size_bytes")]


def some_trials() -> Trials:
    trials = Trials()
    for number, (right, size) in enumerate([(180, 9_000), (150, 5_000), (170, 9_500)]):
        trials.add(make_trial(number, size=size))
        trials.add_result(result(number, "0", right))
    trials.add(make_trial(3))
    trials.add_result(result(3, "0", 0, failed="the loss became nan"))
    trials.add(make_trial(4))
    return trials


def test_a_row_has_the_accuracy_with_its_wilson_interval() -> None:
    row = row_of(some_trials(), 0)
    wanted = binomtest(180, 200).proportion_ci(0.95, "wilson")
    assert row.accuracy == 0.9
    assert row.interval == pytest.approx((wanted.low, wanted.high))
    assert row.feasible


def test_rows_of_failed_and_unfinished_trials_have_no_accuracy() -> None:
    failed, waiting = row_of(some_trials(), 3), row_of(some_trials(), 4)
    assert (failed.accuracy, failed.feasible, failed.note) == (None, False, "the loss became nan")
    assert (waiting.accuracy, waiting.feasible, waiting.rung) == (None, True, -1)


def test_the_front_is_what_nothing_dominates() -> None:
    trials = some_trials()
    assert [row.number for row in front_of(trials, OBJECTIVES)] == [0, 1]
    assert front_of(Trials(), OBJECTIVES) == ()


def test_progress_names_the_trial_the_best_so_far_and_the_time_left() -> None:
    trials = some_trials()
    rows = [row_of(trials, number) for number in trials]
    front = front_of(trials, OBJECTIVES)
    event = progress(rows[1], rows[0], front, started=5, done=30, total=120, seconds=88.0)
    assert event.message == (
        "trial 1, 1 epoch: 75.0% in 5.0 kB; best so far: trial 0, 90.0% in 9.0 kB; about 88 s left"
    )
    assert (event.done, event.total) == (30, 120)
    assert [item["number"] for item in event.data["front"]] == [0, 1]
    leading = progress(rows[0], rows[0], front, started=5, done=30, total=120, seconds=88.0)
    assert leading.message == "trial 0, 1 epoch: 90.0% in 9.0 kB (best so far); about 88 s left"
    endless = progress(rows[3], None, (), started=1, done=1, total=2, seconds=math.inf)
    assert endless.message == "trial 3, 0 epochs: the loss became nan"


@pytest.mark.parametrize(
    ("count", "epochs", "wanted", "is_brief"),
    [(12, 9, None, False), (9, 9, None, True), (12, 8, None, True), (3, 9, 3, False)],
)
def test_a_search_of_few_or_short_trainings_is_said_to_have_had_little_time(
    tmp_path: Path, count: int, epochs: int, wanted: int | None, is_brief: bool
) -> None:
    trials = Trials()
    trials.follow(Plan(9, 1e-9, 0.0, epoch_seconds=1.5, own_epochs=9))
    for number in range(count):
        trials.add(make_trial(number, epochs=9))
        trials.add_result(result(number, "0", 100, epochs=epochs))
    request = search_request(
        tmp_path / "run",
        budget_seconds=60.0,
        trials=wanted,
        least_stage_seconds=lambda epoch: 40.0 + epoch,
    )
    said = time_decision(trials, 0, request)
    assert said is not None
    assert (said.certainty == "assumed") is is_brief
    assert f"{count} trials of up to {epochs} epochs" in said.choice
    assert f"{epochs} epochs (its recipe: 9)" in said.choice or not is_brief
    assert "60 s budget" in said.evidence
    option, _, larger = said.option.partition(" ")
    assert option == "--budget"
    assert bool(larger) is is_brief
    assert not larger or seconds(larger) >= 2 * 60
    no_budget = replace(request.config, budget_seconds=None, trials=3)
    assert time_decision(trials, 0, replace(request, config=no_budget)) is None
    late = replace(request, least_stage_seconds=lambda epoch: 400.0 + epoch)
    said = time_decision(trials, 0, late)
    assert said is not None
    assert not is_brief or seconds(said.option.split()[1]) >= 2 * 400
    request.ledger.close()
