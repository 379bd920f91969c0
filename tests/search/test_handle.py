from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lepton_automl.errors import DataError
from lepton_automl.search.workers import handle
from lepton_automl.search.workers.handle import LONGEST_STEP, LivenessTimeout, Worker, WorkerLost
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.task import Task
from tests.helpers.processes import eventually

LOOK = 0.25
HEAD = """
import json, os, sys, time
from lepton_automl.core.subprocesses import exit_with_parent
exit_with_parent()
def say(**words):
    print(json.dumps(words), flush=True)
say(share=0.0)
for line in sys.stdin:
    task = json.loads(line)
"""
ANSWER = '    say(result=json.dumps({"correct": task["key"], "seconds": [1.0]}))\n'
Start = Callable[..., Worker]
ALLOCATING = """
import resource, sys, torch
from lepton_automl.search.workers.handle import is_out_of_memory
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
try:
    torch.zeros(1 << 36) if sys.argv[1] == "torch" else bytearray(1 << 36)
except BaseException as error:
    print(type(error).__name__, is_out_of_memory(error))
"""


def watched(
    patience: LivenessTimeout, start: float, seconds: float, *, excused: bool = False
) -> float:
    """Look on in small steps until so much time has passed or the patience has; when it ended."""
    now = start
    while now < start + seconds and not patience.is_expired:
        now += LOOK
        patience.update(now, excused=excused)
    return now


def beating(patience: LivenessTimeout, every: float, times: int) -> float:
    now = 0.0
    for _ in range(times):
        now = watched(patience, now, every)
        patience.restart()
    return now


def test_a_worker_with_short_batches_is_given_up_after_the_least_time() -> None:
    patience = LivenessTimeout(0.0, 20.0)
    now = beating(patience, 0.25, 100)
    assert not patience.is_expired
    assert 20 <= watched(patience, now, 1000) - now <= 20 + 2 * LOOK


def test_a_worker_with_long_batches_is_given_thirty_of_them() -> None:
    patience = LivenessTimeout(0.0, 20.0)
    now = beating(patience, 4.0, 10)
    assert 115 <= watched(patience, now, 1000) - now <= 125


def test_a_first_batch_and_a_process_that_starts_are_given_more() -> None:
    assert 59 <= watched(LivenessTimeout(0.0, 20.0), 0.0, 1000) <= 61
    assert 299 <= watched(LivenessTimeout(0.0, 20.0, is_known=False), 0.0, 1000) <= 301


def test_waiting_for_somebody_who_measures_is_no_hanging() -> None:
    patience = LivenessTimeout(0.0, 1.0)
    now = watched(patience, 0.0, 500, excused=True)
    assert patience.silent == 0
    assert not patience.is_expired
    watched(patience, now, 500)
    assert patience.is_expired


@given(st.floats(10, 1e6))
def test_a_gap_in_the_listeners_own_clock_counts_as_one_step(gap: float) -> None:
    # Ctrl-Z stops both; when they go on the worker has not hung.
    patience = LivenessTimeout(0.0, 20.0)
    now = beating(patience, 0.25, 10) + gap
    patience.update(now, excused=False)
    assert patience.silent <= LONGEST_STEP
    assert not patience.is_expired


TASK = Task("7-0", "", "", ((1, 0),), 0, "", "", 0, 1.0, ("", ""), ("", ""))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        lock = MeasurementLock(tmp_path)
        stack.callback(lock.close)

        def started(body: str, patience: float = 60.0) -> Worker:
            worker = Worker(tmp_path, lock, None, patience, HEAD + body)
            stack.callback(worker.close)
            stack.callback(worker.stop)
            return worker

        yield started


def test_an_answer_after_signs_of_life_is_the_tasks_result(start: Start) -> None:
    worker = start("    say(share=0.5); say(waits=True); say(share=0.9)\n" + ANSWER)
    for _ in range(2):
        assert worker.call(TASK).correct == "7-0"
    facts = worker.facts()
    assert (facts["task"], facts["share"], facts["waits"]) == ("", 0.0, False)


