"""A search over a Dask cluster whose scheduler, workers, trainings and links die, stop or are cut.

Each of two workers reaches the scheduler by a relay, and is reached by it. A cut is a relay that is
stopped: nothing passes any more and nobody is told. What ends is started again, as by Slurm or
Kubernetes. The search ends with the nets and results of one in one process without faults, and
every training is acknowledged once. Faults of the coordinator are those of `host_runs`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

from lepton_automl.search.loop import search
from tests.faults.driver import Findings, Summary
from tests.faults.hosts import OneTask, Undisturbed, problems_of, strike_all
from tests.helpers import forked
from tests.helpers.search import search_request

NAMES = ("red", "blue")
PATIENCE = 6.0
TRIALS = 4
SCHEDULER, WORKER, TRAINING, LINK = "scheduler", "worker", "training", "link"
_KINDS = (
    # Whom, signal; what is stopped goes on later.
    (SCHEDULER, signal.SIGKILL),
    (SCHEDULER, signal.SIGSTOP),
    (WORKER, signal.SIGKILL),
    (WORKER, signal.SIGSTOP),
    (TRAINING, signal.SIGKILL),
    (LINK, signal.SIGKILL),
    (LINK, signal.SIGSTOP),
)
_SCHEDULER = """
# For lepton_automl
import asyncio
from distributed import Scheduler
async def main():
    async with Scheduler(host="127.0.0.1", port={port}, dashboard=False) as scheduler:
        await scheduler.finished()
asyncio.run(main())
"""
_WORKER = """
import asyncio, os, sys
os.environ.update(HOME={home!r}, LEPTON_CACHE_DIR={home!r}, OMP_NUM_THREADS="1")
os.chdir({home!r})
def refuse(event, arguments):
    if event in ("open", "os.listdir", "os.mkdir", "os.rename", "os.remove"):
        if str(arguments[0]).startswith({run!r}):
            raise PermissionError("a worker must not see " + str(arguments[0]))
sys.addaudithook(refuse)
from distributed import Worker
from lepton_automl.search.workers import dask_task
dask_task._liveness_seconds, dask_task.machine_name = {liveness}, lambda: {name!r}
async def main():
    async with Worker(
        "tcp://127.0.0.1:{to_scheduler}",
        host="127.0.0.1",
        port={port},
        contact_address="tcp://127.0.0.1:{to_worker}",
        name={name!r},
        nthreads=1,
        memory_limit=0,
        dashboard=False,
        local_directory={home!r},
    ) as worker:
        await worker.finished()
asyncio.run(main())
"""
_RELAY = """
# For lepton_automl
import sys
sys.argv[1:] = ["0", "127.0.0.1:{to_scheduler}=127.0.0.1:{scheduler}",
                "127.0.0.1:{to_worker}=127.0.0.1:{port}"]
