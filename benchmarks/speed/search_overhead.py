"""What a search takes beside training: bookkeeping a finished trial, reading its ledger, starting.

    python benchmarks/bench.py search_overhead --trials 320
    python benchmarks/bench.py search_overhead --trials 0 --starts 5

Bookkeeping: a search over 12 parameters on digits whose trainings end at once with made-up answers.
CPU time between one result and the next task is sampled every millisecond and counted to the first
of `PARTS` whose files are on the stack; `rest` is everything else. Starting: seconds from the start
of `lepton search digits` to its first task, and of `lepton --help`, each in a process of its own.
"""

from __future__ import annotations

import contextlib
import signal
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.common import lepton, parser, print_table
from lepton_automl.config import RunConfig
from lepton_automl.cost import targets
from lepton_automl.data.opening import open_dataset
from lepton_automl.errors import MachineError
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import Ledger, LedgerView
from lepton_automl.runs.live_status import WORKERS
from lepton_automl.search.executors import Executor
from lepton_automl.search.loop import search
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.space import loader
from lepton_automl.search.trials import read_trials
from lepton_automl.search.workers.task import Task, TaskResult, pack

PARTS: Mapping[str, tuple[str, ...]] = {
    "commits": ("runs/ledger.py",),
    "cost check": ("search/proposals/feasibility.py",),
    "sampler": ("search/sampler/", "optuna/samplers/"),
    "optuna": ("optuna/",),
}
"""Ends of file names, or parts of them, by what their CPU time is counted to; the first fits."""
WINDOW = 40
"""Finished trials up to each count that are averaged over."""
EVERY_SECONDS = 0.001
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


class Enough(Exception):
    """As many trainings as were wanted have ended."""


