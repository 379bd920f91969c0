"""A ledger that is missing, damaged or another run's is refused by every command of its run."""

from __future__ import annotations

import json
import shutil
import sqlite3

import pytest

from lepton_automl.config import RunConfig
from lepton_automl.core.events import silent
from lepton_automl.pipeline.context import open_run
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import EventKind, Ledger
from tests.helpers import runs

RUN = ("run", "digits", "--out", "run", "--trials", "1", "--device", "cpu")
STATUS = ("status", "run")
OTHERS = [
    ("search", *RUN[1:]),
    ("compress", "run"),
    ("export", "run"),
    ("pick", "run"),
    ("pick", "run", "--prefer", "size"),
    (*RUN[:2], "--trials", "1", "--out", "new", "--warm-start", "run"),
]


def another_run(folder):
    folder.ledger.unlink()
    with Ledger(folder.ledger, run_id="of another run") as ledger:
        ledger.record(EventKind.TRIAL, "0", {})


def broken_event(folder):
    database = sqlite3.connect(folder.ledger)
    database.execute("UPDATE events SET value = replace(value, '}', '') WHERE kind = 'trial'")
    database.commit()
    database.close()


def a_folder(folder):
    folder.ledger.unlink()
    folder.ledger.mkdir()


STATES = {
    "is missing, and the run that made models/, artifact/": lambda f: f.ledger.unlink(),
    "holds no event, and the run that made models/, artifact/": lambda f: f.ledger.write_bytes(b""),
    "is not a ledger of lepton": lambda f: f.ledger.write_bytes(b"no database " * 400),
    "is the ledger of another run": another_run,
    "is not a file": a_folder,
    "is damaged: 1 of 1 events cannot be read or were changed: trial 7": broken_event,
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run folder with a ledger of one trial, a winner and an artifact."""
    folder = RunFolder(tmp_path_factory.mktemp("begun") / "run")
    with open_run(RunConfig("digits", folder.path, trials=1, device="cpu"), silent) as context:
        context.ledger._db.execute("DELETE FROM events")
        context.ledger._db.execute("UPDATE run SET events = 0")
        context.ledger.record(EventKind.TRIAL, "7", {"number": 7})
    for place in (folder.best / "recipe.json", folder.artifact / "manifest.json"):
        place.parent.mkdir(parents=True)
        place.write_text("{}")
    return folder.path


@pytest.mark.parametrize("said", STATES)
def test_it_is_refused_with_both_ways_out_and_nothing_is_changed(lepton, begun, tmp_path, said):
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(begun, folder.path)
    STATES[said](folder)
    before = {k: v for k, v in runs.digests(folder.path).items() if k != "space.toml"}
    # How the ledger is opened does not depend on the command.
    for words in (RUN, STATUS, *(OTHERS if folder.ledger.is_dir() else ())):
        done = lepton(*words)
        assert done.exit_code == 4, (words, done.err)
        assert f"ledger.db {said}" in " ".join(done.err.split()), (words, done.err)
        assert done.err.count("error: ") == done.err.count("fix: ") == 1
        for way_out in ("--fresh", "can be used as they"):
            assert way_out in done.err
        after = {k: v for k, v in runs.digests(folder.path).items() if k != "space.toml"}
        assert after == before, words
    answer = json.loads(lepton("status", "run", "--json").out)
    assert (set(answer), answer["exit_code"]) == ({"error", "fix", "exit_code"}, 4)
