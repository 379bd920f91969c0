"""Hosts, and workers on them, that are killed, stopped, or stopped and continued while they train.

A fixed search over two hosts that see nothing of the run ends with the same nets and results as in
one process without any fault, and every training is acknowledged once.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_automl.runs.ledger import Ledger
from lepton_automl.search.executors.hosts import HostsExecutor, RemoteExecutor
from lepton_automl.search.loop import search
from lepton_automl.search.request import SearchResult
from lepton_automl.search.workers.task import Task, TaskResult
from tests.faults.driver import Findings, Summary
from tests.helpers import forked
from tests.helpers.search import InlineWorkers, search_request

AGENT = """
import os, sys
os.environ.clear()
os.environ.update(HOME={home!r}, LEPTON_CACHE_DIR={home!r}, OMP_NUM_THREADS="1")
os.chdir({home!r})
def refuse(event, arguments):
    if event in ("open", "os.listdir", "os.mkdir", "os.rename", "os.remove"):
        if str(arguments[0]).startswith({run!r}):
            raise PermissionError("a host must not see " + str(arguments[0]))
sys.addaudithook(refuse)
from lepton_automl.search.workers.channel import Channel
channel = Channel()
from lepton_automl.search.workers.agent import Agent
Agent(channel, liveness_seconds=1.0).serve()
"""
NAMES = ("red", "blue")
PATIENCE = 1.0
TRIALS = 4
_MOST_OF_TASK = 3
"""Hosts that are struck during one task at most; it fails when it has lost six."""


@dataclass(frozen=True)
class Strike:
    """A fault during the next task that has not been struck so often."""

    what: str
    """`kill`, `stop` or `pause` a host, or `kill` its `worker`."""
    delay: float = 0.0
    """Seconds after the task was seen to run."""


KILL_HOST, STOP_HOST, PAUSE_HOST, KILL_WORKER = "kill", "stop", "pause", "worker"


class OneTask(RemoteExecutor):
    """Takes one task at a time, so that the search decides as with one worker."""

    def __init__(self, *given: Any, **options: Any) -> None:
        self.begun: list[str] = []
        self.acknowledged: list[str] = []
        super().__init__(*given, **options)

    @property
    def free(self) -> int:
        return min(super().free, 1 - len(self.busy))

    def start(self, task: Task) -> None:
        self.begun.append(task.key)
        super().start(task)

    def finished(self, timeout: float = 1.0) -> list[tuple[Task, TaskResult]]:
        found = super().finished(timeout)
        self.acknowledged += [task.key for task, _ in found]
        return found


class OneAtATime(OneTask, HostsExecutor):
    """See `OneTask`."""


def write_hosts(folder: Path, run: Path) -> Path:
    """The file of two hosts, each with a home of its own."""
    lines = []
    for name in NAMES:
        home = folder / name
        home.mkdir()
        words = json.dumps([sys.executable, "-c", AGENT.format(home=str(home), run=str(run))])
        lines.append(f"[host.{name}]\ncommand = {words}\njobs = 1\npatience = {PATIENCE}\n")
    path = folder / "hosts.toml"
    path.write_text("\n".join(lines))
    return path


def results(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Results of all trainings, without what a lost worker changes."""
    dropped = {"seconds", "host", "retried", "micro_batches"}
    return {
        key: {name: value for name, value in event.items() if name not in dropped}
        for key, event in ledger.all("rung").items()
    }


