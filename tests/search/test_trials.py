from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from lepton_automl.metrics.intervals import accuracy_interval, wilson_interval
from lepton_automl.models.arch import Arch
from lepton_automl.runs.ledger import EventKind, Ledger
from lepton_automl.search.objectives import load
from lepton_automl.search.training_key import Stage, TrainingKey, task_text
from lepton_automl.search.trials import (
    Plan,
    RejectedProposal,
    RungResult,
    Trial,
    Trials,
    read_trials,
    recipe_of,
    result_event,
    stronger_augmentation,
)
from lepton_automl.search.workers.task import TaskResult, pack
from lepton_automl.training.recipe import Recipe
from tests.helpers.search import SPACE, make_trial, result, small_space


@pytest.mark.parametrize(
    ("offered", "has", "next_one"),
    [("[0.0, 0.5, 1.0]", 0.0, 0.5), ("[1.0, 0.5, 0.0]", 0.5, 1.0), ("[0.0, 1.0]", 1.0, None)],
)
def test_the_next_higher_augmentation_of_the_space(
    tmp_path: Path, offered: str, has: float, next_one: float | None
) -> None:
    text = "\n".join(line for line in SPACE.splitlines() if not line.startswith("augment"))
    space = small_space(tmp_path, text.replace("[train]", f"[train]\naugment = {offered}"))
    assert stronger_augmentation(Recipe(augment=has), space) == next_one


def test_a_space_with_one_augmentation_has_no_higher_one(tmp_path: Path) -> None:
    text = "\n".join(line for line in SPACE.splitlines() if not line.startswith("augment"))
    space = small_space(tmp_path, text.replace("[train]", "[train]\naugment = 0.5"))
    assert stronger_augmentation(Recipe(augment=0.5), space) is None


def test_a_final_training_takes_the_augmentation_of_its_key() -> None:
    recipe = Recipe(augment=0.0, lr=0.3)
    assert recipe_of(recipe, TrainingKey.parse("7-final-0-1")) == recipe
    strong = TrainingKey.parse("7-final-0-1-augment-0.5")
    assert recipe_of(recipe, strong) == dataclasses.replace(recipe, augment=0.5)


def test_a_trial_survives_the_ledger() -> None:
    known = make_trial(3, width=8, lr=0.1)
    rejected = (RejectedProposal({"width": 64}, {"width": "{}"}, {"max_macs": 0.5}),)
    known = dataclasses.replace(known, rejected=rejected)
    again = Trial.from_event(json.loads(json.dumps(known.to_event())))
    assert again.to_event() == known.to_event()
    assert again.arch == known.arch
    assert again.recipe == known.recipe
    assert again.cost == known.cost
    assert again.rejected[0].violation == {"max_macs": 0.5}


