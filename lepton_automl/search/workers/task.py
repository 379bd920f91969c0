"""Training task: its parameters, its result, and the function that runs it in any process."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import numpy as np
import torch
from numpy.typing import NDArray

from lepton_automl.core import files
from lepton_automl.core.field_types import check_finite
from lepton_automl.data.dataset import LabelledFiles, LabelledTensors
from lepton_automl.data.tensors import load_labelled
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model
from lepton_automl.models.quantization import InputQuantization, Preprocessing
from lepton_automl.search.time_plan import TASK_SECONDS, work_of
from lepton_automl.search.workers.launch import (
    GroupPart,
    started_group_part,
    started_process_group,
)
from lepton_automl.training.checkpoint import saved_share
from lepton_automl.training.distributed import ProcessGroup, usable_processes
from lepton_automl.training.evaluate import TrainingSlot, is_correct
from lepton_automl.training.loop import Diverged, OnBatch, TrainOptions, fit, initial_model
from lepton_automl.training.precision import (
    MIN_MEASURED_SECONDS,
    Throughput,
    arithmetic_name,
)
from lepton_automl.training.recipe import Recipe
from lepton_automl.training.schedule import Schedule, ScheduleChange

_RESUME_FILE = "resume.safetensors"
"""State of a running training, in the folder of the future model; a killed one resumes from it."""
_EVALUATION_SHARE, _EVALUATION_SECONDS = 0.03, TASK_SECONDS
"""Of the time of a shortened training, kept for what follows its last batch."""
LEAST_STEP_SIZE = 0.5
"""Of the schedule, in a batch: the rest of one that is not complete is more."""
_MICRO_BATCH_FACTOR = 4
"""After memory ran out a batch is split into this many times as many micro-batches."""

TIME_IS_OVER = "the time is over"
"""Why a training has no model that `Task.max_seconds` has stopped."""

OnProgress = Callable[[float], None]
"""Called after every batch with the share of the task that is done, 0 to 1."""


OnListen = Callable[[int], None]
"""Called with the port at which the processes of other hosts are awaited."""


def _ignore(value: float) -> None:
    del value


@dataclass(frozen=True)
class Task:
    """One training and its evaluation on validation; the result follows from these fields alone."""

    key: str
    """Text of the `TrainingKey`, or a name."""
    arch: str
    """JSON."""
    recipe: str
    """JSON."""
    cycles: tuple[tuple[int, int], ...]
    """(epochs, seed) of consecutive trainings, each with a whole learning-rate schedule."""
    seed: int
    """Seed of the initial weights, where `start` is empty."""
    start: str
    """Folder of the model to start from; empty: new weights."""
    out: str
    """Folder the model is saved to; empty: it is not saved."""
    zero_point: int
    scale: float
    train: tuple[str, str]
    """Files of pixels and labels."""
    validation: tuple[str, str]
    device: str = "cpu"
    samples: int = 0
    """Train on the first samples only; 0: on all."""
    last_recipe: str = ""
    """JSON of the recipe of the last cycle; empty: `recipe`."""
    micro_batches: tuple[int, ...] = ()
    """Micro-batches that a batch is split into, for each cycle; empty: 1."""
    work: float = 0.0
    """Size of the training in the units of `time_plan.work_of`; does not affect the result."""
    is_balanced: bool = False
    """Classes have equal weight in the loss."""
    ranks: int = 1
    """Number of processes that train together; each has its part of every batch."""
    max_seconds: float = 0.0
    """After so many seconds the training stops without a model, where one process trains; 0: no
    limit."""
    is_shortened: bool = False
    """Whether the last cycle is shortened to end within `max_seconds`, rather than stopped
    (`training.schedule.Schedule`)."""
    schedule_changes: tuple[ScheduleChange, ...] = ()
    """How an earlier training was shortened, which this one repeats."""
    train_states: tuple[str, str] = ("", "")
    """States in which the content of the files of `train` was checked (`LabelledFiles.states`)."""
    validation_states: tuple[str, str] = ("", "")
    input_offsets: tuple[float, ...] = ()
    input_scales: tuple[float, ...] = ()
    """Of the channels of inputs that the file quantizes (`InputQuantization`); else empty."""
    input_type: str = "float32"
    """Their type."""
    group: str = ""
    """JSON of the `GroupPart` of this host, where the `ranks` are on several; else empty."""

    @property
    def processes(self) -> int:
        """Number of its processes: at most `ranks`, each with enough samples of a batch."""
        batch_size = min(Recipe.from_json(self.recipe).batch_size, self.samples or math.inf)
        return usable_processes(self.ranks, int(batch_size)) if self.out else 1

    @property
    def preprocessing(self) -> Preprocessing:
        """Of a net with new weights."""
        signal = None
        if self.input_scales:
            signal = InputQuantization(self.input_offsets, self.input_scales, self.input_type)
        return Preprocessing(self.zero_point, self.scale, signal)

    @property
    def micro_batches_of_cycles(self) -> tuple[int, ...]:
        """`micro_batches`, with an entry for every cycle."""
        return self.micro_batches or (1,) * len(self.cycles)

    def with_less_memory(self) -> Self:
        """The same task with more micro-batches in its last cycle."""
        *before, last = self.micro_batches_of_cycles
        micro_batches = (*before, last * _MICRO_BATCH_FACTOR)
        return dataclasses.replace(self, micro_batches=micro_batches)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        document = json.loads(text)
        document["cycles"] = tuple((epochs, seed) for epochs, seed in document["cycles"])
        document["micro_batches"] = tuple(document["micro_batches"])
        document["schedule_changes"] = _changes(document["schedule_changes"])
        pairs = ("train", "validation", "train_states", "validation_states")
        for name in (*pairs, "input_offsets", "input_scales"):
            document[name] = tuple(document[name])
        return cls(**document)


@dataclass(frozen=True)
class TaskResult:
    """Result of a task: duration and validation accuracy, or the reason of a failure."""

    seconds: tuple[float, ...] = ()
    """Duration of each cycle."""
    correct: str = ""
    """Which validation samples are classified correctly, as `pack` writes them."""
    failed: str = ""
    """Why there is no model; empty where there is one."""
    micro_batches: int = 1
    """Micro-batches that a batch of the last cycle was split into."""
    pictures_per_second: float = 0.0
    """Throughput of the last cycle; 0 where it was too short to be measured."""
    retried: str = ""
    """Why a second worker ran the task; empty where one was enough."""
    share: float = 1.0
    """Share of the training that is done; below 1 where it failed or the time was over. After a
    shortened training: its batches as a share of those it was to have."""
    schedule_changes: tuple[ScheduleChange, ...] = ()
    """How the last cycle was shortened to end in time; empty where it was not."""
    arithmetic: str = ""
    """What decides its bits beside the task (`training.precision.arithmetic_name`)."""
    host: str = ""
    """Name of the host that ran the task; empty for this machine."""
    slowness: float = 1.0
    """Time of a task on its worker, relative to the fastest worker of the executor."""

    @property
    def is_stopped(self) -> bool:
        """Whether `Task.max_seconds` stopped the training."""
        return self.failed == TIME_IS_OVER

    def seconds_per_work(self, task: Task, macs: int) -> float | None:
        """Measured seconds for one unit of `work_of`; None where the training failed.

        Parameters
        ----------
        task : Task
            The task of this result, on `samples` of the training samples.
        macs : int
            Multiply-accumulates of its net.
        """
        epochs = [epochs for epochs, _ in task.cycles]
        if not self.is_stopped:
            work = work_of(macs, task.samples, epochs[-1])
            return None if self.failed else self.seconds[-1] / work
        if self.pictures_per_second:
            return 1 / (self.pictures_per_second * work_of(macs, 1, 1))
        return sum(self.seconds) / (self.share * work_of(macs, task.samples, sum(epochs)))

    def steady_seconds(self, pictures: int) -> float:
        """Seconds that a long training needs for `pictures`: the last cycle without its start."""
        whole = self.seconds[-1]
        if not self.pictures_per_second or whole < MIN_MEASURED_SECONDS:
            return whole
        return min(whole, pictures / self.pictures_per_second)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        document = json.loads(text)
        document["seconds"] = tuple(document["seconds"])
        document["schedule_changes"] = _changes(document.get("schedule_changes", ()))
        return cls(**document)


def _changes(values: Iterable[tuple[int, float]]) -> tuple[ScheduleChange, ...]:
    return tuple((batches, size) for batches, size in values)


def check_schedule_changes(changes: Iterable[tuple[object, object]]) -> None:
    """Check changes of a schedule from outside: a training that repeats them has to end.

    Raises
    ------
    TypeError, ValueError
        If one is none.
    """
    for batches, size in changes:
        check_finite(batches, "batches", int)
        check_finite(size, "step size")
        if cast("int", batches) < 0 or cast("float", size) < LEAST_STEP_SIZE:
            raise ValueError(f"steps of {size} after {batches} batches")


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
    device, seconds, micro_batches = torch.device(task.device), list[float](), 1
    stop = _TimeLimit(task.max_seconds, is_enforced=_stops(task, process_group))
    data, model, recipe = _training_data(task), _initial_model(task), Recipe.from_json(task.recipe)
    throughput = Throughput(min(recipe.batch_size, len(data)))
    # Only the last cycle may be long, so only that one writes a state to resume from.
    resume_files: list[Path | None] = [None] * len(task.cycles)
    if task.cycles and task.out:
        resume_files[-1] = Path(task.out) / _RESUME_FILE
    schedules = _schedules(task, stop)
    recipes = [recipe] * len(task.cycles)
    if task.cycles and task.last_recipe:
        recipes[-1] = Recipe.from_json(task.last_recipe)
    steps = zip(
        task.cycles,
        recipes,
        task.micro_batches_of_cycles,
        _progress_callbacks(task, stop.recorded(on_progress)),
        resume_files,
        schedules,
        strict=True,
    )
    for (epochs, seed), recipe, micro_batches, report_progress, resume_file, schedule in steps:
        throughput = Throughput(min(recipe.batch_size, len(data)))

        def on_batch(
            done: int,
            total: int,
            throughput: Throughput = throughput,
            report_progress: OnBatch = report_progress,
        ) -> None:
            throughput.on_batch(done, total)
            report_progress(done, total)
            stop.check()

        options = TrainOptions(
            epochs=epochs,
            seed=seed,
            device=device,
            micro_batches=micro_batches,
            training_slot=training_slot,
            process_group=process_group,
            on_batch=on_batch,
            schedule=schedule,
        )
        begun = time.perf_counter()
        try:
            model = fit(model, data, recipe, checkpoint=resume_file, **options)
        except (Diverged, _TimeIsOver) as error:
            return TaskResult(
                (*seconds, time.perf_counter() - begun),
                failed=error.what,
                micro_batches=micro_batches,
                pictures_per_second=throughput.samples_per_second,
                share=stop.share,
                arithmetic=arithmetic_name(device),
            )
        seconds.append(time.perf_counter() - begun)
    if process_group.rank:
        return TaskResult()
    if task.out:
        model.save(Path(task.out))
        files.remove(Path(task.out) / _RESUME_FILE)
    correct = is_correct(
        model,
        load_part(task, task.validation, task.validation_states),
        device=device,
        training_slot=training_slot,
    )
    last = schedules[-1] if schedules else Schedule()
    return TaskResult(
        tuple(seconds),
        pack(correct),
        micro_batches=micro_batches,
        pictures_per_second=throughput.samples_per_second,
        share=last.share,
        schedule_changes=tuple(last.changes),
        arithmetic=arithmetic_name(device),
    )


class _TimeIsOver(Exception):
    """A training has used up its `max_seconds`."""

    what = TIME_IS_OVER


def _schedules(task: Task, limit: _TimeLimit) -> list[Schedule]:
    """One for each cycle; only the last cycle is shortened."""
    is_limited = task.is_shortened and bool(task.max_seconds)
    last = Schedule(limit.seconds_left if is_limited else None, task.schedule_changes)
    return [*(Schedule() for _ in task.cycles[1:]), last][: len(task.cycles)]


def share_done(out: Path) -> float:
    """Share of the training into the folder `out` from which it continues; 0.0: it begins anew."""
    return saved_share(out / _RESUME_FILE)


def _stops(task: Task, process_group: ProcessGroup) -> bool:
    """Whether a late training is stopped: neither shortened, nor one of several processes."""
    return not task.is_shortened and process_group.world_size == 1


class _TimeLimit:
    """Stops a task after so many seconds, unless all its batches are done; 0: never.

    Parameters
    ----------
    max_seconds : float
        From now on.
    is_enforced : bool
        Whether `check` stops the task.
    """

    def __init__(self, max_seconds: float, *, is_enforced: bool) -> None:
        self._end = time.perf_counter() + max_seconds if max_seconds else math.inf
        self._kept = _EVALUATION_SECONDS + _EVALUATION_SHARE * max_seconds
        self._is_enforced = is_enforced
        self.share = 0.0
        """Share of the task that is done."""

    def recorded(self, on_progress: OnProgress) -> OnProgress:
        """`on_progress`, which records the share of the task as well."""

        def record(share: float) -> None:
            self.share = share
            on_progress(share)

        return record

    def check(self) -> None:
        """Raise `_TimeIsOver` when the time is over; call it after every batch."""
        if self._is_enforced and self.share < 1.0 and time.perf_counter() >= self._end:
            raise _TimeIsOver

    def seconds_left(self) -> float:
        """Seconds until the last batch of a shortened training has to end."""
        return self._end - self._kept - time.perf_counter()


def _training_data(task: Task) -> LabelledTensors:
    data = load_part(task, task.train, task.train_states)
    return data.first(task.samples) if task.samples else data


def _initial_model(task: Task) -> Model:
    if task.start:
        return Model.load(Path(task.start))
    return initial_model(Arch.from_json(task.arch), task.preprocessing, task.seed)


def _progress_callbacks(task: Task, on_progress: OnProgress) -> Iterator[OnBatch]:
    """For each cycle a callback that turns its batches into the share of the task."""
    total, before = sum(epochs for epochs, _ in task.cycles), 0
    for epochs, _ in task.cycles:

        def report(done: int, batches: int, before: int = before, epochs: int = epochs) -> None:
            on_progress((before + epochs * done / batches) / total)

        yield report
        before += epochs


def load_part(task: Task, paths: tuple[str, str], states: tuple[str, str]) -> LabelledTensors:
    """Load one part of the data of a task.

    Raises
    ------
    DataError
        If a file is not in its state, and its content is not what was written.
    """
    pixels, labels = (Path(path) for path in paths)
    return load_labelled(LabelledFiles(pixels, labels, task.is_balanced, states))


def pack(correct: NDArray[np.bool_]) -> str:
    """Encode booleans (N,) as text: N, a colon, and the bits in base 64."""
    return f"{len(correct)}:{base64.b64encode(np.packbits(correct).tobytes()).decode()}"


def unpack(text: str) -> NDArray[np.bool_]:
    """Read what `pack` wrote."""
    count, _, packed = text.partition(":")
    bits = np.frombuffer(base64.b64decode(packed), np.uint8)
    return np.unpackbits(bits, count=int(count)).astype(np.bool_)
