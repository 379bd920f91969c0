"""Hosts that fail, lie, join and leave; what holds for every executor is in tests/contracts."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from lepton_automl.core.events import Event
from lepton_automl.core.version import __version__
from lepton_automl.errors import ConfigError, MachineError
from lepton_automl.search.executors import host_connection
from lepton_automl.search.executors import hosts as hosts_module
from lepton_automl.search.executors import remote as remote_module
from lepton_automl.search.executors.host_connection import Host
from lepton_automl.search.executors.hosts import HostsExecutor
from lepton_automl.search.executors.hosts_file import HostSpec, read_hosts
from lepton_automl.search.workers.task import Task, TaskResult
from tests.helpers.executors import (
    AGENT,
    GOOD,
    LIVENESS,
    WAITS,
    WORKER,
    fake_task,
    hosts_of,
    run_all,
    write_hosts,
)
from tests.helpers.processes import alive, eventually, listening, members_of

TWO = {"a": "jobs = 1\npatience = 1", "b": "jobs = 1\npatience = 1"}


def host_of(executor: HostsExecutor, task: Task) -> str:
    """The host that runs a task, once its worker has begun it."""

    def found() -> list[str]:
        workers = executor.facts()["workers"]
        return [each["host"] for each in workers if each["task"] == task.key and each["share"]]

    assert eventually(lambda: bool(found()))
    return found()[0]


def group_of(executor: HostsExecutor, name: str) -> int:
    """Process group of the command of a host."""
    return executor._hosts[name].pid


def collected(executor: HostsExecutor) -> list[tuple[Task, TaskResult]]:
    found = []
    while executor.busy:
        found += executor.finished(0.1)
    return found


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_host_that_is_killed_or_stopped_costs_a_repetition_and_comes_back(
    tmp_path: Path, how: signal.Signals
) -> None:
    events: list[Event] = []
    with hosts_of(tmp_path, TWO, events.append) as executor:
        task = fake_task(tmp_path, WAITS)
        executor.start(task)
        first = host_of(executor, task)
        pid = group_of(executor, first)
        os.killpg(pid, how)
        other = ({"a", "b"} - {first}).pop()
        assert eventually(lambda: (tmp_path / f"on.{other}").exists())
        if how is signal.SIGSTOP:
            # It was killed when it was given up, so that it can never answer.
            assert eventually(lambda: not Path(f"/proc/{pid}").exists())
        (tmp_path / "go").touch()
        ((_, result),) = collected(executor)
        assert (result.failed, result.host) == ("", other)
        reason = "was killed by SIGKILL" if how is signal.SIGKILL else "gave no sign of life"
        assert reason in result.retried
        assert executor.finished(0.1) == []
        assert eventually(lambda: executor.jobs == 2)
        executor.finished(0.0)
    said = [event.message for event in events]
    assert sum("cannot be used" in line for line in said) == 1
    assert any(line.startswith(f"host {first}: 1 worker again") for line in said)
    assert sum("it is repeated by another worker" in line for line in said) == 1


def test_an_answer_of_a_task_that_was_given_up_is_dropped(tmp_path: Path) -> None:
    with hosts_of(tmp_path, {"a": "jobs = 1"}) as executor:
        executor.start(fake_task(tmp_path, GOOD))
        ((_, result),) = collected(executor)
        host = executor._hosts["a"]
        answer = {"result": 1, "text": json.dumps({"result": result.to_json(), "blobs": {}})}
        executor._loop.call_soon_threadsafe(host._receive, answer)
        executor._loop.call_soon_threadsafe(
            host._receive, {"lost": 1, "reason": "x", "out_of_memory": True}
        )
        assert executor.finished(0.1) == []
        assert run_all(executor, [fake_task(tmp_path, GOOD, 1)])[0][1].retried == ""


def test_data_travel_once_a_host_however_many_tasks_need_them(tmp_path: Path) -> None:
    with hosts_of(tmp_path, {"a": "jobs = 2"}) as executor:
        before = fake_task(tmp_path, GOOD)
        Path(before.train[0]).write_bytes(os.urandom(600_000))
        run_all(executor, [fake_task(tmp_path, GOOD, stage) for stage in range(6)])
        (facts,) = executor.facts()["hosts"]
    # 600 kB in base 64, once, and the messages of as long as it takes.
    assert 800_000 < facts["sent_bytes"] < 1_500_000
    assert facts["tasks"] == 6
    blobs = list((tmp_path / "cache-a" / "blobs").iterdir())
    assert len(blobs) == 2


RELAY = """
import os, pathlib, subprocess, sys, threading
folder, code = pathlib.Path({folder!r}), {code!r}
agent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
left = {cut} if not (folder / "cut").exists() else 1 << 60
while more := os.read(0, 1 << 16):
    more = more[:left]
    agent.stdin.write(more)
    agent.stdin.flush()
    left -= len(more)
    if left == 0:
        (folder / "cut").touch()
        break
