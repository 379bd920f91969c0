from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lepton_automl.core.decisions import Decision
from lepton_automl.errors import ConfigError, MachineError
from lepton_automl.runs.ledger import (
    EventKind,
    Ledger,
    LedgerView,
    record_decision,
    recorded_decisions,
    translated,
)
from tests.helpers.processes import eventually

WRITER = """
import sys, pathlib
from lepton_automl.runs.ledger import Ledger
ledger = Ledger(pathlib.Path(sys.argv[1]))
for number in range(100000):
    ledger.record("count", str(number), {"square": number * number})
    print(number, flush=True)
"""


def test_what_is_recorded_is_read_back_in_order_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "run" / "ledger.db"
    ledger = Ledger(path)
    for key in ("b", "a", "c"):
        ledger.record("letter", key, {"upper": key.upper()})
    ledger.record("other", "a", {"n": 1})
    ledger.close()
    again = Ledger(path)
    assert list(again.all("letter").items()) == [
        ("b", {"upper": "B"}),
        ("a", {"upper": "A"}),
        ("c", {"upper": "C"}),
    ]
    assert again.get("other", "a") == {"n": 1}
    assert again.get("other", "z") is None
    assert [kind for kind, _, _ in again.events()] == ["letter"] * 3 + ["other"]
    again.close()


def test_an_event_is_never_changed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.record("trial", "1", {"loss": 0.25})
    ledger.record("trial", "1", {"loss": 0.25})
    with pytest.raises(ValueError, match="already recorded"):
        ledger.record("trial", "1", {"loss": 0.5})
    assert ledger.get("trial", "1") == {"loss": 0.25}
    ledger.close()


def test_a_decision_is_recorded_once_and_a_later_one_of_its_name_replaces_it(tmp_path) -> None:
    first = Decision("flip", "off", "one epoch", "assumed", "--flip on")
    later = Decision("flip", "on", "30 epochs", "measured", "--flip off")
    other = Decision("winner", "trial 3", "of 4 trials", "measured", "lepton pick")
    for made, rows in (([first, other, first], 2), ([later], 3)):  # The second as a resumed run.
        with Ledger(tmp_path / "ledger.db") as ledger:
            for each in made:
                record_decision(ledger, each)
            assert len(ledger.keys(EventKind.DECISION)) == rows
    with LedgerView(tmp_path / "ledger.db") as ledger:
        assert recorded_decisions(ledger) == (later, other)


def test_a_second_command_on_the_same_run_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "ledger.db")
    with pytest.raises(ConfigError, match="another command works on the run"):
        Ledger(tmp_path / "ledger.db")
    first.close()
    Ledger(tmp_path / "ledger.db").close()


def test_a_reader_sees_a_live_ledger(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.record("plan", "search", {"epochs": 9})
    with LedgerView(tmp_path / "ledger.db") as view:
        assert view.get("plan", "search") == {"epochs": 9}
        ledger.record("plan", "final", {"epochs": 27})
        assert list(view.all("plan")) == ["search", "final"]
    ledger.close()


def test_looking_at_a_ledger_that_was_closed_leaves_its_folder_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    with Ledger(file) as ledger:
        ledger.record("trial", "0", {"state": "kept"})
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    with LedgerView(file) as view:
        assert view.get("trial", "0") == {"state": "kept"}
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_seconds_alive_are_summed_over_sessions_and_idle_time_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    first = Ledger(tmp_path / "ledger.db", since=900.0)
    first.close()
    now[0] += 30.0
    second = Ledger(tmp_path / "ledger.db")
    now[0] += 5.0
    assert second.alive_seconds() == pytest.approx(105.0)
    second.close()
    with LedgerView(tmp_path / "ledger.db") as view:
        assert view.alive_seconds() == pytest.approx(105.0)


def test_nothing_acknowledged_is_lost_to_kill_9_and_the_time_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    command = [sys.executable, "-c", WRITER, str(path)]
    begun = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(4):
            writer.stdout.readline()
        with LedgerView(path) as view:
            assert eventually(lambda: view.alive_seconds() > 0.4)
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged = [0, 1, 2, 3] + [int(line) for line in writer.stdout.read().split()]
    ledger = Ledger(path)
    kept = ledger.all("count")
    assert len(acknowledged) > 3
    assert all(kept[str(n)] == {"square": n * n} for n in acknowledged)
    assert len(kept) - len(acknowledged) in (0, 1)
    ledger.close()
    with LedgerView(path) as view:
        assert 0.4 < view.alive_seconds() <= time.monotonic() - begun


def test_a_full_disk_is_one_clear_message_and_the_ledger_stays_whole(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.record("trial", "1", {"n": 1})
    pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(MachineError, match="no space left"):
        ledger.record("trial", "2", {"text": "x" * 100_000})
    ledger._db.execute("PRAGMA max_page_count = 100000")
    ledger.record("trial", "after", {"n": 2})
    assert ledger.get("trial", "1") == {"n": 1}
    ledger.close()


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(ConfigError, match="not a ledger"):
        Ledger(path)
    with pytest.raises(MachineError, match="cannot be opened"):
        LedgerView(tmp_path / "none.db")
    path.unlink()
    Ledger(path).close()


def test_the_file_is_sqlite_with_a_write_ahead_log(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.db").close()
    database = sqlite3.connect(tmp_path / "ledger.db")
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_looking_for_a_ledger_that_is_not_there_makes_none(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot be opened"):
        LedgerView(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []


def test_an_observer_is_told_of_new_events_only_and_may_record_some(tmp_path: Path) -> None:
    ledger, seen = Ledger(tmp_path / "ledger.db"), list[tuple[str, str]]()

    def observe(kind: str, key: str, value: object) -> None:
        assert ledger.get(kind, key) == value
        seen.append((kind, key))
        if kind == "first":
            ledger.record("second", key, {})

    ledger.record("first", "before", {})
    with ledger.watched(observe):
        ledger.record("first", "a", {"x": 1})
        ledger.record("first", "a", {"x": 1})
    ledger.record("first", "after", {})
    assert seen == [("first", "a"), ("second", "a")]
    ledger.close()


def test_keys_and_counts_are_those_of_the_events(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    for kind, key in (("plan", "search"), ("rung", "1-0"), ("trial", "2"), ("rung", "0-0")):
        ledger.record(kind, key, {})
    assert ledger.keys("rung") == ["1-0", "0-0"]
    assert list(ledger.counts().items()) == [("plan", 1), ("rung", 2), ("trial", 1)]
    ledger.close()


def test_seconds_before_the_ledger_was_opened_count_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A command killed before its first heartbeat has taken time too.
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    ledger = Ledger(tmp_path / "ledger.db", since=993.0)
    with LedgerView(tmp_path / "ledger.db") as view:
        assert view.alive_seconds() == pytest.approx(7.0)
    ledger.close()


def test_what_sqlite_says_becomes_a_message_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"no database at all " * 100)
    with pytest.raises(ConfigError, match="not a ledger") as error, translated(path):
        sqlite3.connect(path).execute("SELECT 1 FROM events")
    assert "--fresh" in error.value.fix


def test_an_unknown_error_is_passed_on_in_words(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot be used: odd"), translated(tmp_path):
        raise sqlite3.Error("odd")


def test_the_ledger_is_read_without_torch_or_optuna() -> None:
    code = (
        "import sys, lepton_automl.runs.ledger; "
        "print([m for m in ('torch', 'optuna', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
