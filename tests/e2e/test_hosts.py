"""A search over hosts that see nothing of the run, some of which are killed or stopped."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton_automl.core.events import Event
from lepton_automl.runs.ledger import recorded_decisions
from lepton_automl.search.executors.hosts import HostsExecutor
from lepton_automl.search.loop import search
from lepton_automl.search.workers.task import Task
from tests.helpers.processes import eventually
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
Agent(channel).serve()
"""


def rungs(ledger) -> dict[str, dict]:
    """Results of all trainings, without what a host may change."""
    dropped = {"seconds", "host", "retried", "micro_batches"}
    return {
        key: {name: value for name, value in event.items() if name not in dropped}
        for key, event in ledger.all("rung").items()
    }


@pytest.fixture
def hosts_file(tmp_path: Path) -> Path:
    lines = []
    for name in ("red", "blue"):
        home = tmp_path / name
        home.mkdir()
        code = AGENT.format(home=str(home), run=str(tmp_path / "run"))
        words = json.dumps([sys.executable, "-c", code])
        lines.append(f"[host.{name}]\ncommand = {words}\njobs = 1\npatience = 1\n")
    path = tmp_path / "hosts.toml"
    path.write_text("\n".join(lines))
    return path


class OneAtATime(HostsExecutor):
    """Takes one task at a time, so that the search decides as with one worker."""

    @property
    def free(self) -> int:
        return min(super().free, 1 - len(self.busy))


def disturb(
    executor: HostsExecutor, signals: Iterator[signal.Signals], done: threading.Event
) -> None:
    """Send the next signal to the host that trains, whenever it has begun another task."""
    hit: set[str] = set()
    for number in signals:
        while not done.is_set():
            busy = [w for w in executor.facts()["workers"] if w["task"] and w["task"] not in hit]
            if busy:
                hit.add(busy[0]["task"])
                os.killpg(executor._hosts[busy[0]["host"]].pid, number)
                break
            time.sleep(0.001)


def test_a_search_over_hosts_ends_as_on_one_machine_though_they_are_killed_and_stopped(
    tmp_path: Path, hosts_file: Path
) -> None:
    (tmp_path / "alone").mkdir()
    alone = search_request(tmp_path / "alone" / "run", trials=4)
    expected = search(alone, InlineWorkers())
    events: list[Event] = []
    job = search_request(tmp_path / "run", trials=4)
    recorded: list[str] = []
    begun: list[Task] = []
    done = threading.Event()
    with OneAtATime(hosts_file, job.folder.checkpoints, emit=events.append) as executor:
        assert eventually(lambda: executor.jobs == 2)
        start, finished = executor.start, executor.finished

        def counted_start(task: Task) -> None:
            begun.append(task)
            start(task)

        def counted_finished(timeout: float = 1.0):
            found = finished(timeout)
            recorded.extend(task.key for task, _ in found)
            return found

        executor.start, executor.finished = counted_start, counted_finished
        order = iter([signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL])
        disturbing = threading.Thread(target=disturb, args=(executor, order, done))
        disturbing.start()
        found = search(job, executor)
        done.set()
        disturbing.join()
        facts = {host["name"]: host for host in executor.facts()["hosts"]}
    assert found.number == expected.number
    assert found.best.digest == expected.best.digest
    assert rungs(job.ledger) == rungs(alone.ledger)
    # Every task was started by the search once and acknowledged once.
    assert sorted(recorded) == sorted(task.key for task in begun)
    assert len(set(recorded)) == len(recorded)
    retried = [event["retried"] for event in job.ledger.all("rung").values() if "retried" in event]
    assert len(retried) == 3
    assert {event["host"] for event in job.ledger.all("rung").values()} <= {"red", "blue"}
    assert sum(host["lost_workers"] for host in facts.values()) == 3
    decisions = {each.name: each for each in recorded_decisions(job.ledger)}
    assert decisions["arithmetic of final trainings"].evidence == "all hosts have it"
    assert decisions["arithmetic of final trainings"].option == "finals in hosts.toml (--hosts)"
    for ledger in (alone.ledger, job.ledger):
        ledger.close()