agent.stdin.close()
agent.wait()
"""
"""A command that loses its connection after so many bytes, the first time."""


def test_a_transfer_that_was_cut_sends_only_the_rest_again(tmp_path: Path) -> None:
    size = 6_000_000
    cut = size  # Of 8 MB in base 64.
    worker = WORKER.format(folder=str(tmp_path), host="a")
    agent = AGENT.format(worker=worker, liveness=LIVENESS)
    relay = tmp_path / "relay.py"
    relay.write_text(RELAY.format(folder=str(tmp_path), code=agent, cut=cut))
    keys = f"jobs = 1\ncommand = {json.dumps([sys.executable, str(relay)])}"
    events: list[Event] = []
    with hosts_of(tmp_path, {"a": keys}, events.append) as executor:
        task = fake_task(tmp_path, GOOD)
        Path(task.train[0]).write_bytes(os.urandom(size))
        ((_, result),) = run_all(executor, [task])
        (facts,) = executor.facts()["hosts"]
    assert (result.failed, result.pictures_per_second) == ("", size)
    assert (tmp_path / "cut").exists()
    assert sum("cannot be used" in event.message for event in events) == 1
    # What was on its way when the connection was lost is sent again: two pieces and two pipes.
    assert facts["sent_bytes"] < size * 4 / 3 + 1_000_000 < size * 4 / 3 + cut / 2


def test_hosts_join_and_leave_while_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts_module, "_REREAD_SECONDS", 0.05)
    events: list[Event] = []
    with hosts_of(tmp_path, {"a": "jobs = 1"}, events.append) as executor:
        task = fake_task(tmp_path, WAITS)
        executor.start(task)
        assert host_of(executor, task) == "a"
        (tmp_path / "hosts.toml").write_text("[host.a]\njobs = 0\n")
        assert eventually(lambda: executor.finished(0.05) or _said(events, "hosts stay as they"))
        write_hosts(tmp_path, {"b": "jobs = 3"})
        assert eventually(lambda: executor.jobs == 3)
        (tmp_path / "go").touch()
        ((_, result),) = collected(executor)
    # To be taken out is no fault of the task.
    assert (result.host, result.retried) == ("b", "")
    assert _said(events, "host a was taken out of hosts.toml")


def _said(events: list[Event], text: str) -> bool:
    return any(text in event.message for event in events)


GREETING = f'print(\'{{"lepton": "{__version__}", "pid": 1}}\', flush=True)'
READY = 'print(\'{"ready": {"jobs": 1, "device": "cpu", "arithmetic": "x"}}\', flush=True)'
WAIT = "import sys; sys.stdin.read()"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import sys; sys.exit('Permission denied (publickey).')", "ended with 1: Permission den"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
        ("import lepton_automl_x", "No module named 'lepton_automl_x'.* or name its python"),
        ('print(\'{"lepton": "0.0.1", "pid": 1}\', flush=True);' + WAIT, "has lepton 0.0.1, this"),
        ("while True: print('Welcome to gpu1')", "writes text instead of messages"),
        (f"{GREETING.replace('pid', 'id')}; {WAIT}", "sent no message of lepton"),
        (f"{GREETING.replace('1}', '[1]}')}; {WAIT}", "sent no message of lepton"),
        (f"{GREETING}; print('hello', flush=True); {WAIT}", "sent no message of lepton"),
        (f"{GREETING}; print('[1]', flush=True); {WAIT}", "sent no message of lepton"),
        (f"{GREETING}; print('x' * (17 << 20)); {WAIT}", "sent no message of lepton"),
        (f"{GREETING}; {READY.replace('1,', '1e99,')}; {WAIT}", "sent no message of lepton"),
        (
            f"{GREETING}; import json; print(json.dumps(dict(fatal='no \\x1b GPU')), flush=True)",
            r"no \\x1b GPU",
        ),
        (f"{GREETING}; {WAIT}", "gave no sign of life for 1 s"),
    ],
)
def test_a_host_that_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, program: str, reason: str
) -> None:
    path = write_hosts(tmp_path, {"a": "patience = 1"}, program)
    with pytest.raises(MachineError, match=rf"no host can be used: a: .*{reason}") as error:
        HostsExecutor(path, tmp_path, program=())
    assert str(path) in error.value.fix
    assert "\x1b" not in error.value.what


def test_a_host_that_is_lost_while_it_starts_is_tried_again(tmp_path: Path) -> None:
    agent = AGENT.format(worker=WORKER.format(folder=str(tmp_path), host="a"), liveness=LIVENESS)
    tries = tmp_path / "tries"
    tries.mkdir()
    program = tmp_path / "program.py"
    program.write_text(
        f"import pathlib\ntries = pathlib.Path({str(tries)!r})\n"
        "count = len(list(tries.iterdir()))\n(tries / str(count)).touch()\n"
        f"if count < 2:\n    {GREETING}\n    raise SystemExit\n{agent}"
    )
    keys = f"jobs = 1\ncommand = {json.dumps([sys.executable, str(program)])}"
    events: list[Event] = []
    with hosts_of(tmp_path, {"a": keys}, events.append) as executor:
        assert run_all(executor, [fake_task(tmp_path, GOOD)])[0][1].host == "a"
    assert len(list(tries.iterdir())) == 3
    assert sum("cannot be used" in event.message for event in events) == 1


def test_a_connection_that_outlives_its_command_holds_nothing_up(tmp_path: Path) -> None:
    """As that of ssh with ControlPersist, which keeps the standard error open."""
    started = tmp_path / "started"
    kept = "subprocess.Popen(['sleep', '600'], stdin=-3, stdout=-3, start_new_session=True).pid"
    program = f"{GREETING}; import subprocess; pid = {kept}; "
    program += f"open({str(started)!r}, 'w').write(str(pid)); {WAIT}"
    path = write_hosts(tmp_path, {"a": "patience = 1"}, program)
    with pytest.raises(MachineError, match="no host can be used: a: gave no sign of life"):
        HostsExecutor(path, tmp_path, program=())
    os.kill(int(started.read_text()), signal.SIGKILL)


def test_a_session_that_does_not_end_is_left_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """asyncio may wait for ever for a process whose start is cancelled."""
    serve, stuck = Host.serve, asyncio.Event()

    async def endless(self: Host) -> None:
        try:
            await serve(self)
        finally:
            await stuck.wait()

    monkeypatch.setattr(Host, "serve", endless)
    monkeypatch.setattr(remote_module, "_CLOSING_SECONDS", 0.1)
    with hosts_of(tmp_path, {"a": "jobs = 1"}) as executor:
        assert run_all(executor, [fake_task(tmp_path, GOOD)])[0][1].host == "a"
    # What asyncio says when the session is collected, which may be at the end of the process.
    executor._loop.call_exception_handler({"message": "Task was destroyed"})
    assert "destroyed" not in capfd.readouterr().err


def test_a_command_that_is_not_there_and_a_host_that_can_be_used(tmp_path: Path) -> None:
    events: list[Event] = []
    tables = {"a": "jobs = 1", "b": 'command = ["no-such-command", "gpu1"]'}
    with hosts_of(tmp_path, tables, events.append) as executor:
        assert run_all(executor, [fake_task(tmp_path, GOOD)])[0][1].host == "a"
    assert _said(events, "host b cannot be used: no-such-command cannot be started: No such")


def test_a_command_without_any_host_for_long_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where hosts are tried again and again, more often than it waits."""
    monkeypatch.setattr(hosts_module, "_REREAD_SECONDS", 0.05)
    monkeypatch.setattr(host_connection, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(host_connection, "LONGEST_PAUSE_SECONDS", 0.1)
    with hosts_of(tmp_path, {"a": "jobs = 1"}) as executor:
        write_hosts(tmp_path, {"b": 'command = ["no-such-command"]'})
        assert eventually(lambda: "b" in executor._hosts and executor._hosts["b"].failure)
        assert executor.free == 1  # A task may wait.
        executor.start(fake_task(tmp_path, GOOD))
        # Only now: on a busy machine host a takes longer to start.
        monkeypatch.setattr(remote_module, "LONE_SECONDS", 0.5)
        error = None
        ends = time.monotonic() + 60
        while error is None and time.monotonic() < ends:
            try:
                assert not executor.finished(0.1)
            except MachineError as found:
                error = found
        assert error is not None
        assert re.search("no host could be used for .*no-such-command", error.what)


def test_no_process_of_hosts_listens(tmp_path: Path) -> None:
    before = listening([os.getpid()])  # Groups of other tests.
    with hosts_of(tmp_path, {"a": "jobs = 2"}) as executor:
        task = fake_task(tmp_path, WAITS)
        executor.start(task)
        host_of(executor, task)
        group = group_of(executor, "a")
        members = [os.getpid(), *members_of(group)]
        assert len(members) == 4  # Coordinator, host, two workers.
        assert not listening(members) - before


def test_a_task_goes_to_the_fastest_free_host(tmp_path: Path) -> None:
    with hosts_of(tmp_path, {"a": "jobs = 1", "b": "jobs = 2"}) as executor:
        executor._hosts["a"].learn(1.0, 1.0)
        executor._hosts["b"].learn(4.0, 1.0)
        assert executor.slowness == 1.0
        assert executor.equivalent_jobs == 1.5
        first, second = fake_task(tmp_path, WAITS), fake_task(tmp_path, WAITS, 1)
        executor.start(first)
        assert host_of(executor, first) == "a"
        assert executor.slowness == 4.0
        # The fast host is free after about as long again: a long task is sooner done there.
        assert not executor.is_worth_starting(1e6)
        assert executor.is_worth_starting(1e-6)
        executor.start(second)
        assert host_of(executor, second) == "b"
        (tmp_path / "go").touch()
        found = {result.host: result.slowness for _, result in collected(executor)}
        assert found["a"] == 1.0
        assert found["b"] > 1.0


def test_the_speed_is_probed_on_every_host_and_the_fastest_counts(tmp_path: Path) -> None:
    with hosts_of(tmp_path, {"a": "jobs = 2", "b": "jobs = 1"}) as executor:
        probe = replace(fake_task(tmp_path, GOOD), samples=100)
        assert executor.probe(probe).seconds == (0.5,)
        assert Counter((tmp_path / "log").read_text().split()) == {probe.key: 2}
        assert all(host.seconds_per_work for host in executor._hosts.values())
        assert not executor.busy


def test_final_trainings_have_one_arithmetic_that_of_most_speed_or_the_named_one(
    tmp_path: Path,
) -> None:
    with hosts_of(tmp_path, {"a": "jobs = 1", "b": "jobs = 1", "c": "jobs = 1"}) as executor:
        for name, kind in (("a", "cpu"), ("b", "cuda"), ("c", "cpu")):
            executor._hosts[name].arithmetic = kind
        executor._hosts["a"].learn(3.0, 1.0)
        executor._hosts["b"].learn(1.0, 1.0)
        executor._hosts["c"].learn(3.0, 1.0)
        found = executor.use_one_arithmetic("")
        assert found is not None
        assert (found.kind, found.evidence) == ("cuda", "60% of the speed of all hosts")
        assert found.is_choice
        assert executor.jobs == 1
        assert run_all(executor, [fake_task(tmp_path, GOOD)])[0][1].host == "b"
        earlier = executor.use_one_arithmetic("cpu")
        assert earlier is not None
        assert earlier.kind == "cuda", "the other kinds are out of use"


def test_time_of_a_task_counts_from_its_start_on_every_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hosts_of(tmp_path, {"a": "jobs = 1"}) as executor:
        executor.start(replace(fake_task(tmp_path, WAITS), max_seconds=100.0))
        (started,) = executor._started.values()
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 40)
        assert 59 < started.attempt.current.max_seconds <= 60.1
        monkeypatch.setattr(time, "monotonic", lambda: now + 400)
        assert started.attempt.current.max_seconds == 3.0
        monkeypatch.undo()


