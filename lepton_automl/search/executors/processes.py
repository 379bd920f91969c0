"""Executor of this machine: worker processes, several per GPU where that is faster."""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from lepton_automl.core.events import Emit, Event, silent
from lepton_automl.errors import LeptonError
from lepton_automl.search.executors import MAX_ATTEMPTS, Attempt, Executor
from lepton_automl.search.workers.handle import LIVENESS_SECONDS, GpuMemory, Worker, WorkerLost
from lepton_automl.search.workers.launch import WORKER_PROGRAM
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.task import Task, TaskResult

WINDOW_SECONDS = 20.0
"""Length of one throughput measurement of a number of workers per GPU."""
_MIN_SPEEDUP = 1.1
"""Throughput with one more worker per GPU, relative to without, from which it is kept."""
_MEMORY_MARGIN = 1.25
"""Free memory that one more worker needs, relative to what a worker has used so far."""


class ProcessExecutor(Executor):
    """Pool of worker processes with one thread each that waits for its result.

    Parameters
    ----------
    jobs : int
        Tasks at the same time, at least 1.
    locks : Path
        Folder of the files of `MeasurementLock`.
    gpus : int
        Number of GPUs that workers are spread over; 0 where none is used.
    emit : callable
        Receives events about lost workers and about their number.
    liveness_seconds : float
        Seconds for which a worker may always be silent.
    workers_per_gpu : WorkersPerGpu or None
        Adapts the number of workers that share a GPU; None: `jobs` stays.
    program : str
        Python code that a worker process runs.
    """

    def __init__(
        self,
        jobs: int,
        locks: Path,
        gpus: int = 0,
        *,
        emit: Emit = silent,
        liveness_seconds: float = LIVENESS_SECONDS,
        workers_per_gpu: WorkersPerGpu | None = None,
        program: str = WORKER_PROGRAM,
    ) -> None:
        self.jobs = jobs
        self._locks, self._gpus, self._workers_per_gpu = locks, gpus, workers_per_gpu
        self._emit, self._liveness_seconds, self._program = emit, liveness_seconds, program
        self._closing = False
        self._lock = MeasurementLock(locks)
        self._all = [self._new_worker(slot % gpus if gpus else None) for slot in range(jobs)]
        self._idle = self._all[::-1]  # `pop` takes the first one first.
        threads = max(jobs, gpus * workers_per_gpu.max_count) if workers_per_gpu else jobs
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="worker")
        self._pending: dict[Future[TaskResult], Task] = {}
        self._messages: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._first = self._work_done = 0.0

    @property
    def free(self) -> int:
        return max(0, self.jobs - len(self._pending))

    @property
    def busy(self) -> list[Task]:
        return list(self._pending.values())

    def facts(self) -> dict[str, Any]:
        workers = [{"slot": slot, **worker.facts()} for slot, worker in enumerate(self._all)]
        return {"first": self._first, "workers": workers}

    def start(self, task: Task) -> None:
        self._first = self._first or time.time()
        self._pending[self._threads.submit(self._run, task)] = task

    def finished(self, timeout: float = 1.0) -> list[tuple[Task, TaskResult]]:
        done, _ = wait(self._pending, timeout, FIRST_COMPLETED)
        while not self._messages.empty():
            self._emit(Event("search", self._messages.get()))
        found: list[tuple[Task, TaskResult]] = []
        for future in [each for each in self._pending if each in done]:
            if found and future.exception() is not None:
                break  # It is raised by the next call, so that no result is lost.
            found.append((self._pending.pop(future), future.result()))
        self._work_done += sum(task.work for task, _ in found)
        self._adjust_workers_per_gpu()
        return found

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        for worker in self._all:
            worker.stop()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._all:
            worker.close()
        self._pending.clear()
        self._lock.close()

    def _run(self, task: Task) -> TaskResult:
        attempt = Attempt(task)
        for _ in range(MAX_ATTEMPTS):
            worker = self._idle.pop()
            try:
                result = worker.call(attempt.current)
            except WorkerLost as lost:
                worker.stop()
                self._replace(worker)
                message, failed = attempt.lost(lost)
                self._messages.put(message)
                if failed is not None:
                    return failed
            except LeptonError:
                self._idle.append(worker)
                raise
            else:
                self._idle.append(worker)
                return attempt.succeeded(result)
        raise AssertionError("the last lost worker makes the task fail")

    def _replace(self, worker: Worker) -> None:
        if self._closing:
            raise WorkerLost("was closed")
        worker.close()
        fresh = self._new_worker(worker.gpu)
        self._all[self._all.index(worker)] = fresh
        self._idle.append(fresh)

    def _new_worker(self, gpu: int | None) -> Worker:
        return Worker(self._locks, self._lock, gpu, self._liveness_seconds, self._program)

    def _adjust_workers_per_gpu(self) -> None:
        """Start or stop workers, as `WorkersPerGpu` decides."""
        if self._workers_per_gpu is None:
            return
        before, workers = self._workers_per_gpu.count, list(self._all)
        done = self._work_done + sum(worker.work_done for worker in workers)
        reported = [worker.memory for worker in workers if worker.memory is not None]
        least = min(reported, key=lambda memory: memory.free, default=None)
        ready = all(worker.has_trained for worker in workers)
        count = self._workers_per_gpu.update(time.monotonic(), done, least, ready=ready)
        if count != before:
            self._emit(Event("search", f"workers per GPU: {count} (before: {before})"))
            self.jobs = count * self._gpus
        for gpu in range(self._gpus):
            on_it = [worker for worker in workers if worker.gpu == gpu]
            if len(on_it) < count:
                self._all.append(worker := self._new_worker(gpu))
                self._idle.append(worker)
            elif len(on_it) > count and len(self._all) > len(self._pending):
                self._stop_idle(on_it)

    def _stop_idle(self, workers: list[Worker]) -> None:
        """Stop one of `workers` that is idle, if there is one."""
        for worker in workers:
            if worker in self._idle:
                self._idle.remove(worker)
                self._all.remove(worker)
                worker.stop()
                worker.close()
                return


