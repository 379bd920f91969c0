"""A pool of worker processes, several per GPU where that is faster."""

from __future__ import annotations

import dataclasses
import math
import queue
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Self

from lepton_automl.core.events import Emit, Event, silent
from lepton_automl.errors import LeptonError
from lepton_automl.search.training_key import task_text
from lepton_automl.search.workers.handle import LEAST_SECONDS, GpuMemory, Worker, WorkerLost
from lepton_automl.search.workers.launch import PROGRAM
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.task import Task, TaskResult

ATTEMPTS = 2
"""A task whose worker is lost is given to one more worker."""
GAIN = 1.1
"""One worker more must make the whole at least so many times as fast."""
ROOM = 1.25
"""... and find so many times the memory free that a worker has used so far."""
WINDOW_SECONDS = 20.0
"""A number of workers is judged by its speed over so long."""


class Workers:
    """`jobs` workers behind `concurrent.futures`.

    A worker that dies, hangs or runs out of memory is replaced and costs its task one retry, after
    a shortage of memory with batches in smaller pieces; a task that loses two workers fails.

    Parameters
    ----------
    jobs : int
        Tasks at the same time, at least 1.
    locks : Path
        Folder for the locks of `MeasurementLock`.
    gpus : int
        Number of GPUs that workers are spread over; 0 where none is used.
    emit : callable
        Told what happened to workers.
    patience : float
        Seconds for which a worker may always be silent.
    workers_per_gpu : WorkersPerGpu or None
        Decides how many workers share a GPU while they work; None: `jobs` stays.
    program : str
        What a worker process runs, as Python text.
    """

    def __init__(
        self,
        jobs: int,
        locks: Path,
        gpus: int = 0,
        *,
        emit: Emit = silent,
        patience: float = LEAST_SECONDS,
        workers_per_gpu: WorkersPerGpu | None = None,
        program: str = PROGRAM,
    ) -> None:
        self.jobs, self._locks, self._gpus, self._workers_per_gpu = (
            jobs,
            locks,
            gpus,
            workers_per_gpu,
        )
        self._emit, self._patience, self._program = emit, patience, program
        self._closing = False
        self._lock = MeasurementLock(locks)
        self._all = [self._worker(slot % gpus if gpus else None) for slot in range(jobs)]
        self._idle = self._all[::-1]  # The first one may be up already, and is taken first.
        threads = max(jobs, gpus * workers_per_gpu.most) if workers_per_gpu else jobs
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="worker")
        self._pending: dict[Future[TaskResult], Task] = {}
        self._happened: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._first = self._work_done = 0.0

    @property
    def free(self) -> int:
        """How many more tasks can be started now."""
        return max(0, self.jobs - len(self._pending))

    @property
    def busy(self) -> list[Task]:
        """The tasks at work, in the order they were started."""
        return list(self._pending.values())

    def seconds_to_go(self) -> float:
        """Until the last task at work ends, if all go on as they went; infinite if nobody knows."""
        now, at_work = time.time(), [worker.facts() for worker in self._all]
        each = [(now - one["since"], one["share"]) for one in at_work if one["task"]]
        return max((s * (1 - done) / done if done else math.inf for s, done in each), default=0.0)

    def facts(self) -> dict[str, Any]:
        """What each worker does, for those who watch.

        Keys: `first`, when the first task was handed out (seconds since 1970), and `workers`, a
        list of `slot`, `pid`, `task` (empty: idle), `since`, `share` done and `waits`.
        """
        workers = [{"slot": slot, **worker.facts()} for slot, worker in enumerate(self._all)]
        return {"first": self._first, "workers": workers}

    def start(self, task: Task) -> None:
        """Hand a task to a free worker."""
        self._first = self._first or time.time()
        self._pending[self._threads.submit(self._run, task)] = task

    def finished(self, timeout: float = 1.0) -> list[tuple[Task, TaskResult]]:
        """Tasks that have ended, in the order they were started; waits for one at most `timeout` s.

        Raises
        ------
        LeptonError
            What a task raised, such as a full disk.
        """
        done, _ = wait(self._pending, timeout, FIRST_COMPLETED)
        while not self._happened.empty():
            self._emit(Event("search", self._happened.get()))
        found = [(self._pending.pop(f), f.result()) for f in list(self._pending) if f in done]
        self._work_done += sum(task.work for task, _ in found)
        self._pack()
        return found

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
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self, task: Task) -> TaskResult:
        reasons: list[str] = []
        for _ in range(ATTEMPTS):
            worker = self._idle.pop()
            try:
                result = worker.call(task)
            except WorkerLost as lost:
                worker.stop()
                self._replace(worker)
                reasons.append(lost.why)
                task = task.smaller() if lost.is_out_of_memory else task
                self._tell(task, lost, is_last=len(reasons) == ATTEMPTS)
            except LeptonError:
                self._idle.append(worker)
                raise
            else:
                self._idle.append(worker)
                return dataclasses.replace(result, retried="".join(reasons))
        return TaskResult(failed=f"it lost {ATTEMPTS} workers: {'; '.join(reasons)}")

    def _tell(self, task: Task, lost: WorkerLost, *, is_last: bool) -> None:
        then = "another worker takes over"
        if lost.is_out_of_memory:
            then += f", with batches in {task.pieces[-1]} pieces"
        if is_last:
            then = "the trial is given up"
        self._happened.put(f"{task_text(task.key)}: the worker {lost.why}; {then}")

    def _replace(self, worker: Worker) -> None:
        if self._closing:
            raise WorkerLost("was closed")
        worker.close()
        fresh = self._worker(worker.gpu)
        self._all[self._all.index(worker)] = fresh
        self._idle.append(fresh)

    def _worker(self, gpu: int | None) -> Worker:
        return Worker(self._locks, self._lock, gpu, self._patience, self._program)

    def _pack(self) -> None:
        """Have as many workers on each GPU as pay."""
        if self._workers_per_gpu is None:
            return
        before, workers = self._workers_per_gpu.count, list(self._all)
        done = self._work_done + sum(worker.work_done for worker in workers)
        known = [worker.memory for worker in workers if worker.memory is not None]
        least = min(known, key=lambda memory: memory.free, default=None)
        ready = all(worker.has_trained for worker in workers)
        count = self._workers_per_gpu.update(time.monotonic(), done, least, ready=ready)
        if count != before:
            self._emit(Event("search", f"workers on each GPU: {count}, before {before}"))
            self.jobs = count * self._gpus
        for gpu in range(self._gpus):
            on_it = [worker for worker in workers if worker.gpu == gpu]
            if len(on_it) < count:
                self._all.append(worker := self._worker(gpu))
                self._idle.append(worker)
            elif len(on_it) > count and len(self._all) > len(self._pending):
                self._retire(on_it)

    def _retire(self, workers: list[Worker]) -> None:
        """Stop one of `workers` that has nothing to do, if there is one."""
        for worker in workers:
            if worker in self._idle:
                self._idle.remove(worker)
                self._all.remove(worker)
                worker.stop()
                worker.close()
                return


