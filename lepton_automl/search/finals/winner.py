"""The winner: who it is once the few best are confirmed, and its place in RUN/models/best."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lepton_automl.artifact.provenance import FinalistResult
from lepton_automl.core import files
from lepton_automl.core.events import Event
from lepton_automl.core.units import epochs_text
from lepton_automl.cost.latency import last_reference_ms
from lepton_automl.data.dataset import load_labelled
from lepton_automl.errors import ConfigError, LeptonError
from lepton_automl.models.model import Model
from lepton_automl.runs.ledger import EventKind, LedgerView
from lepton_automl.search.finals.selection import Choice, Option, choose, finalists
from lepton_automl.search.finals.training import FinalTraining, confirmed, rebuild_checkpoint
from lepton_automl.search.request import SearchResult, SearchWork, TrialRow
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.time_plan import Clock
from lepton_automl.search.trials import Trials, read_trials, recipe_of
from lepton_automl.search.workers.pool import Workers
from lepton_automl.training.evaluate import predict_logits
from lepton_automl.training.recipe import Recipe

RECIPE = "recipe.json"
"""Written after the model: the winner is saved once it is there."""


class WinnerStore:
    """Names the winner of a search, once for each length of it that was asked for.

    Parameters
    ----------
    work : SearchWork
        Goal, folders, ledger.
    tasks : Tasks
        Makes the last trainings.
    trials : Trials
        What is known of the candidates.
    """

    def __init__(self, work: SearchWork, tasks: Tasks, trials: Trials) -> None:
        self._work, self._tasks, self._trials = work, tasks, trials
        self._known: dict[int, Option] = {}
        self._folder = work.folder.best
        earlier = list(work.ledger.all(EventKind.WINNER).values())
        covering = [n for n, event in enumerate(earlier) if _covers(event, work)]
        self._round = covering[0] if covering else len(earlier)
        self._event = earlier[self._round] if covering else None
        self._confirmation = FinalTraining(work, tasks, trials, self._round)

    def recorded(self) -> Choice | None:
        """The winner of as long a search as is asked for, if it was named and saved before."""
        if self._event is None or not (self._folder / RECIPE).is_file():
            return None
        return Choice(self._event["number"], self._event["reason"])

    def select_winner(self, workers: Workers, clock: Clock) -> Choice:
        """Train the few best to the end, let the outcome name the winner, save it.

        Raises
        ------
        ConfigError
            If no candidate could be trained.
        """
        if not self._trials.trained():
            raise _untrainable(self._trials)
        every = self._options(self._trials.trained())
        trained = self._confirmation.run(every, workers, clock)
        passed_over = self._passed_over(every) if trained else []
        choice = choose([*trained, *passed_over] or every, self._work.config.goal)
        if choice.number in {option.number for option in passed_over}:
            self._tell(choice.number)
        self._save(choice, workers)
        event = {
            "trials": self._work.config.trials,
            "budget_seconds": self._work.config.seconds_in_all,
        }
        self._work.ledger.record(
            EventKind.WINNER, str(self._round), event | dataclasses.asdict(choice)
        )
        return choice

    def _passed_over(self, every: Sequence[Option]) -> list[Option]:
        """The first choice of the search, if it was too slow for a last training but is whole.

        What it reached may be luck, as it was chosen for it; but after all the epochs of its recipe
        it is what those that were trained in its place have to be better than.
        """
        first = finalists(every, self._work.config.goal, 1)[0]
        candidate = self._trials[first.number]
        is_whole = self._trials.search_result(first.number).epochs >= candidate.recipe.epochs
        was_trained = first.number in {final.number for final in self._confirmation.finals}
        return [first] if is_whole and not was_trained else []

    def _tell(self, number: int) -> None:
        score = self._trials.search_result(number)
        self._work.emit(
            Event(
                "search",
                f"trial {number}, too slow for a last training, stays ahead of what was trained in "
                f"its place: {score.accuracy:.2%} after {epochs_text(score.epochs)} in the search",
            )
        )

    def delete_other_checkpoints(self, number: int) -> None:
        """Keep the checkpoints of the winner and of last trainings, which `lepton pick` may want.

        All others can be made again from the ledger.
        """
        keep = {self._checkpoint(number)}
        keep.add(self._tasks.checkpoint(self._trials.search_result(number).key))
        for final in self._confirmation.finals:
            keep.add(self._tasks.checkpoint(final.key(self._round)))
        self._tasks.delete_all_but(keep)

    def leader(self) -> int | None:
        """Who would win now."""
        options = self._options(self._trials.trained())
        return choose(options, self._work.config.goal).number if options else None

    def save_best_so_far(self) -> int | None:
        """Leave who would win now in RUN/models/best; None where nobody has a checkpoint."""
        there = [n for n in self._trials.trained() if Tasks.is_complete(self._checkpoint(n))]
        if not there:
            return None
        choice = choose(self._options(there), self._work.config.goal)
        self._save(Choice(choice.number, "the best so far"), None)
        return choice.number

    def result(
        self, choice: Choice, rows: Sequence[TrialRow], front: Sequence[TrialRow]
    ) -> SearchResult:
        """Everything a search gives back."""
        best = Model.load(self._folder)
        size = best.arch.input[:2]
        validation = load_labelled(
            self._work.dataset.decoded_files("validation", size, self._work.folder.cache)
        )
        logits = predict_logits(best, validation.pixels, device=self._work.device)
        predictions = logits.argmax(1).numpy().astype(np.int64)
        reference_ms = last_reference_ms(self._work.ledger)
        return SearchResult(
            best=best,
            number=choice.number,
            recipe=Recipe.from_json((self._folder / RECIPE).read_text()),
            reason=choice.reason,
            rows=tuple(rows),
            front=tuple(front),
            correct=predictions == validation.labels.numpy(),
            predictions=predictions,
            finalists=confirmed(self._work.ledger, self._trials, self._round),
            timing={"quiet_reference_ms": reference_ms} if reference_ms else {},
            is_balanced=self._work.dataset.validation.is_balanced,
        )

    def _save(self, choice: Choice, workers: Workers | None) -> None:
        """Copy the winner's checkpoint to RUN/models/best, remaking it where it is gone."""
        number = choice.number
        score = self._trials.best_result(number)
        checkpoint = self._checkpoint(number)
        if workers is not None:
            for task in rebuild_checkpoint(score.key, self._tasks, self._trials, self._work.ledger):
                workers.call(task)
        model = Model.load(checkpoint)
        # Until the new recipe is there, what lies here may be of two models.
        with files.wrap_os_errors(self._folder):
            (self._folder / RECIPE).unlink(missing_ok=True)
        metrics = {"validation_accuracy": score.accuracy, "epochs": float(score.epochs)}
        dataclasses.replace(model, metrics=metrics).save(self._folder)
        recipe = recipe_of(self._trials[number].recipe, score.key)
        recipe = dataclasses.replace(recipe, epochs=self._trials.epochs_of(number))
        files.write(self._folder / RECIPE, recipe.to_json() + "\n")

    def _checkpoint(self, number: int) -> Path:
        return self._tasks.checkpoint(self._trials.best_result(number).key)

    def _options(self, numbers: Iterable[int]) -> list[Option]:
        return [self._option(number) for number in numbers]

    def _option(self, number: int) -> Option:
        """Made again only after another training: its accuracy is asked for all the time."""
        correct, known = self._trials.best_result(number).correct, self._known.get(number)
        if known is None or known.correct is not correct:
            cost, part = self._trials[number].cost, self._work.dataset.validation
            known = Option(number, correct, cost, part.groups, part.strata)
            self._known[number] = known
        return known


def last_finalist_results(ledger: LedgerView) -> tuple[FinalistResult, ...]:
    """The few best of the newest search of a run, after their last trainings."""
    rounds = [int(key) for key in ledger.all(EventKind.WINNER)]
    return confirmed(ledger, read_trials(ledger), max(rounds)) if rounds else ()


def _covers(event: dict[str, Any], work: SearchWork) -> bool:
    """Whether the search that the event ended was as long as the one asked for."""
    pairs = (
        (event["trials"], work.config.trials),
        (event["budget_seconds"], work.config.seconds_in_all),
    )
    return all(
        had is None if asked is None else had is not None and had >= asked for had, asked in pairs
    )


def _untrainable(trials: Trials) -> LeptonError:
    reasons = [scores[-1].failed for scores in trials.results.values() if scores]
    return ConfigError(
        f"none of {len(trials)} candidates could be trained"
        + (f", the last one because {reasons[-1]}" if reasons else ": there was no time for one"),
        fix="give more --budget, lower lr in [train] of the search space, or another --space",
    )
