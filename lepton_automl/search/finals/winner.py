"""Select the winner after the final trainings and save it to RUN/models/best."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lepton_automl.core import files, untrusted_files
from lepton_automl.core.decisions import Decision
from lepton_automl.core.events import Event
from lepton_automl.core.units import epochs_text
from lepton_automl.cost.latency import last_reference_ms
from lepton_automl.data.folds import Folds, delete_fold_files
from lepton_automl.data.tensors import load_labelled
from lepton_automl.errors import ConfigError, LeptonError
from lepton_automl.models.model import Model
from lepton_automl.option_texts import MAX_FOLDS
from lepton_automl.runs.ledger import EventKind, record_decision
from lepton_automl.search.executors import Executor
from lepton_automl.search.finals.results import finalist_results
from lepton_automl.search.finals.selection import Option, Selection, choose, finalists
from lepton_automl.search.finals.training import FinalTraining, rebuild_checkpoint
from lepton_automl.search.progress import time_decision
from lepton_automl.search.request import SearchRequest, SearchResult, TrialRow
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.time_plan import Clock
from lepton_automl.search.training_key import Stage
from lepton_automl.search.trials import Trials, recipe_of
from lepton_automl.training.evaluate import predict_logits
from lepton_automl.training.recipe import Recipe

_OPTIONS = "lepton pick, --objective accuracy, --min-accuracy"
_ARITHMETIC = "arithmetic"
"""Key of the plan event with the arithmetic of the final trainings, before the round."""
_RECIPE = "recipe.json"
"""Written after the model: with this file the winner is complete."""
_FOLD_NETS, _FOLDS = "folds", "folds.json"
"""Folder of the nets trained without a fold; its file that is written last."""


_ANEW = "start again with --fresh, which moves the old folder aside"


class WinnerStore:
    """Selects the winner of a search and saves it; a longer search selects another one.

    Parameters
    ----------
    request : SearchRequest
        Goal, folders, ledger.
    tasks : TaskBuilder
        Creates the final trainings.
    trials : Trials
        The trials and their results.
    """

    def __init__(self, request: SearchRequest, tasks: TaskBuilder, trials: Trials) -> None:
        self._request, self._tasks, self._trials = request, tasks, trials
        self._options_by_number: dict[int, Option] = {}
        self._folder = request.folder.best
        earlier = list(request.ledger.all(EventKind.WINNER).values())
        covering = [n for n, event in enumerate(earlier) if _covers(event, request)]
        self._round = covering[0] if covering else len(earlier)
        self._event = earlier[self._round] if covering else None
        self._final_training = FinalTraining(request, tasks, trials, self._round)

    def recorded(self) -> Selection | None:
        """The saved winner of an earlier search that was at least as long as this one."""
        if self._event is None or not (self._folder / _RECIPE).is_file():
            return None
        return Selection(self._event["number"], self._event["reason"])

    def select_winner(self, workers: Executor, clock: Clock) -> Selection:
        """Train the finalists, select the winner by their results, save it.

        Raises
        ------
        ConfigError
            If no trial could be trained.
        """
        if not self._trials.trained():
            raise _nothing_trained(self._trials)
        options = self._options(self._trials.trained())
        self._use_one_arithmetic(workers)
        finals = self._final_training.train(options, workers, clock)
        too_slow = self._too_slow(options) if finals else []
        if too_slow:  # It was evaluated on the validation part alone.
            finals = self._final_training.options(by_folds=False)
        choice = choose([*finals, *too_slow] or options, self._request.config.goal)
        if choice.number in {option.number for option in too_slow}:
            result = self._trials.search_result(choice.number)
            message = (
                f"trial {choice.number} wins without a final training, for which there was not "
                f"enough time: {result.accuracy:.2%} after {epochs_text(result.epochs)} in the "
                "search"
            )
            self._request.emit(Event("search", message))
        self._save(choice, workers)
        self._final_training.record_decisions(choice.number, by_folds=not too_slow)
        self._record_decision(choice, options)
        event = {
            "trials": self._request.config.trials,
            "budget_seconds": self._request.config.seconds_in_all,
        }
        self._request.ledger.record(
            EventKind.WINNER, str(self._round), event | dataclasses.asdict(choice)
        )
        return choice

    def _use_one_arithmetic(self, workers: Executor) -> None:
        """Train the finalists with one kind of arithmetic, so that they are compared fairly."""
        ledger, key = self._request.ledger, f"{_ARITHMETIC}-{self._round}"
        known = (ledger.get(EventKind.PLAN, key) or {}).get("kind", "")
        found = workers.use_one_arithmetic(str(known))
        if found is None:
            return
        if found.kind != known:
            ledger.record(EventKind.PLAN, key, {"kind": found.kind})
        decision = Decision(
            "arithmetic of final trainings",
            found.kind,
            found.evidence,
            "inferred",
            found.option,
            is_detail=not found.is_choice,
        )
        record_decision(ledger, decision)

    def _record_decision(self, choice: Selection, options: Sequence[Option]) -> None:
        compared = f"{choice.reason}, of {len(options)} trained trials"
        decision = Decision("winner", f"trial {choice.number}", compared, "measured", _OPTIONS)
        record_decision(self._request.ledger, decision)
        if resized := self._size_decision(choice.number):
            record_decision(self._request.ledger, resized)
        if smaller := self._batch_decision(choice.number):
            record_decision(self._request.ledger, smaller)
        time_used = time_decision(self._trials, choice.number, self._request)
        if time_used is not None:
            record_decision(self._request.ledger, time_used)

    def _batch_decision(self, number: int) -> Decision | None:
        """The winner's batch size, where there are too few samples for that of its recipe."""
        samples, size = len(self._request.dataset.train), self._trials[number].recipe.batch_size
        if size <= samples:
            return None
        return Decision(
            "batch size",
            f"{samples}, not {size} as in the recipe of the winner",
            f"there are {samples} training samples",
            "inferred",
            "--space (batch_size in [train])",
            is_detail=True,
        )

    def _size_decision(self, number: int) -> Decision | None:
        """To which size pictures are resized; None where they are not, or the user's space says."""
        data, sides = self._request.dataset, self._request.space.resolution.values
        height, width = self._trials[number].arch.size
        is_stated = self._request.config.space is not None and len(sides) == 1
        if data.size == (height, width) or (is_stated and isinstance(sides[0], int)):
            return None
        tried = {self._trials[each].arch.size for each in self._trials.trained()}
        shapes = "several sizes" if data.size is None else "{}x{} pixels".format(*data.size)
        return Decision(
            "input size",
            f"pictures are stretched to {height}x{width} pixels",
            f"that of the winner, of {len(tried)} trained; the pictures have {shapes}",
            "measured" if len(tried) > 1 else "assumed",
            "--space (resolution in [input])",
            is_detail=True,
        )

    def _too_slow(self, options: Sequence[Option]) -> list[Option]:
        """The first choice of the search, if only its speed kept it from a final training.

        Its accuracy is biased upwards by the selection, but after all epochs of its recipe it is
        what the finalists trained in its place have to exceed.
        """
        first = finalists(options, self._request.config.goal, 1)[0]
        recipe_epochs = self._trials[first.number].recipe.epochs
        is_complete = self._trials.search_result(first.number).epochs >= recipe_epochs
        is_finalist = first.number in {run.number for run in self._final_training.runs}
        return [first] if is_complete and not is_finalist else []

    def delete_other_checkpoints(self, number: int) -> None:
        """Delete all checkpoints but those of the winner and of the final trainings on validation.

        `lepton pick` may use the latter, and the compression those of the winner on other folds;
        all others can be trained again from the ledger.
        """
        keep = {self._checkpoint(number)}
        keep |= set(self._fold_checkpoints(number).values())
        keep.add(self._tasks.checkpoint(self._trials.search_result(number).key))
        for run in self._final_training.runs:
            if not run.fold:
                keep.add(self._tasks.checkpoint(run.key(self._round)))
        self._tasks.delete_all_but(keep)
        delete_fold_files(self._request.folder.cache)

    def leader(self) -> int | None:
        """Number of the best trial so far; None before one is trained."""
        options = self._options(self._trials.trained())
        return choose(options, self._request.config.goal).number if options else None

    def save_best_so_far(self) -> int | None:
        """Save the best trial with a checkpoint to RUN/models/best; None where there is none."""
        saved = [n for n in self._trials.trained() if TaskBuilder.is_complete(self._checkpoint(n))]
        if not saved:
            return None
        choice = choose(self._options(saved), self._request.config.goal)
        self._save(Selection(choice.number, "the best so far"), None)
        return choice.number

    def result(
        self, choice: Selection, rows: Sequence[TrialRow], front: Sequence[TrialRow]
    ) -> SearchResult:
        """The result of the search, from the saved winner."""
        best = Model.load(self._folder)
        size = best.arch.size
        validation = load_labelled(
            self._request.dataset.decoded_files("validation", size, self._request.folder.cache)
        )
        logits = predict_logits(best, validation.pixels, device=self._request.device)
        predictions = logits.argmax(1).numpy().astype(np.int64)
        reference_ms = last_reference_ms(self._request.ledger)
        return SearchResult(
            best=best,
            number=choice.number,
            recipe=Recipe.from_json(untrusted_files.read_text(self._folder / _RECIPE, fix=_ANEW)),
            reason=choice.reason,
            rows=tuple(rows),
            front=tuple(front),
            correct=predictions == validation.labels.numpy(),
            predictions=predictions,
            finalists=finalist_results(self._request.ledger, self._trials, self._round),
            timing={"quiet_reference_ms": reference_ms} if reference_ms else {},
            is_balanced=self._request.dataset.validation.is_balanced,
        )

    def _save(self, choice: Selection, workers: Executor | None) -> None:
        """Copy a checkpoint to RUN/models/best; where it is gone, `workers` train it again."""
        number = choice.number
        result = self._trials.best_result(number)
        if workers is not None:
            task = rebuild_checkpoint(result.key, self._tasks, self._trials, self._request.ledger)
            if task is not None:
                workers.call(task)
        model = Model.load(self._checkpoint(number))
        # Without its recipe the folder is incomplete: its files may belong to two models.
        files.remove(self._folder / _RECIPE)
        self._save_fold_nets(number)
        metrics = {"validation_accuracy": result.accuracy, "epochs": float(result.epochs)}
        compared = self._trials.cross_validated.get(number)
        if compared is not None and compared.is_of(result.key):
            metrics["cross_validation_accuracy"] = compared.accuracy.accuracy
        dataclasses.replace(model, metrics=metrics).save(self._folder)
        recipe = recipe_of(self._trials[number].recipe, result.key)
        recipe = dataclasses.replace(recipe, epochs=self._trials.epochs_of(number))
        files.write(self._folder / _RECIPE, recipe.to_json() + "\n")

    def _save_fold_nets(self, number: int) -> None:
        """Save the winner's trainings without another fold, on which its cuts are judged."""
        folder = self._folder / _FOLD_NETS
        files.remove(folder / _FOLDS)
        files.remove_folder(folder)
        checkpoints = self._fold_checkpoints(number)
        for fold, checkpoint in checkpoints.items():
            Model.load(checkpoint).save(folder / str(fold))
        if checkpoints:
            body = {"digest": self._request.folds.digest, "folds": list(checkpoints)}
            files.write_json(folder / _FOLDS, body)

    def _fold_checkpoints(self, number: int) -> dict[int, Path]:
        """The checkpoints of a trial's best variant that were trained without another fold."""
        key = self._trials.best_result(number).key
        if key.stage is not Stage.FINAL:
            return {}
        of_fold = {
            fold: self._tasks.checkpoint(dataclasses.replace(key, fold=fold, seed=0))
            for fold in range(1, MAX_FOLDS)
        }
        return {k: path for k, path in of_fold.items() if TaskBuilder.is_complete(path)}

    def _checkpoint(self, number: int) -> Path:
        return self._tasks.checkpoint(self._trials.best_result(number).key)

    def _options(self, numbers: Iterable[int]) -> list[Option]:
        return [self._option(number) for number in numbers]

    def _option(self, number: int) -> Option:
        """The option of a trial, cached until its next training, as its accuracy is read often."""
        correct = self._trials.best_result(number).correct
        option = self._options_by_number.get(number)
        if option is None or option.correct is not correct:
            cost, validation = self._trials[number].cost, self._request.dataset.validation
            option = Option(number, correct, cost, validation.groups, validation.strata)
            self._options_by_number[number] = option
        return option


