from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lepton_automl.pick import Option
from lepton_automl.search import entrants
from lepton_automl.search.entrants import Entrants
from lepton_automl.search.finals import FINALISTS, Entrant, plan_finals
from lepton_automl.search.ledger import Ledger
from lepton_automl.search.plan import Clock, Plan, work_of
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import TrainingKey, Trials
from lepton_automl.search.work import SearchWork
from lepton_automl.train import initial_model
from tests.searching import SPACE, candidate, result, small_space, work

ENDLESS = Clock(lambda: math.inf, 0.0, 0.0)
OFFERED = SPACE.replace("[train]", "[train]\naugment = [0.0, 0.5, 1.0]")


def chosen(
    job: SearchWork, right: dict[int, int], nets: dict[int, int], clock: Clock = ENDLESS
) -> list[Entrant]:
    """Of candidates that got so many of 200 right, each with the net of that number."""
    trials = Trials()
    for number, each in right.items():
        trials.add(replace(candidate(nets[number]), number=number))
        trials.add_result(result(number, "0", each, epochs=9))
    options = [Option(n, np.arange(200) < k, trials[n].cost) for n, k in right.items()]
    found = Entrants(job, Tasks(job, trials), trials, clock).of(options)
    job.ledger.close()
    return found


def test_of_one_architecture_only_the_best_candidate_enters(tmp_path: Path) -> None:
    job = work(tmp_path / "run", objectives=("accuracy",))
    nets = {0: 7, 1: 8, 2: 7, 3: 9, 4: 10}
    found = chosen(job, {0: 190, 1: 170, 2: 180, 3: 160, 4: 150}, nets)
    assert [e.number for e in found] == [0, 1, 3]


def test_the_first_enters_again_with_stronger_changes_that_the_space_offers(tmp_path: Path) -> None:
    job = work(tmp_path / "run", objectives=("accuracy",))
    job = replace(job, space=small_space(tmp_path, OFFERED))
    found = chosen(job, {0: 170, 1: 190, 2: 180}, {0: 0, 1: 1, 2: 2})
    assert [(e.number, e.augment) for e in found] == [
        (1, None),
        (1, 1.0),
        (2, None),
    ]  # A recipe has 0.5.
    assert len(found) == FINALISTS


@pytest.mark.parametrize(("share", "order"), [(0.99, [1.0, None]), (0.96, [None, 1.0])])
def test_who_knows_training_pictures_by_heart_is_first_trained_with_stronger_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, order: list[float | None]
) -> None:
    job = work(tmp_path / "run", objectives=("accuracy",))
    job = replace(job, space=small_space(tmp_path, OFFERED))
    model = initial_model(candidate(0).arch, job.dataset.preprocessing((8, 8)), 0)
    model.save(Tasks(job, Trials()).checkpoint(TrainingKey(0)))
    monkeypatch.setattr(entrants, "is_correct", lambda *a, **k: np.arange(100) < 100 * share)
    found = chosen(job, {0: 190}, {0: 0})  # 95 % of validation samples: an error of 5 %.
    assert [e.augment for e in found] == order


@pytest.mark.parametrize("left", [-100.0, -1e-9, 0.0])
@pytest.mark.parametrize("is_scarce", [False, True])
def test_after_the_end_of_the_budget_the_most_accurate_is_first(
    tmp_path: Path, left: float, is_scarce: bool
) -> None:
    job = work(tmp_path / "run", objectives=("accuracy",), budget_seconds=1.0, trials=None)
    trials = Trials()
    trials.plan = Plan(1 if is_scarce else 9, 1e-9, 0.0, own_epochs=9)
    assert trials.plan.is_scarce == is_scarce
    right = {0: 150, 1: 190, 2: 170}
    for number, each in right.items():
        trials.add(candidate(number))
        trials.add_result(result(number, "0", each, epochs=1))
    options = [Option(n, np.arange(200) < k, trials[n].cost) for n, k in right.items()]
    clock = Clock(lambda: left, 0.0, 1e-9)
    found = Entrants(job, Tasks(job, trials), trials, clock).of(options)
    assert [e.number for e in found] == [1, 2, 0]
    assert plan_finals(found, 1, left) == []
    job.ledger.close()


def test_one_too_slow_for_a_last_training_gives_way_to_a_faster_one(tmp_path: Path) -> None:
    job = work(tmp_path / "run", objectives=("accuracy",), budget_seconds=100.0, trials=None)
    paces = {0: 10.0, 1: 0.1}  # Seconds an epoch.
    units = {n: work_of(candidate(n).cost.macs, len(job.dataset.train), 1) for n in paces}
    for left, first in ((30.0, 1), (1000.0, 0)):
        clock = Clock(lambda seconds=left: seconds, 0.0, 1e-9)  # type: ignore[misc]
        for number, seconds in paces.items():
            clock.learn(seconds, units[number], number)
        again = replace(job, ledger=Ledger(tmp_path / f"{left}" / "ledger.db"))
        found = chosen(again, {0: 190, 1: 189}, {0: 0, 1: 1}, clock)
        assert found[0].number == first
    job.ledger.close()
