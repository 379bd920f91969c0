"""Worker process: read tasks from standard input, write status and results as JSON lines."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch

from lepton_automl.core import files, held_folders
from lepton_automl.errors import LeptonError, first_line
from lepton_automl.search.workers.handle import is_out_of_memory
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.run_task import run_task
from lepton_automl.search.workers.task import Task

_STDOUT, _STDERR = 1, 2
_HEARTBEAT_SECONDS = 0.25
"""Least time between two status lines."""


class StatusWriter:
    """Writes the status of a worker while it trains, one JSON object a line.

    `{"share": 0.4}` is a heartbeat with the share of the task that is done, and `free` and `total`
    bytes of memory where it trains on a GPU; `{"waits": true}` says that it waits for a
    measurement, `listens` is the port at which it awaits the processes of other hosts.

    Parameters
    ----------
    output : TextIO
        Read by the process that started the worker.
    lock : MeasurementLock
        Held for every batch.
    """

    def __init__(self, output: TextIO, lock: MeasurementLock) -> None:
        self._output, self._lock = output, lock
        self._share, self._next = 0.0, 0.0
        self._is_waiting = False

    def write(self, line: str) -> None:
        """Write one line at once."""
        self._output.write(line + "\n")
        self._output.flush()

    def start_task(self) -> None:
        """Reset the share and write a heartbeat."""
        self._share, self._next = 0.0, 0.0
        self._heartbeat()

    def set_share(self, share: float) -> None:
        """Set the share of the task that is done, 0 to 1, for the next heartbeat."""
        self._share = share

    def set_port(self, port: int) -> None:
        """Write a heartbeat with the port at which processes of other hosts are awaited."""
        self.write(json.dumps({"share": self._share, "listens": port}))

    @contextmanager
    def training_slot(self) -> Iterator[None]:
        """Hold the measurement lock for one batch; a heartbeat follows."""
        with self._lock.training_slot(self._report_wait):
            yield
        self._heartbeat()

    def _report_wait(self) -> None:
        self._is_waiting = True
        self.write('{"waits":true}')

    def _heartbeat(self) -> None:
        now = time.monotonic()
        if now >= self._next or self._is_waiting:
            self._next, self._is_waiting = now + _HEARTBEAT_SECONDS, False
            self.write(json.dumps({"share": round(self._share, 4), **_gpu_memory()}))


def main() -> None:
    """Run tasks until the input ends.

    The second argument is the folder of the lock files, the third the folders that the parent
    holds.
    """
    output = os.fdopen(os.dup(_STDOUT), "w")
    os.dup2(_STDERR, _STDOUT)  # What a library prints must not mix with the JSON lines.
    torch.set_num_threads(1)
    held_folders.add_json(sys.argv[3])
    try:
        lock = MeasurementLock(Path(sys.argv[2]))
    except LeptonError:
        sys.exit(1)  # The parent meets the same error at its next write.
    status = StatusWriter(output, lock)
    try:
        status.start_task()
        for line in sys.stdin:
            status.start_task()
            status.write(respond(line, status))
    except BrokenPipeError:  # The coordinator has ended: no process reads the rest.
        os._exit(1)


def respond(line: str, status: StatusWriter) -> str:
    """Run the task in `line`; returns the response, a line of JSON.

    `{"result": ...}`, `{"error": ...}` with the message of a `LeptonError`, or
    `{"out_of_memory": reason}`.
    """
    try:
        task = Task.from_json(line)
        result = run_task(task, status.training_slot, status.set_share, status.set_port)
    except LeptonError as error:
        return _error(error)
    except (MemoryError, RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            return json.dumps({"out_of_memory": first_line(error)[:200]})
        of_machine = files.machine_error(error)
        if of_machine is None:
            raise
        return _error(of_machine)
    return json.dumps({"result": result.to_json()})


def _error(error: LeptonError) -> str:
    fields = {"what": error.what, "fix": error.fix, "kind": type(error).__name__}
    return json.dumps({"error": fields})


def _gpu_memory() -> dict[str, Any]:
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return {}
    free, total = torch.cuda.mem_get_info()
    return {"free": free, "total": total}
