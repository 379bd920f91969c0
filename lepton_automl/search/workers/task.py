"""A task: train one candidate for some cycles; a pure function that any process may repeat."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from lepton_automl.core import files
from lepton_automl.data.dataset import LabelledFiles, LabelledTensors, load_labelled
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model, Preprocessing
from lepton_automl.search.workers.launch import assembled
from lepton_automl.training.distributed import ProcessGroup, usable_processes
from lepton_automl.training.evaluate import TrainingSlot, is_correct
from lepton_automl.training.loop import Diverged, OnBatch, TrainOptions, fit, initial_model
from lepton_automl.training.precision import MIN_MEASURED_SECONDS, Throughput
from lepton_automl.training.recipe import Recipe

HALF_WAY = "half-way.safetensors"
"""Beside the model to be: what a killed training goes on from."""
SMALLER = 4
"""Where memory ran out, batches go through the net in so many times as many pieces."""

Share = Callable[[float], None]
"""Told, after every batch, which share of the task's training is done."""


def _untold(share: float) -> None:
    del share


@dataclass(frozen=True)
class Task:
    """Everything that decides the result, as JSON can carry it to another process."""

    key: str
    arch: str
    recipe: str
    cycles: tuple[tuple[int, int], ...]
    """(epochs, seed) of each training to run, one after the other; each ends annealed."""
    seed: int
    """Of the first weights, where `start` is empty."""
    start: str
    """Folder of the model to start from; empty starts afresh."""
    out: str
    """Folder the model is saved to; empty saves nothing."""
    zero_point: int
    scale: float
    train: tuple[str, str]
    """Files of pixels and labels."""
    validation: tuple[str, str]
    device: str = "cpu"
    samples: int = 0
    """Train on so many samples only; 0 is all."""
    mirrors: bool = False
    """Answer the validation samples mirrored as well."""
    parts: tuple[int, ...] = ()
    """In how many pieces the batches of each cycle go through the net; empty: whole."""
    work: float = 0.0
    """Size of the training in the units of `plan.work_of`; tells the speed, decides nothing."""
    is_balanced: bool = False
    """Every class counts alike in the training."""
    ranks: int = 1
    """Processes that train together, each with its share of every batch."""

    @property
    def pieces(self) -> tuple[int, ...]:
        """`parts`, one for every cycle."""
        return self.parts or (1,) * len(self.cycles)

    def smaller(self) -> Self:
        """The same task in less memory: its last cycle in smaller pieces."""
        *before, last = self.pieces
        return dataclasses.replace(self, parts=(*before, last * SMALLER))

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        document = json.loads(text)
        document["cycles"] = tuple((epochs, seed) for epochs, seed in document["cycles"])
        document["parts"] = tuple(document["parts"])
        document["train"] = tuple(document["train"])
        document["validation"] = tuple(document["validation"])
        return cls(**document)


@dataclass(frozen=True)
class TaskResult:
    """What a task found out."""

    seconds: tuple[float, ...] = ()
    """Of each cycle."""
    correct: str = ""
    """Which validation samples are right, packed by `pack`."""
    mirrored: str = ""
    """Which are right when mirrored, if that was asked for."""
    failed: str = ""
    """Why there is no model, or nothing."""
    parts: int = 1
    """In how many pieces the batches of the last cycle went through the net."""
    pictures_per_second: float = 0.0
    """Of the last cycle; 0 where it was too short to tell."""
    retried: str = ""
    """Why the task was given to a second worker, or nothing."""

    def steady_seconds(self, pictures: int) -> float:
        """Of the last cycle, without its start: what so many pictures take in a long training."""
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
        return cls(**(document | {"seconds": tuple(document["seconds"])}))


def run_task(task: Task, turn: TrainingSlot, told: Share = _untold) -> TaskResult:
    """Train, save the model, answer the validation samples.

    The model is on the disk before this returns. A net whose loss leaves the finite numbers is a
    result too: `failed` says so.

    Raises
    ------
    LeptonError
        If the start or the data cannot be read, or the model cannot be written.
    """
    batch_size = min(Recipe.from_json(task.recipe).batch_size, task.samples or math.inf)
    processes = usable_processes(task.ranks, int(batch_size)) if task.out else 1
    with assembled(task.to_json(), processes, Path(task.out)) as process_group:
        return run_share(task, process_group, turn, told)


