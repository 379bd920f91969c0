from __future__ import annotations

import sqlite3
from collections import Counter

import pytest

from lepton_automl.errors import ConfigError, LeptonError, MachineError
from lepton_automl.runs.ledger import EventKind, Ledger, LedgerView

RUN = "0123456789abcdef"
OLD = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, at REAL NOT NULL,
    UNIQUE (kind, key));
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, started REAL NOT NULL, seconds REAL NOT NULL);
CREATE TABLE live (name TEXT PRIMARY KEY, value TEXT NOT NULL, at REAL NOT NULL);
INSERT INTO events (kind, key, value, at) VALUES ('trial', '0', '{"n":0}', 1.0);
INSERT INTO events (kind, key, value, at) VALUES ('rung', '0-0', '{"n":1}', 2.0);
INSERT INTO sessions (started, seconds) VALUES (1.0, 2.5);
INSERT INTO live VALUES ('heart', '{}', 1.0);
"""
"""As versions without digests wrote it."""


def make(path, count=12):
    """A ledger of several pages, and its events."""
    with Ledger(path, run_id=RUN) as ledger:
        ledger.live_status.publish("command", {"words": "lepton run x", "pid": 3})
        for number in range(count):
            ledger.record(EventKind.TRIAL, str(number), {"number": number, "text": "x" * 300})
            ledger.record(EventKind.RUNG, f"{number}-0", {"epochs": 3, "correct": "ab" * 100})
    with LedgerView(path, run_id=RUN) as view:
        return list(view.events())


def all_of(ledger):
    """Everything that readers ask of a ledger."""
    ledger.live_entries()
    assert ledger.get(EventKind.TRIAL, "0") == ledger.all(EventKind.TRIAL)["0"]
    return list(ledger.events()), dict(ledger.counts()), ledger.keys(EventKind.RUNG)


def outcome(how, path):
    """What a command gets of a ledger, or how it is refused."""
    try:
        with how(path, run_id=RUN) as ledger:
            return all_of(ledger)
    except (ConfigError, MachineError) as error:
        return type(error).__name__


@pytest.mark.parametrize(
    ("how", "apart", "mask"), [(LedgerView, 151, 1), (LedgerView, 173, 255), (Ledger, 997, 4)]
)
def test_of_a_ledger_with_a_changed_byte_a_command_gets_all_that_was_recorded_or_a_message(
    tmp_path, how, apart, mask
):
    make(tmp_path / "whole" / "ledger.db")
    content = (tmp_path / "whole" / "ledger.db").read_bytes()
    with LedgerView(tmp_path / "whole" / "ledger.db") as view:
        whole = all_of(view)
    path, seen = tmp_path / "ledger.db", Counter[str]()
    for offset in range(0, len(content), apart):
        for rest in tmp_path.glob("ledger.*"):
            rest.unlink()
        changed = bytearray(content)
        changed[offset] ^= mask
        path.write_bytes(changed)
        found = outcome(how, path)
        seen[found if isinstance(found, str) else "whole" if found == whole else "differs"] += 1
    assert not seen["differs"]
    assert seen["whole"], "of bytes that are not used"
    assert seen["ConfigError"]


def test_of_a_killed_run_with_a_changed_byte_in_the_log_only_the_last_event_may_be_lost(tmp_path):
    """The last one looks as if the machine had lost its power while it was written."""
    with Ledger(tmp_path / "live" / "ledger.db", run_id=RUN) as ledger:
        for number in range(6):
            ledger.record(EventKind.TRIAL, str(number), {"number": number, "text": "x" * 300})
        whole = list(ledger.events())
        kept = {p.name: p.read_bytes() for p in ledger.path.parent.glob("ledger.db*")}
    path, seen = tmp_path / "ledger.db", Counter[str]()
    log = kept["ledger.db-wal"]
    for offset in range(0, len(log), len(log) // 60):
        changed = bytearray(log)
        changed[offset] ^= 255
        path.write_bytes(kept["ledger.db"])
        path.with_name("ledger.db-wal").write_bytes(changed)
        path.with_name("ledger.db-shm").unlink(missing_ok=True)
        try:
            with LedgerView(path, run_id=RUN) as ledger:
                found = list(ledger.events())
        except LeptonError as error:
            seen[type(error).__name__] += 1
        else:
            assert found in (whole, whole[:-1])
            seen["some"] += 1
    assert seen["some"]
    assert seen["ConfigError"] > 40


@pytest.mark.parametrize("how", [LedgerView, Ledger])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE events SET value = replace(value, '3', '4') WHERE key = '4-0'", "1 of 24.*4-0"),
        ("UPDATE events SET value = '[3]' WHERE kind = 'trial'", "12 of 24.* and 9 more"),
        ("UPDATE events SET key = '99' WHERE key = '3'", "1 of 24.*trial 99"),
        ("UPDATE events SET value = CAST(value AS BLOB) WHERE key = '3'", "1 of 24.*trial 3"),
        ("UPDATE events SET digest = NULL WHERE key = '3'", "1 of 24.*trial 3"),
        ("DELETE FROM events WHERE seq = (SELECT MAX(seq) FROM events)", "23 events, 24 were"),
        ("DELETE FROM events", "0 events, 24 were recorded"),
        ("UPDATE sessions SET seconds = 2 * seconds + 1", "time that commands have worked"),
        ("UPDATE run SET id = 'other'", "is the ledger of another run"),
        ("UPDATE run SET events = 'many'", "24 events, -1 were recorded"),
        ("DROP TABLE run", "is the ledger of another run"),
        ("DROP TABLE events", "not a ledger of lepton"),
        ("ALTER TABLE sessions RENAME COLUMN seconds TO s", "not a ledger of lepton"),
        ("PRAGMA user_version = 3", "ledger of format 3, this version reads 2"),
        ("CREATE VIEW more AS SELECT 1", "it holds the view more"),
        ("CREATE INDEX more ON events (hex(value))", "it holds the index more"),
        ("CREATE TRIGGER more AFTER DELETE ON run BEGIN SELECT 1; END", "it holds the trigger"),
        ("ALTER TABLE events ADD COLUMN more AS (hex(value))", "the table events computes values"),
    ],
)
def test_a_changed_or_foreign_ledger_is_refused_with_the_reason_and_left_as_it_is(
    tmp_path, how, change, said
):
    path = tmp_path / "ledger.db"
    make(path)
    database = sqlite3.connect(path)
    database.execute(change)
    database.commit()
    database.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=said) as caught:
        how(path, run_id=RUN)
    for way_out in ("--fresh", "--out", "can be used as they are"):
        assert way_out in caught.value.fix
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_refused_and_gets_no_tables(tmp_path):
    path = tmp_path / "ledger.db"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE studies (name TEXT)")
    database.commit()
    database.close()
    before = path.read_bytes()
    for how in (Ledger, LedgerView):
        with pytest.raises(ConfigError, match="not a ledger of lepton"):
            how(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("how", [LedgerView, Ledger])
def test_a_folder_in_the_place_of_a_ledger_is_refused(tmp_path, how):
    (tmp_path / "ledger.db").mkdir()
    with pytest.raises(ConfigError, match="is not a file") as caught:
        how(tmp_path / "ledger.db")
    assert "--fresh" in caught.value.fix


@pytest.mark.parametrize("content", [None, b""])
def test_beside_results_no_ledger_is_begun(tmp_path, content):
    path = tmp_path / "ledger.db"
    if content is not None:
        path.write_bytes(content)
    said = r"models/, artifact/ beside it cannot be continued"
    with pytest.raises(ConfigError, match=said) as caught:
        Ledger(path, run_id=RUN, beside=["models", "artifact"])
    assert "--fresh" in caught.value.fix
    assert (path.read_bytes() if path.exists() else None) == content
    Ledger(path, run_id=RUN).close()  # Without results nothing is lost.


def test_a_ledger_without_digests_is_continued_and_gets_them_for_new_events(tmp_path):
    path = tmp_path / "ledger.db"
    database = sqlite3.connect(path)
    database.executescript(OLD)
    database.close()
    with LedgerView(path, run_id="") as view:
        assert view.get("trial", "0") == {"n": 0}
        assert view.live_entries()["heart"].value == {}
    with Ledger(path, run_id="", beside=["models"]) as ledger:
        assert ledger.all("rung") == {"0-0": {"n": 1}}
        assert ledger.alive_seconds() >= 2.5
        ledger.record("trial", "1", {"n": 2})
    with pytest.raises(ConfigError, match="another run"):
        Ledger(path, run_id=RUN)
    database = sqlite3.connect(path)
    database.execute("UPDATE events SET value = '{\"n\":3}' WHERE key = '1'")
    database.commit()
    database.close()
    with pytest.raises(ConfigError, match=r"1 of 3 events .* changed: trial 1"):
        LedgerView(path, run_id="")


@pytest.mark.parametrize("value", ["{", "[1]", "7"])
def test_a_broken_event_without_a_digest_is_named(tmp_path, value):
    path = tmp_path / "ledger.db"
    database = sqlite3.connect(path)
    database.executescript(OLD.replace('{"n":1}', value))
    database.close()
    for how in (Ledger, LedgerView):
        with pytest.raises(ConfigError, match=r"1 of 2 events cannot be read .* rung 0-0"):
            how(path)


def test_a_damaged_entry_of_the_live_status_is_left_out(tmp_path):
    path = tmp_path / "ledger.db"
    make(path)
    database = sqlite3.connect(path)
    database.execute("UPDATE live SET value = '{' WHERE name = 'command'")
    database.commit()
    database.close()
    with LedgerView(path) as view:
        assert set(view.live_entries()) == {"heart"}
