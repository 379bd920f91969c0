"""Tasks and results as text for a worker that shares no disk with the coordinator.

A `RemoteTask` names its files by digest; the worker's host says which of them it lacks and gets
these in pieces (`blob_cache`), each once a host. A `RemoteResult` names the files of the trained
net; the coordinator checks all of it before it writes the net and counts the result (`accept`), as
a host may send anything.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from lepton_automl import errors
from lepton_automl.core import files, untrusted_files
from lepton_automl.core.field_types import check_types
from lepton_automl.core.scratch import Scratch
from lepton_automl.core.untrusted_files import ARRAYS
from lepton_automl.errors import DataError, LeptonError, MachineError, first_line
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model
from lepton_automl.search.checkpoint_files import MODEL_FILES, write_model_files
from lepton_automl.search.workers.blob_cache import Blob, BlobCache, Received, pieces
from lepton_automl.search.workers.handle import WorkerLost
from lepton_automl.search.workers.task import Task, TaskResult, check_schedule_changes, unpack

_DATA = ("train/pixels", "train/labels", "validation/pixels", "validation/labels")
_START = tuple(f"start/{name}" for name in MODEL_FILES)
_OUT = "out"
_MAX_TEXT = 2000
"""Characters of a message of a host that are kept."""
_FIX = "check the host, or take it out of the file of hosts"


class Catalog:
    """Digests of the coordinator's files, each computed once for a state of the file."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, ...], Blob]] = {}
        self._places: dict[Blob, Path] = {}
        self._lock = threading.Lock()

    def blob(self, path: Path) -> Blob:
        """The content of a file.

        Raises
        ------
        DataError
            If it cannot be read.
        """
        with self._lock:
            try:
                found = path.stat()
                state = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            except OSError as error:
                raise DataError(
                    f"{path} cannot be read: {error.strerror}",
                    fix="run the same command again, which makes it again",
                ) from error
            known = self._known.get(path)
            if known is None or known[0] != state:
                digest = untrusted_files.sha256(path, ARRAYS, fix="run the same command again")
                known = self._known[path] = (state, Blob(digest, found.st_size))
            self._places[known[1]] = path
            return known[1]

    def place(self, blob: Blob) -> Path | None:
        """A file that had this content; None where none had."""
        return self._places.get(blob)


