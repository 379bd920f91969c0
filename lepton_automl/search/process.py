"""One worker's process as the coordinator sees it: what it is given, says and ends with."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from lepton_automl import errors
from lepton_automl.errors import MachineError
from lepton_automl.search import spawn
from lepton_automl.search.packing import Memory
from lepton_automl.search.patience import Patience
from lepton_automl.search.quiet import Quiet
from lepton_automl.search.shortage import kills_for_memory, was_shortage
from lepton_automl.search.task import Task, TaskResult

LOOK_SECONDS = 0.25
"""A silent worker is looked after so often."""
READ_BYTES = 1 << 16
ENDING_SECONDS = 5.0
"""A process that has closed its output ends within so many seconds."""


class WorkerLost(Exception):
    """The worker will not answer.

    Parameters
    ----------
    why : str
        What it did, such as "was killed".
    is_shortage : bool
        Memory ran out.
    """

    def __init__(self, why: str, *, is_shortage: bool = False) -> None:
        super().__init__(why)
        self.why, self.is_shortage = why, is_shortage


class Worker:
    """One process that works on one task at a time.

    Parameters
    ----------
    locks : Path
        Folder for the locks of `Quiet`.
    quiet : Quiet
        Tells whether somebody measures.
    gpu : int or None
        The only GPU it sees.
    patience : float
        Seconds for which it may always be silent.
    program : str
        What it runs, as Python text.
    """

    def __init__(
        self, locks: Path, quiet: Quiet, gpu: int | None, patience: float, program: str
    ) -> None:
        self.gpu = gpu
        self.has_trained = False
        """It has got beyond the first batches of a task."""
        self.memory: Memory | None = None
        """Of its GPU, as it said last."""
        self._quiet, self._least = quiet, patience
        self._task, self._since, self._work = "", 0.0, 0.0
        self._said: dict[str, Any] = {}
        self._rest, self._is_known = b"", False
        ahead = spawn.taken(locks) if program == spawn.PROGRAM and gpu is None else None
        self._process = ahead or spawn.spawned(program, locks, gpu)
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
        kills = kills_for_memory()
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
        patience = Patience(time.monotonic(), self._least, is_known=self._is_known)
        self._input.write(task.to_json().encode() + b"\n")
        self._input.flush()
        while not patience.is_over:
            line = self._line()
            patience.look(time.monotonic(), excused="waits" in self._said and self._quiet.is_taken)
            if line is None:
                continue
            patience.heard()
            self._is_known, self._said = True, dict(json.loads(line))
            self._learn()
            if not self._said.keys() & {"share", "waits"}:
                return self._said
        raise WorkerLost(f"gave no sign of life for {patience.silent:.0f} s")

    def _learn(self) -> None:
        self.has_trained = self.has_trained or self._said.get("share", 0.0) > 0
        if "free" in self._said:
            self.memory = Memory(self._said["free"], self._said["total"])

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
        if was_shortage(code, kills):
            return WorkerLost("was killed because memory ran out", is_shortage=True)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return WorkerLost(how)


def _read(answer: dict[str, Any]) -> TaskResult:
    if "result" in answer:
        return TaskResult.from_json(answer["result"])
    if "shortage" in answer:
        raise WorkerLost(f"ran out of memory ({answer['shortage']})", is_shortage=True)
    about = answer["error"]
    kind = getattr(errors, about["kind"], MachineError)
    raise kind(about["what"], fix=about["fix"])
