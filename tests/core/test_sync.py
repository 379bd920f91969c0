"""What is written survives a power failure: contents, then the name, then the folder."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from lepton_automl.core import files
from lepton_automl.runs import ledger as ledger_module
from lepton_automl.runs.ledger import Ledger
from tests.helpers.processes import eventually


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_return(
    monkeypatch, tmp_path
):
    steps: list[tuple[str, Path, int]] = []
    sync, replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        steps.append(("sync", path, path.stat().st_size if path.is_file() else 0))
        sync(handle)

    def rename(old, new, **more) -> None:
        steps.append(("rename", Path(new), Path(old).stat().st_size))
        replace(old, new, **more)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    path = tmp_path / "deep" / "file.bin"
    files.write_chunks(path, [b"a" * 70_000, b"b" * 7])
    made, (first, temporary, size), (second, named, moved), *after = steps
    assert made == ("sync", tmp_path, 0)  # The name of the new folder.
    assert (first, second) == ("sync", "rename")
    assert temporary.parent == path.parent
    assert temporary != path
    assert named == path
    assert size == moved == 70_007
    assert ("sync", path.parent, 0) in after


def test_every_event_of_the_ledger_is_committed_in_full_synchronisation(monkeypatch, tmp_path):
    """Heartbeats may be lost, the events between them may not."""
    modes, beats = [], []

    class Watched(sqlite3.Connection):
        def execute(self, statement, *values):
            if statement.startswith("INSERT") and "events" in statement:
                modes.append(super().execute("PRAGMA synchronous").fetchone()[0])
            if statement.startswith("UPDATE sessions"):
                beats.append(statement)
            return super().execute(statement, *values)

    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *place, **more: connect(*place, factory=Watched, **more)
    )
    monkeypatch.setattr(ledger_module, "_HEARTBEAT_SECONDS", 0.01)
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.record("plan", "first", {})
    assert eventually(lambda: len(beats) > 1)
    ledger.record("plan", "second", {})
    ledger.close()
    assert modes == [2, 2]  # FULL, in the numbers of SQLite.
