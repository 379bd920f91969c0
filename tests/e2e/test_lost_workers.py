"""Workers that lack memory, hang, die or find a full disk: the search reports it and continues."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lepton_automl.core.events import Event
from lepton_automl.errors import MachineError
from lepton_automl.runs.ledger import Ledger
from lepton_automl.search.executors.processes import ProcessExecutor
from lepton_automl.search.loop import search
from tests.helpers.search import InlineWorkers, search_request

HEAD = """
from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent()
import errno, os, signal, sys, torch
from pathlib import Path
from lepton_automl.search.workers import worker

run, folder = worker.run_task, Path(sys.argv[2])

def once(name):
    try:
        (folder / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
"""
TAIL = """
worker.run_task = run_task
worker.main()
"""
FAILING = (
    HEAD
    + """
def run_task(task, training_slot, on_progress, *more):
    if task.key == "1-0" and task.micro_batches_of_cycles[-1] == 1:
        torch.empty(1 << 46)  # More than a process can address: as where memory is full.
    if task.key == "2-0" and once("stopped"):
        report = on_progress
        def on_progress(share):
            report(share)
            if share > 0.5:
                os.kill(os.getpid(), signal.SIGSTOP)
    if task.key == "3-0":
        os.kill(os.getpid(), signal.SIGKILL)
    return run(task, training_slot, on_progress, *more)
"""
    + TAIL
)
FULL_DISK = (
    HEAD
    + """
def full(handle):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

def run_task(task, training_slot, on_progress, *more):
    if task.key == "2-0":
        os.fsync = full
    return run(task, training_slot, on_progress, *more)
"""
    + TAIL
)


def events_of(ledger):
    """Every event in order, without the seconds it took."""
    return [(kind, key, value | {"seconds": 0}) for kind, key, value in ledger.events()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The ledger of the same search without lost workers, and its winner."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    job = search_request(folder / "run")
    found = search(job, InlineWorkers())
    yield job.ledger, found
    job.ledger.close()


def test_a_lost_worker_costs_one_retry_and_two_cost_the_trial(tmp_path, uninterrupted):
    whole, _ = uninterrupted
    events: list[Event] = []
    job = search_request(tmp_path / "run", emit=events.append)
    with ProcessExecutor(
        1, job.folder.path / "locks", emit=events.append, liveness_seconds=5, program=FAILING
    ) as pool:
        found = search(job, pool)
    rungs = job.ledger.all("rung")
    assert rungs["0-0"]["correct"] == whole.get("rung", "0-0")["correct"]
    assert rungs["1-0"]["retried"].startswith("ran out of memory")
    assert (rungs["1-0"]["micro_batches"], rungs["1-0"]["failed"]) == (4, "")
    # The second worker trains the same bits.
    assert rungs["2-0"]["retried"].startswith("gave no sign of life")
    assert rungs["2-0"]["correct"] == whole.get("rung", "2-0")["correct"]
    assert (
        rungs["3-0"]["failed"] == "it lost 2 workers: was killed by SIGKILL; was killed by SIGKILL"
    )
    rows = {row.number: row for row in found.rows}
    assert [number for number, row in rows.items() if not row.feasible] == [3]
    messages = [event.message for event in events]
    for number, what in enumerate(
        ("ran out of memory", "gave no sign of life", "was killed by SIGKILL"), 1
    ):
        assert any(f"trial {number}, rung 0: the worker {what}" in line for line in messages), (
            messages
        )
    assert any("with 4 micro-batches per batch" in line for line in messages)
    assert any("it fails after 2 lost workers" in line for line in messages)
    job.ledger.close()
    again = search_request(tmp_path / "run", Ledger(job.folder.ledger))
    workers = InlineWorkers()
    assert search(again, workers).number == found.number
    assert not workers.tasks
    again.ledger.close()


def test_a_full_disk_stops_cleanly_and_the_same_search_continues(tmp_path, uninterrupted):
    whole, outcome = uninterrupted
    job = search_request(tmp_path / "run")
    with (
        ProcessExecutor(1, job.folder.path / "locks", program=FULL_DISK) as pool,
        pytest.raises(MachineError, match="no space left") as error,
    ):
        search(job, pool)
    assert "the same command" in error.value.fix
    assert set(job.ledger.all("rung")) == {"0-0", "1-0"}
    assert not list(job.folder.path.rglob("*.tmp"))
    found = search(search_request(tmp_path / "run", job.ledger), InlineWorkers())
    assert events_of(job.ledger) == events_of(whole)
    assert found.number == outcome.number
    job.ledger.close()


TOGETHER = """
import pathlib, sys
from lepton_automl.search.workers.handle import Worker, WorkerLost
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.task import Task
BODY = '''
import json, sys, time
def say(**words):
    print(json.dumps(words), flush=True)
for line in sys.stdin:
    for number in range(15):
        say(share=number / 15)
        time.sleep(0.1)
    say(result=json.dumps({"seconds": [1.5]}))
'''
folder = pathlib.Path(sys.argv[1])
worker = Worker(folder, MeasurementLock(folder), None, 1.0, BODY)
print("begun", flush=True)
worker.call(Task("7-0", "", "", ((1, 0),), 0, "", "", 0, 1.0, ("", ""), ("", "")))
worker.stop()
print("done", flush=True)
"""


def test_ctrl_z_is_no_hanging(tmp_path):
    command = [sys.executable, "-c", TOGETHER, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=root, start_new_session=True
    ) as both:
        assert both.stdout.readline() == "begun\n"
        time.sleep(1)
        os.killpg(both.pid, signal.SIGSTOP)
        time.sleep(2.5)
        os.killpg(both.pid, signal.SIGCONT)
        assert both.stdout.readline() == "done\n"