def next_count(
    throughput: Mapping[int, float], count: int, memory: GpuMemory | None, max_count: int
) -> int:
    """Number of workers per GPU to try next: one more while the throughput rises by a tenth.

    Parameters
    ----------
    throughput : mapping
        Number of workers per GPU -> measured throughput of all workers, in any unit.
    count : int
        The present number.
    memory : GpuMemory or None
        Of the fullest GPU; None where it is unknown: no worker is added then.
    max_count : int
        As many as the CPU cores allow.
    """
    if count not in throughput:
        return count
    if (
        count > 1
        and count - 1 in throughput
        and throughput[count] < _MIN_SPEEDUP * throughput[count - 1]
    ):
        return count - 1
    if count + 1 in throughput:
        is_faster = throughput[count + 1] >= _MIN_SPEEDUP * throughput[count]
        return count + 1 if is_faster else count
    if memory is None or count >= max_count:
        return count
    used_by_one = (memory.total - memory.free) / count
    return count + 1 if memory.free >= _MEMORY_MARGIN * used_by_one else count


class WorkersPerGpu:
    """Adapts the number of workers per GPU to the measured throughput.

    Parameters
    ----------
    max_count : int
        Most workers per GPU.
    """

    def __init__(self, max_count: int) -> None:
        self.count, self.max_count = 1, max_count
        self.throughput: dict[int, float] = {}
        self._window: tuple[float, float] | None = None

    def update(self, now: float, done: float, memory: GpuMemory | None, *, ready: bool) -> int:
        """Number of workers per GPU from now on.

        Parameters
        ----------
        now : float
            Seconds of a monotonic clock.
        done : float
            Work that all workers have done, in the units of `time_plan.work_of`.
        memory : GpuMemory or None
            Of the fullest GPU, where it is known.
        ready : bool
            Whether every worker has trained something: a process takes seconds to start.
        """
        if not ready:
            self._window = None
        elif self._window is None:
            self._window = now, done
        elif now - self._window[0] >= WINDOW_SECONDS:
            begun, before = self._window
            self.throughput[self.count] = (done - before) / (now - begun)
            self._window = None
            self.count = next_count(self.throughput, self.count, memory, self.max_count)
        return self.count
