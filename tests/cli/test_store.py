from __future__ import annotations

import json
import os

import pytest

from lepton_automl.runs import store_copy
from lepton_automl.runs.store import Store
from tests.helpers.processes import eventually
from tests.helpers.stored_runs import command


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A store with a run of two events."""
    monkeypatch.setattr(store_copy, "_PAUSE_SECONDS", 0.01)
    with command(str(tmp_path / "store"), tmp_path / "run") as (folder, ledger):
        (folder.path / "models").mkdir()
        (folder.path / "models" / "w").write_bytes(b"\0" * 5000)
        for number in range(2):
            ledger.record("rung", f"{number}-0", {})
    return str(tmp_path / "store")


def test_the_run_of_a_store_is_shown(lepton, place, tmp_path):
    done = lepton("store", place)
    assert done.exit_code == 0
    assert "run on digits" in done.out
    assert "2 events and 2 files" in done.out
    assert "works on it" not in done.out
    body = json.loads(lepton("store", place, "--json").out)
    assert (body["data"], body["events"], body["files"], body["deleted"]) == ("digits", 2, 2, 0)
    assert body["file_bytes"] == 5000 + (tmp_path / "run" / "run.toml").stat().st_size
    assert body["at_work"] == ""


def test_what_nothing_names_is_deleted_on_demand(lepton, place, tmp_path):
    lost = Store.at(place, 1.0).put(b"of a killed command")
    (path,) = (tmp_path / "store").rglob(lost)
    os.utime(path, (1, 1))
    assert json.loads(lepton("store", place, "--json").out)["deleted"] == 0
    assert path.exists()
    body = json.loads(lepton("store", place, "--gc", "--json").out)
    assert (body["deleted"], body["deleted_bytes"]) == (1, len(b"of a killed command"))
    assert not path.exists()
    assert "0 objects" in lepton("store", place, "--gc").out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["store", "nothing-here"], 3, "holds no run"),
        (["store", "s3://me:secret@bucket/run"], 4, "a user name or a password"),
        (["run", "digits", "--take-over"], 4, "--take-over has no effect without --store"),
        (["run", "digits", "--store", "s3://"], 4, "names no place"),
    ],
)
def test_what_cannot_be_is_refused(lepton, arguments, code, words):
    done = lepton(*arguments)
    assert done.exit_code == code
    assert words in " ".join(done.err.split())
    assert "secret" not in done.err


def test_data_that_are_not_on_the_new_machine_are_named(lepton, place):
    done = lepton("run", "photos/", "--out", "new", "--store", place)
    assert done.exit_code == 3
    said = " ".join(done.err.split())
    assert "was begun with the data digits" in said
    assert "bring the same data to this machine" in said


def test_a_store_inside_the_run_folder_is_refused(lepton):
    done = lepton("run", "digits", "--out", "here", "--store", "here/store")
    assert done.exit_code == 4
    assert "lies inside the run folder" in " ".join(done.err.split())


def test_the_status_of_a_run_tells_how_far_its_copy_is(lepton, place, tmp_path):
    with command(place, tmp_path / "run") as (folder, ledger):
        ledger.record("rung", "2-0", {})
        (copy,) = ledger._observers
        eventually(lambda: copy.facts()["events_behind"] == 0)

        def shown():
            return json.loads(lepton("status", str(folder.path), "--json").out)["store"]

        eventually(lambda: (shown() or {}).get("events_behind") == 0)
        store = shown()
    assert store["place"] == place
    assert store["error"] == ""
    assert store["requests"] > 3
    assert "all events" in lepton("status", str(folder.path)).out
