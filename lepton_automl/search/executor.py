"""Executor: tasks in worker processes, one thread each; dead workers are replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Self

from lepton_automl import errors
from lepton_automl.errors import LeptonError, MachineError
from lepton_automl.search.task import Task, TaskResult

ATTEMPTS = 2
"""A task whose worker dies is given to one more worker."""

_START = (
    "from lepton_automl.search.lifeline import hold; hold(); "
    "from lepton_automl.search.worker import main; main()"
)


class WorkerDied(Exception):
    """The worker's process ended before it answered."""


class Worker:
    """One process that works on one task at a time."""

    def __init__(self, locks: Path, gpu: int | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(os.getpid()), str(locks)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(gpu),
        )

    def call(self, task: Task) -> TaskResult:
        """The task's result.

        Raises
        ------
        WorkerDied
            If the process ends instead.
        LeptonError
            What the task raised.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise WorkerDied
        try:
            self._process.stdin.write(task.to_json() + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except (OSError, ValueError) as error:  # ValueError: the pipe was closed by `stop`.
            raise WorkerDied from error
        if not line.endswith("\n"):
            raise WorkerDied
        return _read(line)

    def stop(self) -> None:
        """Kill the process; a task it had is lost and may be repeated."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Close the pipes of a stopped process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Workers:
    """`jobs` workers behind `concurrent.futures`.

    Parameters
    ----------
    jobs : int
        Tasks at the same time, at least 1.
    locks : Path
        Folder for the locks of `Quiet`.
    gpus : int
        Number of GPUs that workers are spread over; 0 where none is used.
    """

    def __init__(self, jobs: int, locks: Path, gpus: int = 0) -> None:
        self.jobs, self._locks, self._gpus = jobs, locks, gpus
        self._closing = False
        self._started = 0
        self._idle = [self._worker() for _ in range(jobs)]
        self._all = list(self._idle)
        self._threads = ThreadPoolExecutor(jobs, thread_name_prefix="worker")
        self._pending: dict[Future[TaskResult], Task] = {}

    @property
    def free(self) -> int:
        """How many more tasks can be started now."""
        return self.jobs - len(self._pending)

    @property
    def busy(self) -> list[Task]:
        """The tasks at work, in the order they were started."""
        return list(self._pending.values())

    def start(self, task: Task) -> None:
        """Hand a task to a free worker."""
        self._pending[self._threads.submit(self._run, task)] = task

    def finished(self, timeout: float = 1.0) -> list[tuple[Task, TaskResult]]:
        """Tasks that have ended, in the order they were started; waits for one at most `timeout` s.

        Raises
        ------
        LeptonError
            What a task raised, such as a full disk.
        """
        done, _ = wait(self._pending, timeout, FIRST_COMPLETED)
        return [(self._pending.pop(f), f.result()) for f in list(self._pending) if f in done]

    def call(self, task: Task) -> TaskResult:
        """Run one task and wait for it."""
        self.start(task)
        while not (found := self.finished()):
            pass
        return found[0][1]

    def close(self) -> None:
        """Kill all workers; tasks at work are lost and may be repeated."""
        self._closing = True
        for worker in self._all:
            worker.stop()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._all:
            worker.close()
        self._pending.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self, task: Task) -> TaskResult:
        for _ in range(ATTEMPTS):
            worker = self._idle.pop()
            try:
                result = worker.call(task)
            except WorkerDied:
                worker.stop()
                self._replace(worker)
            except LeptonError:
                self._idle.append(worker)
                raise
            else:
                self._idle.append(worker)
                return result
        return TaskResult(failed=f"its worker process died {ATTEMPTS} times")

    def _replace(self, worker: Worker) -> None:
        if self._closing:
            raise WorkerDied
        worker.close()
        fresh = self._worker()
        self._all[self._all.index(worker)] = fresh
        self._idle.append(fresh)

    def _worker(self) -> Worker:
        self._started += 1
        return Worker(self._locks, self._started % self._gpus if self._gpus else None)


def _environment(gpu: int | None) -> dict[str, str]:
    # One thread each: two threads of a small net collapse when a core is shared.
    fixed = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if gpu is not None:
        fixed["CUDA_VISIBLE_DEVICES"] = str(gpu)
    path = os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path)
    return os.environ | fixed | {"PYTHONPATH": path}


def _read(line: str) -> TaskResult:
    document = json.loads(line)
    if "result" in document:
        return TaskResult.from_json(document["result"])
    about = document["error"]
    kind = getattr(errors, about["kind"], MachineError)
    raise kind(about["what"], fix=about["fix"])