def test_trials_are_rebuilt_from_their_events(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.record(EventKind.PLAN, "search", Plan(18, 1e-10, 0.5).to_event())
    answers = np.arange(20) < 15
    for number in (0, 1):
        ledger.record(EventKind.TRIAL, str(number), make_trial(number).to_event())
        done = TaskResult((0.5,), pack(answers))
        ledger.record(EventKind.RUNG, f"{number}-0", result_event(done, 2))
    ledger.record(EventKind.RUNG, "1-1", result_event(TaskResult(failed="diverged"), 6))
    ledger.record(EventKind.RUNG, "0-final-0", result_event(TaskResult((1.0,), pack(~answers)), 20))
    trials = read_trials(ledger)
    ledger.close()
    assert len(trials) == 2
    assert trials.epochs_of(0) == 18
    assert trials.results[0][0].accuracy == 0.75
    assert trials.results[1][1].failed == "diverged"
    assert [final.accuracy for final in trials.finals[0]] == [0.25]


NUMBERS = st.integers(0, 10**6)

FINALS = st.builds(
    TrainingKey,
    NUMBERS,
    st.just(Stage.FINAL),
    NUMBERS,
    NUMBERS,
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    NUMBERS,
)

OTHERS = st.builds(TrainingKey, NUMBERS, st.sampled_from([Stage.PICK, Stage.PROBE]))


@given(FINALS | OTHERS | st.builds(TrainingKey, NUMBERS, st.just(Stage.RUNG), NUMBERS))
def test_a_key_survives_its_text(key: TrainingKey) -> None:
    assert TrainingKey.parse(str(key)) == key


@given(FINALS, FINALS)
def test_different_final_trainings_have_different_texts(
    one: TrainingKey, other: TrainingKey
) -> None:
    assert (str(one) == str(other)) is (one == other)


def test_the_texts_of_keys() -> None:
    assert TrainingKey.parse("12-2") == TrainingKey(12, Stage.RUNG, 2)
    assert str(TrainingKey(7, Stage.FINAL, 1)) == "7-final-1"
    assert str(TrainingKey(7, Stage.FINAL, 0, 1, 0.5)) == "7-final-0-1-augment-0.5"
    assert str(TrainingKey(7, Stage.FINAL, 0, 0, 1.0)) == "7-final-0-augment-1"
    assert str(TrainingKey(7, Stage.FINAL, 0, 0, 0.5, flip=True)) == "7-final-0-augment-0.5-flip"
    assert str(TrainingKey(7, Stage.FINAL, 0, fold=2)) == "7-final-0-fold-2"
    assert str(TrainingKey(7, Stage.PICK)) == "7-pick"


@pytest.mark.parametrize("text", ["", "7", "7-", "a-0", "7-0-0", "7-final", "7-none", "flip check"])
def test_other_texts_are_no_keys(text: str) -> None:
    with pytest.raises(ValueError, match="names no training"):
        TrainingKey.parse(text)
    assert task_text(text) == text


@pytest.mark.parametrize("stage", [Stage.RUNG, Stage.PICK])
def test_only_final_trainings_have_seeds_and_augmentation(stage: Stage) -> None:
    with pytest.raises(ValueError, match="has no"):
        TrainingKey(7, stage, seed=1)
    with pytest.raises(ValueError, match="has no"):
        TrainingKey(7, stage, augment=0.5)
    with pytest.raises(ValueError, match="has no"):
        TrainingKey(7, stage, flip=True)


def test_the_best_result_is_the_most_accurate_and_the_newest_of_equal_ones() -> None:
    trials = Trials()
    trials.add(make_trial(0))
    trials.add_result(result(0, "0", 150))
    trials.add_result(result(0, "final-0", 140))
    assert trials.best_result(0).key.label == "0"
    trials.add_result(result(0, "final-1", 150))
    assert trials.best_result(0).key.label == "final-1"
    trials.add_result(result(0, "1", 0, failed="diverged"))
    assert trials.best_result(0).key.label == "final-1"


def test_a_trial_that_failed_at_its_first_rung_has_no_entry() -> None:
    trials, costs = Trials(), [load("size_bytes")]
    for number in range(3):
        trials.add(make_trial(number, size=1000 * (number + 1)))
    trials.add_result(result(0, "0", 150))
    trials.add_result(result(1, "0", 0, failed="diverged"))
    assert trials.trained() == [0]
    assert trials.unstarted() == [2]
    (entry,) = trials.entries(0, costs)
    assert (entry.number, entry.accuracy, entry.costs) == (0, 0.75, (1000.0,))


def test_trials_beyond_a_rung_have_finished_the_next_one() -> None:
    trials = Trials()
    for number in range(2):
        trials.add(make_trial(number))
        trials.add_result(result(number, "0", 100))
    trials.add_result(result(1, "1", 120, epochs=3))
    assert trials.beyond(0) == {1}
    assert trials.search_epochs(1) == 3


def test_a_failed_balancedcounts_nothing() -> None:
    assert result(0, "0", 50, failed="diverged").accuracy == 0.0
    assert result(0, "0", 50).accuracy == pytest.approx(0.25)


def test_a_recorded_architecture_is_parsed_on_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    known = make_trial(3)
    event = json.loads(json.dumps(known.to_event()))
    read = Arch.from_json
    monkeypatch.setattr(Arch, "from_json", lambda text: pytest.fail("parsed too early"))
    again = Trial.from_event(event)
    assert (again.number, again.cost) == (3, known.cost)
    monkeypatch.setattr(Arch, "from_json", read)
    assert again.arch == known.arch
    assert again.arch is again.arch
    assert dataclasses.replace(again, number=4).recipe == known.recipe


def test_a_retry_and_its_micro_batches_are_recorded_with_the_rung() -> None:
    plain = result_event(TaskResult((1.0,), "1:gA=="), 3)
    assert set(plain) == {"epochs", "correct", "failed", "seconds"}
    assert RungResult.from_event(TrainingKey(0), plain).micro_batches == 1
    retried = result_event(
        TaskResult((1.0,), "1:gA==", micro_batches=4, retried="ran out of memory"), 3
    )
    assert RungResult.from_event(TrainingKey(0), retried).micro_batches == 4
    assert retried["retried"] == "ran out of memory"


def test_entries_are_those_of_all_trials_that_finished_a_rung() -> None:
    trials, size, macs = Trials(), load("size_bytes"), load("macs")
    for number in range(3):
        trials.add(make_trial(number, size=1000 * (3 - number)))
    trials.add_result(result(2, "0", 100))
    assert [s.number for s in trials.entries(0, [size])] == [2]
    trials.add_result(result(0, "0", 150))
    trials.add_result(result(1, "0", 0, failed="diverged"))
    now = trials.entries(0, [size])
    # By number, not in the order they came in.
    assert [(s.number, s.accuracy, s.costs) for s in now] == [
        (0, 0.75, (3000.0,)),
        (2, 0.5, (1000.0,)),
    ]
    assert next(iter(trials.entries(0, [macs]))).costs == (trials[0].cost.macs,)
    assert not len(trials.entries(1, [size]))


def test_where_classes_count_alike_the_ledger_holds_the_balanced_accuracy(
    tmp_path: Path,
) -> None:
    labels = np.repeat([0, 1], [180, 20])
    part = SimpleNamespace(strata=labels, groups=None)
    right = np.arange(200) < 190
    event = result_event(TaskResult((1.0,), pack(right)), 3, part)
    balanced = RungResult.from_event(TrainingKey(0), json.loads(json.dumps(event)))
    assert balanced.accuracy == pytest.approx(balanced_accuracy_score(labels, labels * right))
    assert balanced.interval == accuracy_interval(right, None, labels)
    assert 20 < balanced.samples < 80, "ten of the rare twenty being wrong decides"
    assert "balanced" not in result_event(TaskResult((1.0,), "", failed="diverged"), 3, part)
    plain = RungResult.from_event(TrainingKey(0), result_event(TaskResult((1.0,), pack(right)), 3))
    assert (plain.accuracy, plain.samples) == (0.95, 200)
    assert plain.interval == wilson_interval(190, 200)
    trials = Trials()
    trials.add(make_trial(0))
    trials.add_result(balanced)
    (entry,) = trials.entries(0, [load("size_bytes")])
    assert (entry.accuracy, entry.samples) == (balanced.accuracy, balanced.samples)
