"""Executors run the tasks of a search: the base class, and what a lost worker means for a task."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Self

from lepton_automl.search.training_key import task_text
from lepton_automl.search.workers.handle import WorkerLost
from lepton_automl.search.workers.task import Task, TaskResult

MAX_ATTEMPTS = 2
"""Workers that may be lost with one task; after that the task fails."""
MAX_LOST_HOSTS = 6
"""Workers that may be lost with one task together with their whole host, which is rarely due to the
task: a host ends, or the connection to it."""
_LEAST_SECONDS = 3.0
"""A task that is repeated near the end of its time may still take so long."""


class Executor(ABC):
    """Runs tasks on workers; one thread calls it, and a task in `busy` always ends in `finished`.

    A worker that dies, hangs or runs out of memory is replaced, and its task is repeated, after a
    lack of memory with more micro-batches; a task that loses `MAX_ATTEMPTS` workers ends with a
    result that says so (`Attempt`). A result is returned once its checkpoint is on this machine's
    disk, and never twice. A task without a result leaves nothing that counts, so that a killed
    coordinator may repeat it.
    """

    jobs: int
    """Tasks that run at the same time, at least 1; may change."""

    @property
    @abstractmethod
    def free(self) -> int:
        """Number of tasks that can be started now; at least 1 where `busy` is empty."""

    @property
    @abstractmethod
    def busy(self) -> list[Task]:
        """Tasks that were started and have not been returned, in the order of their start."""

    @abstractmethod
    def start(self, task: Task) -> None:
        """Start a task; only while `free` is above 0."""

    @abstractmethod
    def finished(self, timeout: float = 1.0) -> list[tuple[Task, TaskResult]]:
        """Finished tasks, as they were started; waits at most `timeout` s for the first one.

        Raises
        ------
        LeptonError
            Raised by a task, such as for a full disk.
        """

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """State of all workers, for the live status.

        Keys: `first`, when the first task was started (seconds since 1970), and `workers`, a list
        of `slot`, `pid`, `task` (empty: idle), `since`, `share` done and `waits`.
        """

    @abstractmethod
    def close(self) -> None:
        """End all workers; running tasks are lost and may be repeated. Once is enough."""

    @property
    def slowness(self) -> float:
        """Time of a task on the worker that the next one starts on, relative to the fastest."""
        return 1.0

    @property
    def equivalent_jobs(self) -> float:
        """Workers as fast as the fastest that do the same work in the same time as all."""
        return float(self.jobs)

    def is_worth_starting(self, work: float) -> bool:
        """Whether a task started now ends before it would on a faster worker that is busy.

        Parameters
        ----------
        work : float
            Its size, as `Task.work`.
        """
        del work
        return True

    def use_one_arithmetic(self, known: str) -> ArithmeticChoice | None:
        """Start tasks only on workers with one kind of arithmetic from now on.

        Parameters
        ----------
        known : str
            The kind that an earlier command chose; empty where none did.

        Returns
        -------
        ArithmeticChoice or None
            The kind and why; None where all workers have the same and always will.
        """
        del known
        return None

    def call(self, task: Task) -> TaskResult:
        """Run one task and wait for it; results of other running tasks are dropped."""
        self.start(task)
        while True:
            for finished, result in self.finished():
                if finished is task:
                    return result

    def probe(self, task: Task) -> TaskResult:
        """Run a task that measures the speed, on each kind of worker; the fastest result."""
        return self.call(task)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True)
class ArithmeticChoice:
    """One kind of arithmetic that all further tasks are trained with."""

    kind: str
    """Its name, as `TaskResult.arithmetic`."""
    evidence: str
    """Why this one, with figures."""
    option: str
    """What overrules it."""
    is_choice: bool = True
    """Whether workers have other kinds too."""


@dataclass
class Attempt:
    """A started task: what the next worker gets, and why earlier workers were lost."""

    task: Task
    """As it was started."""
    reasons: list[str] = field(default_factory=list)
    """Why each worker was lost."""
    of_hosts: list[str] = field(default_factory=list)
    """Why each was lost that was lost with its host."""
    at: float = field(default_factory=time.monotonic)
    """When it was started, in seconds of `time.monotonic`."""

    def __post_init__(self) -> None:
        self._smaller = self.task
        """With more micro-batches after a lack of memory."""

    @property
    def current(self) -> Task:
        """The task that the next worker gets, with what is left of its time."""
        task = self._smaller
        if not task.max_seconds:
            return task
        left = task.max_seconds - (time.monotonic() - self.at)
        return dataclasses.replace(task, max_seconds=max(_LEAST_SECONDS, left))

    def lost(
        self, lost: WorkerLost, host: str = "", *, with_host: bool = False
    ) -> tuple[str, TaskResult | None]:
        """Count a lost worker; a message about it, and the result if the task fails by it.

        Parameters
        ----------
        lost : WorkerLost
            Why it is lost.
        host : str
            Its host; empty for this machine.
        with_host : bool
            Whether the whole host was lost.
        """
        reasons = self.of_hosts if with_host else self.reasons
        reasons.append(lost.reason)
        then = "it is repeated by another worker"
        if lost.is_out_of_memory:
            self._smaller = self._smaller.with_less_memory()
            then += f", with {self._smaller.micro_batches_of_cycles[-1]} micro-batches per batch"
        failed, most = None, MAX_LOST_HOSTS if with_host else MAX_ATTEMPTS
        if len(reasons) == most:
            then = f"it fails after {most} lost workers"
            failed = TaskResult(failed=f"it lost {most} workers: {'; '.join(reasons)}")
        worker = f"the worker on {host}" if host else "the worker"
        return f"{task_text(self.task.key)}: {worker} {lost.reason}; {then}", failed

    def succeeded(self, result: TaskResult) -> TaskResult:
        """The result of the last worker, with the reasons of the loss of others."""
        reasons = [*self.reasons, *self.of_hosts]
        return dataclasses.replace(result, retried="; ".join(reasons))
