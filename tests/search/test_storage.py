from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from lepton_automl.errors import MachineError
from lepton_automl.search.storage import translated


def test_what_sqlite_says_becomes_a_message_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"no database at all " * 100)
    with pytest.raises(MachineError, match="not a ledger") as error, translated(path):
        sqlite3.connect(path).execute("SELECT 1 FROM events")
    assert "--fresh" in error.value.fix


def test_an_unknown_error_is_passed_on_in_words(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot be used: odd"), translated(tmp_path):
        raise sqlite3.Error("odd")
