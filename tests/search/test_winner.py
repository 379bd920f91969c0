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
from lepton_automl.runs.ledger import recorded_decisions
from lepton_automl.search.finals.finalists import FinalRun
from lepton_automl.search.finals.selection import Option
from lepton_automl.search.finals.winner import WinnerStore
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.time_plan import Clock
from lepton_automl.search.training_key import TrainingKey
from lepton_automl.search.trials import Trials
from lepton_automl.search.workers.task import Task, TaskResult, pack
from tests.helpers.search import InlineWorkers, make_trial, result, search_request

ENDLESS = Clock(lambda: math.inf, 0.0, 0.0)


def trained_trials(request: SearchRequest, count: int = 3) -> tuple[Trials, WinnerStore]:
    trials = Trials()
    for number in range(count):
        trials.add(make_trial(number, size=10_000 - number))
        trials.add_result(result(number, "0", 12 + number, epochs=9, n=18))
    return trials, WinnerStore(request, TaskBuilder(request, trials), trials)


def test_the_winner_has_a_final_training_and_is_recorded(tmp_path: Path) -> None:
    request = search_request(tmp_path / "run")
    trials, winners = trained_trials(request)
    workers = InlineWorkers()
    choice = winners.select_winner(workers, ENDLESS)
    assert workers.tasks[0].key == f"{choice.number}-final-0"
    event = request.ledger.get("winner", "0")
    assert event is not None
    assert event["number"] == choice.number
    assert WinnerStore(request, TaskBuilder(request, trials), trials).recorded() == choice
    request.ledger.close()


def test_a_longer_search_is_not_covered_by_the_winner_of_a_shorter(tmp_path: Path) -> None:
    request = search_request(tmp_path / "run", trials=3)
    trials, winners = trained_trials(request)
    winners.select_winner(InlineWorkers(), ENDLESS)
    for asked, covered in ((2, True), (3, True), (4, False), (None, False)):
        budget = 60.0 if asked is None else None
        config = replace(request.config, trials=asked, budget_seconds=budget)
        other = replace(request, config=config)
        found = WinnerStore(other, TaskBuilder(other, trials), trials).recorded()
        assert (found is not None) == covered
    request.ledger.close()


def test_the_shipped_net_is_the_best_of_the_winners_own_trainings(tmp_path: Path) -> None:
    request = search_request(tmp_path / "run")
    trials, winners = trained_trials(request)
    choice = winners.select_winner(InlineWorkers(), ENDLESS)
    best = trials.best_result(choice.number)
    results = [trials.search_result(choice.number), *trials.finals[choice.number]]
    assert best.accuracy == max(each.accuracy for each in results)
    saved = Model.load(request.folder.best)
    assert saved.metrics["validation_accuracy"] == best.accuracy
    request.ledger.close()


@pytest.mark.parametrize(("right", "wanted"), [(17, "final-0"), (13, "final-0"), (6, "0")])
def test_the_weights_that_ship_are_those_of_the_final_training_unless_it_is_clearly_worse(
    tmp_path: Path, right: int, wanted: str
) -> None:
    """After the search 12 to 14 of 18 samples are right, after the final training `right`."""

    class Scored(InlineWorkers):
        def run(self, task: Task) -> TaskResult:
            return replace(super().run(task), correct=pack(np.arange(18) < right))

    request = search_request(tmp_path / "run")
    trials, winners = trained_trials(request)
    number = winners.select_winner(Scored(), ENDLESS).number
    shipped = Model.load(request.folder.best)
    kept = Model.load(
        TaskBuilder(request, trials).checkpoint(TrainingKey.parse(f"{number}-{wanted}"))
    )
    assert all(torch.equal(shipped.weights[name], kept.weights[name]) for name in kept.weights)
    assert (
        shipped.metrics["validation_accuracy"]
        == (right if wanted == "final-0" else 12 + number) / 18
    )
    request.ledger.close()


def test_checkpoints_of_final_trainings_are_kept_for_a_pick(tmp_path: Path) -> None:
    request = search_request(tmp_path / "run")
    _, winners = trained_trials(request)
    workers = InlineWorkers()
    choice = winners.select_winner(workers, ENDLESS)
    winners.delete_other_checkpoints(choice.number)
    finals = {Path(task.out) for task in workers.tasks if "final" in task.key}
    assert len(finals) == 3
    assert all(TaskBuilder.is_complete(folder) for folder in finals)
    request.ledger.close()


