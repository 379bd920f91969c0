"""The program on a host: runs the tasks of a coordinator in worker processes, over one channel."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import hashlib
import os
import queue
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lepton_automl.config import RunConfig
from lepton_automl.core import files
from lepton_automl.core.machine import this_machine
from lepton_automl.core.scratch import Scratch
from lepton_automl.cost.latency import Stopwatch
from lepton_automl.errors import ConfigError, LeptonError, first_line
from lepton_automl.runs.test_set_uses import state_folder
from lepton_automl.search.workers.blob_cache import Blob, BlobCache
from lepton_automl.search.workers.channel import Channel, Message
from lepton_automl.search.workers.handle import LIVENESS_SECONDS, Worker, WorkerLost
from lepton_automl.search.workers.launch import WORKER_PROGRAM, GroupPart
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.remote_task import RemoteResult, RemoteTask, error_fields
from lepton_automl.training.distributed import interface_of
from lepton_automl.training.precision import arithmetic_name

_LEAST_SECONDS = 1.0
"""A task that has waited for its data longer than it may take gets this time."""


@dataclass
class _Received:
    """A task of the coordinator."""

    number: int
    remote: RemoteTask
    at: float = field(default_factory=time.monotonic)
    lacks: set[Blob] = field(default_factory=set)
    is_grouped: bool = False
    """Other hosts train parts of every batch; it waits for them."""
    part: str = ""
    """JSON of the `GroupPart` of this host, once all have their data."""


class Agent:
    """Worker processes of one host, with one thread each.

    Parameters
    ----------
    channel : Channel
        To the coordinator.
    program : str
        Python code that a worker process runs.
    liveness_seconds : float
        Seconds for which a worker may always be silent.
    """

    def __init__(
        self,
        channel: Channel,
        program: str = WORKER_PROGRAM,
        liveness_seconds: float = LIVENESS_SECONDS,
    ) -> None:
        self._channel, self._program = channel, program
        self._liveness_seconds = liveness_seconds
        self._scratch = Scratch()
        self._waiting: dict[int, _Received] = {}
        self._tasks: queue.SimpleQueue[_Received] = queue.SimpleQueue()
        self._workers: dict[int, Worker] = {}
        self._running: dict[int, int] = {}
        """Number of a task -> slot of its worker."""
        self._held: dict[int, _Received] = {}
        """Tasks of groups that wait for other hosts."""
        self._dropped: set[int] = set()
        """Numbers of tasks that the coordinator has ended."""
        self._placing = threading.Lock()
        """Held to read or change `_running` and `_dropped` together."""
        self._is_closing = False

    def serve(self) -> None:
        """Run tasks until the coordinator ends."""
        messages = self._channel.messages()
        settings = next((message["hello"] for message in messages if "hello" in message), None)
        try:
            if settings is not None:
                self._start(settings)
                for message in messages:
                    self._receive(message)
        except LeptonError as error:
            self._channel.send({"fatal": error.what})
        finally:
            self._close()

    def _start(self, settings: Message) -> None:
        """Start the workers that the coordinator wants, and say what they are.

        Raises
        ------
        LeptonError
            If the device or the address for groups is missing, or a folder cannot be made.
        """
        if settings["group_address"]:
            interface_of(settings["group_address"])
        # All agents of a user on a machine that measures pause while one of them does.
        shared = state_folder() / "measuring" if settings["measures"] else None
        locks = Path(settings["locks"] or shared or self._scratch.path / "locks")
        self._lock, self._locks = MeasurementLock(locks), locks
        if "stopwatch" in settings:
            self._stopwatch = Stopwatch()
            machine = dataclasses.asdict(this_machine())
            self._channel.send({"ready": {"machine": machine}})
            return
        device, gpus = device_and_gpus(settings["device"])
        folder = settings["cache"]
        self._cache = BlobCache(Path(folder).expanduser() if folder else None)
        self._cache.collect()
        jobs = settings["jobs"] or (len(gpus) if gpus else RunConfig("", Path()).workers)
        for slot in range(jobs):
            gpu = gpus[slot % len(gpus)] if gpus else None
            threading.Thread(target=self._work, args=(slot, gpu), daemon=True).start()
        self._channel.beat_with(self._beat)
        about = {"jobs": jobs, "device": device.type, "arithmetic": arithmetic_name(device)}
        self._channel.send({"ready": about})

    def _receive(self, message: Message) -> None:
        if "task" in message:
            remote = RemoteTask.from_json(message["text"])
            task = _Received(message["task"], remote, is_grouped="group" in message)
            self._ask(task)
        elif "piece" in message:
            self._add(message["piece"])
        elif "begin" in message:
            if held := self._held.pop(message["begin"], None):
                held.part = message["part"]
                self._tasks.put(held)
        elif "drop" in message:
            self._drop(message["drop"])
        elif "measure" in message:
            self._measure(message)
        elif "quiet" in message:
            rounds, seconds = message["quiet"]
            with self._lock.measuring():
                quiet = self._stopwatch.quiet_reference_ms(rounds=rounds, seconds=seconds)
            self._channel.send({"quiet_ms": quiet})

    def _measure(self, message: Message) -> None:
        """Measure files in turns while the workers of this machine pause."""
        files = {str(n): base64.b64decode(file) for n, file in enumerate(message["measure"])}
        run = self._stopwatch.rounds(files)
        with self._lock.measuring():
            times, references = run(message["rounds"], message["seconds"])
        self._channel.send({"times": [*times.values(), references]})

    def _ask(self, task: _Received) -> None:
        """Ask for the contents that a task lacks, or queue it."""
        try:
            lacks = task.remote.missing(self._cache)
        except LeptonError as error:
            self._lose(task.number, WorkerLost(f"got no data: {first_line(error)}"))
            return
        task.lacks = set(lacks)
        if lacks:
            self._waiting[task.number] = task
            asked = [[blob.sha256, blob.size, size] for blob, size in lacks.items()]
            self._channel.send({"lacks": task.number, "blobs": asked})
        else:
            self._complete(task)

    def _complete(self, task: _Received) -> None:
        """Queue a task that has its data; one of a group waits for the other hosts."""
        if task.is_grouped:
            self._held[task.number] = task
            self._channel.send({"complete": task.number})
        else:
            self._tasks.put(task)

    def _drop(self, number: int) -> None:
        """End a task; nothing more is sent about it."""
        self._waiting.pop(number, None)
        self._held.pop(number, None)
        with self._placing:
            self._dropped.add(number)
            slot = self._running.get(number)
            if slot is not None:
                self._workers[slot].stop()

    def _add(self, piece: Message) -> None:
        """Keep a piece of a content; start the tasks that lack nothing more."""
        blob = Blob(piece["sha256"], piece["size"])
        try:
            if self._cache.add(piece) is None:
                return
        except (ValueError, LeptonError) as error:
            # Its other pieces do not follow this one, and find no task that waits for them.
            for task in [task for task in self._waiting.values() if blob in task.lacks]:
                del self._waiting[task.number]
                self._lose(task.number, WorkerLost(f"got no data: {first_line(error)}"))
            return
        for task in list(self._waiting.values()):
            task.lacks.discard(blob)
            if not task.lacks:
                self._complete(self._waiting.pop(task.number))

    def _work(self, slot: int, gpu: int | None) -> None:
        """Run tasks, one after the other, in a worker process that is replaced when it is lost."""
        while not self._is_closing:
            worker = Worker(self._locks, self._lock, gpu, self._liveness_seconds, self._program)
            self._workers[slot] = worker
            with contextlib.suppress(WorkerLost):
                while True:
                    task = self._tasks.get()
                    with self._placing:
                        if task.number in self._dropped:
                            continue
                        self._running[task.number] = slot
                    try:
                        self._run(task, worker)
                    finally:
                        with self._placing:
                            self._running.pop(task.number, None)
                    # The process was killed, or gloo goes on to listen in it.
                    if task.number in self._dropped or task.part:
                        break
            worker.stop()
            worker.close()

    def _run(self, received: _Received, worker: Worker) -> None:
        """Run a task and send its result or error.

        Raises
        ------
        WorkerLost
            If the worker is lost; that is sent too.
        """
        folder = self._scratch.path / _name_of(received.remote)
        try:
            task = received.remote.resolved(self._cache, folder)
            if task.max_seconds:
                waited = time.monotonic() - received.at
                seconds = max(_LEAST_SECONDS, task.max_seconds - waited)
                task = dataclasses.replace(task, max_seconds=seconds)
            if received.part:
                task = dataclasses.replace(task, group=received.part)
            result = worker.call(task, functools.partial(self._listen, received.number))
            has_net = not received.part or GroupPart.from_json(received.part).first == 0
            found = RemoteResult.packed(result, task) if has_net else RemoteResult(result)
        except WorkerLost as lost:
            if not self._is_closing and received.number not in self._dropped:
                self._lose(received.number, lost)
            raise
        except LeptonError as error:
            self._channel.send({"error": received.number, "fields": error_fields(error)})
            return
        except OSError as error:  # The trained net cannot be read: the disk fails.
            self._lose(received.number, WorkerLost(f"failed: {first_line(error)}"))
            return
        files.remove_folder(folder)
        for piece in found.pieces():
            self._channel.send({"piece": piece, "of": received.number})
        self._channel.send({"result": received.number, "text": found.to_json()})

    def _listen(self, number: int, port: int) -> None:
        self._channel.send({"listens": number, "port": port})

    def _lose(self, number: int, lost: WorkerLost) -> None:
        memory = lost.is_out_of_memory
        self._channel.send({"lost": number, "reason": lost.reason, "out_of_memory": memory})

    def _beat(self) -> Message:
        """Share of each running task that is done, and whether it waits for a measurement."""
        status: dict[str, Any] = {}
        for number, slot in list(self._running.items()):
            facts = self._workers[slot].facts()
            status[str(number)] = [facts["share"], facts["waits"]]
        return status

    def _close(self) -> None:
        self._is_closing = True
        for worker in list(self._workers.values()):
            worker.stop()
        self._scratch.remove()
        os._exit(0)  # Threads wait for tasks that will not come.


def _name_of(remote: RemoteTask) -> str:
    """A name of the training: a state of it that was interrupted here is found under it."""
    same = dataclasses.replace(remote.task, max_seconds=0.0, micro_batches=())
    text = dataclasses.replace(remote, task=same).to_json()
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def device_and_gpus(name: str) -> tuple[torch.device, list[int]]:
    """The device that workers train on, and the GPUs that they are spread over.

    Raises
    ------
    ConfigError
        If it is missing.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not count):
        return torch.device("cpu"), []
    _, _, index = name.partition(":")
    gpus = [int(index)] if index else list(range(count))
    if not gpus or max(gpus) >= count:
        raise ConfigError(f"the host has {count} GPUs, its device is {name}", fix="name another")
    return torch.device("cuda"), gpus
