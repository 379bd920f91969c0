"""One worker process seen from the search loop: start, liveness, memory, loss."""

from __future__ import annotations

import contextlib
import json
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
from lepton_automl.search.workers.launch import launch
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.task import Task, TaskResult

LOOK_SECONDS = 0.25
"""A silent worker is looked after so often."""
READ_BYTES = 1 << 16
ENDING_SECONDS = 5.0
"""A process that has closed its output ends within so many seconds."""
LEAST_SECONDS = 20.0
"""A worker may be silent so long, whatever it does."""
USUAL_GAPS = 30
"""... and so many times as long as it usually is between two signs of life."""
FIRST = 3
"""Before its first batch a task may take so many times as long: a GPU wakes up, data are read."""
STARTING = 15
"""... and a process that was never heard at all: it loads torch, maybe from a slow disk."""
LONGEST_STEP = 1.0
"""Who listens looks more often than every so many seconds; a longer gap is his own."""
_WORDS = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


@dataclass(frozen=True)
class GpuMemory:
    """Of the GPU that has the least free, in bytes."""

    free: int
    total: int


class WorkerLost(Exception):
    """The worker will not answer.

    Parameters
    ----------
    why : str
        What it did, such as "was killed".
    is_out_of_memory : bool
        GpuMemory ran out.
    """

    def __init__(self, why: str, *, is_out_of_memory: bool = False) -> None:
        super().__init__(why)
        self.why, self.is_out_of_memory = why, is_out_of_memory


class Worker:
    """One process that works on one task at a time.

    Parameters
    ----------
    locks : Path
        Folder for the locks of `MeasurementLock`.
    lock : MeasurementLock
        Tells whether somebody measures.
    gpu : int or None
        The only GPU it sees.
    patience : float
        Seconds for which it may always be silent.
    program : str
        What it runs, as Python text.
    """

    def __init__(
        self, locks: Path, lock: MeasurementLock, gpu: int | None, patience: float, program: str
    ) -> None:
        self.gpu = gpu
        self.has_trained = False
        """It has got beyond the first batches of a task."""
        self.memory: GpuMemory | None = None
        """Of its GPU, as it said last."""
        self._lock, self._least = lock, patience
        self._task, self._since, self._work = "", 0.0, 0.0
        self._said: dict[str, Any] = {}
        self._rest, self._is_known = b"", False
        self._process = launch(program, locks, gpu)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._output)

    @property
    def work_done(self) -> float:
        """How much of its task is done, in the units of `plan.work_of`."""
        return float(self._work * self._said.get("share", 0.0))

    def facts(self) -> dict[str, Any]:
        """What it does now; see `Workers.facts`."""
        said = self._said
        return {
            "pid": self._process.pid,
            "task": self._task,
            "since": self._since,
            "share": said.get("share", 0.0),
            "waits": "waits" in said,
        }

    def call(self, task: Task) -> TaskResult:
        """The task's result.

        Raises
        ------
        WorkerLost
            If the process ends or hangs instead, or has too little memory.
        LeptonError
            What the task raised.
        """
        kills = oom_kill_count()
        self._task, self._since, self._work = task.key, time.time(), task.work
        try:
            return _read(self._answer(task))
        except (OSError, ValueError, EOFError) as error:  # ValueError: `close` was called.
            raise self._died(kills) from error
        finally:
            self._task, self._said, self._work = "", {}, 0.0

    def stop(self) -> None:
        """Kill the process; a task it had is lost and may be repeated."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Close the pipes of a stopped process."""
        for pipe in (self._input, self._output):
            with contextlib.suppress(BrokenPipeError):  # A task it did not live to read.
                pipe.close()

    def _answer(self, task: Task) -> dict[str, Any]:
        """The first thing it says that is more than a sign of life."""
        patience = LivenessTimeout(time.monotonic(), self._least, is_known=self._is_known)
        self._input.write(task.to_json().encode() + b"\n")
        self._input.flush()
        while not patience.is_expired:
            line = self._line()
            patience.update(
                time.monotonic(), excused="waits" in self._said and self._lock.is_measuring
            )
            if line is None:
                continue
            patience.restart()
            self._is_known, self._said = True, dict(json.loads(line))
            self._learn()
            if not self._said.keys() & {"share", "waits"}:
                return self._said
        raise WorkerLost(f"gave no sign of life for {patience.silent:.0f} s")

    def _learn(self) -> None:
        self.has_trained = self.has_trained or self._said.get("share", 0.0) > 0
        if "free" in self._said:
            self.memory = GpuMemory(self._said["free"], self._said["total"])

    def _line(self) -> bytes | None:
        """The next line; None if there is none for a while."""
        while b"\n" not in self._rest:
            if not self._poll.poll(1000 * LOOK_SECONDS):
                return None
            more = os.read(self._output.fileno(), READ_BYTES)
            if not more:
                raise EOFError
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _died(self, kills: int | None) -> WorkerLost:
        try:
            code = self._process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            return WorkerLost("closed its output")
        if was_killed_for_memory(code, kills):
            return WorkerLost("was killed because memory ran out", is_out_of_memory=True)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return WorkerLost(how)


