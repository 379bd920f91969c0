from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lepton_automl.core import files
from lepton_automl.errors import ConfigError
from lepton_automl.models.model import Model
from lepton_automl.search.finals.finalists import FinalRun
from lepton_automl.search.finals.selection import Option
from lepton_automl.search.finals.winner import WinnerStore
from lepton_automl.search.request import SearchWork
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.time_plan import Clock
from lepton_automl.search.training_key import TrainingKey
from lepton_automl.search.trials import Trials
from lepton_automl.search.workers.task import Task, TaskResult, pack
from tests.helpers.search import InlineWorkers, candidate, result, work

ENDLESS = Clock(lambda: math.inf, 0.0, 0.0)


def some(job: SearchWork, count: int = 3) -> tuple[Trials, WinnerStore]:
    trials = Trials()
    for number in range(count):
        trials.add(candidate(number, size=10_000 - number))
        trials.add_result(result(number, "0", 12 + number, epochs=9, n=18))
    return trials, WinnerStore(job, Tasks(job, trials), trials)


def test_the_winner_is_trained_once_more_and_recorded(tmp_path: Path) -> None:
    job = work(tmp_path / "run")
    trials, winners = some(job)
    workers = InlineWorkers()
    choice = winners.select_winner(workers, ENDLESS)
    assert workers.tasks[0].key == f"{choice.number}-final-0"
    event = job.ledger.get("winner", "0")
    assert event is not None
    assert event["number"] == choice.number
    assert WinnerStore(job, Tasks(job, trials), trials).recorded() == choice
    job.ledger.close()


def test_a_longer_search_is_not_covered_by_the_winner_of_a_shorter(tmp_path: Path) -> None:
    job = work(tmp_path / "run", trials=3)
    trials, winners = some(job)
    winners.select_winner(InlineWorkers(), ENDLESS)
    for asked, covered in ((2, True), (3, True), (4, False), (None, False)):
        budget = 60.0 if asked is None else None
        config = replace(job.config, trials=asked, budget_seconds=budget)
        other = replace(job, config=config)
        found = WinnerStore(other, Tasks(other, trials), trials).recorded()
        assert (found is not None) == covered
    job.ledger.close()


def test_the_shipped_net_is_the_best_of_the_winners_own_trainings(tmp_path: Path) -> None:
    job = work(tmp_path / "run")
    trials, winners = some(job)
    choice = winners.select_winner(InlineWorkers(), ENDLESS)
    best = trials.best_result(choice.number)
    mine = [trials.search_result(choice.number), *trials.finals[choice.number]]
    assert best.accuracy == max(score.accuracy for score in mine)
    saved = Model.load(job.folder.best)
    assert saved.metrics["validation_accuracy"] == best.accuracy
    job.ledger.close()


@pytest.mark.parametrize(("right", "wanted"), [(17, "final-0"), (10, "0")])
def test_the_weights_that_ship_are_those_of_the_more_accurate_training(
    tmp_path: Path, right: int, wanted: str
) -> None:
    """After the search 12 to 14 of 18 samples are right, after the final training `right`."""

    class Scored(InlineWorkers):
        def run(self, task: Task) -> TaskResult:
            return replace(super().run(task), correct=pack(np.arange(18) < right))

    job = work(tmp_path / "run")
    trials, winners = some(job)
    number = winners.select_winner(Scored(), ENDLESS).number
    shipped = Model.load(job.folder.best)
    kept = Model.load(Tasks(job, trials).checkpoint(TrainingKey.parse(f"{number}-{wanted}")))
    assert all(torch.equal(shipped.weights[name], kept.weights[name]) for name in kept.weights)
    assert shipped.metrics["validation_accuracy"] == max(right, 12 + number) / 18
    job.ledger.close()


def test_last_trainings_are_kept_for_a_later_pick(tmp_path: Path) -> None:
    job = work(tmp_path / "run")
    _, winners = some(job)
    workers = InlineWorkers()
    choice = winners.select_winner(workers, ENDLESS)
    winners.delete_other_checkpoints(choice.number)
    finals = {Path(task.out) for task in workers.tasks if "final" in task.key}
    assert len(finals) == 3
    assert all(Tasks.is_complete(folder) for folder in finals)
    job.ledger.close()


@pytest.mark.parametrize(("epochs", "others", "wins"), [(27, 160, 0), (26, 160, 1), (27, 180, 1)])
def test_who_was_too_slow_for_a_last_training_is_beaten_or_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int, others: int, wins: int
) -> None:
    """A recipe asks for 27 epochs; 170 of 200 are right after the search, `others` at the end."""
    job = work(tmp_path / "run", objectives=("accuracy",))
    trials = Trials()
    for number, right in ((0, 170), (1, 150)):
        trials.add(candidate(number, epochs=27))
        trials.add_result(result(number, "2", right, epochs=epochs))
    winners, final = WinnerStore(job, Tasks(job, trials), trials), FinalRun(1, 90)
    confirmed = Option(1, np.arange(200) < others, trials[1].cost)
    stub = SimpleNamespace(run=lambda *given: [confirmed], finals=[final])
    monkeypatch.setattr(winners, "_confirmation", stub)
    monkeypatch.setattr(winners, "_save", lambda choice, workers: None)
    assert winners.select_winner(InlineWorkers(), ENDLESS).number == wins
    job.ledger.close()


def test_no_time_left_means_no_last_training(tmp_path: Path) -> None:
    job = work(tmp_path / "run", budget_seconds=100.0, trials=None)
    trials, winners = some(job)
    workers = InlineWorkers()
    choice = winners.select_winner(workers, Clock(lambda: 0.0, 0.0, 1e-9))
    assert trials.finals == {}
    assert [task.key for task in workers.tasks] == [f"{choice.number}-0"]  # its checkpoint
    job.ledger.close()


def test_nobody_to_crown_is_one_clear_error(tmp_path: Path) -> None:
    job = work(tmp_path / "run")
    trials = Trials()
    trials.add(candidate(0))
    trials.add_result(result(0, "0", 0, failed="the loss became nan by batch 3"))
    with pytest.raises(ConfigError, match=r"none of 1 candidates could be trained.*nan"):
        WinnerStore(job, Tasks(job, trials), trials).select_winner(InlineWorkers(), ENDLESS)
    job.ledger.close()


def test_without_a_checkpoint_there_is_no_best_so_far(tmp_path: Path) -> None:
    job = work(tmp_path / "run")
    _, winners = some(job)
    assert winners.leader() is not None
    assert winners.save_best_so_far() is None
    job.ledger.close()


def test_a_save_that_is_killed_half_way_leaves_no_winner_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = work(tmp_path / "run")
    trials, winners = some(job)
    winners.select_winner(InlineWorkers(), ENDLESS)
    written = files.write

    def killed(path: Path, content: bytes | str) -> Path:
        if path.name == "model.json":
            raise KeyboardInterrupt
        return written(path, content)

    monkeypatch.setattr(files, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        winners.save_best_so_far()
    assert WinnerStore(job, Tasks(job, trials), trials).recorded() is None
    job.ledger.close()