@pytest.mark.parametrize(("epochs", "others", "wins"), [(27, 160, 0), (26, 160, 1), (27, 180, 1)])
def test_a_trial_too_slow_for_a_final_training_can_still_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int, others: int, wins: int
) -> None:
    """A recipe asks for 27 epochs; 170 of 200 are right after the search, `others` at the end."""
    request = search_request(tmp_path / "run", objectives=("accuracy",))
    trials = Trials()
    for number, right in ((0, 170), (1, 150)):
        trials.add(make_trial(number, epochs=27))
        trials.add_result(result(number, "2", right, epochs=epochs))
    winners, final = WinnerStore(request, TaskBuilder(request, trials), trials), FinalRun(1, 90)
    finalist = Option(1, np.arange(200) < others, trials[1].cost)
    stub = SimpleNamespace(
        train=lambda *given: [finalist],
        options=lambda by_folds: [finalist],
        record_decisions=lambda number, by_folds: None,
        runs=[final],
    )
    monkeypatch.setattr(winners, "_final_training", stub)
    monkeypatch.setattr(winners, "_save", lambda choice, workers: None)
    assert winners.select_winner(InlineWorkers(), ENDLESS).number == wins
    request.ledger.close()


@pytest.mark.parametrize(
    ("size", "space", "said"),
    [
        ((8, 8), None, None),
        ((16, 10), None, "the pictures have 16x10 pixels"),
        (None, "own.toml", "the pictures have several sizes"),
    ],
)
def test_the_size_to_which_pictures_are_resized_is_recorded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int] | None,
    space: str | None,
    said: str | None,
) -> None:
    """The nets of the trials are for 8x8 pixels."""
    request = search_request(tmp_path / "run")
    config = replace(request.config, space=space)
    request = replace(request, config=config, dataset=replace(request.dataset, size=size))
    _, winners = trained_trials(request, 2)
    stub = SimpleNamespace(
        train=lambda *given: [], record_decisions=lambda number, by_folds: None, runs=[]
    )
    monkeypatch.setattr(winners, "_final_training", stub)
    monkeypatch.setattr(winners, "_save", lambda choice, workers: None)
    winners.select_winner(InlineWorkers(), ENDLESS)
    made = [each for each in recorded_decisions(request.ledger) if each.name == "input size"]
    assert [each.choice for each in made] == ["pictures are stretched to 8x8 pixels"] * bool(said)
    assert all(said in each.evidence and each.is_detail for each in made)
    request.ledger.close()


@pytest.mark.parametrize(("samples", "said"), [(31, ["31, not 32"]), (32, [])])
def test_a_batch_of_all_samples_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int, said: list[str]
) -> None:
    request = search_request(tmp_path / "run")
    part = replace(
        request.dataset.train,
        labels=request.dataset.train.labels[:samples],
    )
    request = replace(request, dataset=replace(request.dataset, train=part))
    trials, winners = trained_trials(request, 2)
    for number in trials:
        object.__setattr__(trials[number], "recipe", replace(trials[number].recipe, batch_size=32))
    stub = SimpleNamespace(
        train=lambda *given: [], record_decisions=lambda number, by_folds: None, runs=[]
    )
    monkeypatch.setattr(winners, "_final_training", stub)
    monkeypatch.setattr(winners, "_save", lambda choice, workers: None)
    winners.select_winner(InlineWorkers(), ENDLESS)
    made = [each.choice for each in recorded_decisions(request.ledger) if each.name == "batch size"]
    assert [each.partition(" as in")[0] for each in made] == said
    request.ledger.close()


def test_without_time_there_is_no_final_training(tmp_path: Path) -> None:
    request = search_request(tmp_path / "run", budget_seconds=100.0, trials=None)
    trials, winners = trained_trials(request)
    workers = InlineWorkers()
    choice = winners.select_winner(workers, Clock(lambda: 0.0, 0.0, 1e-9))
    assert trials.finals == {}
    assert [task.key for task in workers.tasks] == [f"{choice.number}-0"]  # its checkpoint
    request.ledger.close()


def test_no_trained_trial_is_one_clear_error(tmp_path: Path) -> None:
    request = search_request(tmp_path / "run")
    trials = Trials()
    trials.add(make_trial(0))
    trials.add_result(result(0, "0", 0, failed="the loss became nan by batch 3"))
    with pytest.raises(ConfigError, match=r"none of 1 trials could be trained.*nan"):
        WinnerStore(request, TaskBuilder(request, trials), trials).select_winner(
            InlineWorkers(), ENDLESS
        )
    request.ledger.close()


def test_without_a_checkpoint_there_is_no_best_so_far(tmp_path: Path) -> None:
    request = search_request(tmp_path / "run")
    _, winners = trained_trials(request)
    assert winners.leader() is not None
    assert winners.save_best_so_far() is None
    request.ledger.close()


def test_a_save_that_is_killed_in_the_middle_leaves_no_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = search_request(tmp_path / "run")
    trials, winners = trained_trials(request)
    winners.select_winner(InlineWorkers(), ENDLESS)
    written = files.write

    def killed(path: Path, content: bytes | str) -> Path:
        if path.name == "model.json":
            raise KeyboardInterrupt
        return written(path, content)

    monkeypatch.setattr(files, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        winners.save_best_so_far()
    assert WinnerStore(request, TaskBuilder(request, trials), trials).recorded() is None
    request.ledger.close()
