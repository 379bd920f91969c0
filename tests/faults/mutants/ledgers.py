"""Mutants of ledgers: other events with digests that fit, other tables, changed bytes."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Sequence
from typing import Any

from lepton_automl.runs.ledger_check import digest_of
from tests.faults.mutants.content import INTEGERS, TEXTS, Content, mutated_bytes
from tests.faults.mutants.trees import FLOATS, mutated_tree

_STATEMENTS = (
    "UPDATE run SET id = 'another'",
    "UPDATE run SET events = -1",
    "UPDATE run SET events = 'many'",
    "INSERT INTO run SELECT * FROM run",
    "DELETE FROM run",
    "DELETE FROM events",
    "DELETE FROM sessions",
    "DROP TABLE run",
    "DROP TABLE live",
    "DROP TABLE sessions",
    "DROP TABLE events",
    "PRAGMA user_version = 0",
    "PRAGMA user_version = 3",
    "PRAGMA user_version = -5",
    "PRAGMA application_id = 7",
    "PRAGMA encoding = 'UTF-16'",
    "ALTER TABLE events DROP COLUMN digest",
    "ALTER TABLE sessions DROP COLUMN digest",
    "ALTER TABLE live DROP COLUMN digest",
    "ALTER TABLE events ADD COLUMN more BLOB",
    "ALTER TABLE run RENAME COLUMN id TO name",
    "UPDATE sessions SET seconds = -1",
    "UPDATE sessions SET seconds = 9e999",
    "UPDATE sessions SET seconds = 'long'",
    "UPDATE events SET at = 'now'",
    "UPDATE events SET seq = -seq",
    "UPDATE live SET at = 'now'",
    "UPDATE live SET at = 9e999",
    "UPDATE live SET at = -9e15",
    "UPDATE live SET value = '[]'",
    "UPDATE live SET value = 'x'",
    "UPDATE live SET name = upper(name)",
    "CREATE TABLE more AS SELECT randomblob(100)",
    "ALTER TABLE events RENAME TO old; CREATE VIEW events AS SELECT * FROM old",
    "ALTER TABLE events RENAME TO old; CREATE VIEW events AS WITH RECURSIVE n(i) AS (SELECT 1 "
    "UNION ALL SELECT i + 1 FROM n) SELECT i AS seq, 'trial' AS kind, i AS key, '{}' AS value, "
    "0.0 AS at, NULL AS digest FROM n",
    "ALTER TABLE sessions RENAME TO old; CREATE VIEW sessions AS WITH RECURSIVE n(i) AS (SELECT 1 "
    "UNION ALL SELECT i + 1 FROM n) SELECT i AS id, 0.0 AS started, 0.0 AS seconds, NULL AS "
    "digest FROM n",
    "ALTER TABLE run RENAME TO old; CREATE VIEW run AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
    "SELECT i + 1 FROM n) SELECT max(i) AS id, 1 AS events FROM n",
    "DROP TABLE live; CREATE VIEW live AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 "
    "FROM n) SELECT i AS name, '{}' AS value, 0.0 AS at, NULL AS digest FROM n",
    "CREATE TRIGGER more AFTER INSERT ON sessions BEGIN DELETE FROM events; END",
    "CREATE TABLE big (x CHECK (length(zeroblob(900000000)) > 0)); ",
    "CREATE INDEX slow ON events (hex(zeroblob(10000)))",
    "CREATE VIRTUAL TABLE f USING fts5(a)",
)


def mutated_ledger(rng: random.Random, inputs: Sequence[Content]) -> Content:
    """A ledger with other rows or tables; with changed bytes in one case of five."""
    whole = rng.choice(inputs)
    if rng.random() < 0.2:
        return mutated_bytes(rng, inputs)
    try:
        return _changed(rng, whole)
    except (sqlite3.Error, ValueError, OverflowError, UnicodeError, TypeError, IndexError):
        return mutated_bytes(rng, [whole])


def _changed(rng: random.Random, whole: Content) -> Content:
    is_wal = whole[18:20] == b"\2\2"
    db = sqlite3.connect(":memory:", isolation_level=None)
    try:
        # An input may hold a view without an end: each statement gets so many steps, then an error.
        db.set_progress_handler(lambda: 1, 1_000_000)
        # A database in memory cannot be in the mode of a write-ahead log.
        db.deserialize(whole[:18] + b"\1\1" + whole[20:])
        for _ in range(min(rng.randint(0, 3), rng.randint(0, 3))):
            _change_row(rng, db)
        if rng.random() < 0.85:
            _seal(db)
        if rng.random() < 0.25:
            db.executescript(rng.choice(_STATEMENTS))
        made = db.serialize()
    finally:
        db.close()
    return made[:18] + b"\2\2" + made[20:] if is_wal else made


def _change_row(rng: random.Random, db: sqlite3.Connection) -> None:
    table = rng.choice(("events", "events", "events", "live"))
    first = "seq" if table == "events" else "name"
    columns = ("kind", "key") if table == "events" else ("name",)
    rows = db.execute(f"SELECT {first}, value FROM {table}").fetchall()
    key, value = rng.choice(rows)
    match rng.randrange(10):
        case 0:
            db.execute(f"DELETE FROM {table} WHERE {first} = ?", (key,))
        case 1:
            column = rng.choice(columns)
            known = [k for (k,) in db.execute(f"SELECT {column} FROM {table}")]
            db.execute(
                f"UPDATE {table} SET {column} = ? WHERE {first} = ?", (_odd(rng, known), key)
            )
        case 2:
            column = rng.choice((*columns, "value", "at", "digest"))
            odd = rng.choice(
                (b"\xff\x00", b"", 7, -1, rng.choice(FLOATS), "x", "[]", "1", "null", "{")
            )
            db.execute(f"UPDATE {table} SET {column} = ? WHERE {first} = ?", (odd, key))
        case 3:
            other = rng.choice(rows)[1]
            db.execute(f"UPDATE {table} SET value = ? WHERE {first} = ?", (other, key))
        case _:
            try:
                document: Any = json.loads(value)
            except (ValueError, TypeError):
                document = {}
            changed = mutated_tree(rng, document)
            if not isinstance(changed, dict) and rng.random() < 0.9:
                changed = {"number": changed}
            text = json.dumps(changed)
            db.execute(f"UPDATE {table} SET value = ? WHERE {first} = ?", (text, key))


def _odd(rng: random.Random, known: Sequence[Any]) -> Any:
    return rng.choice(
        (
            *known,
            str(rng.choice(INTEGERS)),
            rng.choice(TEXTS).replace("\ud800", "?").replace("\udcff", "?"),
        )
    )


def _seal(db: sqlite3.Connection) -> None:
    """Compute digests and counts again, as if lepton had written the rows so."""
    rows = db.execute("SELECT seq, kind, key, value FROM events").fetchall()
    for seq, *texts in rows:
        db.execute("UPDATE events SET digest = ? WHERE seq = ?", (digest_of(*texts), seq))
    for number, seconds in db.execute("SELECT id, seconds FROM sessions").fetchall():
        db.execute("UPDATE sessions SET digest = ? WHERE id = ?", (digest_of(seconds), number))
    for name, value, at in db.execute("SELECT name, value, at FROM live").fetchall():
        db.execute("UPDATE live SET digest = ? WHERE name = ?", (digest_of(name, value, at), name))
    db.execute("UPDATE run SET events = ?", (len(rows),))