from benchmarks.relay import main
main()
"""


@dataclass(frozen=True)
class Strike:
    """A fault during the next task that has not been struck so often."""

    whom: str
    number: signal.Signals
    delay: float
    """Seconds after the task was seen to run."""
    pause: float
    """Seconds after which a stopped process goes on."""

    def __str__(self) -> str:
        if (self.whom, self.number) == (LINK, signal.SIGSTOP):
            return "link cut and back"
        return f"{self.whom} {self.number.name}"


class Cluster:
    """A scheduler, workers and relays, each of which is started again when it has ended.

    Parameters
    ----------
    folder : Path
        Homes of the workers.
    run : Path
        Folder that they must not see.
    """

    def __init__(self, folder: Path, run: Path) -> None:
        ports = iter(_free_ports(1 + 3 * len(NAMES)))
        self.port = next(ports)
        self._programs = {SCHEDULER: _SCHEDULER.format(port=self.port)}
        for name in NAMES:
            home = folder / f"home-{name}"
            home.mkdir()
            own = {"port": next(ports), "to_scheduler": next(ports), "to_worker": next(ports)}
            about = {"home": str(home), "run": str(run), "name": name, "liveness": 3.0}
            self._programs[f"{LINK} {name}"] = _RELAY.format(scheduler=self.port, **own)
            self._programs[f"{WORKER} {name}"] = _WORKER.format(**about, **own)
        self._log = (folder / "cluster.log").open("wb")
        self._processes = {key: self._started(program) for key, program in self._programs.items()}
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._keeper = threading.Thread(target=self._keep)
        self._keeper.start()

    def _started(self, program: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", program]
        null = subprocess.DEVNULL
        return subprocess.Popen(
            words, stdin=null, stdout=null, stderr=self._log, start_new_session=True
        )

    def _keep(self) -> None:
        while not self._is_over.wait(0.1):
            with self._lock:
                for key, process in self._processes.items():
                    if process.poll() is not None:
                        self._processes[key] = self._started(self._programs[key])

    def strike(self, strike: Strike, worker: int) -> bool:
        """Strike at a process; `worker` is that with the task. Whether it was there."""
        with self._lock:
            pid = self._target(strike.whom, worker)
        if not pid:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, strike.number)
        if strike.number == signal.SIGSTOP:
            self._is_over.wait(strike.pause)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return True

    def _target(self, whom: str, worker: int) -> int:
        pids = {key: process.pid for key, process in self._processes.items()}
        if whom == SCHEDULER:
            return pids[SCHEDULER]
        names = [name for name in NAMES if pids[f"{WORKER} {name}"] == worker]
        if not names:
            return 0
        if whom != TRAINING:
            return pids[f"{whom} {names[0]}"]
        # They are started by one of its threads.
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{worker}/task").glob("*/children"):
                for child in children.read_text().split():
                    return int(child)
        return 0

    def close(self) -> None:
        """End everything."""
        self._is_over.set()
        self._keeper.join()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._log.close()


def _free_ports(count: int) -> list[int]:
    place = ("127.0.0.1", 0)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(place)) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def _impatient() -> Iterator[None]:
    """Lost workers are tried again soon."""
    from lepton_automl.search.executors import dask

    with (
        mock.patch.object(dask, "FIRST_PAUSE_SECONDS", 0.2),
        mock.patch.object(dask, "LONGEST_PAUSE_SECONDS", 1.0),
    ):
        yield


def disturbed(
    folder: Path, strikes: Sequence[Strike], expected: Undisturbed
) -> tuple[list[str], Counter[str]]:
    """Search over a cluster with faults; what is wrong, and the faults that were done."""
    from lepton_automl.search.executors.dask import DaskExecutor

    class OneAtATime(OneTask, DaskExecutor):
        """See `OneTask`."""

    job = search_request(folder / "run", trials=TRIALS)
    cluster, done, hit = Cluster(folder, folder / "run"), threading.Event(), Counter[str]()

    def strike(one: Strike, pid: int) -> None:
        if cluster.strike(one, pid):
            hit[str(one)] += 1

    try:
        address, locks = f"dask://127.0.0.1:{cluster.port}", job.folder.checkpoints
        _await_port(cluster.port)
        with _impatient(), OneAtATime(address, locks, patience=PATIENCE) as executor:
            striking = threading.Thread(
                target=strike_all,
                args=(executor, strikes, done, strike, lambda one: one.whom == TRAINING),
            )
            striking.start()
            try:
                found = search(job, executor)
            finally:
                done.set()
                striking.join()
        return problems_of(job.ledger, executor, found, expected), hit
    finally:
        cluster.close()
        job.ledger.close()


def _await_port(port: int) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.1)


class Dask:
    """Strikes at all parts of a Dask cluster during a search."""

    name = "dask"

    def run(self, rng: random.Random, seconds: float, findings: Findings) -> Summary:
        """Try random strikes until the time is over."""
        for name in ("distributed", "tornado"):  # They tell of each loss at length.
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        with forked.forking():  # Each process would load torch anew after each loss.
            return self._run(rng, seconds, findings)

    def _run(self, rng: random.Random, seconds: float, findings: Findings) -> Summary:
        end, done, searches = time.monotonic() + seconds, Counter[str](), 0
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            root = Path(name)
            expected = Undisturbed(root / "undisturbed")
            while time.monotonic() < end:
                seed = rng.getrandbits(32)
                folder = root / "case"
                folder.mkdir()
                strikes = drawn(random.Random(seed))
                try:
                    problems, hit = disturbed(folder, strikes, expected)
                    done.update(hit)
                except Exception as error:  # noqa: BLE001  (any is a finding)
                    problems = [f"{type(error).__name__}: {error}"]
                searches += 1
                if problems:
                    what = f"{'; '.join(problems)}\n{', '.join(map(str, strikes))}"
                    findings.save(self.name, folder, seed, what)
                shutil.rmtree(folder, ignore_errors=True)
        return Summary(done.total(), {"searches": searches, **dict(sorted(done.items()))})


def drawn(chance: random.Random) -> list[Strike]:
    """Strikes of a case."""
    return [
        Strike(*chance.choice(_KINDS), 0.5 * chance.random(), 2 * PATIENCE * chance.random())
        for _ in range(chance.randint(3, 8))
    ]


KINDS = (Dask(),) if find_spec("distributed") else ()
