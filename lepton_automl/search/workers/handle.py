"""Handle of one worker process: send tasks, read results, detect hangs and lack of memory."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lepton_automl import errors
from lepton_automl.errors import MachineError
from lepton_automl.search.workers.launch import GroupPart, launch
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.task import OnListen, Task, TaskResult

LIVENESS_SECONDS = 20.0
"""A worker may be silent for this long, whatever it does."""
MAX_STEP_SECONDS = 1.0
"""A longer gap between two polls is this process's own and does not count as silence."""
_POLL_SECONDS = 0.25
_READ_BYTES = 1 << 16
_EXIT_SECONDS = 5.0
"""A process that has closed its output ends within this time."""
_USUAL_GAPS = 30
"""A worker may be silent for this many times its mean gap between two lines."""
_FIRST_BATCHES, _FIRST_BATCH_FACTOR = 3, 3
"""A task's first lines may take this many times as long: a GPU wakes up, data are read."""
_STARTUP_FACTOR = 15
"""A new process may take this many times as long: it loads torch, maybe from a slow disk."""
_GROUP_FACTOR = 2
"""Rank 0 of a group over several hosts may be silent this many times as long: a host that is cut
off is noticed first."""
_OOM_COUNTERS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))
"""Files in which Linux counts the processes it has killed for lack of memory."""
_OOM_MESSAGES = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
)


@dataclass(frozen=True)
class GpuMemory:
    """Memory of a GPU in bytes."""

    free: int
    total: int


class WorkerLost(Exception):
    """A worker process ended, hangs or has too little memory, so it returns no result.

    Parameters
    ----------
    reason : str
        What happened, such as "was killed by SIGTERM".
    is_out_of_memory : bool
        Whether memory ran out.
    """

    def __init__(self, reason: str, *, is_out_of_memory: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.is_out_of_memory = reason, is_out_of_memory


class Worker:
    """One worker process; it runs one task at a time.

    Parameters
    ----------
    locks : Path
        Folder of the files of `MeasurementLock`.
    lock : MeasurementLock
        Says whether a measurement runs.
    gpu : int or None
        The only GPU it sees.
    liveness_seconds : float
        Seconds for which it may always be silent.
    program : str
        Python code that the process runs.
    """

    def __init__(
        self,
        locks: Path,
        lock: MeasurementLock,
        gpu: int | None,
        liveness_seconds: float,
        program: str,
    ) -> None:
        self.gpu = gpu
        self.has_trained = False
        """It has reported progress of a task."""
        self.memory: GpuMemory | None = None
        """Memory of its GPU, as last reported."""
        self._lock, self._liveness_seconds = lock, liveness_seconds
        self._task, self._since, self._work = "", 0.0, 0.0
        self._status: dict[str, Any] = {}
        self._unread, self._has_reported = b"", False
        self._process = launch(program, locks, gpu)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._output)

    @property
    def work_done(self) -> float:
        """The part of its task that is done, in the units of `time_plan.work_of`."""
        return float(self._work * self._status.get("share", 0.0))

    def facts(self) -> dict[str, Any]:
        """Process id, task and progress; see `Executor.facts`."""
        return {
            "pid": self._process.pid,
            "task": self._task,
            "since": self._since,
            "share": self._status.get("share", 0.0),
            "waits": "waits" in self._status,
        }

    def call(self, task: Task, on_listen: OnListen | None = None) -> TaskResult:
        """Run a task and return its result.

        Parameters
        ----------
        task : Task
            The task.
        on_listen : callable, optional
            As `run_task` takes it.

        Raises
        ------
        WorkerLost
            If the process ends, hangs or has too little memory.
        LeptonError
            Raised by the task.
        """
        kills = oom_kill_count()
        self._task, self._work = task.key, task.work
        self._since = time.time()
        try:
            return _result(self._response(task, on_listen))
        except (OSError, ValueError, EOFError) as error:  # ValueError: `close` was called.
            raise self._lost(kills) from error
        finally:
            self._task, self._status, self._work = "", {}, 0.0

    def stop(self) -> None:
        """Kill the process; its task is lost and may be repeated."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Close the pipes of a stopped process."""
        for pipe in (self._input, self._output):
            with contextlib.suppress(BrokenPipeError):  # A task that it did not read.
                pipe.close()

    def _response(self, task: Task, on_listen: OnListen | None) -> dict[str, Any]:
        """Send a task, follow the status lines, return the first line that is none."""
        least = self._liveness_seconds
        if task.group:
            # A rank that hangs makes rank 0 silent, whose host reports it; while that one waits for
            # a measurement, the others are silent without any fault.
            least = math.inf if GroupPart.from_json(task.group).first else _GROUP_FACTOR * least
        timeout = LivenessTimeout(time.monotonic(), least, has_reported=self._has_reported)
        self._input.write(task.to_json().encode() + b"\n")
        self._input.flush()
        while not timeout.is_expired:
            line = self._line()
            waits = "waits" in self._status and self._lock.is_measuring
            timeout.update(time.monotonic(), waits=waits)
            if line is None:
                continue
            timeout.restart()
            self._has_reported, self._status = True, dict(json.loads(line))
            self.has_trained = self.has_trained or self._status.get("share", 0.0) > 0
            if "listens" in self._status and on_listen is not None:
                on_listen(self._status["listens"])
                # Processes on other hosts may still load torch.
                timeout = LivenessTimeout(time.monotonic(), least, has_reported=False)
            if "free" in self._status:
                self.memory = GpuMemory(self._status["free"], self._status["total"])
            if not self._status.keys() & {"share", "waits"}:
                return self._status
        raise WorkerLost(f"gave no sign of life for {timeout.silent:.0f} s")

    def _line(self) -> bytes | None:
        """The next line; None if there is none within `_POLL_SECONDS`."""
        while b"\n" not in self._unread:
            if not self._poll.poll(1000 * _POLL_SECONDS):
                return None
            more = os.read(self._output.fileno(), _READ_BYTES)
            if not more:
                raise EOFError
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _lost(self, kills: int | None) -> WorkerLost:
        """The error for a process that has closed its output."""
        try:
            code = self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return WorkerLost("closed its output")
        if was_killed_for_memory(code, kills):
            return WorkerLost("was killed because memory ran out", is_out_of_memory=True)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return WorkerLost(how)


