"""Storage: a ledger's file opened to be read, and what SQLite says of it in words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lepton_automl.errors import MachineError


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what SQLite says about `path` into one clear message.

    Raises
    ------
    MachineError
        In place of any `sqlite3.Error`.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        what, fix = _SAID.get(code, (f"cannot be used: {error}", "give another folder with --out"))
        raise MachineError(f"{path} {what}", fix=fix) from error


def read_only(path: Path, *, at_rest: bool) -> sqlite3.Connection:
    """A ledger that is only looked at.

    Parameters
    ----------
    path : Path
        Its file.
    at_rest : bool
        All of it is in that file and nobody writes: SQLite then leaves no files of its own beside
        it, as it does beside a live one.

    Raises
    ------
    sqlite3.Error
        If it cannot be read.
    """
    if not at_rest:
        try:
            return _opened(path, "mode=ro")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _CLOSED:
                raise
    # Also where SQLite's index beside the file cannot be made, on a read-only disk.
    return _opened(path, "mode=ro&immutable=1")


def _opened(path: Path, how: str) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True)
    try:
        db.execute("SELECT 1 FROM events LIMIT 1")
    except sqlite3.Error:
        db.close()
        raise
    return db


_CLOSED = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
_SAID = {
    sqlite3.SQLITE_FULL: (
        "cannot grow: no space left on the disk",
        "free some space, then run the same command; nothing recorded so far is lost",
    ),
    sqlite3.SQLITE_READONLY: (
        "cannot be written: the folder is read-only",
        "give a folder you may write to with --out",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "cannot be opened",
        "give a run folder that exists and that you may use",
    ),
    sqlite3.SQLITE_NOTADB: (
        "is not a ledger of lepton",
        "start anew with --fresh or another --out",
    ),
    sqlite3.SQLITE_CORRUPT: ("is damaged", "start anew with --fresh or another --out"),
    sqlite3.SQLITE_IOERR: (
        "cannot be written: the disk reports an error",
        "free some space or give another folder with --out, then run the same command",
    ),
}
