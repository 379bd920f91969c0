"""Storage: what SQLite says about a ledger's file, in words with a way out."""

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
