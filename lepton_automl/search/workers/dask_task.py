"""Run the tasks of a coordinator on a Dask worker: what `dask_entry` calls, from text to text.

The trainings are done by child processes of the Dask worker, one for each of its threads: they have
the settings of every worker process, can be ended, and may die without the Dask worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import get_worker

from lepton_automl.core import untrusted_files
from lepton_automl.core.scratch import Scratch
from lepton_automl.core.version import __version__
from lepton_automl.errors import LeptonError, first_line
from lepton_automl.search.workers.agent import device_and_gpus
from lepton_automl.search.workers.blob_cache import BlobCache
from lepton_automl.search.workers.handle import LIVENESS_SECONDS, Worker, WorkerLost
from lepton_automl.search.workers.launch import WORKER_PROGRAM
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.remote_task import RemoteResult, RemoteTask, error_fields
from lepton_automl.training.precision import arithmetic_name

_BEAT_SECONDS = 0.5
"""Between two reports of the share that is done; also how soon a task that was given up ends."""
_IDLE_SECONDS = 60.0
"""A child process without a task ends after this time: its coordinator may have gone."""
_AT_WORK = {"running", "paused"}
"""States of a Dask worker that does not end."""

_program, _liveness_seconds = WORKER_PROGRAM, LIVENESS_SECONDS
"""Of the child processes; tests replace them."""


def answer(text: str) -> str:
    """Answer one request of a coordinator.

    Parameters
    ----------
    text : str
        JSON with one of

        - `hello`, an object with `device` (as of a host of `--hosts`), `token_file` and `token`,
          and the coordinator's `machine` and `locks`, the folder of its measurement lock;
        - `need`, the text of a `RemoteTask`;
        - `pieces`, a list of pieces of contents for the cache of this host (`blob_cache`);
        - `task`, the text of a `RemoteTask`, with its `number`, the `topic` of its events, `device`
          and `locks`, those of the answer to `hello`;
        - `end`, a topic whose tasks end.

    Returns
    -------
    str
        JSON. For `hello`: `lepton` (version), `python`, `pid`, `machine`, `jobs`, `device`,
        `arithmetic`, `locks` (empty on another machine) and whether the host `is_shared`: it reads
        the token in the file. For `need`: `lacks`, the digest and size of each content, and the
        bytes that are here from a transfer that was cut; for a `task` that lacks contents: `lacks`,
        their digests. For a `task` else one of `result`, the text of a `RemoteResult`, with the
        `pieces` of its files; `error` (`task_error`); `lost`, the reason, with `out_of_memory`. For
        the others: `{}`.
    """
    request = json.loads(text)
    try:
        if "hello" in request:
            return json.dumps(_greeting(request["hello"]))
        if "end" in request:
            _children.end(request["end"])
            return "{}"
        cache = _children.cache()
        if "need" in request:
            missing = RemoteTask.from_json(request["need"]).missing(cache)
            lacks = [[blob.sha256, blob.size, size] for blob, size in missing.items()]
            return json.dumps({"lacks": lacks})
        for piece in request.get("pieces", ()):
            cache.add(piece)
        return json.dumps(_run(request, cache) if "task" in request else {})
    except LeptonError as error:
        return json.dumps({"error": error_fields(error)})
    except WorkerLost as lost:
        return json.dumps({"lost": lost.reason, "out_of_memory": lost.is_out_of_memory})
    except OSError as error:  # The trained net cannot be read: the disk fails.
        return json.dumps({"lost": f"failed: {first_line(error)}", "out_of_memory": False})


def machine_name() -> str:
    """A name that processes share which are on one machine and see one file system."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()} {boot}"


@dataclass(eq=False)
class _Child:
    """A child process."""

    worker: Worker
    locks: str
    gpu: int | None
    topic: str = ""
    """Of the task that it runs; empty: none."""
    idle_since: float = 0.0


