from __future__ import annotations

import os
import platform
import signal
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
from lepton_automl.search.workers.handle import (
    MAX_STEP_SECONDS,
    LivenessTimeout,
    Worker,
    WorkerLost,
)
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.task import Task
from tests.helpers import forked
from tests.helpers.processes import eventually

POLL = 0.25
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


def stay_silent(
    timeout: LivenessTimeout, start: float, seconds: float, *, waits: bool = False
) -> float:
    """Update in small steps for `seconds` or until the timeout expires; returns the time then."""
    now = start
    while now < start + seconds and not timeout.is_expired:
        now += POLL
        timeout.update(now, waits=waits)
    return now


def report_lines(timeout: LivenessTimeout, every: float, times: int) -> float:
    now = 0.0
    for _ in range(times):
        now = stay_silent(timeout, now, every)
        timeout.restart()
    return now


def test_a_worker_with_short_batches_is_lost_after_the_least_time() -> None:
    timeout = LivenessTimeout(0.0, 20.0)
    now = report_lines(timeout, 0.25, 100)
    assert not timeout.is_expired
    assert 20 <= stay_silent(timeout, now, 1000) - now <= 20 + 2 * POLL


def test_a_worker_with_long_batches_is_given_thirty_of_them() -> None:
    timeout = LivenessTimeout(0.0, 20.0)
    now = report_lines(timeout, 4.0, 10)
    assert 115 <= stay_silent(timeout, now, 1000) - now <= 125


def test_a_first_batch_and_a_process_that_starts_are_given_more() -> None:
    assert 59 <= stay_silent(LivenessTimeout(0.0, 20.0), 0.0, 1000) <= 61
    assert 299 <= stay_silent(LivenessTimeout(0.0, 20.0, has_reported=False), 0.0, 1000) <= 301


def test_waiting_for_a_measurement_is_not_hanging() -> None:
    timeout = LivenessTimeout(0.0, 1.0)
    now = stay_silent(timeout, 0.0, 500, waits=True)
    assert timeout.silent == 0
    assert not timeout.is_expired
    stay_silent(timeout, now, 500)
    assert timeout.is_expired


@given(st.floats(10, 1e6))
def test_a_gap_between_two_polls_counts_as_one_step(gap: float) -> None:
    # Ctrl-Z stops both; when they go on the worker has not hung.
    timeout = LivenessTimeout(0.0, 20.0)
    now = report_lines(timeout, 0.25, 10) + gap
    timeout.update(now, waits=False)
    assert timeout.silent <= MAX_STEP_SECONDS
    assert not timeout.is_expired


TASK = Task("7-0", "", "", ((1, 0),), 0, "", "", 0, 1.0, ("", ""), ("", ""))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        lock = MeasurementLock(tmp_path)
        stack.callback(lock.close)

        def started(body: str, liveness_seconds: float = 60.0) -> Worker:
            worker = Worker(tmp_path, lock, None, liveness_seconds, HEAD + body)
            stack.callback(worker.close)
            stack.callback(worker.stop)
            return worker

        yield started


def test_the_first_line_that_is_no_status_is_the_result(start: Start) -> None:
    worker = start("    say(share=0.5); say(waits=True); say(share=0.9)\n" + ANSWER)
    for _ in range(2):
        assert worker.call(TASK).correct == "7-0"
    facts = worker.facts()
    assert (facts["task"], facts["share"], facts["waits"]) == ("", 0.0, False)


def test_facts_show_the_running_task(start: Start, tmp_path: Path) -> None:
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
    ("body", "reason", "is_out_of_memory"),
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
def test_a_lost_worker_has_a_reason(
    start: Start, body: str, reason: str, is_out_of_memory: bool
) -> None:
    worker = start(body, liveness_seconds=0.3)
    with pytest.raises(WorkerLost, match=reason) as lost:
        worker.call(TASK)
    assert lost.value.is_out_of_memory == is_out_of_memory


def test_an_error_of_a_task_is_raised(start: Start) -> None:
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


def test_a_worker_that_is_stopped_for_a_moment_loses_nothing(start: Start) -> None:
    worker = start(
        "    for n in range(20):\n        say(share=n / 20); time.sleep(0.05)\n" + ANSWER
    )
    pid = worker.facts()["pid"]

    def stop_and_continue() -> None:
        time.sleep(0.5)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.8)
        os.kill(pid, signal.SIGCONT)

    with meanwhile(stop_and_continue):
        assert worker.call(TASK).correct == "7-0"


def test_a_worker_that_waits_long_for_a_measurement_is_not_lost(
    start: Start, tmp_path: Path
) -> None:
    worker = start("    say(waits=True); time.sleep(2)\n" + ANSWER, liveness_seconds=0.3)
    measurer = MeasurementLock(tmp_path)
    with measurer.measuring():
        assert worker.call(TASK).correct == "7-0"
    measurer.close()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_reused_without_new_page_faults(start: Start) -> None:
    program = (
        "    import resource\n"
        "    def faults():\n"
        "        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "        bytearray(64 << 20)\n"  # More than glibc keeps by itself.
        "        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "    faults(); say(result=json.dumps({'seconds': [faults()]}))\n"
    )
    with forked.starting():  # The allocator is set up when a process starts.
        worker = start(program)
    assert worker.call(TASK).seconds[0] < 1000


@pytest.mark.parametrize("allocate", [bytearray, torch.zeros])
def test_real_allocation_failures_are_recognised(allocate: Callable[[int], object]) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate(1 << 50)  # More than a process can address.
    assert handle.is_out_of_memory(caught.value)


def test_other_errors_are_not_out_of_memory() -> None:
    assert handle.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    for error in (RuntimeError("size mismatch"), ValueError("out of memory"), OSError(28, "full")):
        assert not handle.is_out_of_memory(error)


def test_the_kernels_counter_distinguishes_its_kills_from_other_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "vmstat"
    monkeypatch.setattr(handle, "_OOM_COUNTERS", (counter, tmp_path / "none"))
    counter.write_text("pgfault 7\noom_kill 3\noom_kill_disable 0\n")
    before = handle.oom_kill_count()
    assert before == 3
    assert not handle.was_killed_for_memory(-signal.SIGKILL, before)
    counter.write_text("pgfault 9\noom_kill 4\n")
    assert handle.was_killed_for_memory(-signal.SIGKILL, before)
    assert not handle.was_killed_for_memory(-signal.SIGTERM, before)
    assert not handle.was_killed_for_memory(1, before)


def test_without_a_counter_kill_9_counts_as_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handle, "_OOM_COUNTERS", ())
    assert handle.oom_kill_count() is None
    assert handle.was_killed_for_memory(-signal.SIGKILL, None)
