from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from lepton_automl.search.workers import measurement_lock as lock_module
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from tests.helpers.processes import eventually

BUSY = """
import sys, time, pathlib
from lepton_automl.search.workers.measurement_lock import MeasurementLock
lock = MeasurementLock(pathlib.Path(sys.argv[1]))
print("ready", flush=True)
while True:
    with lock.training_slot():
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


def test_workers_pause_during_a_measurement(tmp_path: Path) -> None:
    log = tmp_path / "log"
    workers = [busy(tmp_path, log) for _ in range(2)]
    lock = MeasurementLock(tmp_path)
    try:
        for _ in range(3):
            with lock.measuring():  # It waits for batches: these workers never finish.
                begun = time.monotonic()
                time.sleep(0.2)
                ended = time.monotonic()
            times = [float(line) for line in log.read_text().split()]
            assert not [t for t in times if begun < t < ended]
        before = log.read_text()
        assert eventually(lambda: len(log.read_text()) > len(before))
    finally:
        end(*workers)
        lock.close()


def test_a_worker_killed_in_its_batch_or_stopped_measurer_blocks_no_other_process(
    tmp_path: Path,
) -> None:
    worker = busy(tmp_path, tmp_path / "log")
    time.sleep(0.05)
    os.kill(worker.pid, signal.SIGKILL)
    end(worker)
    lock = MeasurementLock(tmp_path)
    with lock.measuring():
        pass
    with lock.training_slot():
        pass
    lock.close()


def test_a_stopped_worker_delays_a_measurement_but_not_for_ever(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(lock_module, "MAX_WAIT_SECONDS", 0.3)
    stopped, measurer, worker = (
        MeasurementLock(tmp_path),
        MeasurementLock(tmp_path),
        MeasurementLock(tmp_path),
    )
    seen: list[bool] = []
    with stopped.training_slot():
        asked = time.monotonic()
        with measurer.measuring():
            assert time.monotonic() - asked >= 0.3
            thread = threading.Thread(target=lambda: enter(worker, seen))
            thread.start()
            assert eventually(lambda: seen)
            assert seen == [True], "the others still pause"
        thread.join()
        assert seen == [True, False], "and go on, while one hangs"
    for lock in (stopped, measurer, worker):
        lock.close()


def test_workers_do_not_wait_for_each_other(tmp_path: Path) -> None:
    one, two = MeasurementLock(tmp_path), MeasurementLock(tmp_path)
    with one.training_slot(), two.training_slot():
        pass
    one.close()
    two.close()


def test_a_waiting_worker_reports_it_and_the_measurement_is_visible(tmp_path: Path) -> None:
    measurer, worker, other = (
        MeasurementLock(tmp_path),
        MeasurementLock(tmp_path),
        MeasurementLock(tmp_path),
    )
    seen: list[bool] = []
    with worker.training_slot(lambda: seen.append(True)):
        assert not other.is_measuring, "a batch is no measurement"
    assert not seen
    with measurer.measuring():
        assert other.is_measuring
        thread = threading.Thread(target=lambda: enter(worker, seen))
        thread.start()
        assert eventually(lambda: seen)
        assert seen == [True]
    thread.join()
    assert seen == [True, False]
    assert not other.is_measuring
    for lock in (measurer, worker, other):
        lock.close()


def enter(worker: MeasurementLock, seen: list[bool]) -> None:
    with worker.training_slot(lambda: seen.append(True)):
        seen.append(False)