def wanted(rates: Mapping[int, float], now: int, memory: GpuMemory | None, most: int) -> int:
    """How many workers each GPU should have.

    Parameters
    ----------
    rates : mapping
        Number of workers a GPU -> measured speed of the whole, in any unit.
    now : int
        How many there are.
    memory : GpuMemory or None
        None where it is not known: nobody is added then.
    most : int
        As many as the processor's cores allow.
    """
    if now not in rates:
        return now
    if now > 1 and now - 1 in rates and rates[now] < GAIN * rates[now - 1]:
        return now - 1
    if now + 1 in rates:
        return now + 1 if rates[now + 1] >= GAIN * rates[now] else now
    if memory is None or now >= most:
        return now
    each = (memory.total - memory.free) / now
    return now + 1 if memory.free >= ROOM * each else now


class WorkersPerGpu:
    """Watches the speed of all workers and says how many a GPU should have.

    Parameters
    ----------
    most : int
        Workers a GPU may get at most.
    """

    def __init__(self, most: int) -> None:
        self.count, self.most = 1, most
        self.rates: dict[int, float] = {}
        self._since: tuple[float, float] | None = None

    def update(self, now: float, done: float, memory: GpuMemory | None, *, ready: bool) -> int:
        """So many workers each GPU should have from now on.

        Parameters
        ----------
        now : float
            Seconds of a clock.
        done : float
            Work done so far by all, in the units of `plan.work_of`.
        memory : GpuMemory or None
            Of the fullest GPU, where it is known.
        ready : bool
            Whether every worker has trained something: a process takes seconds to start.
        """
        if not ready:
            self._since = None
        elif self._since is None:
            self._since = now, done
        elif now - self._since[0] >= WINDOW_SECONDS:
            begun, before = self._since
            self.rates[self.count] = (done - before) / (now - begun)
            self._since = None
            self.count = wanted(self.rates, self.count, memory, self.most)
        return self.count