def _read(answer: dict[str, Any]) -> TaskResult:
    if "result" in answer:
        return TaskResult.from_json(answer["result"])
    if "out_of_memory" in answer:
        raise WorkerLost(f"ran out of memory ({answer['out_of_memory']})", is_out_of_memory=True)
    about = answer["error"]
    kind = getattr(errors, about["kind"], MachineError)
    raise kind(about["what"], fix=about["fix"])


class LivenessTimeout:
    """Counts the seconds in which a worker could have said something and did not.

    A gap in the listener's own clock does not count: both were stopped together (Ctrl-Z), or the
    machine slept. Nor does the time in which the worker waits for somebody who measures.

    Parameters
    ----------
    now : float
        Seconds of a clock that never goes back.
    least : float
        Seconds of silence that are always allowed.
    is_known : bool
        Whether the process has been heard before.
    """

    def __init__(self, now: float, least: float = LEAST_SECONDS, *, is_known: bool = True) -> None:
        self._last, self._least, self._is_known = now, least, is_known
        self._awake, self._heard = 0.0, 0
        self.silent = 0.0
        """Seconds since the last sign of life."""

    @property
    def limit(self) -> float:
        """Seconds of silence that are allowed now."""
        if not self._is_known:
            return STARTING * self._least
        if self._heard < FIRST:
            return FIRST * self._least
        return max(self._least, USUAL_GAPS * self._awake / self._heard)

    @property
    def is_expired(self) -> bool:
        """The worker hangs."""
        return self.silent > self.limit

    def restart(self) -> None:
        """A sign of life has come."""
        self._awake += self.silent
        self._heard += 1
        self._is_known = True
        self.silent = 0.0

    def update(self, now: float, *, excused: bool) -> None:
        """So late it is; `excused`: the worker waits for somebody else."""
        step, self._last = min(now - self._last, LONGEST_STEP), now
        if not excused:
            self.silent += step


COUNTERS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))
"""Where Linux counts the processes it has killed for memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out; torch has several ways to say so."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError | OSError) and any(words in said for words in _WORDS)


def oom_kill_count() -> int | None:
    """How many processes the kernel has killed for memory so far; None where it does not tell."""
    counts = [count for path in COUNTERS for count in _counted(path)]
    return sum(counts) if counts else None


def was_killed_for_memory(exit_code: int, before: int | None) -> bool:
    """Whether a process was killed because memory ran out.

    A person's `kill -9` looks the same but for the kernel's counter. Where there is none, memory
    is the likelier reason.

    Parameters
    ----------
    exit_code : int
        Of the process, as `subprocess` gives it.
    before : int or None
        `oom_kill_count` when the process began its work.
    """
    if exit_code != -signal.SIGKILL:
        return False
    now = oom_kill_count()
    return now is None or before is None or now > before


def _counted(path: Path) -> list[int]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    return [int(line.split()[1]) for line in lines if line.split()[:1] == ["oom_kill"]]
