from __future__ import annotations

import dataclasses
import time

import pytest

from lepton_automl.core.events import Event
from lepton_automl.errors import DataError
from lepton_automl.pipeline import run
from lepton_automl.pipeline.status import HostNow, RungNow, WorkerNow, status
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import Ledger
from tests.helpers import runs
from tests.helpers.artifacts import seal_again

WORKERS = {
    "first": 1.0,
    "workers": [
        {"slot": 0, "pid": 7, "task": "2-1", "since": 0.0, "share": 0.5, "waits": False},
        {"slot": 1, "pid": 8, "task": "", "since": 0.0, "share": 0.0, "waits": False},
    ],
}


@pytest.fixture
def folder(finished_run, tmp_path):
    """A copy of the finished run, of which nothing is known but its first definition."""
    config = runs.copy(finished_run[0], tmp_path)
    for file in config.out.glob("ledger.*"):
        file.unlink()
    (config.out / "artifact" / "manifest.json").unlink()
    return RunFolder(config.out)


def beat(ledger):
    with ledger._lock:
        ledger._save_seconds()


def test_a_finished_run_is_told_with_its_verdict(finished_run):
    config, outcome = finished_run
    found = status(RunFolder(config.out))
    assert found.verdict == outcome.verdict
    assert found.events["trial"] == 2
    assert found.has_winner
    assert found.alive_seconds > 0
    assert found.definition.space == "quick"
    assert (found.state, found.error, found.workers) == ("ended", "", ())
    assert found.command["trials"] == 2
    assert found.found["best"]["number"] in {0, 1}
    assert {row["number"] for row in found.found["front"]} <= {0, 1}
    assert found.rungs[0].finished == 2
    assert len(found.hypervolume) >= 2


def test_a_verdict_that_other_files_contradict_is_not_shown(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    path = config.out / "artifact" / "verdict.json"
    path.write_text(path.read_text().replace('"n_samples": ', '"n_samples": 1'))
    seal_again(config.out / "artifact")
    assert status(RunFolder(config.out)).verdict.status == "broken"
    outcome = run.run(config)
    assert outcome.verdict.exit_code == 6
    assert "test samples" in outcome.verdict.reasons[0]


def test_a_folder_without_a_ledger_has_not_begun(tmp_path):
    with pytest.raises(DataError, match="has not begun"):
        status(RunFolder(tmp_path))


def test_a_run_at_work_tells_what_its_workers_do(folder):
    ledger = Ledger(folder.ledger, run_id=folder.definition().run_id)
    ledger.live_status.publish_from("workers", lambda: WORKERS | {"at": time.time()})
    emit = ledger.live_status.recorded(lambda event: None)
    emit(Event("search", "trial 2", 3.0, 10.0, {"trials": 3, "front": [], "eta_seconds": 5.0}))
    for key in ("0-0", "1-0", "2-0", "0-1", "0-final-0"):
        ledger.record("rung", key, {})
    with ledger.live_status.running({"words": "lepton run x", "pid": 3}):
        beat(ledger)
        found = status(folder)
    ledger.close()
    assert found.state == "working"
    assert found.is_open
    assert [dataclasses.replace(w, seconds=0) for w in found.workers] == [
        WorkerNow(7, "2-1", 0, 0.5, False),
        WorkerNow(8, "", 0, 0.0, False),
    ]
    assert found.workers[0].seconds > 1e9, "since 1970, as the fixture says"
    # Trial 0 has finished rung 1, trial 2 is in it; the last training is no rung.
    assert found.rungs == (RungNow(0, 3, 2), RungNow(1, 1, 0))
    assert found.progress == {"stage": "search", "message": "trial 2", "done": 3, "total": 10}
    assert found.found["eta_seconds"] == 5.0


HOST = {
    "name": "gpu1",
    "state": "ready",
    "jobs": 4,
    "busy": 1,
    "tasks": 7,
    "sent_bytes": 10,
    "received_bytes": 20,
    "idle_seconds": 1.5,
    "lost_workers": 0,
    "arithmetic": "cuda",
    "reason": "",
}


def test_hosts_are_told_and_those_of_another_form_are_not(folder):
    worker = {"pid": 7, "task": "", "since": 0.0, "share": 0.0, "waits": False, "host": "gpu1"}
    for hosts, count in (([HOST], 1), ([HOST | {"jobs": "4"}], 0)):
        ledger = Ledger(folder.ledger, run_id=folder.definition().run_id)
        ledger.live_status.publish("workers", {"first": 0.0, "workers": [worker], "hosts": hosts})
        beat(ledger)
        found = status(folder)
        ledger.close()
        assert len(found.hosts) == count
    assert HostNow(**HOST).name == "gpu1"


def test_a_command_that_is_stopped_is_told_from_one_that_works(folder, monkeypatch):
    now = [time.time()]
    monkeypatch.setattr(time, "time", lambda: now[0])
    ledger = Ledger(folder.ledger, run_id=folder.definition().run_id)
    beat(ledger)
    now[0] += 60
    found = status(folder)
    ledger.close()
    assert found.state == "silent"
    assert found.is_open
    assert found.silent_seconds == pytest.approx(60)


def test_killed_interrupted_failed_and_ended_commands_are_told_apart(folder):
    def session(error=None):
        ledger = Ledger(folder.ledger, run_id=folder.definition().run_id)
        ledger.live_status.publish("workers", WORKERS)
        try:
            with ledger.live_status.running({"words": "lepton run x"}):
                if error is not None:
                    raise error
        except (KeyboardInterrupt, DataError):
            pass
        ledger.close()
        return status(folder)

    stopped = session(KeyboardInterrupt())
    assert (stopped.state, stopped.workers, stopped.progress) == ("interrupted", (), {})
    assert stopped.command["words"] == "lepton run x"
    failed = session(DataError("torn", fix="mend it"))
    assert (failed.state, failed.error) == ("ended", "torn")
    well = session()
    assert (well.state, well.error) == ("ended", "")
