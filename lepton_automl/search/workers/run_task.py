"""Run a training task in any process: train, save the model, classify the validation samples."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from lepton_automl.core import files
from lepton_automl.data.dataset import LabelledFiles, LabelledTensors
from lepton_automl.data.tensors import load_labelled
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model
from lepton_automl.search.checkpoint_files import save_model
from lepton_automl.search.time_plan import TASK_SECONDS
from lepton_automl.search.workers.launch import GroupPart, started_group_part, started_process_group
from lepton_automl.search.workers.task import (
    TIME_IS_OVER,
    OnListen,
    OnProgress,
    Task,
    TaskResult,
    pack,
)
from lepton_automl.training.checkpoint import RESUME_FILE, saved_share
from lepton_automl.training.distributed import ProcessGroup
from lepton_automl.training.evaluate import TrainingSlot, is_correct
from lepton_automl.training.loop import Diverged, OnBatch, TrainOptions, fit, initial_model
from lepton_automl.training.precision import Throughput, arithmetic_name
from lepton_automl.training.recipe import Recipe
from lepton_automl.training.schedule import Schedule

_EVALUATION_SHARE, _EVALUATION_SECONDS = 0.03, TASK_SECONDS
"""Of the time of a shortened training, kept for what follows its last batch."""


def _ignore(value: float) -> None:
    del value


def run_task(
    task: Task,
    training_slot: TrainingSlot,
    on_progress: OnProgress = _ignore,
    on_listen: OnListen = _ignore,
) -> TaskResult:
    """Train, save the model, classify the validation samples.

    The model is on the disk before this returns. A loss that is not finite makes a result with
    `failed`, not an exception. On a host without rank 0 the result is empty.

    Raises
    ------
    LeptonError
        If the start or the data cannot be read, or the model cannot be written.
    """
    text = task.to_json()
    if task.group:
        part = GroupPart.from_json(task.group)
        started = started_group_part(text, part, task.ranks, on_listen)
    else:
        started = started_process_group(text, task.processes, Path(task.out), task.device)
    with started as process_group:
        return run_rank(task, process_group, training_slot, on_progress)


def run_rank(
    task: Task,
    process_group: ProcessGroup,
    training_slot: TrainingSlot = contextlib.nullcontext,
    on_progress: OnProgress = _ignore,
) -> TaskResult:
    """Run a task as one rank of a process group; only rank 0 returns a result."""
    device, model, data = torch.device(task.device), _initial_model(task), _training_data(task)
    limit = _TimeLimit(task, process_group)
    cycles, seconds = _cycles(task, limit, on_progress), list[float]()
    speed, micro_batches = Throughput(1), 1
    for cycle in cycles:
        speed = Throughput(min(cycle.recipe.batch_size, len(data)))
        micro_batches, begun = cycle.micro_batches, time.perf_counter()
        options = TrainOptions(
            epochs=cycle.epochs,
            seed=cycle.seed,
            device=device,
            micro_batches=micro_batches,
            training_slot=training_slot,
            process_group=process_group,
            on_batch=_on_batch(speed.on_batch, cycle.on_batch, limit.on_batch),
            schedule=cycle.schedule,
        )
        try:
            model = fit(model, data, cycle.recipe, checkpoint=cycle.resume_file, **options)
        except (Diverged, _TimeIsOver) as error:
            return TaskResult(
                (*seconds, time.perf_counter() - begun),
                failed=error.what,
                micro_batches=micro_batches,
                pictures_per_second=speed.samples_per_second,
                share=limit.share,
                arithmetic=arithmetic_name(device),
            )
        seconds.append(time.perf_counter() - begun)
    if process_group.rank:
        return TaskResult()
    if task.out:
        save_model(model, Path(task.out))
        files.remove(Path(task.out) / RESUME_FILE)
    validation = load_part(task, task.validation, task.validation_states)
    schedule = cycles[-1].schedule if cycles else Schedule()
    return TaskResult(
        tuple(seconds),
        pack(is_correct(model, validation, device=device, training_slot=training_slot)),
        micro_batches=micro_batches,
        pictures_per_second=speed.samples_per_second,
        share=schedule.share,
        schedule_changes=tuple(schedule.changes),
        arithmetic=arithmetic_name(device),
    )


@dataclass(frozen=True)
class _Cycle:
    """One of the consecutive trainings of a task."""

    epochs: int
    seed: int
    recipe: Recipe
    micro_batches: int
    schedule: Schedule
    resume_file: Path | None
    """File of the state to resume from; None: it starts again."""
    on_batch: OnBatch
    """Reports the share of the whole task that is done."""


def _cycles(task: Task, limit: _TimeLimit, on_progress: OnProgress) -> list[_Cycle]:
    """The trainings of a task; the last one may resume, be shortened, have its own recipe."""
    made, recipe = list[_Cycle](), Recipe.from_json(task.recipe)
    total = sum(epochs for epochs, _ in task.cycles)
    for (epochs, seed), parts in zip(task.cycles, task.micro_batches_of_cycles, strict=True):
        resume_file, schedule = None, Schedule()
        if len(made) == len(task.cycles) - 1:
            resume_file = Path(task.out) / RESUME_FILE if task.out else None
            schedule = Schedule(limit.seconds_left, task.schedule_changes)
            recipe = Recipe.from_json(task.last_recipe) if task.last_recipe else recipe
        before = sum(cycle.epochs for cycle in made)

        def report(done: int, batches: int, before: int = before, epochs: int = epochs) -> None:
            limit.share = (before + epochs * done / batches) / total
            on_progress(limit.share)

        made.append(_Cycle(epochs, seed, recipe, parts, schedule, resume_file, report))
    return made


def _on_batch(*callbacks: OnBatch) -> OnBatch:
    """All callbacks, one after the other."""

    def call(done: int, batches: int) -> None:
        for callback in callbacks:
            callback(done, batches)

    return call


class _TimeIsOver(Exception):
    """A training has used up its `max_seconds`."""

    what = TIME_IS_OVER


class _TimeLimit:
    """The time of a task, `Task.max_seconds` from now on.

    A task that is late is stopped, or its last training is shortened; of several processes, which
    would have to agree, none stops.
    """

    def __init__(self, task: Task, process_group: ProcessGroup) -> None:
        self.share = 0.0
        """Share of the task that is done."""
        is_shortened = task.is_shortened and bool(task.max_seconds)
        self._stops = not is_shortened and process_group.world_size == 1
        self._end = time.perf_counter() + (task.max_seconds or math.inf)
        self._kept = _EVALUATION_SECONDS + _EVALUATION_SHARE * task.max_seconds
        self.seconds_left = self._seconds_left if is_shortened else None
        """Returns the seconds until the last batch of a shortened training has to end; None: no
        training is shortened."""

    def on_batch(self, done: int, batches: int) -> None:
        """Raise `_TimeIsOver` when the time is over; call it after every batch, the share known."""
        del done, batches
        if self._stops and self.share < 1.0 and time.perf_counter() >= self._end:
            raise _TimeIsOver

    def _seconds_left(self) -> float:
        return self._end - self._kept - time.perf_counter()


def share_done(out: Path) -> float:
    """Share of the training into the folder `out` from which it continues; 0.0: it begins anew."""
    return saved_share(out / RESUME_FILE)


def _training_data(task: Task) -> LabelledTensors:
    data = load_part(task, task.train, task.train_states)
    return data.first(task.samples) if task.samples else data


def _initial_model(task: Task) -> Model:
    if task.start:
        return Model.load(Path(task.start))
    return initial_model(Arch.from_json(task.arch), task.preprocessing, task.seed)


def load_part(task: Task, paths: tuple[str, str], states: tuple[str, str]) -> LabelledTensors:
    """Load one part of the data of a task.

    Raises
    ------
    DataError
        If a file is not in its state, and its content is not what was written.
    """
    pixels, labels = (Path(path) for path in paths)
    return load_labelled(LabelledFiles(pixels, labels, task.is_balanced, states))
