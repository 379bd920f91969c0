"""Train one trial to the end that was picked after the search."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable

from lepton_automl.core.events import Event
from lepton_automl.core.units import epochs_text
from lepton_automl.errors import ConfigError
from lepton_automl.metrics.balanced import balanced_mean
from lepton_automl.models.model import Model
from lepton_automl.runs.ledger import EventKind
from lepton_automl.runs.time_budget import sufficient_budget
from lepton_automl.search.finals.training import rebuild_checkpoint
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.time_plan import MAX_EPOCHS_FACTOR, SAFETY, work_of
from lepton_automl.search.training_key import Stage, TrainingKey
from lepton_automl.search.trials import Trials
from lepton_automl.search.workers.run_task import run_task
from lepton_automl.search.workers.task import Task, unpack

_MIN_SHARE = 1 / 3
"""Least epochs of a training to the end, as a share of the recipe's."""


def seconds_per_epoch(request: SearchRequest, trials: Trials, number: int) -> float:
    """Estimated seconds of an epoch of a trial, from the speed of all first rungs."""
    samples, seconds, work = len(request.dataset.train), 0.0, 0.0
    for key, event in request.ledger.all(EventKind.RUNG).items():
        trial = TrainingKey.parse(key).trial
        if key == str(TrainingKey(trial)) and not event["failed"]:
            seconds += event["seconds"]
            work += work_of(trials[trial].cost.macs, samples, event["epochs"])
    return seconds / work * work_of(trials[number].cost.macs, samples, 1) if work else 0.0


def epochs_to_end(
    request: SearchRequest,
    trials: Trials,
    number: int,
    seconds: float,
    budget_for: Callable[[float], float],
) -> int:
    """Epochs of a training to the end: those of the finalists, or as many as `seconds` allow.

    Parameters
    ----------
    request : SearchRequest
        Data and ledger.
    trials : Trials
        The trials and their results.
    number : int
        The trial.
    seconds : float
        Time for the training; infinite without a budget.
    budget_for : callable
        Returns the budget in seconds that is enough for a training of so many seconds.

    Raises
    ------
    ConfigError
        If there is not enough time.
    """
    normal = max(trials.epochs_of(number), trials[number].recipe.epochs)
    if seconds == math.inf:
        finals = [result for n in trials.finals for result in trials.final_results(n)]
        return max((result.epochs for result in finals), default=normal)
    per_epoch = max(seconds_per_epoch(request, trials, number) * SAFETY, 1e-9)
    epochs = min(MAX_EPOCHS_FACTOR * normal, math.floor(seconds / per_epoch))
    if epochs < _MIN_SHARE * normal:
        enough = sufficient_budget(SAFETY * budget_for(normal * per_epoch))
        raise ConfigError(
            f"not enough time to train trial {number} to the end: {max(seconds, 0):.0f} s are left "
            f"for it, {epochs_text(normal)} take about {normal * per_epoch:.0f} s",
            fix=f"give --budget {enough}, or leave it out",
        )
    return epochs


def train_to_end(request: SearchRequest, trials: Trials, number: int, epochs: int) -> Model:
    """The model of a trial's best final training; without one, train it from scratch.

    Trains in this process, also where the checkpoint of a finished training is gone.

    Parameters
    ----------
    request : SearchRequest
        Data, folders and ledger.
    trials : Trials
        The trials and their results.
    number : int
        The trial.
    epochs : int
        Epochs of the training; not used where there was a final training.

    Raises
    ------
    ConfigError
        If the training fails.
    """
    tasks, accuracy = TaskBuilder(request, trials), None
    if trials.final_results(number):
        result = trials.best_result(number)
        key, epochs, accuracy = result.key, result.epochs, result.accuracy
        task = rebuild_checkpoint(key, tasks, trials, request.ledger)
    else:
        key = TrainingKey(number, Stage.PICK)
        is_trained = tasks.is_complete(tasks.checkpoint(key))
        task = None if is_trained else tasks.from_scratch(trials[number], epochs, key)
        if task is not None:
            task = dataclasses.replace(task, recipe=trials.complete_recipe(number).to_json())
    if task is not None:
        accuracy = _train_here(request, task, f"trial {number}: training, {epochs_text(epochs)}")
    metrics = {"epochs": float(epochs)}
    if accuracy is not None:
        metrics["validation_accuracy"] = accuracy
    return dataclasses.replace(Model.load(tasks.checkpoint(key)), metrics=metrics)


def _train_here(request: SearchRequest, task: Task, message: str) -> float:
    """Run a task in this process; returns the accuracy on validation, 0 to 1."""

    def report(share: float) -> None:
        request.emit(Event(Stage.PICK, message, share, 1.0))

    request.emit(Event(Stage.PICK, message))
    result = run_task(task, contextlib.nullcontext, report)
    if result.failed:
        raise ConfigError(
            f"the training of a trial to the end failed: {result.failed}",
            fix="give other limits, so that another trial is picked",
        )
    return balanced_mean(unpack(result.correct), request.dataset.validation.strata)