def _result(response: dict[str, Any]) -> TaskResult:
    if "result" in response:
        return TaskResult.from_json(response["result"])
    if "out_of_memory" in response:
        reason = f"ran out of memory ({response['out_of_memory']})"
        raise WorkerLost(reason, is_out_of_memory=True)
    error = response["error"]
    kind = getattr(errors, error["kind"], MachineError)
    raise kind(error["what"], fix=error["fix"])


class LivenessTimeout:
    """Seconds of silence after which a worker counts as hanging, adapted to its usual gaps.

    Time in which this process itself was stopped does not count: both were stopped together
    (Ctrl-Z), or the machine slept. Nor does the time in which the worker waits for a measurement.

    Parameters
    ----------
    now : float
        Seconds of a monotonic clock.
    least_seconds : float
        Seconds of silence that are always allowed.
    has_reported : bool
        Whether the process has written a line before.
    """

    def __init__(
        self, now: float, least_seconds: float = LIVENESS_SECONDS, *, has_reported: bool = True
    ) -> None:
        self._last, self._least, self._has_reported = now, least_seconds, has_reported
        self._gap_seconds, self._lines = 0.0, 0
        self.silent = 0.0
        """Seconds since the last line."""

    @property
    def limit(self) -> float:
        """Seconds of silence that are allowed now."""
        if not self._has_reported:
            return _STARTUP_FACTOR * self._least
        if self._lines < _FIRST_BATCHES:
            return _FIRST_BATCH_FACTOR * self._least
        return max(self._least, _USUAL_GAPS * self._gap_seconds / self._lines)

    @property
    def is_expired(self) -> bool:
        """Whether the worker counts as hanging."""
        return self.silent > self.limit

    def restart(self) -> None:
        """Begin a new gap, after a line."""
        self._gap_seconds += self.silent
        self._lines += 1
        self._has_reported = True
        self.silent = 0.0

    def update(self, now: float, *, waits: bool) -> None:
        """Set the time; it does not count where the worker waits for a measurement (`waits`)."""
        step, self._last = min(now - self._last, MAX_STEP_SECONDS), now
        if not waits:
            self.silent += step


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out; torch has several messages for it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    message = str(error).lower()
    is_known = any(words in message for words in _OOM_MESSAGES)
    return isinstance(error, RuntimeError | OSError) and is_known


def oom_kill_count() -> int | None:
    """Processes that the kernel has killed for lack of memory; None where it does not count."""
    counts = [count for path in _OOM_COUNTERS for count in _read_counter(path)]
    return sum(counts) if counts else None


def was_killed_for_memory(exit_code: int, before: int | None) -> bool:
    """Whether a process was killed because memory ran out.

    `kill -9` from a terminal differs only in the kernel's counter. Where there is no counter,
    lack of memory is assumed, as it is the likelier reason.

    Parameters
    ----------
    exit_code : int
        Of the process, as `subprocess` gives it.
    before : int or None
        `oom_kill_count` when the task began.
    """
    if exit_code != -signal.SIGKILL:
        return False
    now = oom_kill_count()
    return now is None or before is None or now > before


def _read_counter(path: Path) -> list[int]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    return [int(line.split()[1]) for line in lines if line.split()[:1] == ["oom_kill"]]