def test_the_file_of_hosts_is_read_with_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "hosts.toml"
    path.write_text(
        'finals = "gpu"\n[host.gpu]\ncommand = ["ssh", "gpu"]\ndevice = "cuda:1"\njobs = 4\n'
        "[host.here]\nlocal = true\n"
    )
    found = read_hosts(path)
    assert found.finals == "gpu"
    assert found.hosts["gpu"] == HostSpec("gpu", ("ssh", "gpu"), jobs=4, device="cuda:1")
    assert found.hosts["here"] == HostSpec("here", local=True)


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("", "names no host", r"\[host.NAME\]"),
        ("[hosts.a]\n", "'hosts' is not a key", "did you mean 'host'"),
        ('[host.a]\ncomand = ["x"]', "'comand' is not a key of host a", "did you mean 'command'"),
        ('[host.a]\ncommand = "ssh gpu1"', "the rule is a list of words", "command ="),
        ("[host.a]\n", "needs a command, or local = true", "command ="),
        ('[host.a]\nlocal = true\ncommand = ["x"]', "never both", "command ="),
        ("[host.a]\nlocal = true\njobs = 0", "jobs of host a is 0, the rule is 1 to", "leave it"),
        ("[host.a]\nlocal = true\njobs = true", "jobs of host a is True", "leave it"),
        ('[host.a]\nlocal = true\ndevice = "gpu"', "auto, cpu, cuda or cuda:N", "leave it"),
        ("[host.a]\nlocal = true\npatience = 0.1", "patience of host a is 0.1", "leave it"),
        ('[host.a]\nlocal = true\ngroup_address = "gpu1"', "an IPv4 address of the host", "leave"),
        ('[host.a]\nlocal = true\ngroup_address = "0.0.0.0"', "an IPv4 address", "leave"),
        ('finals = "b"\n[host.a]\nlocal = true', "'b' is not a host", "choose one of: a"),
        ('finals = ["a"]\n[host.a]\nlocal = true', "finals is .*, the rule", "leave it out"),
    ],
)
def test_a_wrong_file_of_hosts_is_refused_with_the_way_out(
    tmp_path: Path, text: str, what: str, fix: str
) -> None:
    path = tmp_path / "hosts.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=what) as error:
        read_hosts(path)
    assert re.search(fix, error.value.fix)


@pytest.mark.parametrize("heeds", [True, False])
def test_a_command_may_clean_up_before_it_is_killed(tmp_path: Path, heeds: bool) -> None:
    end = f"open({str(tmp_path / 'ended')!r}, 'w'); os._exit(0)" if heeds else "None"
    worker = WORKER.format(folder=str(tmp_path), host="a")
    program = f"import os, signal\ndef end(*_): {end}\nsignal.signal(signal.SIGTERM, end)\n"
    (tmp_path / "agent.py").write_text(program + AGENT.format(worker=worker, liveness=LIVENESS))
    program = f"exec(open({str(tmp_path / 'agent.py')!r}).read())  # lepton_automl"
    with hosts_of(tmp_path, {"a": "jobs = 1"}, program=program) as executor:
        assert executor.call(fake_task(tmp_path, GOOD)).failed == ""
        pid = group_of(executor, "a")
        if not heeds:
            os.kill(pid, signal.SIGSTOP)
    assert not alive([pid])
    assert (tmp_path / "ended").exists() == heeds
