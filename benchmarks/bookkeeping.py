"""Bookkeeping per finished trial at 100 and 300 finished trials with 12 parameters.

Run: python benchmarks/bookkeeping.py
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from lepton_automl.config import RunConfig
from lepton_automl.cost import targets
from lepton_automl.data.dataset import open_dataset
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import Ledger
from lepton_automl.search.finals.winner import Winners
from lepton_automl.search.loop import Explorer
from lepton_automl.search.proposals.proposer import Proposer
from lepton_automl.search.request import SearchWork
from lepton_automl.search.sampler import Sampler
from lepton_automl.search.scheduler import Advisor
from lepton_automl.search.space import loader
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import Trials
from lepton_automl.search.workers.measurement_lock import Quiet
from lepton_automl.search.workers.pool import Workers
from lepton_automl.search.workers.task import Task, TaskResult, pack

AT = (100, 300)
PARTS = ("commits", "advice", "sampler", "costs")
WINDOW = 20
"""Trials around each count that are averaged over."""
TWELVE = """
[input]
resolution = "native"
[stem]
out = [8, 16, 24]
kernel = [3, 5]
[[stage]]
layer = ["conv", "residual"]
out = { low = 8, high = 48, step = 8 }
depth = [1, 2]
[[stage]]
layer = ["conv", "residual"]
out = { low = 16, high = 64, step = 8 }
depth = [1, 2]
[head]
features = [0, 32]
[train]
lr = [0.05, 0.02, 0.1]
weight_decay = [5e-4, 5e-3]
label_smoothing = [0.0, 0.1]
"""


class Instant(Workers):
    """Workers that answer at once, so that only the bookkeeping takes time."""

    def __init__(self) -> None:
        self.jobs, self._tasks, self._rng = 1, list[Task](), np.random.default_rng(0)

    @property
    def free(self) -> int:
        """One at a time."""
        return 1 - len(self._tasks)

    @property
    def busy(self) -> list[Task]:
        """The task handed out."""
        return list(self._tasks)

    def start(self, task: Task) -> None:
        """Take a task."""
        self._tasks.append(task)

    def finished(self, timeout: float = 1.0) -> list[tuple[Task, TaskResult]]:
        """Answer it with 2,000 random answers, about 90 % right."""
        del timeout
        correct = self._rng.random(2000) < self._rng.uniform(0.8, 0.97)
        return [(self._tasks.pop(), TaskResult((0.01,), pack(correct)))]


class Meter:
    """Seconds spent in a part of the bookkeeping, by the number of finished trials."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials
        self.seconds: dict[str, dict[int, float]] = {}
        self.counts: dict[str, dict[int, int]] = {}

    def watch(self, owner: Any, method: str, part: str) -> None:
        """Count what a method of a class takes from now on."""
        original: Callable[..., Any] = getattr(owner, method)
        meter = self

        def timed(*args: Any, **named: Any) -> Any:
            with meter.counted(part):
                return original(*args, **named)

        setattr(owner, method, timed)

    @contextlib.contextmanager
    def counted(self, part: str) -> Iterator[None]:
        """Count the time of a block."""
        begun = time.process_time()
        yield
        spent, at = time.process_time() - begun, len(self._trials)
        by_count = self.seconds.setdefault(part, {})
        by_count[at] = by_count.get(at, 0.0) + spent
        counts = self.counts.setdefault(part, {})
        counts[at] = counts.get(at, 0) + 1

    def milliseconds(self, part: str, at: int) -> float:
        """Median a trial, around `at` finished trials."""
        near = range(at - WINDOW // 2, at + WINDOW // 2)
        return 1e3 * statistics.median(self.seconds[part].get(n, 0.0) for n in near)

    def rest(self, at: int) -> float:
        """Median of what a trial takes in all less its parts; of each trial, as they vary."""
        near = range(at - WINDOW // 2, at + WINDOW // 2)
        whole, parts = self.seconds["all"], [self.seconds[part] for part in PARTS]
        left = [whole.get(n, 0.0) - sum(part.get(n, 0.0) for part in parts) for n in near]
        return 1e3 * statistics.median(left)

    def calls(self, part: str, at: int) -> float:
        """Mean number of calls a trial, around `at` finished trials."""
        near = range(at - WINDOW // 2, at + WINDOW // 2)
        return statistics.fmean(self.counts[part].get(n, 0) for n in near)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    threadpool_limits(1)
    with tempfile.TemporaryDirectory() as name:
        meter = measured(Path(name))
    columns = ("ours", "commits", "advice", "sampler", "a point", "cost check")
    print(f"{'finished trials':>16}" + "".join(f"{name:>11}" for name in columns))
    for at in AT:
        commits, advice, sampler, costs = (meter.milliseconds(part, at) for part in PARTS)
        point = sampler / meter.calls("costs", at)
        figures = (meter.rest(at), commits, advice, sampler, point, costs)
        print(f"{at:>16}" + "".join(f"{figure:11.2f}" for figure in figures))
    print("milliseconds of CPU time a trial, median; ours: at most 5; advice is asked for before")
    print("every training, so about 1.5 times a trial")


def measured(folder: Path) -> Meter:
    """A search of instant trials, timed."""
    (folder / "twelve.toml").write_text(TWELVE)
    job = SearchWork(
        config=RunConfig(
            data="digits",
            out=folder / "run",
            objectives=("accuracy", "size_bytes"),
            jobs=1,
            trials=max(AT) + WINDOW,
        ),
        dataset=open_dataset("digits"),
        space=loader.load(str(folder / "twelve.toml")),
        target=targets.load(),
        latency_model=None,
        folder=RunFolder(folder / "run"),
        ledger=Ledger(folder / "run" / "ledger.db"),
        device=torch.device("cpu"),
    )
    trials = Trials()
    meter, tasks = Meter(trials), Tasks(job, trials)
    meter.watch(Ledger, "record", "commits")
    for method in ("ask", "tell", "accept", "refuse"):
        meter.watch(Sampler, method, "sampler")
    meter.watch(Advisor, "advise", "advice")
    check = "_judge"
    meter.watch(Proposer, check, "costs")
    meter.watch(Explorer, "_next", "all")
    meter.watch(Explorer, "_record", "all")
    quiet = Quiet(folder / "locks")
    Explorer(job, tasks, trials, Winners(job, tasks, trials), Instant(), quiet).explore()
    job.ledger.close()
    return meter


if __name__ == "__main__":
    main()