class Sampled:
    """CPU seconds of this thread by part, from samples of its stack."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._before = 0.0

    def look(self, number: int, frame: FrameType | None) -> None:
        """Count what has passed since the sample before; a signal handler."""
        del number
        now = time.process_time()
        self.seconds[self._part(frame)] += now - self._before
        self._before = now

    @staticmethod
    def _part(frame: FrameType | None) -> str:
        names = []
        while frame is not None:
            names.append(frame.f_code.co_filename)
            frame = frame.f_back
        for part, files in PARTS.items():
            if any(file in name for name in names for file in files):
                return part
        return "rest"

    @contextlib.contextmanager
    def sampling(self) -> Iterator[None]:
        """Sample until the block ends."""
        self._before = time.process_time()
        signal.signal(signal.SIGALRM, self.look)
        signal.setitimer(signal.ITIMER_REAL, EVERY_SECONDS, EVERY_SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)


class Instant(Executor):
    """One worker that answers at once; at counts of finished trials it keeps the seconds so far.

    Parameters
    ----------
    count : int
        Trials after which `Enough` is raised.
    sampled : Sampled
        Read at each new trial.
    """

    def __init__(self, count: int, sampled: Sampled) -> None:
        self.jobs, self._tasks, self._rng = 1, list[Task](), np.random.default_rng(0)
        self._count, self._sampled, self._trials = count, sampled, set[str]()
        self.at: list[Counter[str]] = []
        """After each trial: seconds since the beginning, by part."""

    @property
    def free(self) -> int:
        """One task at a time."""
        return 1 - len(self._tasks)

    @property
    def busy(self) -> list[Task]:
        """The task handed out."""
        return list(self._tasks)

    def start(self, task: Task) -> None:
        """Take a task."""
        self._tasks.append(task)

    def finished(self, timeout: float = 1.0) -> list[tuple[Task, TaskResult]]:
        """Answer it with 2,000 random answers, 80 to 97 % right."""
        del timeout
        task = self._tasks.pop()
        number = task.key.partition("-")[0]
        if number not in self._trials:
            self._trials.add(number)
            self.at.append(Counter(self._sampled.seconds))
            if len(self._trials) > self._count:
                raise Enough
        correct = self._rng.random(2000) < self._rng.uniform(0.8, 0.97)
        return [(task, TaskResult((0.01,), pack(correct)))]

    def facts(self) -> dict[str, Any]:
        """No workers."""
        return {"first": 0.0, "workers": []}

    def close(self) -> None:
        """Nothing is open."""


def work(folder: Path, trials: int) -> SearchRequest:
    """A search over 12 parameters on digits."""
    (folder / "twelve.toml").write_text(TWELVE)
    return SearchRequest(
        config=RunConfig(
            data="digits",
            out=folder / "run",
            objectives=("accuracy", "size_bytes"),
            jobs=1,
            trials=trials + 1,
        ),
        dataset=open_dataset("digits"),
        space=loader.load(str(folder / "twelve.toml")),
        target=targets.load(),
        latency_model=None,
        folder=RunFolder(folder / "run"),
        ledger=Ledger(folder / "run" / "ledger.db"),
        device=torch.device("cpu"),
    )


def bookkeeping(folder: Path, trials: int) -> None:
    """Search with instant trainings; milliseconds a trial, then the ledger read once more."""
    job, sampled = work(folder, trials), Sampled()
    workers = Instant(trials, sampled)
    with sampled.sampling(), contextlib.suppress(Enough):
        search(job, workers)
    job.ledger.close()
    rows = []
    for at in sorted({min(100, trials), trials}):
        before = max(0, at - WINDOW)
        spent = workers.at[at] - workers.at[before]
        parts = (spent[part] / (at - before) for part in ("rest", *PARTS))
        rows.append((at, *(f"{1e3 * seconds:.1f}" for seconds in parts)))
    print("CPU milliseconds a finished trial; target: rest at most 5 at 300")
    print_table(("finished trials", "rest", *PARTS), rows)
    begun = time.process_time()
    with LedgerView(job.folder.path / "ledger.db") as view:
        count = len(read_trials(view))
    each = (time.process_time() - begun) / count
    print(f"\nledger read: {1e3 * each:.2f} ms of CPU time a trial; target: 0.2")


def first_task_seconds() -> float:
    """Seconds from the start of a search on digits to its first task, as its ledger states."""
    with tempfile.TemporaryDirectory() as name:
        words = ("--out", f"{name}/run", "--objective", "accuracy,size_bytes", "--trials", "9")
        begun, first = time.time(), 0.0
        with subprocess.Popen(lepton("search", "digits", *words, "--quiet")) as process:
            while not first and process.poll() is None:
                time.sleep(0.1)
                # The file can be read once its first transaction is written.
                with contextlib.suppress(MachineError):
                    with LedgerView(Path(name) / "run" / "ledger.db") as view:
                        notes = view.live_entries()
                    first = notes[WORKERS].value["first"] if WORKERS in notes else 0.0
            process.kill()
    return first - begun


def help_seconds() -> float:
    """Seconds that `lepton --help` takes."""
    begun = time.perf_counter()
    subprocess.run(lepton("--help"), stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def show(what: str, seconds: list[float], target: float) -> None:
    """One line: the median, then every value."""
    each = ", ".join(f"{value:.2f}" for value in sorted(seconds))
    print(f"{what}: {statistics.median(seconds):.2f} s ({each}); target: {target:g}")


def main(arguments: list[str]) -> None:
    """Measure the parts that were asked for."""
    options = parser(__doc__, "search_overhead")
    options.add_argument("--trials", type=int, default=300, help="finished trials; 0: none")
    options.add_argument("--starts", type=int, default=0, help="of `lepton search` and `--help`")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    threadpool_limits(1)
    if given.trials:
        with tempfile.TemporaryDirectory() as name:
            bookkeeping(Path(name), given.trials)
    if given.starts:
        show("lepton --help", [help_seconds() for _ in range(given.starts)], 0.4)
        show("first task", [first_task_seconds() for _ in range(given.starts)], 3)
