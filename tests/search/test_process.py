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

from lepton_automl.errors import DataError
from lepton_automl.search.process import Worker, WorkerLost
from lepton_automl.search.quiet import Quiet
from lepton_automl.search.task import Task

TASK = Task("7-0", "", "", ((1, 0),), 0, "", "", 0, 1.0, ("", ""), ("", ""))
HEAD = """
import json, os, sys, time
from lepton_automl.lifeline import exit_with_parent
exit_with_parent()
def say(**words):
    print(json.dumps(words), flush=True)
say(share=0.0)
for line in sys.stdin:
    task = json.loads(line)
"""
ANSWER = '    say(result=json.dumps({"correct": task["key"], "seconds": [1.0]}))\n'

Start = Callable[..., Worker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        quiet = Quiet(tmp_path)
        stack.callback(quiet.close)

        def started(body: str, patience: float = 1.0) -> Worker:
            worker = Worker(tmp_path, quiet, None, patience, HEAD + body)
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


def test_what_it_does_is_told_while_it_works(start: Start) -> None:
    worker = start("    say(share=0.5)\n    time.sleep(0.6)\n" + ANSWER)
    begun = time.time()
    thread = threading.Thread(target=worker.call, args=(TASK,))
    thread.start()
    while worker.facts()["share"] != 0.5 and thread.is_alive():
        time.sleep(0.01)
    facts = worker.facts()
    assert facts["task"] == "7-0"
    assert begun - 0.1 < facts["since"] < time.time()
    assert os.getpgid(facts["pid"]) == os.getpgid(0)
    thread.join()


@pytest.mark.parametrize(
    ("body", "why", "is_shortage"),
    [
        ("    os._exit(3)\n", "ended with 3", False),
        ("    os.kill(os.getpid(), 15)\n", "was killed by SIGTERM", False),
        ("    time.sleep(60)\n", "gave no sign of life for", False),
        ("    say(share=0.1); say(waits=True); time.sleep(60)\n", "gave no sign of life", False),
        ('    say(shortage="17 GB asked for")\n', "ran out of memory \\(17 GB asked for", True),
    ],
)
def test_a_lost_worker_is_told_with_the_reason(
    start: Start, body: str, why: str, is_shortage: bool
) -> None:
    worker = start(body, patience=0.3)
    with pytest.raises(WorkerLost, match=why) as lost:
        worker.call(TASK)
    assert lost.value.is_shortage == is_shortage


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
    measurer = Quiet(tmp_path)
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