class Undisturbed:
    """The same search in one process, without faults."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        job = search_request(folder / "run", trials=TRIALS)
        found = search(job, InlineWorkers())
        self.number, self.digest = found.number, found.best.digest
        self.results = results(job.ledger)
        job.ledger.close()


def disturbed(
    folder: Path, strikes: Sequence[Strike], expected: Undisturbed
) -> tuple[list[str], Ledger, OneAtATime]:
    """Search over hosts with faults; what is wrong, the ledger (open) and the executor (closed)."""
    job = search_request(folder / "run", trials=TRIALS)
    done = threading.Event()
    with OneAtATime(write_hosts(folder, folder / "run"), job.folder.checkpoints) as executor:
        striking = threading.Thread(target=strike_hosts, args=(executor, strikes, done))
        striking.start()
        try:
            found = search(job, executor)
        finally:
            done.set()
            striking.join()
    return problems_of(job.ledger, executor, found, expected), job.ledger, executor


def problems_of(
    ledger: Ledger, executor: OneTask, found: SearchResult, expected: Undisturbed
) -> list[str]:
    """What is wrong with the end of a search."""
    problems = []
    if (found.number, found.best.digest) != (expected.number, expected.digest):
        problems.append("another winner")
    now = results(ledger)
    different = [
        key for key in now.keys() | expected.results if now.get(key) != expected.results.get(key)
    ]
    if different:
        problems.append(f"other results: {sorted(different)}")
    if Counter(executor.acknowledged) != Counter(executor.begun):
        problems.append("not every task was acknowledged once")
    if len(set(executor.acknowledged)) < len(executor.acknowledged):
        problems.append("a task was acknowledged twice")
    return problems


def strike_hosts(
    executor: RemoteExecutor, strikes: Sequence[Strike], done: threading.Event
) -> None:
    """Strike at hosts, each when a task runs, until `done` is set."""
    strike_all(executor, strikes, done, _strike, lambda one: one.what == KILL_WORKER)


def strike_all(
    executor: RemoteExecutor,
    strikes: Sequence[Any],
    done: threading.Event,
    strike: Callable[[Any, int], None],
    loses_training: Callable[[Any], bool],
) -> None:
    """Call `strike` with each of the strikes and the process of a host while a task runs there.

    A task that loses two trainings fails, as it should: of those only one is a task's own.
    """
    hit, spent = Counter[str](), set[str]()
    for one in strikes:
        while not done.is_set():
            busy = [each for each in executor.facts()["workers"] if each["task"]]
            key = busy[0]["task"] if busy else ""
            is_spent = hit[key] >= _MOST_OF_TASK or (loses_training(one) and key in spent)
            if busy and not is_spent:
                done.wait(one.delay)
                hit[key] += 1
                spent |= {key} if loses_training(one) else set()
                strike(one, busy[0]["pid"])
                break
            done.wait(0.001)


def _strike(strike: Strike, pid: int) -> None:
    what = strike.what
    try:
        if what == KILL_WORKER:
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
        elif what == KILL_HOST:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.killpg(pid, signal.SIGSTOP)
            if what == PAUSE_HOST:
                time.sleep(2 * PATIENCE * random.random())
                os.killpg(pid, signal.SIGCONT)
    except (ProcessLookupError, FileNotFoundError):
        return  # It had ended.


class Hosts:
    """Strikes at hosts and their workers during a search."""

    name = "hosts"

    def run(self, rng: random.Random, seconds: float, findings: Findings) -> Summary:
        """Try random strikes until the time is over."""
        with forked.forking():  # Each host would load torch anew after each loss.
            return self._run(rng, seconds, findings)

    def _run(self, rng: random.Random, seconds: float, findings: Findings) -> Summary:
        end, done = time.monotonic() + seconds, Counter[str]()
        lost = 0
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            expected = Undisturbed(root / "undisturbed")
            while time.monotonic() < end:
                seed = rng.getrandbits(32)
                case, folder = random.Random(seed), root / "case"
                kinds = (KILL_HOST, STOP_HOST, PAUSE_HOST, KILL_WORKER)
                strikes = [
                    Strike(case.choice(kinds), 0.3 * case.random())
                    for _ in range(case.randint(1, 10))
                ]
                folder.mkdir()
                try:
                    problems, ledger, executor = disturbed(folder, strikes, expected)
                    ledger.close()
                    lost += sum(host["lost_workers"] for host in executor.facts()["hosts"])
                except Exception as error:  # noqa: BLE001  (any is a finding)
                    problems = [f"{type(error).__name__}: {error}"]
                done["searches"] += 1
                done.update(strike.what for strike in strikes)
                if problems:
                    findings.save(self.name, folder, seed, f"{'; '.join(problems)}\n{strikes}")
                shutil.rmtree(folder)
        return Summary(done.total() - done["searches"], {**done, "lost workers": lost})


KINDS = (Hosts(),)
