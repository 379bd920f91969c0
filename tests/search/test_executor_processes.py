from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_automl.core.events import Event
from lepton_automl.errors import DataError
from lepton_automl.search.executors import processes as pool_module
from lepton_automl.search.executors.processes import (
    WINDOW_SECONDS,
    ProcessExecutor,
    WorkersPerGpu,
    next_count,
)
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.trials import Trials
from lepton_automl.search.workers.handle import GpuMemory
from lepton_automl.search.workers.task import Task
from tests.helpers.processes import eventually
from tests.helpers.search import InlineWorkers, is_alive, make_trial, search_request

PARENT = """
import sys, time, pathlib
from lepton_automl.search.executors.processes import ProcessExecutor
workers = ProcessExecutor(1, pathlib.Path(sys.argv[1]))
print(*(worker._process.pid for worker in workers._all), flush=True)
time.sleep(600)
"""
ON_A_GPU = """
import json, os, sys, time
from lepton_automl.core.subprocesses import exit_with_parent
exit_with_parent()
def say(**words):
    print(json.dumps({"free": 70, "total": 100, **words}), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    for number in range(1, 4):
        time.sleep(0.02)
        say(share=number / 4)
    say(result=json.dumps({"correct": os.environ["CUDA_VISIBLE_DEVICES"], "seconds": [1.0]}))
"""
DIES_ONCE = """
import json, os, pathlib, sys, time
from lepton_automl.core.subprocesses import exit_with_parent
exit_with_parent()
for line in sys.stdin:
    task = json.loads(line)
    marker = pathlib.Path(task["out"])
    if not marker.exists():
        marker.touch()
        time.sleep(0.3)
        os._exit(1)
    answer = {"correct": str(task["max_seconds"]), "seconds": [1.0]}
    print(json.dumps({"result": json.dumps(answer)}), flush=True)
"""


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessExecutor]:
    with ProcessExecutor(2, tmp_path_factory.mktemp("locks")) as pool:
        yield pool


def a_task(folder: Path, number: int = 0, epochs: int = 1) -> Task:
    job = search_request(folder)
    trials = Trials()
    trials.add(make_trial(number, epochs=epochs))
    job.ledger.close()
    return TaskBuilder(job, trials).rung(trials[number], 0)


def wait_until_gone(pids: list[int]) -> None:
    assert eventually(lambda: not any(map(is_alive, pids)))


def test_a_worker_process_gives_the_bits_that_this_process_gives(
    workers: ProcessExecutor, tmp_path: Path
) -> None:
    task = a_task(tmp_path / "run")
    here = InlineWorkers().run(replace(task, out=str(tmp_path / "here")))
    there = workers.call(replace(task, out=str(tmp_path / "there")))
    assert there.correct == here.correct
    written = [tmp_path / name / "weights.safetensors" for name in ("here", "there")]
    assert written[0].read_bytes() == written[1].read_bytes()


def test_two_tasks_run_at_once_and_each_gets_its_own_result(
    workers: ProcessExecutor, tmp_path: Path
) -> None:
    tasks = [a_task(tmp_path / "run", number) for number in (3, 4)]
    for task in tasks:
        workers.start(task)
    assert workers.free == 0
    assert workers.busy == tasks
    found = dict[str, str]()
    while workers.busy:
        found |= {task.key: result.correct for task, result in workers.finished()}
    assert found == {task.key: InlineWorkers().run(task).correct for task in tasks}


def test_a_dead_worker_is_replaced_and_its_task_repeated(
    workers: ProcessExecutor, tmp_path: Path
) -> None:
    before = [worker._process.pid for worker in workers._all]
    task = a_task(tmp_path / "run", epochs=1000)
    workers.start(task)
    while not any(each["share"] for each in workers.facts()["workers"]):
        time.sleep(0.01)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    while not (done := workers.finished()):
        pass
    assert done[0][1].failed == ""
    assert done[0][1].correct
    after = [worker._process.pid for worker in workers._all]
    assert set(after) != set(before)


def test_a_repeated_task_has_what_is_left_of_its_time(tmp_path: Path) -> None:
    task = replace(a_task(tmp_path / "run"), max_seconds=100.0, out=str(tmp_path / "marker"))
    with ProcessExecutor(1, tmp_path / "locks", program=DIES_ONCE) as pool:
        result = pool.call(task)
    assert result.retried == "ended with 1"
    assert 0 < float(result.correct) <= 100 - 0.3


