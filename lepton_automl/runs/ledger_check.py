"""Check a ledger before it is used: that it is this run's, and that nothing in it has changed.

SQLite finds damage of its own structures, but not of the values between them; so each row has a
digest, and the table `run` counts the events. Ledgers of versions before that have neither: of
these the structures are checked, and that each event can be read.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lepton_automl.errors import ConfigError, first_line
from lepton_automl.runs import write_ahead_log

FORMAT = 2
"""Format of a ledger, SQLite's `user_version`; 0 in a ledger without digests."""
_COLUMNS = {
    "events": {"seq", "kind", "key", "value", "at"},
    "sessions": {"id", "started", "seconds"},
}
"""Columns that every ledger has."""
_NAMES = {*_COLUMNS, "run", "live", "sqlite_sequence"}
"""Tables that a ledger may have; SQLite keeps the last one."""
_COMPUTED = re.compile(r"\b(CHECK|GENERATED|AS)\b", re.IGNORECASE)
"""In the definition of a table: conditions and columns that SQLite computes."""
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
"""Exceptions of code that reads an event whose fields are not those that it expects."""
_SHOWN = 3
"""Damaged events that a message names."""


def digest_of(*fields: object) -> str:
    """Sixteen hexadecimal digits of a hash of the fields of a row."""
    return hashlib.sha256(json.dumps([str(f) for f in fields]).encode()).hexdigest()[:16]


def unusable(path: Path, what: str) -> ConfigError:
    """The error for a ledger that is damaged, missing or not this run's.

    Parameters
    ----------
    path : Path
        Its file.
    what : str
        What is wrong, the rest of a sentence that begins with the path.
    """
    return ConfigError(
        f"{path} {what}",
        fix="start the run again with --fresh, which moves the old folder aside, or with another "
        "--out; the files in the artifact/ of the old folder, if it has one, can be used as they "
        "are",
    )


def without_ledger(path: Path, beside: Sequence[str], what: str = "is missing") -> ConfigError:
    """The error for a ledger that is missing or empty beside results of a run.

    Parameters
    ----------
    path : Path
        Its file.
    beside : sequence of str
        Names of the folders with results.
    what : str
        What is wrong.
    """
    found = ", ".join(f"{name}/" for name in beside)
    return unusable(path, f"{what}, and the run that made {found} beside it cannot be continued")


def check_file(path: Path) -> None:
    """Refuse something at the path of a ledger that is not a file.

    Raises
    ------
    ConfigError
        If it is a folder, a pipe or the like.
    """
    if path.exists() and not path.is_file():
        raise unusable(path, "is not a file")


@contextmanager
def interpreting(path: Path) -> Iterator[None]:
    """Refuse a ledger if the block, which interprets its events, fails on one of them.

    Raises
    ------
    ConfigError
        In place of the exceptions of missing fields and of values of another type.
    """
    try:
        yield
    except MALFORMED as error:
        raise uninterpretable(path, error) from error


def uninterpretable(path: Path, error: BaseException) -> ConfigError:
    """The error for a ledger with an event on which its reader failed with `error`."""
    reason = f"{type(error).__name__}: {first_line(error)}"
    return unusable(path, f"holds an event that cannot be used ({reason})")


def has_tables(db: sqlite3.Connection) -> bool:
    """Whether anything was ever written to a database."""
    return bool(db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0])


def check_identity(db: sqlite3.Connection, path: Path, run_id: str | None) -> None:
    """Check that a database is a ledger in a known format, and that of this run.

    Parameters
    ----------
    db : sqlite3.Connection
        The database.
    path : Path
        Its file.
    run_id : str or None
        `Definition.run_id` of the folder; None: not checked.

    Raises
    ------
    ConfigError
        If it is not.
    sqlite3.Error
        If it cannot be read.
    """
    if odd := _odd_structures(db):
        raise unusable(path, f"is an SQLite database, but not a ledger of lepton: {odd}")
    for table, columns in _COLUMNS.items():
        if not columns <= set(columns_of(db, table)):
            raise unusable(path, "is an SQLite database, but not a ledger of lepton")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, FORMAT):
        raise unusable(path, f"is a ledger of format {version}, this version reads {FORMAT}")
    found = _run_row(db)
    if run_id is not None and (found[0] if found else "") != run_id:
        raise unusable(path, "is the ledger of another run")


def check_content(db: sqlite3.Connection, path: Path) -> None:
    """Check that every row is as it was written and that none is missing.

    Raises
    ------
    ConfigError
        If not; names the events that are damaged.
    sqlite3.Error
        If the disk cannot be read.
    """
    check_log(path, {_root_page(db, "run"), _root_page(db, "events")})
    run = _run_row(db)
    damage = _damaged_events(db, path, run) or _damaged_rest(db, is_digest_needed=run is not None)
    if damage:
        raise unusable(path, f"is damaged: {damage}")