def load_winner_fold_nets(folder: Path, folds: Folds) -> dict[int, Model]:
    """The nets that the search has trained like the winner, but without a fold.

    Parameters
    ----------
    folder : Path
        RUN/models/best.
    folds : Folds
        Folds of the data; nets of other folds are not returned.

    Returns
    -------
    dict of int to Model
        Fold, from 1, to its net; empty where the finalists were not compared on folds.

    Raises
    ------
    DataError
        If a file is damaged.
    """
    path = folder / _FOLD_NETS / _FOLDS
    if not path.is_file():
        return {}
    body = untrusted_files.read_json(path, fix=_ANEW, top=dict)
    if body.get("digest") != folds.digest:
        return {}
    numbers = [fold for fold in range(1, MAX_FOLDS) if fold in body.get("folds", [])]
    return {fold: Model.load(path.parent / str(fold)) for fold in numbers}


def _covers(event: dict[str, Any], request: SearchRequest) -> bool:
    """Whether the search that ended with `event` was at least as long as the requested one."""
    pairs = (
        (event["trials"], request.config.trials),
        (event["budget_seconds"], request.config.seconds_in_all),
    )
    return all(
        done is None if wanted is None else done is not None and done >= wanted
        for done, wanted in pairs
    )


def _nothing_trained(trials: Trials) -> LeptonError:
    reasons = [results[-1].failed for results in trials.results.values() if results]
    reason = f"; the last one: {reasons[-1]}" if reasons else ": there was no time for one"
    return ConfigError(
        f"none of {len(trials)} trials could be trained{reason}",
        fix="give more --budget, lower lr in [train] of the search space, or another --space",
    )