@dataclass(frozen=True)
class RemoteTask:
    """A task without paths: contents by name, and what is read by path on a shared disk."""

    task: Task
    """Paths are names: `start` and `out`, or empty; of the data the keys of `blobs`."""
    blobs: Mapping[str, Blob] = field(default_factory=dict)
    """Name -> content: `train/pixels`, `start/arch.json`, ..."""
    paths: Mapping[str, str] = field(default_factory=dict)
    """Name -> path that the host reads itself, where it shares a disk with the coordinator."""

    @classmethod
    def packed(
        cls, task: Task, catalog: Catalog, *, device: str = "", is_shared: bool = False
    ) -> Self:
        """The task as a host gets it.

        Parameters
        ----------
        task : Task
            With paths of this machine.
        catalog : Catalog
            Computes the digests.
        device : str
            Device of the host, in place of the task's.
        is_shared : bool
            Whether the host reads pixels and labels by path; the net to start from is sent anyway,
            as it was written a moment ago and a network file system may not show it yet.

        Raises
        ------
        DataError
            If a file cannot be read.
        """
        places = dict(zip(_DATA, (*task.train, *task.validation), strict=True))
        starts = {f"start/{name}": str(Path(task.start) / name) for name in MODEL_FILES}
        sent = (starts if task.start else {}) | ({} if is_shared else places)
        named = dataclasses.replace(
            task,
            start="start" if task.start else "",
            out=_OUT if task.out else "",
            train=_DATA[:2],
            validation=_DATA[2:],
            train_states=task.train_states if is_shared else ("", ""),
            validation_states=task.validation_states if is_shared else ("", ""),
            device=device or task.device,
        )
        blobs = {name: catalog.blob(Path(path)) for name, path in sent.items()}
        # The host has another working directory.
        shared = {name: os.path.abspath(path) for name, path in places.items()}  # noqa: PTH100
        return cls(named, blobs, shared if is_shared else {})

    def to_json(self) -> str:
        """One line of JSON."""
        blobs = {name: [blob.sha256, blob.size] for name, blob in self.blobs.items()}
        document = {"task": self.task.to_json(), "blobs": blobs, "paths": dict(self.paths)}
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError, TypeError, KeyError
            If it is of another form.
        """
        document = json.loads(text)
        blobs = {name: Blob(*fields) for name, fields in document["blobs"].items()}
        return cls(Task.from_json(document["task"]), blobs, document["paths"])

    def lacks(self, cache: BlobCache) -> list[Blob]:
        """Contents that are not in the cache of this host, each once."""
        return [blob for blob in dict.fromkeys(self.blobs.values()) if cache.find(blob) is None]

    def missing(self, cache: BlobCache) -> dict[Blob, int]:
        """What it `lacks`, with the bytes that are here from a transfer that was cut.

        Raises
        ------
        MachineError
            If the disk is full.
        """
        here = {blob: cache.resume(blob) for blob in self.lacks(cache)}
        return {blob: size for blob, size in here.items() if size < blob.size or not blob.size}

    def resolved(self, cache: BlobCache, folder: Path) -> Task:
        """The task with paths of this machine.

        Parameters
        ----------
        cache : BlobCache
            Holds its contents.
        folder : Path
            A folder of this task alone, for the net to start from and the trained one.

        Raises
        ------
        MachineError
            If a content is missing, or the net to start from cannot be written.
        """
        data = [self.paths.get(name) or str(self._found(name, cache)) for name in _DATA]
        if self.task.start:
            for name in MODEL_FILES:
                content = self._found(f"start/{name}", cache).read_bytes()
                files.write(folder / "start" / name, content)
        return dataclasses.replace(
            self.task,
            start=str(folder / "start") if self.task.start else "",
            out=str(folder / _OUT) if self.task.out else "",
            train=(data[0], data[1]),
            validation=(data[2], data[3]),
        )

    def _found(self, name: str, cache: BlobCache) -> Path:
        path = cache.find(self.blobs[name])
        if path is None:
            raise MachineError(
                f"{name} was deleted from the cache {cache.folder}",
                fix="make more room there: it is sent again",
            )
        return path


@dataclass(frozen=True)
class RemoteResult:
    """A result with the contents of the trained net."""

    result: TaskResult
    blobs: Mapping[str, Blob] = field(default_factory=dict)
    """File of the net -> content; empty where none was saved."""
    contents: Mapping[Blob, bytes] = field(default_factory=dict)
    """The contents, where they were read on this machine."""

    @classmethod
    def packed(cls, result: TaskResult, task: Task) -> Self:
        """The result of a task with paths of this machine, which has run.

        Raises
        ------
        OSError
            If the trained net cannot be read.
        """
        if result.failed or not task.out:
            return cls(result)
        content = {name: (Path(task.out) / name).read_bytes() for name in MODEL_FILES}
        blobs = {name: Blob.of(each) for name, each in content.items()}
        return cls(result, blobs, {blobs[name]: each for name, each in content.items()})

    def to_json(self) -> str:
        """One line of JSON, without the contents, which `pieces` gives."""
        blobs = {name: [blob.sha256, blob.size] for name, blob in self.blobs.items()}
        return json.dumps({"result": self.result.to_json(), "blobs": blobs})

    def pieces(self) -> Iterator[dict[str, Any]]:
        """The contents in pieces."""
        for blob, content in self.contents.items():
            yield from pieces(blob, content)


def max_result_bytes(task: Task) -> int:
    """Bytes that the files of a trained net may have together."""
    weights = sum(math.prod(op.weight_shape) for op in Arch.from_json(task.arch).graph.weighted_ops)
    return 16 * weights + (4 << 20)


def accept(task: Task, text: str, received: Received, samples: int | None = None) -> TaskResult:
    """Check the result of a host and write its net to `task.out`; only then it counts.

    Parameters
    ----------
    task : Task
        As it was started here.
    text : str
        Of `RemoteResult`.
    received : Received
        The contents of its files, which are taken out.
    samples : int, optional
        Number of validation samples, where it is known.

    Raises
    ------
    WorkerLost
        If anything in it cannot be from this task.
    MachineError
        If the net cannot be written.
    """
    try:
        document = untrusted_files.parse_json(text, "the result", fix=_FIX, top=dict)
        text = document["result"]
        untrusted_files.parse_json(text, "the result", fix=_FIX, top=dict)
        result = _checked_result(TaskResult.from_json(text), samples)
        blobs = {name: Blob(*fields) for name, fields in document["blobs"].items()}
        if result.failed or not task.out:
            return result
        if set(blobs) != set(MODEL_FILES):
            raise ValueError("files of a net are missing")
        content = {name: received.take(blob) for name, blob in blobs.items()}
    except (DataError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise WorkerLost(f"sent no result of this task ({first_line(error):.200})") from error
    _save_checked(task, content)
    return result


def _checked_result(result: TaskResult, samples: int | None) -> TaskResult:
    """The result, if its values are of their types and ranges; long texts are cut."""
    check_types(result)
    numbers = (*result.seconds, result.pictures_per_second, result.micro_batches, result.share)
    if not all(math.isfinite(value) and value >= 0 for value in numbers):
        raise ValueError("a number is negative or not finite")
    if len(result.seconds) > 1000 or not 1 <= result.micro_batches <= 1 << 20:
        raise ValueError("too many cycles or micro-batches")
    check_schedule_changes(result.schedule_changes)
    if not result.failed:
        count = len(unpack(result.correct))
        if not result.seconds or count < 1 or (samples is not None and count != samples):
            raise ValueError(f"answers for {count} samples")
    return dataclasses.replace(
        result, failed=result.failed[:_MAX_TEXT], arithmetic=result.arithmetic[:200], retried=""
    )


def _save_checked(task: Task, content: Mapping[str, bytes]) -> None:
    """Write the net of a result, if it is one of the task's architecture with finite weights."""
    scratch = Scratch()
    try:
        for name in MODEL_FILES:
            (scratch.path / name).write_bytes(content[name])
        try:
            model = Model.load(scratch.path)
        except DataError as error:
            raise WorkerLost(f"sent no net ({error.what:.200})") from error
    finally:
        scratch.remove()
    is_finite = all(bool(torch.isfinite(tensor).all()) for tensor in model.weights.values())
    is_same = model.arch.to_json() == Arch.from_json(task.arch).to_json()
    if not is_same or not is_finite or model.qparams is not None:
        raise WorkerLost("sent a net of another architecture, or weights that are not finite")
    write_model_files(content, Path(task.out))


def error_fields(error: LeptonError) -> dict[str, str]:
    """An error of a task as JSON values."""
    return {"what": error.what, "fix": error.fix, "kind": type(error).__name__}


def task_error(fields: Mapping[str, Any]) -> LeptonError | WorkerLost:
    """The error that a host reports of a task.

    What the machine lacks is a loss of that worker: another host may have it.
    """
    what, fix = str(fields.get("what"))[:_MAX_TEXT], str(fields.get("fix"))[:_MAX_TEXT]
    kind = getattr(errors, str(fields.get("kind")), None)
    if not (isinstance(kind, type) and issubclass(kind, LeptonError)) or kind is MachineError:
        return WorkerLost(f"failed: {what}")
    return kind(what, fix=fix or _FIX)
