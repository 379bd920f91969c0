"""What is special about a Dask cluster; tests/contracts/test_executors.py has the rest."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pytest

from lepton_automl.core import files
from lepton_automl.core.version import __version__
from lepton_automl.errors import ConfigError, MachineError
from lepton_automl.option_texts import check_cluster
from tests.helpers.executors import GOOD, LIVENESS, WAITS, WORKER, fake_task
from tests.helpers.processes import alive, eventually

distributed = pytest.importorskip("distributed", reason="needs lepton-automl[dask]")

from dask import config  # noqa: E402

from lepton_automl.search.executors import dask as dask_module  # noqa: E402
from lepton_automl.search.executors.dask import DaskExecutor  # noqa: E402
from lepton_automl.search.executors.host_connection import HostFailed  # noqa: E402
from lepton_automl.search.workers import dask_task  # noqa: E402
from lepton_automl.search.workers.dask_entry import run_task  # noqa: E402
from tests.helpers import dask_cluster  # noqa: E402

ROOT = Path(__file__).parents[2]
COORDINATOR = """
import sys, time, pathlib
from tests.helpers.executors import WAITS, fake_task
from lepton_automl.search.executors.dask import DaskExecutor
folder = pathlib.Path(sys.argv[2])
with DaskExecutor(sys.argv[1], folder) as executor:
    executor.start(fake_task(folder, WAITS))
    while not (folder / "log").exists():
        time.sleep(0.01)
    print("started", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def stack(tmp_path):
    """Fake workers in the clusters of this process, until the test ends."""
    with ExitStack() as stack:
        program = WORKER.format(folder=str(tmp_path), host="")
        for name, value in (("_program", program), ("_liveness_seconds", LIVENESS)):
            stack.enter_context(mock.patch.object(dask_task, name, value))
        stack.enter_context(mock.patch.object(dask_task, "_BEAT_SECONDS", 0.05))
        yield stack


def finish(executor, found):
    while executor.busy:
        found += executor.finished(0.1)
    return found


def trained(folder):
    return Counter((folder / "log").read_text().split())


def pids(folder):
    return {int(path.suffix[1:]) for path in folder.glob("pid.*")}


def loses_a_worker(folder, executor, events, lose):
    """Two tasks on two workers, of which `lose` ends one; only that one's task is repeated."""
    assert eventually(lambda: executor.jobs == 2)
    tasks = [fake_task(folder, WAITS, stage) for stage in range(2)]
    for task in tasks:
        executor.start(task)
    assert eventually(lambda: (folder / "log").exists() and trained(folder).total() == 2)
    assert eventually(lambda: len(executor.facts()["workers"]) == 2)
    lose(executor.facts()["workers"][0])
    found = []

    def is_noticed():
        found.extend(executor.finished(0.05))
        return any("has left the cluster; it is repeated" in e.message for e in events)

    assert eventually(is_noticed)
    (folder / "go").touch()
    finish(executor, found)
    assert sorted(task.key for task, _ in found) == sorted(task.key for task in tasks)
    assert all(result.failed == "" for _, result in found)
    assert sorted(trained(folder).values()) == [1, 2]


def test_a_scheduler_that_reads_the_function_imports_nothing_heavy():
    """Dask's scheduler reads each function, in the thread that answers everybody."""
    from distributed.protocol import pickle

    code = """if True:
        import sys
        from distributed.protocol import pickle
        before = set(sys.modules)
        function = pickle.loads(sys.stdin.buffer.read())
        assert function.__name__ == "run_task"
        print(sorted({name.split(".")[0] for name in set(sys.modules) - before}))
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(run_task),
        capture_output=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.decode().strip() == "['lepton_automl']"


def test_a_lost_dask_worker_loses_and_repeats_only_its_own_task(tmp_path, stack):
    cluster, events = stack.enter_context(dask_cluster.cluster(2)), []
    executor = DaskExecutor(cluster.scheduler_address, tmp_path, emit=events.append)

    def lose(_):
        cluster.sync(cluster.workers[0].close, executor_wait=False, nanny=False)

    loses_a_worker(tmp_path, stack.enter_context(executor), events, lose)


@pytest.mark.slow  # Three processes of Dask start; above a worker leaves without being killed.
def test_a_killed_dask_worker_loses_and_repeats_only_its_own_task(tmp_path):
    program = WORKER.format(folder=str(tmp_path), host="")
    preload = "from lepton_automl.search.workers import dask_task\n"
    preload += f"dask_task._program = {program!r}"
    events = []
    with (
        mock.patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}),
        dask_cluster.cluster(2, processes=True, preload=[preload]) as cluster,
        DaskExecutor(cluster.scheduler_address, tmp_path, emit=events.append) as executor,
    ):
        killed = []

        def lose(victim):
            killed.append(victim["task"])
            os.kill(victim["pid"], signal.SIGKILL)

        loses_a_worker(tmp_path, executor, events, lose)
        assert trained(tmp_path)[killed[0]] == 2
    assert eventually(lambda: not alive(pids(tmp_path)))


def test_a_lost_scheduler_is_found_again_and_no_task_is_lost(tmp_path, stack):
    first = dask_cluster.cluster(1)
    cluster = first.__enter__()
    address = cluster.scheduler_address
    port = int(address.rpartition(":")[2])
    events = []
    executor = stack.enter_context(DaskExecutor(address, tmp_path, emit=events.append))
    task = fake_task(tmp_path, WAITS)
    executor.start(task)
    assert eventually(lambda: (tmp_path / "log").exists())
    first.__exit__(None, None, None)
    assert eventually(lambda: executor.finished(0.05) or not alive(pids(tmp_path)))
    (tmp_path / "go").touch()
    stack.enter_context(dask_cluster.cluster(1, scheduler_port=port))
    ((again, result),) = finish(executor, [])
    assert again is task
    assert result.failed == ""
    assert trained(tmp_path) == {task.key: 2}
    assert any(f"the scheduler {address} was" in event.message for event in events)


def without_shared_disk(stack, tmp_path, workers):
    """An executor on a cluster whose workers find no disk that they share with it."""
    cluster = stack.enter_context(dask_cluster.cluster(workers))
    with mock.patch.object(files, "write"):  # The token, by which workers find the same disk.
        executor = DaskExecutor(cluster.scheduler_address, tmp_path)
    return stack.enter_context(executor)


def test_without_a_shared_disk_data_travel_once_a_machine(tmp_path, stack):
    asked = []
    ask = dask_module.DaskHost._ask

    async def counted(self, request):
        asked.append(next(iter(request)))
        return await ask(self, request)

    stack.enter_context(mock.patch.object(dask_module.DaskHost, "_ask", counted))
    executor = without_shared_disk(stack, tmp_path, 2)
    assert eventually(lambda: executor.jobs == 2)
    tasks = [fake_task(tmp_path, GOOD, stage) for stage in range(4)]
    found = []
    for task in tasks:
        while not executor.free:
            found += executor.finished(0.1)
        executor.start(task)
    finish(executor, found)
    # The fake worker answers with the size of the file that it reads.
    assert [result.pictures_per_second for _, result in found] == [999 + 128] * 4
    assert Counter(asked)["pieces"] == 1  # Pixels and labels are the same content.
    assert Counter(asked)["task"] == 4


def test_a_transfer_that_was_cut_sends_only_the_rest_again(tmp_path, stack):
    """Of three requests with pieces the last is lost with the connection."""
    sent, cut = [], []
    ask = dask_module.DaskHost._ask

    async def cut_once(self, request):
        if "pieces" in request:
            if len(sent) == 2 and not cut:
                cut.append(request)
                raise HostFailed("was cut off")
            sent.append(request)
        return await ask(self, request)

    stack.enter_context(mock.patch.object(dask_module.DaskHost, "_ask", cut_once))
    executor = without_shared_disk(stack, tmp_path, 1)
    task, size = fake_task(tmp_path, GOOD), 8_000_000
    Path(task.train[0]).write_bytes(os.urandom(size))
    result = executor.call(task)
    assert (result.failed, result.pictures_per_second) == ("", size)
    assert len(cut) == 1
    assert sum(len(piece["data"]) for request in sent for piece in request["pieces"]) < 1.35 * size


def test_tasks_of_a_killed_coordinator_end_though_the_cluster_lives_on(tmp_path, stack):
    cluster = stack.enter_context(dask_cluster.cluster(1))
    command = [sys.executable, "-c", COORDINATOR, cluster.scheduler_address, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "started\n"
        workers = pids(tmp_path)
        assert alive(workers)
        process.kill()
    assert eventually(lambda: not alive(workers))
    # The worker takes tasks of the next coordinator.
    (tmp_path / "go").touch()
    executor = stack.enter_context(DaskExecutor(cluster.scheduler_address, tmp_path))
    assert executor.call(fake_task(tmp_path, GOOD)).failed == ""


def test_a_worker_that_answers_again_counts_as_silent_from_then_on(tmp_path):
    """The scheduler has last heard of it before it was cut off, until its next heartbeat."""
    greeting = {"lepton": __version__, "pid": 1, "machine": "m", "locks": "", "is_shared": False}
    greeting |= {"jobs": 1, "device": "cpu", "arithmetic": "x"}

    async def play():
        session = dask_module._Session("topic", "cpu", tmp_path, "token")
        events = mock.Mock()
        host = dask_module.DaskHost("tcp://a:1", None, session, mock.Mock(), events, tmp_path)
        with mock.patch.object(host, "_ask", mock.AsyncMock(return_value=greeting)):
            await host._greet_worker()
            host.look(1.0, 20.0)
            host._silent = 44.0
            host._fail_session("was cut off")
            host._failing = asyncio.get_running_loop().create_future()
            await host._greet_worker()
        host.look(1.0, 20.0)
        assert not host._failing.done()
        host._silent = 20.0
        host._looked -= 1.0
        host.look(1.0, 20.0)
        assert host._failing.result() == "gave no sign of life for 21 s"

    asyncio.run(play())


def test_a_worker_with_another_version_is_named_with_both(tmp_path, stack):
    cluster = stack.enter_context(dask_cluster.cluster(1))
    stack.enter_context(mock.patch.object(dask_module, "__version__", "9.9.9"))
    with pytest.raises(MachineError, match=r"has lepton [^ ]+, this machine has 9\.9\.9: install"):
        DaskExecutor(cluster.scheduler_address, tmp_path)


def test_a_worker_without_lepton_is_named(tmp_path, stack):
    error = ModuleNotFoundError("No module named 'lepton_automl'")
    assert "install it there" in dask_module._failure_text(error)
    assert dask_module._failure_text(ZeroDivisionError("x")) == "failed: ZeroDivisionError: x"


def test_a_missing_scheduler_is_an_error_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(dask_module, "_CONNECT_SECONDS", 0.5)
    with pytest.raises(
        MachineError, match=r"no Dask scheduler answers at dask://127\.0\.0\.1:1"
    ) as e:
        DaskExecutor("dask://127.0.0.1:1", tmp_path)
    assert "lepton cluster start" in e.value.fix
    assert not list(tmp_path.glob("*.token"))


def test_tls_without_certificates_is_refused_with_the_variables_to_set(tmp_path):
    nothing = {"distributed.comm.tls.ca-file": None}
    with (
        config.set(nothing),
        pytest.raises(ConfigError, match="needs certificates") as caught,
    ):
        DaskExecutor("tls://127.0.0.1:1", tmp_path)
    assert "DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in caught.value.fix


def listeners(pids):
    """(address, port) as in /proc/net/tcp of the listening sockets of processes."""
    inodes = set()
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(str(handle.readlink()))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.add(tuple(fields[1].split(":")))
    return found


def family(pid):
    """A process and its descendants."""
    found, parents = {pid}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    while more := {p for p, parent in parents.items() if parent in found} - found:
        found |= more
    return found


@pytest.mark.usefixtures("started_processes")
def test_a_cluster_of_this_machine_listens_on_loopback_only_and_ends_with_ctrl_c():
    command = [sys.executable, "-m", "lepton_automl", "cluster", "start", "--json"]
    command += ["--workers", "1", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        lines = []
        while not lines or lines[-1] != "}\n":
            lines.append(process.stdout.readline())
        made = json.loads("".join(lines))
        assert made["dashboard"] is None
        processes = family(process.pid)
        assert len(processes) > 1
        found = listeners(processes)
        port = int(made["address"].rpartition(":")[2])
        assert ("0100007F", f"{port:04X}") in found
        assert {address for address, _ in found} == {"0100007F"}
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert eventually(lambda: not alive(processes))


@pytest.mark.parametrize(
    "address",
    ["dask://127.0.0.1:8786", "dask://localhost:1", "tcp://[::1]:9", "tls://gpu.lan:8786"],
)
def test_an_address_on_this_machine_or_with_tls_is_taken(address):
    check_cluster(address)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("dask://10.0.0.5:8786", "is not encrypted"),
        ("tcp://127.0.0.1.evil.org:8786", "is not encrypted"),
        ("dask://gpu:8786", "is not encrypted"),
        ("gpu:8786", "the rule is dask://HOST:PORT"),
        ("dask://127.0.0.1", "the rule is"),
        ("dask://127.0.0.1:99999", "the rule is"),
        ("ucx://127.0.0.1:1", "the rule is"),
    ],
)
def test_any_other_address_is_refused(address, message):
    with pytest.raises(ConfigError, match=message):
        check_cluster(address)
