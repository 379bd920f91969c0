"""Training task: its parameters and its result, which travel as JSON."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.field_types import check_finite
from lepton_automl.models.quantization import InputQuantization, Preprocessing
from lepton_automl.search.time_plan import work_of
from lepton_automl.training.distributed import usable_processes
from lepton_automl.training.precision import MIN_MEASURED_SECONDS
from lepton_automl.training.recipe import Recipe
from lepton_automl.training.schedule import ScheduleChange

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


@dataclass(frozen=True)
class Task:
    """One training and its evaluation on validation.

    The result follows from these fields alone, but where `max_seconds` stops or shortens it.
    """

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


def pack(correct: NDArray[np.bool_]) -> str:
    """Encode booleans (N,) as text: N, a colon, and the bits in base 64."""
    return f"{len(correct)}:{base64.b64encode(np.packbits(correct).tobytes()).decode()}"


def unpack(text: str) -> NDArray[np.bool_]:
    """Read what `pack` wrote."""
    count, _, packed = text.partition(":")
    bits = np.frombuffer(base64.b64decode(packed), np.uint8)
    return np.unpackbits(bits, count=int(count)).astype(np.bool_)