def run_share(
    task: Task,
    process_group: ProcessGroup,
    turn: TrainingSlot = contextlib.nullcontext,
    told: Share = _untold,
) -> TaskResult:
    """`run_task` in one of the processes that do it together; the first has the result."""
    device, seconds, parts = torch.device(task.device), list[float](), 1
    data, model, recipe = _training_part(task), _start(task), Recipe.from_json(task.recipe)
    throughput = Throughput(min(recipe.batch_size, len(data)))
    steps = zip(task.cycles, task.pieces, _ticks(task, told), _snapshots(task), strict=True)
    for (epochs, seed), parts, tick, snapshot in steps:
        throughput = Throughput(min(recipe.batch_size, len(data)))
        options = TrainOptions(
            epochs=epochs, seed=seed, device=device, micro_batches=parts, training_slot=turn
        )
        options["process_group"] = process_group
        begun = time.perf_counter()
        try:
            options["on_batch"] = _both(throughput.on_batch, tick)
            model = fit(model, data, recipe, checkpoint=snapshot, **options)
        except Diverged as error:
            return TaskResult(tuple(seconds), failed=error.what, parts=parts)
        seconds.append(time.perf_counter() - begun)
    if process_group.rank:
        return TaskResult()
    if task.out:
        model.save(Path(task.out))
        files.remove(Path(task.out) / HALF_WAY)
    plain, mirrored = _answers(model, task, turn)
    return TaskResult(
        tuple(seconds),
        plain,
        mirrored,
        parts=parts,
        pictures_per_second=throughput.samples_per_second,
    )


def _training_part(task: Task) -> LabelledTensors:
    data, count = _part(task, task.train), task.samples
    return data.first(count) if count else data


def _snapshots(task: Task) -> list[Path | None]:
    """Of each cycle; only the last one may be long, and what a killed one began is gone on with."""
    end = len(task.cycles) - 1
    return [Path(task.out) / HALF_WAY if task.out and n == end else None for n in range(end + 1)]


def _answers(model: Model, task: Task, turn: TrainingSlot) -> tuple[str, str]:
    """Which validation samples are right, as they are and, if asked for, mirrored."""
    data, device = _part(task, task.validation), torch.device(task.device)
    plain, mirrored = pack(is_correct(model, data, device=device, training_slot=turn)), ""
    if task.mirrors:
        flipped = LabelledTensors(data.pixels.flip(2), data.labels)
        mirrored = pack(is_correct(model, flipped, device=device, training_slot=turn))
    return plain, mirrored


def pack(correct: NDArray[np.bool_]) -> str:
    """Booleans (N,) as text: the count, a colon, eight of them a byte in base 64."""
    return f"{len(correct)}:{base64.b64encode(np.packbits(correct).tobytes()).decode()}"


def unpack(text: str) -> NDArray[np.bool_]:
    """Read what `pack` wrote."""
    count, _, packed = text.partition(":")
    bits = np.frombuffer(base64.b64decode(packed), np.uint8)
    return np.unpackbits(bits, count=int(count)).astype(np.bool_)


def _ticks(task: Task, told: Share) -> Iterator[OnBatch]:
    """For each cycle, what its training tells after every batch."""
    total, before = sum(epochs for epochs, _ in task.cycles), 0
    for epochs, _ in task.cycles:
        yield functools.partial(_tell, told, before / total, epochs / total)
        before += epochs


def _both(one: OnBatch, other: OnBatch) -> OnBatch:
    def tick(done: int, total: int) -> None:
        one(done, total)
        other(done, total)

    return tick


def _tell(told: Share, before: float, share: float, done: int, total: int) -> None:
    told(before + share * done / total)


def _start(task: Task) -> Model:
    if task.start:
        return Model.load(Path(task.start))
    preprocessing = Preprocessing(task.zero_point, task.scale)
    return initial_model(Arch.from_json(task.arch), preprocessing, task.seed)


def _part(task: Task, paths: tuple[str, str]) -> LabelledTensors:
    return load_labelled(LabelledFiles(Path(paths[0]), Path(paths[1]), task.is_balanced))
