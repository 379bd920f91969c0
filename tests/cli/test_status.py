from __future__ import annotations

import json

import pytest

from lepton_automl.runs.ledger import Ledger


@pytest.fixture
def working(run_folder):
    """A run that has recorded one trial and has no artifact yet."""
    (run_folder / "artifact" / "manifest.json").unlink()
    ledger = Ledger(run_folder / "ledger.db")
    ledger.record("trial", "1", {})
    ledger.close()
    return run_folder


@pytest.mark.parametrize("inner", ["", "artifact", "ledger.db"])
def test_a_started_run_shows_its_progress(lepton, working, inner):
    body = json.loads(lepton("status", str(working / inner), "--json").out)
    assert body["run"] == str(working)
    assert body["events"]["trial"] == 1
    assert (body["has_winner"], body["verdict"]) == (False, None)


def test_status_changes_no_file(lepton, working):
    before = {path: path.read_bytes() for path in working.rglob("*") if path.is_file()}
    assert lepton("status", str(working)).exit_code == 0
    assert {path: path.read_bytes() for path in before} == before


def test_a_path_without_a_run_is_rejected(lepton, tmp_path):
    done = lepton("status", str(tmp_path / "nothing"))
    assert done.exit_code == 3
    assert "no such path" in done.err


def test_watching_a_stopped_run_shows_it_once(lepton, working):
    done = lepton("status", str(working), "--watch")
    assert done.exit_code == 0
    assert "no command works on it; the last command was interrupted" in done.out


def test_watch_and_json_exclude_each_other(lepton, working):
    done = lepton("status", str(working), "--watch", "--json")
    assert done.exit_code == 4
    assert "leave one of them out" in done.err
