from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.trials import Trials
from lepton_automl.search.workers import run_task
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.task import TaskResult
from lepton_automl.search.workers.worker import StatusWriter, respond
from tests.helpers.search import InlineWorkers, make_trial, search_request


def test_a_response_is_one_line_with_the_result_or_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, trials = search_request(tmp_path / "run"), Trials()
    trials.add(make_trial(0, epochs=1))
    job.ledger.close()
    task = TaskBuilder(job, trials).rung(trials[0], 0)
    lock = MeasurementLock(tmp_path / "locks")
    status = StatusWriter(io.StringIO(), lock)
    status.start_task()
    line = respond(task.to_json(), status)
    assert "\n" not in line
    found = TaskResult.from_json(json.loads(line)["result"])
    assert found.correct == InlineWorkers().run(task).correct
    bad = json.loads(respond(replace(task, start=str(tmp_path / "no")).to_json(), status))["error"]
    assert bad["kind"] == "DataError"
    assert bad["fix"]
    monkeypatch.setattr(run_task, "save_model", out_of_handles)
    of_machine = json.loads(respond(task.to_json(), status))["error"]
    assert (of_machine["kind"], "ulimit -n" in of_machine["fix"]) == ("MachineError", True)
    lock.close()


def out_of_handles(*_: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


def test_a_worker_loads_no_scipy_and_ends_without_a_traceback_once_its_coordinator_has_gone(
    tmp_path: Path,
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    program = (
        "import sys; from lepton_automl.search.workers.worker import main; "
        "assert 'scipy' not in sys.modules; main()"
    )
    command = [sys.executable, "-c", program, "", str(tmp_path), "[]"]
    done = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False
    )
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == b""