def _damaged_events(db: sqlite3.Connection, path: Path, run: tuple[str, int] | None) -> str:
    """What is wrong with the events, in words; empty where nothing is."""
    bad, count = list[str](), 0
    try:
        with _raw_text(db):
            for row in db.execute(_EVENTS.format(_digest_column(db, "events"))):
                count += 1
                if not _is_whole_event(*row, is_digest_needed=run is not None):
                    bad.append(b" ".join(map(_as_bytes, row[1:3])).decode(errors="replace"))
    except sqlite3.DatabaseError as error:
        _check_disk(error)
        of = f" of {run[1]}" if run else ""
        raise unusable(
            path, f"is damaged: only the first {count}{of} events can be read ({error})"
        ) from error
    if bad:
        names = ", ".join(bad[:_SHOWN])
        names += f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        return f"{len(bad)} of {count} events cannot be read or were changed: {names}"
    if run and run[1] != count:
        return f"it has {count} events, {run[1]} were recorded"
    return ""


def _damaged_rest(db: sqlite3.Connection, *, is_digest_needed: bool) -> str:
    """What is wrong with the sessions or SQLite's own structures; empty where nothing is."""
    try:
        sessions = db.execute(_SESSIONS.format(_digest_column(db, "sessions"))).fetchall()
        found = str(db.execute("PRAGMA integrity_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        _check_disk(error)
        return str(error)
    if not all(_is_whole_session(*row, is_digest_needed=is_digest_needed) for row in sessions):
        return "the time that commands have worked cannot be read"
    return "" if found == "ok" else " ".join(found.split())


def _check_disk(error: sqlite3.Error) -> None:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR:
        raise error


@contextmanager
def _raw_text(db: sqlite3.Connection) -> Iterator[None]:
    """Read text as bytes: damaged text may not be UTF-8."""
    db.text_factory = bytes
    try:
        yield
    finally:
        db.text_factory = str


_EVENTS = (
    "SELECT typeof(kind) || typeof(key) || typeof(value), kind, key, value, {} "
    "FROM events ORDER BY seq"
)
_SESSIONS = "SELECT typeof(seconds), seconds, {} FROM sessions"


def columns_of(db: sqlite3.Connection, table: str) -> list[str]:
    """Names of the columns of a table; empty where there is none."""
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})")]


def _digest_column(db: sqlite3.Connection, table: str) -> str:
    names = "SELECT 1 FROM pragma_table_info(?) WHERE name = 'digest'"
    return "NULL" if db.execute(names, (table,)).fetchone() is None else "digest"


def check_log(path: Path, pages: set[int] | None = None) -> None:
    """Refuse a ledger that has lost events by damage of its write-ahead log.

    Parameters
    ----------
    path : Path
        Its file.
    pages : set of int, optional
        As in `write_ahead_log.damage`.

    Raises
    ------
    ConfigError
        If it has.
    """
    if lost := write_ahead_log.damage(path, pages):
        raise unusable(path, f"is damaged: {lost}")


def _root_page(db: sqlite3.Connection, table: str) -> int:
    """Number of the page at which a table begins; 0 without the table."""
    row = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    return 0 if row is None else int(row[0])


def _odd_structures(db: sqlite3.Connection) -> str:
    """What a database has that no ledger has, in words; empty for a ledger.

    A view or a computed column in the place of a table can take any time and memory.
    """
    for kind, name, table, text in db.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_master"
    ):
        is_known = kind == "table" and name in _NAMES
        is_own_index = kind == "index" and table in _NAMES and text is None
        if not is_known and not is_own_index:
            return f"it holds the {kind} {name}"
        if is_known and text is not None and _COMPUTED.search(str(text)):
            return f"the table {name} computes values"
    return ""


def _run_row(db: sqlite3.Connection) -> tuple[str, int] | None:
    """Identifier of the run and number of its events; None in a ledger without digests."""
    if not {"id", "events"} <= set(columns_of(db, "run")):
        return None
    row = db.execute("SELECT id, events FROM run").fetchone()
    if row is None:
        return None
    return str(row[0]), row[1] if isinstance(row[1], int) else -1


def _is_whole_event(
    types: bytes, kind: Any, key: Any, value: Any, digest: Any, *, is_digest_needed: bool
) -> bool:
    if types != b"texttexttext":
        return False
    try:
        texts = [field.decode() for field in (kind, key, value)]
        if not isinstance(json.loads(texts[2]), dict):
            return False
    except (ValueError, RecursionError):
        return False
    return _fits(digest, texts, is_needed=is_digest_needed)


def _is_whole_session(kind: str, seconds: Any, digest: Any, *, is_digest_needed: bool) -> bool:
    is_number = kind == "real" and math.isfinite(seconds)
    return is_number and _fits(digest, [seconds], is_needed=is_digest_needed)


def _fits(digest: Any, fields: Sequence[object], *, is_needed: bool) -> bool:
    if digest is None:
        return not is_needed
    return _as_bytes(digest) == digest_of(*fields).encode()


def _as_bytes(field: Any) -> bytes:
    return field if isinstance(field, bytes) else str(field).encode()
