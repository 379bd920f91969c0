from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from lepton_automl.arch import Arch
from lepton_automl.objectives import load
from lepton_automl.search.ledger import EventKind, Ledger
from lepton_automl.search.plan import Plan
from lepton_automl.search.task import TaskResult, pack
from lepton_automl.search.trials import (
    Candidate,
    Refusal,
    Score,
    Trials,
    parsed,
    read_trials,
    score_event,
)
from lepton_automl.statistics import interval, wilson
from tests.searching import candidate, score


def test_a_candidate_survives_the_ledger() -> None:
    known = candidate(3, width=8, lr=0.1)
    refused = (Refusal({"width": 64}, {"width": "{}"}, {"max_macs": 0.5}),)
    known = Candidate(**(vars(known) | {"refused": refused}))
    again = Candidate.from_event(json.loads(json.dumps(known.to_event())))
    assert again.to_event() == known.to_event()
    assert again.arch == known.arch
    assert again.recipe == known.recipe
    assert again.cost == known.cost
    assert again.refused[0].excess == {"max_macs": 0.5}


def test_trials_are_rebuilt_from_their_events(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.record(EventKind.PLAN, "search", Plan(18, 1e-10, 0.5).to_event())
    answers = np.arange(20) < 15
    for number in (0, 1):
        ledger.record(EventKind.TRIAL, str(number), candidate(number).to_event())
        result = TaskResult((0.5,), pack(answers))
        ledger.record(EventKind.RUNG, f"{number}-0", score_event(result, 2))
    ledger.record(EventKind.RUNG, "1-1", score_event(TaskResult(failed="diverged"), 6))
    ledger.record(EventKind.RUNG, "0-final-0", score_event(TaskResult((1.0,), pack(~answers)), 20))
    trials = read_trials(ledger)
    ledger.close()
    assert len(trials) == 2
    assert trials.epochs_of(0) == 18
    assert trials.scores[0][0].accuracy == 0.75
    assert trials.scores[1][1].failed == "diverged"
    assert [final.accuracy for final in trials.finals[0]] == [0.25]


def test_keys_name_a_trial_and_a_rung() -> None:
    assert parsed("12-0") == (12, "0")
    assert parsed("7-final-1") == (7, "final-1")


def test_the_latest_is_the_final_training_unless_it_was_a_step_back() -> None:
    trials = Trials()
    trials.add(candidate(0))
    trials.score(0, score("0", 150))
    trials.score(0, score("final-0", 140))
    assert trials.latest(0).rung == "0"
    trials.score(0, score("final-1", 150))
    assert trials.latest(0).rung == "final-1"
    trials.score(0, score("1", 0, failed="diverged"))
    assert trials.latest(0).rung == "final-1"


def test_who_failed_at_the_first_rung_is_not_alive_and_has_no_standing() -> None:
    trials, costs = Trials(), [load("size_bytes")]
    for number in range(3):
        trials.add(candidate(number, size=1000 * (number + 1)))
    trials.score(0, score("0", 150))
    trials.score(1, score("0", 0, failed="diverged"))
    assert trials.alive() == [0]
    assert trials.unstarted() == [2]
    (standing,) = trials.standings(0, costs)
    assert (standing.number, standing.accuracy, standing.costs) == (0, 0.75, (1000.0,))


def test_beyond_a_rung_are_those_that_finished_the_next() -> None:
    trials = Trials()
    for number in range(2):
        trials.add(candidate(number))
        trials.score(number, score("0", 100))
    trials.score(1, score("1", 120, epochs=3))
    assert trials.beyond(0) == {1}
    assert trials.epochs_before(1) == 3


def test_a_failed_score_counts_nothing() -> None:
    assert Score("0", 3, "", failed="diverged").accuracy == 0.0
    assert score("0", 50).accuracy == pytest.approx(0.25)


def test_a_recorded_net_is_read_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    known = candidate(3)
    event = json.loads(json.dumps(known.to_event()))
    read = Arch.from_json
    monkeypatch.setattr(Arch, "from_json", lambda text: pytest.fail("nobody has asked"))
    again = Candidate.from_event(event)
    assert (again.number, again.cost) == (3, known.cost)
    monkeypatch.setattr(Arch, "from_json", read)
    assert again.arch == known.arch
    assert again.arch is again.arch
    assert dataclasses.replace(again, number=4).recipe == known.recipe
    with pytest.raises(AttributeError, match="wings"):
        again.wings  # type: ignore[attr-defined]  # noqa: B018


def test_a_retry_and_its_smaller_pieces_are_kept_with_the_rung() -> None:
    plain = score_event(TaskResult((1.0,), "1:gA=="), 3)
    assert set(plain) == {"epochs", "correct", "failed", "seconds"}
    assert Score.from_event("0", plain).parts == 1
    retried = score_event(TaskResult((1.0,), "1:gA==", parts=4, retried="ran out of memory"), 3)
    assert Score.from_event("0", retried).parts == 4
    assert retried["retried"] == "ran out of memory"


def test_standings_are_those_of_all_who_finished_a_rung_whenever_they_are_asked_for() -> None:
    trials, size, macs = Trials(), load("size_bytes"), load("macs")
    for number in range(3):
        trials.add(candidate(number, size=1000 * (3 - number)))
    trials.score(2, score("0", 100))
    assert [s.number for s in trials.standings(0, [size])] == [2]
    trials.score(0, score("0", 150))
    trials.score(1, score("0", 0, failed="diverged"))
    now = trials.standings(0, [size])
    # By number, not in the order they came in.
    assert [(s.number, s.accuracy, s.costs) for s in now] == [
        (0, 0.75, (3000.0,)),
        (2, 0.5, (1000.0,)),
    ]
    assert trials.standings(0, [macs])[0].costs == (trials.candidates[0].cost.macs,)
    assert trials.standings(1, [size]) == []


def test_where_classes_count_alike_the_ledger_keeps_what_its_readers_cannot_tell(
    tmp_path: Path,
) -> None:
    labels = np.repeat([0, 1], [180, 20])
    part = SimpleNamespace(strata=labels, groups=None)
    right = np.arange(200) < 190
    event = score_event(TaskResult((1.0,), pack(right)), 3, part)
    score_ = Score.from_event("0", json.loads(json.dumps(event)))
    assert score_.accuracy == pytest.approx(balanced_accuracy_score(labels, labels * right))
    assert score_.interval == interval(right, None, labels)
    assert 20 < score_.samples < 80, "ten of the rare twenty being wrong decides"
    assert "balanced" not in score_event(TaskResult((1.0,), "", failed="diverged"), 3, part)
    plain = Score.from_event("0", score_event(TaskResult((1.0,), pack(right)), 3))
    assert (plain.accuracy, plain.samples) == (0.95, 200)
    assert plain.interval == wilson(190, 200)
    trials = Trials()
    trials.add(candidate(0))
    trials.score(0, score_)
    (standing,) = trials.standings(0, [load("size_bytes")])
    assert (standing.accuracy, standing.samples) == (score_.accuracy, score_.samples)