def test_what_it_does_is_told_while_it_works(start: Start, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    waits = f"    while not os.path.exists({str(seen)!r}): time.sleep(0.01)\n"
    worker = start("    say(share=0.5)\n" + waits + ANSWER)
    begun = time.time()
    thread = threading.Thread(target=worker.call, args=(TASK,))
    thread.start()
    assert eventually(lambda: worker.facts()["share"] == 0.5)
    facts = worker.facts()
    seen.touch()
    assert facts["task"] == "7-0"
    assert begun - 0.1 < facts["since"] < time.time()  # Clocks of two precisions.
    assert os.getpgid(facts["pid"]) == os.getpgid(0)
    thread.join()


@pytest.mark.parametrize(
    ("body", "why", "is_out_of_memory"),
    [
        ("    os._exit(3)\n", "ended with 3", False),
        ("    os.kill(os.getpid(), 15)\n", "was killed by SIGTERM", False),
        ("    time.sleep(60)\n", "gave no sign of life for", False),
        ("    say(share=0.1); say(waits=True); time.sleep(60)\n", "gave no sign of life", False),
        (
            '    say(out_of_memory="17 GB asked for")\n',
            "ran out of memory \\(17 GB asked for",
            True,
        ),
    ],
)
def test_a_lost_worker_is_told_with_the_reason(
    start: Start, body: str, why: str, is_out_of_memory: bool
) -> None:
    worker = start(body, patience=0.3)
    with pytest.raises(WorkerLost, match=why) as lost:
        worker.call(TASK)
    assert lost.value.is_out_of_memory == is_out_of_memory


def test_what_a_task_raises_is_raised_here(start: Start) -> None:
    about = '{"kind": "DataError", "what": "torn", "fix": "mend it"}'
    with pytest.raises(DataError, match="torn"):
        start(f"    say(error={about})\n").call(TASK)


@contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=action)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_a_stopped_worker_that_goes_on_in_time_loses_nothing(start: Start) -> None:
    worker = start(
        "    for n in range(20):\n        say(share=n / 20); time.sleep(0.05)\n" + ANSWER
    )
    pid = worker.facts()["pid"]

    def stop_and_go_on() -> None:
        time.sleep(0.5)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.8)
        os.kill(pid, signal.SIGCONT)

    with meanwhile(stop_and_go_on):
        assert worker.call(TASK).correct == "7-0"


def test_who_waits_for_a_measurement_longer_than_the_patience_is_not_lost(
    start: Start, tmp_path: Path
) -> None:
    worker = start("    say(waits=True); time.sleep(2)\n" + ANSWER, patience=0.3)
    measurer = MeasurementLock(tmp_path)
    with measurer.measuring():
        assert worker.call(TASK).correct == "7-0"
    measurer.close()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_a_worker_frees_it_gets_again_without_asking_the_system(start: Start) -> None:
    worker = start(
        "    import resource\n"
        "    def faults():\n"
        "        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "        bytearray(64 << 20)\n"  # More than glibc keeps by itself.
        "        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "    faults(); say(result=json.dumps({'seconds': [faults()]}))\n"
    )
    assert worker.call(TASK).seconds[0] < 1000


@pytest.mark.parametrize("what", ["torch", "python"])
def test_what_is_really_raised_where_memory_ends_is_known(what: str) -> None:
    command = [sys.executable, "-c", ALLOCATING, what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "True", done.stdout


def test_other_errors_are_no_shortage() -> None:
    assert handle.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    for error in (RuntimeError("size mismatch"), ValueError("out of memory"), OSError(28, "full")):
        assert not handle.is_out_of_memory(error)


def test_the_kernels_counter_tells_its_kills_from_a_persons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "vmstat"
    monkeypatch.setattr(handle, "COUNTERS", (counter, tmp_path / "none"))
    counter.write_text("pgfault 7\noom_kill 3\noom_kill_disable 0\n")
    before = handle.oom_kill_count()
    assert before == 3
    assert not handle.was_killed_for_memory(-signal.SIGKILL, before)
    counter.write_text("pgfault 9\noom_kill 4\n")
    assert handle.was_killed_for_memory(-signal.SIGKILL, before)
    assert not handle.was_killed_for_memory(-signal.SIGTERM, before)
    assert not handle.was_killed_for_memory(1, before)


def test_without_a_counter_kill_9_is_taken_for_a_shortage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handle, "COUNTERS", ())
    assert handle.oom_kill_count() is None
    assert handle.was_killed_for_memory(-signal.SIGKILL, None)
