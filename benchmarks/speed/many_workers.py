"""What a search costs its coordinator with many workers, by a clock that is simulated.

    python benchmarks/bench.py many_workers --workers 1000 --trials 3000

The search of `search_overhead` with an executor whose tasks end, with made-up answers, after 45 to
75 s (60 s on average) of a simulated clock. The clock also goes on by the CPU time that the search
takes, so that workers wait while it decides. A decision is what lies between a result and the next
task; the ledger is written to a disk as in every search.
"""

from __future__ import annotations

import contextlib
import cProfile
import heapq
import pstats
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.common import parser, print_table
from benchmarks.speed.search_overhead import Enough, work
from lepton_automl.search.executors import Executor
from lepton_automl.search.loop import search
from lepton_automl.search.workers.task import Task, TaskResult, pack

SECONDS = (45.0, 75.0)


class Simulated(Executor):
    """Workers whose tasks end by a simulated clock.

    Parameters
    ----------
    jobs : int
        Workers.
    marks : list of int
        Numbers of started trials at which it keeps what was used so far; after the last one
        `Enough` is raised.
    """

    def __init__(self, jobs: int, marks: list[int]) -> None:
        self.jobs = jobs
        self.now = 0.0
        self._cpu = time.process_time()
        self._rng = np.random.default_rng(0)
        self._running: list[tuple[float, int, Task]] = []
        self._busy: dict[int, Task] = {}
        self._since = [0.0] * jobs
        """When each free worker became free."""
        self._marks, self._trials, self._count = list(marks), set[str](), 0
        self.idle = self.longest = 0.0
        self.done = 0
        self._last = self._cpu
        self.rows: list[tuple[Any, ...]] = []
        self._at = (0, self._cpu, 0.0, 0.0)

    @property
    def free(self) -> int:
        return self.jobs - len(self._busy)

    @property
    def busy(self) -> list[Task]:
        return list(self._busy.values())

    def start(self, task: Task) -> None:
        self._pass_time()
        self.longest = max(self.longest, self._cpu - self._last)
        self._last = self._cpu
        self._count += 1
        self.idle += self.now - self._since.pop()
        self._busy[self._count] = task
        ends = self.now + self._rng.uniform(*SECONDS)
        heapq.heappush(self._running, (ends, self._count, task))
        self._trials.add(task.key.partition("-")[0])
        if len(self._trials) >= self._marks[0]:
            self._mark()

    def finished(self, timeout: float = 1.0) -> list[tuple[Task, TaskResult]]:
        del timeout
        self._pass_time()
        self.now = max(self.now, self._running[0][0])
        found = []
        while self._running and self._running[0][0] <= self.now:
            _, number, task = heapq.heappop(self._running)
            del self._busy[number]
            self._since.append(self.now)
            correct = self._rng.random(2000) < self._rng.uniform(0.8, 0.97)
            found.append((task, TaskResult((0.01,), pack(correct))))
        self.done += len(found)
        self._cpu = self._last = time.process_time()
        return found

    def facts(self) -> dict[str, Any]:
        return {"first": 0.0, "workers": []}

    def close(self) -> None:
        """Nothing is open."""

    def _pass_time(self) -> None:
        cpu = time.process_time()
        self.now += cpu - self._cpu
        self._cpu = cpu

    def _mark(self) -> None:
        count, cpu, idle, at = self._at
        tasks = self._count - count
        worked = self.jobs * (self.now - at)
        each = 1e3 * (self._cpu - cpu) / tasks
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        row = (
            self._marks.pop(0),
            self._count,
            f"{each:.1f}",
            f"{1e3 * self.longest:.0f}",
            f"{(self.idle - idle) / worked:.1%}" if worked else "-",
            f"{memory:.0f}",
        )
        self.rows.append(row)
        print(*row, flush=True)
        self._at, self.longest = (self._count, self._cpu, self.idle, self.now), 0.0
        if not self._marks:
            raise Enough


def main(arguments: list[str]) -> None:
    """Simulate one search."""
    options = parser(__doc__, "many_workers")
    options.add_argument("--workers", type=int, default=1000)
    options.add_argument("--trials", type=int, default=3000)
    options.add_argument("--profile", action="store_true", help="print where the time went")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    threadpool_limits(1)
    steps = (given.workers, 200, 300, 600, 1000, 1500, 2000, 3000, 5000, 7000, 10_000)
    marks = sorted({step for step in steps if step < given.trials} | {given.trials})
    workers, profile = Simulated(given.workers, marks), cProfile.Profile()
    with tempfile.TemporaryDirectory() as name:
        job = work(Path(name), given.trials)
        if given.profile:
            profile.enable()
        with contextlib.suppress(Enough):
            search(job, workers)
        profile.disable()
        job.ledger.close()
    titles = ("trials", "tasks", "CPU ms a task", "longest ms", "workers idle", "peak MiB")
    print_table(titles, workers.rows)
    if given.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(60)