def test_a_task_that_kills_every_worker_fails_and_the_others_live_on(tmp_path: Path) -> None:
    with ProcessExecutor(1, tmp_path / "locks") as pool:
        task = a_task(tmp_path / "run", epochs=100_000 // 10)
        pool.start(task)
        killed = set[int]()
        while not (done := pool.finished(0.2)):
            pid = pool._all[0]._process.pid
            if pid not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
        assert "lost 2 workers: was killed by SIGKILL; was killed by" in done[0][1].failed
        assert pool.call(a_task(tmp_path / "run")).failed == ""


def test_an_error_of_a_task_is_raised_and_the_worker_lives(
    workers: ProcessExecutor, tmp_path: Path
) -> None:
    task = replace(a_task(tmp_path / "run"), start=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="does not hold a model"):
        workers.call(task)
    assert workers.call(a_task(tmp_path / "run")).failed == ""


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert all(map(is_alive, pids))
        parent.kill()
    wait_until_gone(pids)


def test_closing_ends_all_workers_at_once(tmp_path: Path) -> None:
    pool = ProcessExecutor(2, tmp_path / "locks")
    pids = [worker._process.pid for worker in pool._all]
    pool.start(a_task(tmp_path / "run", epochs=5000))
    pool.close()
    wait_until_gone(pids)


def test_workers_are_added_to_every_gpu_and_taken_away_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(
        pool_module, "next_count", lambda throughput, count, memory, max_count: plan.pop(0)
    )
    plan, events = [2, 2, 3, 2, 2, *[1] * 999], list[Event]()
    task = replace(Task("7-0", "", "", ((1, 0),), 0, "", "", 0, 1.0, ("", ""), ("", "")), work=1.0)
    pool = ProcessExecutor(
        2, tmp_path, 2, emit=events.append, workers_per_gpu=WorkersPerGpu(8), program=ON_A_GPU
    )
    seen, most = set[str](), 0
    with pool:
        for number in range(200):
            while pool.free:
                pool.start(replace(task, key=f"{number}-0"))
            seen |= {result.correct for _, result in pool.finished()}
            most = max(most, len(pool.facts()["workers"]))
            if len(plan) < 900 and len(pool._all) == 2:
                break
        assert sorted(worker.gpu for worker in pool._all) == [0, 1]
        assert pool.jobs == 2
    assert seen == {"0", "1"}
    assert most == 6
    assert [event.message for event in events] == [
        f"workers per GPU: {now} (before: {before})"
        for before, now in ((1, 2), (2, 3), (3, 2), (2, 1))
    ]


FREE = GpuMemory(free=90, total=100)


def counts_over_time(
    speed: list[float], memory: GpuMemory | None = FREE, max_count: int = 16
) -> list[int]:
    """Counts from one look to the next on a GPU where n workers have `speed[n - 1]` together."""
    workers_per_gpu, counts, done = WorkersPerGpu(max_count), [1], 0.0
    for second in range(600):
        done += speed[min(workers_per_gpu.count, len(speed)) - 1]
        count = workers_per_gpu.update(float(second), done, memory, ready=True)
        if count != counts[-1]:
            counts.append(count)
    return counts


def test_workers_are_added_while_the_whole_gets_faster_by_a_tenth() -> None:
    assert counts_over_time([100, 180, 230, 240]) == [1, 2, 3, 4, 3]
    assert counts_over_time([100, 105]) == [1, 2, 1]
    assert counts_over_time([100, 60]) == [1, 2, 1]


def test_their_number_is_bounded_by_cores_and_memory() -> None:
    ever_faster = [100.0 * n for n in range(1, 99)]
    assert counts_over_time(ever_faster, max_count=3) == [1, 2, 3]
    assert counts_over_time(ever_faster, max_count=1) == [1]
    # One worker took 60 of 100: there is no room for the next.
    assert counts_over_time(ever_faster, GpuMemory(free=40, total=100)) == [1]
    assert counts_over_time(ever_faster, None) == [1]


def test_free_memory_is_compared_with_what_each_worker_uses() -> None:
    assert next_count({1: 1.0, 2: 2.0}, 2, GpuMemory(free=32, total=80), 9) == 3
    assert next_count({1: 1.0, 2: 2.0}, 2, GpuMemory(free=30, total=90), 9) == 2


def test_throughput_is_measured_only_over_a_whole_window_in_which_all_have_trained() -> None:
    workers_per_gpu = WorkersPerGpu(4)
    assert workers_per_gpu.update(0.0, 0.0, FREE, ready=False) == 1
    assert workers_per_gpu.update(1.0, 10.0, FREE, ready=True) == 1
    assert workers_per_gpu.update(2.0, 10.0, FREE, ready=False) == 1
    assert workers_per_gpu.update(3.0, 10.0, FREE, ready=True) == 1
    assert workers_per_gpu.update(3.0 + WINDOW_SECONDS - 1, 200.0, FREE, ready=True) == 1
    assert workers_per_gpu.update(3.0 + WINDOW_SECONDS, 210.0, FREE, ready=True) == 2
    assert workers_per_gpu.throughput == {1: pytest.approx(200 / WINDOW_SECONDS)}


@given(st.lists(st.floats(1, 1000), min_size=1, max_size=12), st.integers(1, 12))
def test_the_number_of_workers_always_converges(speed: list[float], most: int) -> None:
    counts = counts_over_time(speed, max_count=most)
    assert max(counts) <= most
    # Up by one at a time, at most one step back at the end.
    ups = counts if len(counts) == 1 or counts[-1] > counts[-2] else counts[:-1]
    assert ups == list(range(1, len(ups) + 1))
