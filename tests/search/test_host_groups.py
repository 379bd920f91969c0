"""One net over several hosts: agents of this machine that meet at 127.0.0.1."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lepton_automl.core.events import Event
from lepton_automl.errors import ConfigError
from lepton_automl.models.model import Model
from lepton_automl.search.executors import Attempt
from lepton_automl.search.executors.hosts import HostsExecutor
from lepton_automl.search.executors.remote import _Started
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.trials import TrainingKey, Trials
from lepton_automl.search.workers.run_task import run_task
from lepton_automl.search.workers.task import Task, TaskResult
from lepton_automl.training.distributed import interface_of
from tests.helpers.executors import hosts_of
from tests.helpers.processes import alive, eventually, listening, members_of
from tests.helpers.search import make_trial, search_request

HERE = Path(__file__).parents[2]
LOOPBACK = "0100007F"
BEFORE = set[str]()


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Task]:
    """A final training by two processes."""
    job, trials = search_request(tmp_path / "run"), Trials()
    trials.add(make_trial(0))
    recipe = json.dumps(json.loads(make_trial(0).recipe.to_json()) | {"batch_size": 32})
    key = TrainingKey.parse("0-final-0")
    yield replace(TaskBuilder(job, trials).from_scratch(trials[0], 6, key), ranks=2, recipe=recipe)
    job.ledger.close()


@contextlib.contextmanager
def two_hosts(folder: Path, events: list[Event]) -> Iterator[HostsExecutor]:
    """Real agents with one worker each; no process of theirs outlives them."""
    lines = []
    for name in "ab":
        lines += [
            f"[host.{name}]",
            f"command = {json.dumps(['env', f'PYTHONPATH={HERE}'])}",
            f"python = {json.dumps(sys.executable)}",
            f'cache = "{folder}/cache-{name}"',
            'jobs = 1\ndevice = "cpu"\ngroup_address = "127.0.0.1"',
        ]
    path = folder / "hosts.toml"
    path.write_text("\n".join(lines))
    with HostsExecutor(path, folder, emit=events.append) as executor:
        assert eventually(lambda: executor.jobs == 2)
        yield executor
        groups = [host.pid for host in executor._hosts.values()]
        seen = [pid for group in groups for pid in members_of(group)]
    assert len(seen) >= 4
    assert eventually(lambda: not alive(seen))


def ended(executor: HostsExecutor) -> TaskResult:
    while not (found := executor.finished(0.1)):
        pass
    ((_, result),) = found
    return result


def listeners(executor: HostsExecutor) -> set[str]:
    groups = [host.pid for host in executor._hosts.values()]
    members = [pid for group in groups for pid in members_of(group)]
    return listening([os.getpid(), *members]) - BEFORE


@pytest.mark.slow
def test_two_hosts_train_the_net_of_two_processes_on_one_and_a_killed_one_costs_a_repetition(
    task: Task, tmp_path: Path
) -> None:
    events = list[Event]()
    BEFORE.update(listening([os.getpid()]))  # Groups of other tests.
    alone = replace(task, out=str(tmp_path / "alone"))
    with two_hosts(tmp_path, events) as executor:
        assert not listeners(executor)
        agent = executor._hosts["b"].pid
        assert eventually(lambda: len(members_of(agent)) == 2)
        (worker,) = set(members_of(agent)) - {agent}
        os.kill(worker, signal.SIGSTOP)  # The other one waits for it.
        executor.start(task)
        assert eventually(lambda: listeners(executor))
        assert {address.partition(":")[0] for address in listeners(executor)} == {LOOPBACK}
        os.kill(worker, signal.SIGKILL)
        result = ended(executor)
        assert (result.failed, result.host) == ("", "a")
        assert result.retried.startswith("was killed")
        assert eventually(lambda: not any(host.running for host in executor._hosts.values()))
        assert eventually(lambda: not listeners(executor))
    said = [event.message for event in events if "processes train it" in event.message]
    assert said == ["trial 0, final training: 2 processes train it: 1 on a, 1 on b"] * 2
    one = run_task(alone, contextlib.nullcontext)  # Last, as gloo listens to its end.
    assert result.correct == one.correct
    assert Model.load(Path(task.out)).digest == Model.load(Path(alone.out)).digest


def test_hosts_train_together_only_if_both_have_an_address_and_one_arithmetic(
    task: Task, tmp_path: Path
) -> None:
    address = 'group_address = "127.0.0.1"'
    tables = {"a": "jobs = 1\n" + address, "b": "jobs = 1\n" + address, "c": "jobs = 1"}
    with hosts_of(tmp_path, tables) as executor:
        hosts = executor._hosts

        def parts(ranks: int = 2) -> list[tuple[str, int]]:
            started = _Started(1, Attempt(replace(task, ranks=ranks)), 0.0)
            group = executor._group_for(started)
            return [] if group is None else [(host.spec.name, n) for host, n in group.parts]

        assert parts() == [("a", 1), ("b", 1)]
        assert parts(1) == []
        hosts["c"].jobs = 2  # One host has all workers that are asked for.
        assert parts() == []
        hosts["c"].jobs = 1
        hosts["b"].arithmetic = "cuda"
        assert parts() == []
        hosts["b"].arithmetic = hosts["a"].arithmetic
        hosts["a"].learn(1.0, 1.0)
        hosts["b"].learn(2.0, 1.0)  # Each batch would wait for it.
        assert parts() == []


def test_an_address_that_is_not_here_is_refused() -> None:
    assert interface_of("127.0.0.1").startswith("lo")
    with pytest.raises(ConfigError, match=r"192.0.2.1 is the first IPv4 address of no network"):
        interface_of("192.0.2.1")  # For documentation (RFC 5737).
