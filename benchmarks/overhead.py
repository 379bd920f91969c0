"""What a search takes beside training: with 2 workers and 2-second tasks, to open, to start.

Run: python benchmarks/overhead.py [--tasks 80] [--trials 10000]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bookkeeping import TWELVE
from threadpoolctl import threadpool_limits

from lepton_automl.config import RunConfig
from lepton_automl.cost import targets
from lepton_automl.data.dataset import open_dataset
from lepton_automl.errors import MachineError
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import EventKind, Ledger, LedgerView
from lepton_automl.runs.live_status import WORKERS
from lepton_automl.search.finals.winner import Winners
from lepton_automl.search.loop import Explorer
from lepton_automl.search.proposals.proposer import Proposer
from lepton_automl.search.request import SearchWork
from lepton_automl.search.space import loader
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import Trials, read_trials, result_event
from lepton_automl.search.workers.handle import Worker
from lepton_automl.search.workers.measurement_lock import Quiet
from lepton_automl.search.workers.pool import Workers
from lepton_automl.search.workers.task import Task, TaskResult, pack

SECONDS = 2.0
JOBS = 2
STARTS = 5
PROGRAM = f"""
from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent()
import time
from lepton_automl.search import task, worker

def fit(model, *args, **named):
    time.sleep({SECONDS})
    return model

task.fit = fit
worker.main()
"""
"""A worker whose trainings take a fixed time; it reads, saves and answers as ever."""


def main() -> None:
    """Print both figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=80, help="candidates of the search")
    parser.add_argument("--trials", type=int, default=10_000, help="trials of the ledger")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)
    with tempfile.TemporaryDirectory() as name:
        job = work(Path(name), asked.tasks)
        overhead(job)
        ledger = grown(job, asked.trials)
        wall, cpu = time.perf_counter(), time.process_time()
        with LedgerView(ledger) as view:
            count = len(read_trials(view))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{count} trials opened in {wall:.2f} s ({cpu:.2f} s of CPU time); target: 2")
    starts = sorted(started() for _ in range(STARTS))
    print("first task after " + ", ".join(f"{seconds:.2f}" for seconds in starts) + " s; target: 3")


def started() -> float:
    """Seconds from the start of a search on digits to its first task, as its ledger tells."""
    with tempfile.TemporaryDirectory() as name:
        words = ["search", "digits", "--out", f"{name}/run", "--objective", "accuracy,size_bytes"]
        begun, first = time.time(), 0.0
        command = [sys.executable, "-m", "lepton_automl", *words, "--trials", "9", "--quiet"]
        with subprocess.Popen(command) as process:
            while not first:
                time.sleep(0.1)
                # Before its first moment is over the ledger cannot be read.
                with contextlib.suppress(MachineError):
                    with LedgerView(Path(name) / "run" / "ledger.db") as view:
                        notes = view.notes()
                    first = notes[WORKERS].value["first"] if WORKERS in notes else 0.0
            process.kill()
    return first - begun


def overhead(job: SearchWork) -> None:
    """A search with real workers; what share of their time was neither training nor cost check."""
    trials = Trials()
    tasks, quiet = Tasks(job, trials), Quiet(job.folder.path / "locks")
    checks, advice, calls = watched(Proposer, "_judge"), watched(Explorer, "_next"), observed()
    cpu = time.process_time()
    with Workers(JOBS, job.folder.path / "locks", program=PROGRAM) as workers:
        Explorer(job, tasks, trials, Winners(job, tasks, trials), workers, quiet).explore()
    whole, trained, checked = (
        sum(c.whole for c in calls),
        sum(c.trained for c in calls),
        sum(checks),
    )
    rest, each = whole - trained - checked, 1e3 / len(calls)
    print(f"{len(trials)} candidates, {len(calls)} tasks of {SECONDS:g} s, {JOBS} workers")
    print(f"training {trained / whole:.1%}, cost checks {checked / whole:.1%} of the workers' time")
    print(f"everything else {rest / whole:.1%}, {each * rest:.0f} ms a task; target: at most 5 %")
    inside = sum(c.inside - c.trained for c in calls)
    print(f"of these ms {each * inside:.0f} to read, save and answer in the worker")
    print(f"and {each * (sum(advice) - checked):.0f} to decide what is next in the coordinator,")
    print(f"which used {each * (time.process_time() - cpu):.0f} ms of CPU time a task in all")


@dataclass(frozen=True)
class Call:
    """One task of a worker that had one before."""

    whole: float
    """Seconds since the one before was answered."""
    inside: float
    """Since it was handed over."""
    trained: float


def observed() -> list[Call]:
    """All tasks from now on but the first of each worker, which loads torch."""
    original, calls, last = Worker.call, list[Call](), dict[Worker, float]()

    def call(self: Worker, task: Task) -> TaskResult:
        begun = time.perf_counter()
        result = original(self, task)
        now = time.perf_counter()
        if self in last:
            calls.append(Call(now - last[self], now - begun, sum(result.seconds)))
        last[self] = now
        return result

    Worker.call = call  # type: ignore[method-assign]
    return calls


def watched(owner: Any, method: str) -> list[float]:
    """Seconds of every call of a method from now on."""
    original: Callable[..., Any] = getattr(owner, method)
    taken: list[float] = []

    def timed(*args: Any, **named: Any) -> Any:
        begun = time.perf_counter()
        try:
            return original(*args, **named)
        finally:
            taken.append(time.perf_counter() - begun)

    setattr(owner, method, timed)
    return taken


def work(folder: Path, trials: int) -> SearchWork:
    """A search over 12 parameters on digits."""
    (folder / "twelve.toml").write_text(TWELVE)
    return SearchWork(
        config=RunConfig(
            data="digits",
            out=folder / "run",
            objectives=("accuracy", "size_bytes"),
            jobs=JOBS,
            trials=trials,
        ),
        dataset=open_dataset("digits"),
        space=loader.load(str(folder / "twelve.toml")),
        target=targets.load(),
        latency_model=None,
        folder=RunFolder(folder / "run"),
        ledger=Ledger(folder / "run" / "ledger.db"),
        device=torch.device("cpu"),
    )


def grown(job: SearchWork, count: int) -> Path:
    """A ledger of `count` trials, one in three of them with two rungs: those of `job` repeated."""
    known = list(job.ledger.all(EventKind.TRIAL).values())
    job.ledger.close()
    path, rng, rows = job.folder.path / "grown.db", np.random.default_rng(0), []
    Ledger(path).close()
    for number in range(count):
        rows.append((EventKind.TRIAL, str(number), known[number % len(known)] | {"number": number}))
        for rung in range(2 if number % 3 == 0 else 1):
            result = TaskResult((SECONDS,), pack(rng.random(2000) < 0.9))
            rows.append((EventKind.RUNG, f"{number}-{rung}", result_event(result, 2 + 4 * rung)))
    with sqlite3.connect(path) as db:
        db.executemany(
            "INSERT INTO events (kind, key, value, at) VALUES (?, ?, ?, 0)",
            [(kind, key, json.dumps(value)) for kind, key, value in rows],
        )
    return path


if __name__ == "__main__":
    main()
