"""Executors for tests: with fake workers that act by the trial number of a task, on any kind."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from lepton_automl.core.events import Emit, silent
from lepton_automl.core.files import write
from lepton_automl.search.executors import Executor
from lepton_automl.search.executors.hosts import HostsExecutor
from lepton_automl.search.executors.processes import ProcessExecutor
from lepton_automl.search.workers.task import Task, TaskResult
from tests.helpers.search import make_trial

GOOD, DIES_ONCE, ALWAYS_DIES, RAISES, NEEDS_MEMORY, HANGS_ONCE, WAITS = range(1, 8)
"""Trial numbers, and what a fake worker does with a task of that trial."""

WORKER = """
import json, os, pathlib, signal, sys, time
from lepton_automl.core.subprocesses import exit_with_parent
exit_with_parent()
FOLDER = pathlib.Path({folder!r})
(FOLDER / f"pid.{{os.getpid()}}").touch()
HOST = "{host}"
def say(**words):
    print(json.dumps(words), flush=True)
def once(name):
    try:
        (FOLDER / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
say(share=0.0)
for line in sys.stdin:
    task = json.loads(line)
    number, micro = int(task["key"].split("-")[0]), (task["micro_batches"] or [1])[-1]
    with open(FOLDER / "log", "a") as log:
        log.write(task["key"] + "\\n")
    (FOLDER / f"on.{{HOST}}").touch()
    say(share=0.5)
    if number == 2 and once("died") or number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 6 and once("hung"):
        os.kill(os.getpid(), signal.SIGSTOP)
    while number == 7 and not (FOLDER / f"go{{HOST}}").exists() and not (FOLDER / "go").exists():
        say(share=0.5)
        time.sleep(0.02)
    if number == 4:
        say(error=dict(kind="DataError", what="torn", fix="mend it"))
    elif number == 5 and micro == 1:
        say(out_of_memory="17 GB asked for")
    else:
        pixels = len(pathlib.Path(task["train"][0]).read_bytes())
        result = dict(correct="3:4A==", seconds=[0.5], micro_batches=micro, arithmetic="fake",
                      pictures_per_second=pixels)
        say(result=json.dumps(result))
"""
AGENT = """
import sys
from lepton_automl.search.workers.channel import Channel
channel = Channel()
from lepton_automl.search.workers.agent import Agent
Agent(channel, {worker!r}, {liveness}).serve()
"""
LIVENESS = 0.5


@contextmanager
def processes(folder: Path, jobs: int, emit: Emit = silent) -> Iterator[Executor]:
    """Worker processes of this machine."""
    with ProcessExecutor(
        jobs,
        folder,
        emit=emit,
        liveness_seconds=LIVENESS,
        program=WORKER.format(folder=str(folder), host=""),
    ) as executor:
        yield executor


@contextmanager
def hosts(folder: Path, jobs: int, emit: Emit = silent) -> Iterator[HostsExecutor]:
    """A host that is this machine, with fake workers."""
    with hosts_of(folder, {"one": f"jobs = {jobs}"}, emit) as executor:
        yield executor


@contextmanager
def hosts_of(
    folder: Path, tables: Mapping[str, str], emit: Emit = silent, program: str = ""
) -> Iterator[HostsExecutor]:
    """Hosts with fake workers that share no disk with this machine."""
    path = write_hosts(folder, tables, program)
    with HostsExecutor(path, folder, emit=emit, program=()) as executor:
        yield executor


def write_hosts(folder: Path, tables: Mapping[str, str], program: str = "") -> Path:
    """A file of hosts: name -> further keys; each has a cache of its own."""
    lines = []
    for name, keys in tables.items():
        worker = WORKER.format(folder=str(folder), host=name)
        code = program or AGENT.format(worker=worker, liveness=LIVENESS)
        command = (
            "" if "command" in keys else f"command = {json.dumps([sys.executable, '-c', code])}"
        )
        lines += [f"[host.{name}]", command, f'cache = "{folder}/cache-{name}"', keys]
    path = folder / "hosts.toml"
    write(path, "\n".join(lines))
    return path


@contextmanager
def dask(folder: Path, jobs: int, emit: Emit = silent) -> Iterator[Executor]:
    """A Dask cluster in this process."""
    from tests.helpers import dask_cluster

    program = WORKER.format(folder=str(folder), host="")
    with dask_cluster.dask(folder, jobs, emit, program, LIVENESS) as executor:
        yield executor


KINDS: dict[str, Callable[..., object]] = {"processes": processes, "hosts": hosts, "dask": dask}
"""Every executor: a context manager with the folder of its workers, jobs and `emit`."""


def fake_task(folder: Path, number: int, stage: int = 0) -> Task:
    """A task for a fake worker; it saves nothing."""
    paths = [folder / f"{name}.npy" for name in ("pixels", "labels")]
    for path in paths:
        if not path.exists():
            np.save(path, np.zeros(999, np.uint8))
    files = (str(paths[0]), str(paths[1]))
    trial = make_trial(number)
    task = Task(
        f"{number}-{stage}",
        trial.arch.to_json(),
        trial.recipe.to_json(),
        cycles=((1, 0),),
        seed=0,
        start="",
        out="",
        zero_point=0,
        scale=1.0,
        train=files,
        validation=files,
    )
    return replace(task, work=1.0)


def run_all(executor: Executor, tasks: list[Task]) -> list[tuple[Task, TaskResult]]:
    """Run tasks, as many at once as are free; what was returned, in this order."""
    waiting, found = list(tasks), list[tuple[Task, TaskResult]]()
    while waiting or executor.busy:
        while waiting and executor.free:
            executor.start(waiting.pop(0))
        found += executor.finished(0.1)
    return found