class _Children:
    """The child processes of a Dask worker, and the state that its threads share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: list[_Child] = []
        self._cache: BlobCache | None = None
        self._scratch: Scratch | None = None

    def cache(self) -> BlobCache:
        """The cache of this user; one object, as pieces come in several calls."""
        with self._lock:
            if self._cache is None:
                self._cache = BlobCache()
                self._cache.collect()
            return self._cache

    @property
    def scratch(self) -> Path:
        """A folder for nets, until the process ends."""
        with self._lock:
            if self._scratch is None:
                self._scratch = Scratch()
            return self._scratch.path

    @contextmanager
    def child(self, locks: str, gpus: list[int], topic: str) -> Iterator[Worker]:
        """A child process until the block ends; one that is lost in the block is forgotten."""
        locks = locks or str(self.scratch / "locks")
        with self._lock:
            child = next(self._idle(locks), None) or self._start(locks, gpus)
            child.topic = topic
        try:
            yield child.worker
        except WorkerLost:
            with self._lock:
                self._end([child])
            child.worker.close()
            raise
        finally:
            child.topic, child.idle_since = "", time.monotonic()

    def prestart(self, locks: str, gpus: list[int], count: int) -> None:
        """Start children before there are tasks, as they take seconds to load."""
        locks = locks or str(self.scratch / "locks")
        with self._lock:
            for _ in range(count - len(list(self._idle(locks)))):
                self._start(locks, gpus)

    def end(self, topic: str) -> None:
        """End the children that run tasks of `topic`, and those without a task."""
        with self._lock:
            self._end([each for each in self._all if each.topic in ("", topic)])

    def _idle(self, locks: str) -> Iterator[_Child]:
        return (each for each in self._all if not each.topic and each.locks == locks)

    def _start(self, locks: str, gpus: list[int]) -> _Child:
        used = [each.gpu for each in self._all]
        gpu = min(gpus, key=used.count) if gpus else None
        lock = MeasurementLock(Path(locks))
        worker = Worker(Path(locks), lock, gpu, _liveness_seconds, _program)
        if not self._all:
            threading.Thread(target=self._end_idle, name="lepton-idle", daemon=True).start()
        self._all.append(child := _Child(worker, locks, gpu, idle_since=time.monotonic()))
        return child

    def _end(self, children: list[_Child]) -> None:
        for child in children:
            child.worker.stop()
            if not child.topic:  # Else the thread that waits for it closes it.
                child.worker.close()
            with contextlib.suppress(ValueError):
                self._all.remove(child)

    def _end_idle(self) -> None:
        """End children without a task, until there are none at all."""
        while True:
            time.sleep(_IDLE_SECONDS / 4)
            oldest = time.monotonic() - _IDLE_SECONDS
            with self._lock:
                self._end([c for c in self._all if not c.topic and c.idle_since < oldest])
                if not self._all:
                    return


_children = _Children()


def _greeting(hello: dict[str, Any]) -> dict[str, Any]:
    device, gpus = device_and_gpus(hello["device"])
    jobs = get_worker().state.nthreads
    locks = hello["locks"] if hello["machine"] == machine_name() else ""
    _children.prestart(locks, gpus, jobs)
    is_shared = False
    with contextlib.suppress(LeptonError):
        text = untrusted_files.read_text(Path(hello["token_file"]), fix="")
        is_shared = text == hello["token"]
    return {
        "lepton": __version__,
        "python": sys.version.split()[0],
        "pid": os.getpid(),
        "machine": machine_name(),
        "jobs": jobs,
        "device": device.type,
        "arithmetic": arithmetic_name(device),
        "locks": locks,
        "is_shared": is_shared,
    }


def _run(request: dict[str, Any], cache: BlobCache) -> dict[str, Any]:
    """Run a task in a child process.

    Raises
    ------
    WorkerLost
        If the child process is lost, or the task was given up.
    LeptonError
        Raised by the task.
    OSError
        If the trained net cannot be read.
    """
    remote = RemoteTask.from_json(request["task"])
    if lacks := remote.lacks(cache):
        return {"lacks": [blob.sha256 for blob in lacks]}
    _, gpus = device_and_gpus(request["device"])
    folder = _children.scratch / f"task-{os.urandom(8).hex()}"
    try:
        task = remote.resolved(cache, folder)
        with (
            _children.child(request["locks"], gpus, request["topic"]) as worker,
            _reporting(worker, request),
        ):
            found = RemoteResult.packed(worker.call(task), task)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"result": found.to_json(), "pieces": list(found.pieces())}


@contextmanager
def _reporting(worker: Worker, request: dict[str, Any]) -> Iterator[None]:
    """Report progress until the block ends, and end the child once the task is given up."""
    dask = get_worker()
    key = dask.get_current_task()
    is_over = threading.Event()

    def report() -> None:
        while not is_over.wait(_BEAT_SECONDS):
            # Dask forgets a running task that is cancelled or whose client has gone, but cannot
            # stop it.
            task = dask.state.tasks.get(key)
            is_wanted = task is not None and task.state != "cancelled"
            if not is_wanted or dask.status.name not in _AT_WORK:
                worker.stop()
                return
            facts = worker.facts()
            beat = {"number": request["number"], "share": facts["share"], "waits": facts["waits"]}
            dask.log_event(request["topic"], beat)

    thread = threading.Thread(target=report, name="lepton-report", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
