from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from lepton_automl.search.workers import measurement_lock as quiet_module
from lepton_automl.search.workers.measurement_lock import Quiet
from tests.helpers.processes import eventually

BUSY = """
import sys, time, pathlib
from lepton_automl.search.workers.measurement_lock import Quiet
quiet = Quiet(pathlib.Path(sys.argv[1]))
print("ready", flush=True)
while True:
    with quiet.turn():
        with open(sys.argv[2], "a") as file:
            file.write(f"{time.monotonic()}\\n")
        time.sleep(0.01)
"""


def busy(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", BUSY, str(folder), str(log)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def end(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        with process:
            process.kill()


def test_workers_pause_while_somebody_measures_and_go_on_afterwards(tmp_path: Path) -> None:
    log = tmp_path / "log"
    workers = [busy(tmp_path, log) for _ in range(2)]
    quiet = Quiet(tmp_path)
    try:
        for _ in range(3):
            with quiet.measuring():  # It waits for batches: these workers never finish.
                begun = time.monotonic()
                time.sleep(0.2)
                ended = time.monotonic()
            times = [float(line) for line in log.read_text().split()]
            assert not [t for t in times if begun < t < ended]
        before = log.read_text()
        assert eventually(lambda: len(log.read_text()) > len(before))
    finally:
        end(*workers)
        quiet.close()


def test_a_worker_killed_in_its_batch_or_stopped_measurer_blocks_nobody(tmp_path: Path) -> None:
    worker = busy(tmp_path, tmp_path / "log")
    time.sleep(0.05)
    os.kill(worker.pid, signal.SIGKILL)
    end(worker)
    quiet = Quiet(tmp_path)
    with quiet.measuring():
        pass
    with quiet.turn():
        pass
    quiet.close()


def test_a_stopped_worker_delays_who_measures_but_not_for_ever(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(quiet_module, "LONGEST_WAIT_SECONDS", 0.3)
    stopped, measurer, worker = Quiet(tmp_path), Quiet(tmp_path), Quiet(tmp_path)
    told: list[bool] = []
    with stopped.turn():
        asked = time.monotonic()
        with measurer.measuring():
            assert time.monotonic() - asked >= 0.3
            thread = threading.Thread(target=lambda: enter(worker, told))
            thread.start()
            assert eventually(lambda: told)
            assert told == [True], "the others still pause"
        thread.join()
        assert told == [True, False], "and go on, while one hangs"
    for quiet in (stopped, measurer, worker):
        quiet.close()


def test_workers_do_not_wait_for_each_other(tmp_path: Path) -> None:
    one, two = Quiet(tmp_path), Quiet(tmp_path)
    with one.turn(), two.turn():
        pass
    one.close()
    two.close()


def test_who_waits_says_so_first_and_others_can_see_why(tmp_path: Path) -> None:
    measurer, worker, other = Quiet(tmp_path), Quiet(tmp_path), Quiet(tmp_path)
    told: list[bool] = []
    with worker.turn(lambda: told.append(True)):
        assert not other.is_taken, "a batch is no measurement"
    assert not told
    with measurer.measuring():
        assert other.is_taken
        thread = threading.Thread(target=lambda: enter(worker, told))
        thread.start()
        assert eventually(lambda: told)
        assert told == [True]
    thread.join()
    assert told == [True, False]
    assert not other.is_taken
    for quiet in (measurer, worker, other):
        quiet.close()


def enter(worker: Quiet, told: list[bool]) -> None:
    with worker.turn(lambda: told.append(True)):
        told.append(False)
