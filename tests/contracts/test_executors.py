"""What the search relies on, of every executor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lepton_automl.core.events import Event
from lepton_automl.errors import DataError
from lepton_automl.pipeline import status
from lepton_automl.runs import live_status
from lepton_automl.search.executors import Executor
from tests.helpers.executors import (
    ALWAYS_DIES,
    DIES_ONCE,
    GOOD,
    HANGS_ONCE,
    KINDS,
    NEEDS_MEMORY,
    RAISES,
    WAITS,
    fake_task,
    run_all,
)
from tests.helpers.processes import eventually
from tests.helpers.search import is_alive

Start = Callable[..., Executor]
PARENT = """
import sys, time, pathlib
from tests.helpers.executors import KINDS, WAITS, fake_task
folder = pathlib.Path(sys.argv[2])  # lepton_automl
with KINDS[sys.argv[1]](folder, 2) as executor:
    executor.start(fake_task(folder, WAITS))
    while not (folder / "log").exists():
        time.sleep(0.01)
    print("started", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "dask":
        pytest.importorskip("distributed", reason="needs lepton-automl[dask]")
    return str(request.param)


@pytest.fixture
def start(kind: str, tmp_path: Path) -> Any:
    """Start an executor of each kind in `tmp_path`."""
    with ExitStack() as stack:
        yield lambda jobs=1, **more: stack.enter_context(KINDS[kind](tmp_path, jobs, **more))


def pids(folder: Path) -> list[int]:
    return [int(path.suffix[1:]) for path in folder.glob("pid.*")]


def trained(folder: Path) -> Counter[str]:
    """How often a worker began each task."""
    return Counter((folder / "log").read_text().split())


def test_each_task_is_trained_and_returned_once(start: Start, tmp_path: Path) -> None:
    executor, tasks = start(2), [fake_task(tmp_path, GOOD, stage) for stage in range(9)]
    assert (executor.jobs, executor.free, executor.busy) == (2, 2, [])
    found = run_all(executor, tasks)
    assert Counter(id(task) for task, _ in found) == Counter(map(id, tasks))
    assert all(result.failed == "" and result.correct == "3:4A==" for _, result in found)
    assert {result.pictures_per_second for _, result in found} == {999 + 128}  # It read the file.
    assert trained(tmp_path) == Counter(task.key for task in tasks)
    assert (executor.free, executor.busy) == (2, [])


def test_running_tasks_are_busy_and_shown(start: Start, tmp_path: Path) -> None:
    executor, tasks = start(2), [fake_task(tmp_path, WAITS, stage) for stage in range(2)]
    for task in tasks:
        executor.start(task)
    assert (executor.free, executor.busy) == (0, tasks)
    assert executor.finished(0.01) == []

    def running() -> set[str]:
        return {each["task"] for each in executor.facts()["workers"] if each["share"] == 0.5}

    assert eventually(lambda: running() == {task.key for task in tasks})
    assert status._has_form(executor.facts(), status._FORMS[live_status.WORKERS])
    (tmp_path / "go").touch()
    found = []
    while executor.busy:
        found += executor.finished()
    assert {task.key for task, _ in found} == {task.key for task in tasks}


def test_a_task_whose_worker_dies_is_repeated_and_says_so(start: Start, tmp_path: Path) -> None:
    events: list[Event] = []
    executor = start(emit=events.append)
    ((_, result),) = run_all(executor, [fake_task(tmp_path, DIES_ONCE)])
    assert (result.failed, result.retried) == ("", "was killed by SIGKILL")
    assert trained(tmp_path) == {"2-0": 2}
    executor.finished(0.01)
    message = next(event.message for event in events if "SIGKILL" in event.message)
    assert message.startswith("trial 2, rung 0: the worker ")
    assert message.endswith("was killed by SIGKILL; it is repeated by another worker")


def test_a_task_that_loses_two_workers_fails_and_the_next_one_runs(
    start: Start, tmp_path: Path
) -> None:
    executor = start()
    found = run_all(executor, [fake_task(tmp_path, ALWAYS_DIES), fake_task(tmp_path, GOOD)])
    assert [result.failed for _, result in found] == [
        "it lost 2 workers: was killed by SIGKILL; was killed by SIGKILL",
        "",
    ]
    assert trained(tmp_path) == {"3-0": 2, "1-0": 1}


def test_an_error_of_a_task_is_raised_and_no_other_result_is_lost(
    start: Start, tmp_path: Path
) -> None:
    executor, good = start(2), [fake_task(tmp_path, GOOD, stage) for stage in range(4)]
    tasks, found, raised = [good[0], fake_task(tmp_path, RAISES), *good[1:]], [], []
    while tasks or executor.busy:
        while tasks and executor.free:
            executor.start(tasks.pop(0))
        try:
            found += executor.finished(0.1)
        except DataError as error:
            raised.append((error.what, error.fix))
    assert raised == [("torn", "mend it")]
    assert Counter(task.key for task, _ in found) == Counter(task.key for task in good)


def test_a_lack_of_memory_is_answered_by_more_micro_batches(start: Start, tmp_path: Path) -> None:
    ((task, result),) = run_all(start(), [fake_task(tmp_path, NEEDS_MEMORY)])
    assert task.micro_batches == ()
    assert (result.failed, result.micro_batches) == ("", 4)
    assert result.retried == "ran out of memory (17 GB asked for)"


def test_a_worker_that_hangs_is_replaced(start: Start, tmp_path: Path) -> None:
    ((_, result),) = run_all(start(), [fake_task(tmp_path, HANGS_ONCE)])
    assert result.failed == ""
    assert result.retried.startswith("gave no sign of life")


def test_call_waits_for_one_task(start: Start, tmp_path: Path) -> None:
    assert start().call(fake_task(tmp_path, GOOD)).correct == "3:4A=="


def test_closing_ends_all_workers_whatever_they_do(start: Start, tmp_path: Path) -> None:
    executor = start(2)
    executor.start(fake_task(tmp_path, WAITS))
    assert eventually(lambda: (tmp_path / "log").exists() and len(pids(tmp_path)) == 2)
    executor.close()
    assert eventually(lambda: not any(map(is_alive, pids(tmp_path))))


def test_workers_do_not_outlive_a_killed_coordinator(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, kind, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        assert any(map(is_alive, pids(tmp_path)))
        os.kill(parent.pid, signal.SIGKILL)
    assert eventually(lambda: not any(map(is_alive, pids(tmp_path))))
