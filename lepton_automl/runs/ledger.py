"""The ledger: events of a run in an SQLite file, from which a resumed run is rebuilt."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from lepton_automl.core import decisions, held_folders
from lepton_automl.core.decisions import Decision
from lepton_automl.core.files import TEMPORARY_SUFFIX, real_path, sync_folder, wrap_os_errors
from lepton_automl.errors import DataError, LeptonError, MachineError
from lepton_automl.runs import ledger_check, live_status
from lepton_automl.runs.ledger_check import FORMAT
from lepton_automl.runs.lock import RunLock, is_held

_HEARTBEAT_SECONDS = 0.5
_MAX_VALUE = 256 << 20
"""Bytes of one value or row."""
_TABLES = (
    "CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, "
    "key TEXT NOT NULL, value TEXT NOT NULL, at REAL NOT NULL, digest TEXT, UNIQUE (kind, key))",
    "CREATE TABLE sessions (id INTEGER PRIMARY KEY AUTOINCREMENT, started REAL NOT NULL, "
    "seconds REAL NOT NULL, digest TEXT)",
    "CREATE TABLE run (id TEXT NOT NULL, events INTEGER NOT NULL)",
    f"PRAGMA user_version = {FORMAT}",
)
Value = dict[str, Any]
EventListener = Callable[[str, str, Mapping[str, Any]], None]
"""Called with the kind, key and value of an event once it is on the disk."""
_CLOSED = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
_MESSAGES = {
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
    sqlite3.SQLITE_IOERR: (
        "cannot be written: the disk reports an error",
        "free some space or give another folder with --out, then run the same command",
    ),
}
_UNUSABLE = {
    sqlite3.SQLITE_NOTADB: "is not a ledger of lepton",
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_ERROR: "is damaged or not a ledger of lepton",
}
_NO_TEXT = "Could not decode to UTF-8"
"""Beginning of Python's message for text that is not UTF-8; it has no error code."""

REFERENCE = "reference"
"""Key of the `EventKind.HYPERVOLUME` event with the reference point."""


class EventKind(StrEnum):
    """Kinds of ledger events, by the text in the file."""

    PLAN = "plan"
    """`search` -> the `Plan` of the search; `classes` -> the class of each validation sample, where
    classes have equal weight; `final-0`, ... -> the final trainings of a round."""
    MIRROR_TEST = "mirror test"
    """`0`, ... -> whether the final trainings of a round use random flips, by the mirror test."""
    FLIP_CHOICE = "flip choice"
    """`0`, ... -> the choice between final trainings of a round with and without flips."""
    TRIAL = "trial"
    """Number -> the trial: parameters, architecture, recipe, cost."""
    RUNG = "rung"
    """`TrainingKey` -> the result of that training on the validation part."""
    FOLD = "fold"
    """`TrainingKey` -> the result of a final training on a fold other than the validation part."""
    CROSS_VALIDATION = "cross-validation"
    """`0`, ... -> the comparison of the finalists of a round on several folds."""
    WINNER = "winner"
    """`0`, `1`, ... -> the selected trial; a larger budget or more trials add another one."""
    FINISHED = "finished"
    """`0`, `1`, ... -> trials and budget of a run that ended with a verdict."""
    LATENCY = "latency"
    """Machine and architecture -> its measured latency."""
    FILE_LATENCY = "file latency"
    """Machine and the first digits of a file's sha256 -> its measured latency."""
    FORMAT_LATENCY = "format latency"
    """Machine and the first digits of the files' sha256 -> time of a further format, in ratio to
    the int8 ONNX file."""
    TIMING = "timing"
    """Machine -> its name and the latency of the fixed reference net on it."""
    HYPERVOLUME = "hypervolume"
    """`reference` -> the reference point; `TrainingKey` -> the hypervolume after it."""
    WARM_START = "warm_start"
    """`start` -> what is used of the run that `--warm-start` names."""
    PICK = "pick"
    """Name of a pick -> its trial and the epochs of its training."""
    ECOSYSTEM = "ecosystem"
    """`run` -> the name of the run in an Optuna storage and in callbacks."""
    TEST_SET_USE = "test set use"
    """sha256 of a file and fingerprint of a test part -> the file was verified on it."""
    DECISION = "decision"
    """`0`, `1`, ... -> a `Decision` made for the user; a later one of the same name replaces it."""


class LedgerView:
    """Read-only view of a ledger, also while a run writes to it.

    Parameters
    ----------
    path : Path
        The `ledger.db` of a run.
    run_id : str, optional
        `Definition.run_id` of its folder; None: not checked.

    Raises
    ------
    DataError
        If nothing was recorded yet.
    ConfigError
        If the file is damaged, not a ledger, or that of another run.
    MachineError
        If it is missing or cannot be read.
    """

    def __init__(self, path: Path, *, run_id: str | None = None) -> None:
        self.path = path
        ledger_check.check_file(path)
        with translated(path):
            wal, is_written = path.with_name(f"{path.name}-wal"), is_held(path.parent)
            self._db = read_only(path, at_rest=not wal.exists() and not is_written)
            try:
                if not ledger_check.has_tables(self._db):
                    if not is_written:
                        ledger_check.check_log(path)
                    raise not_begun(path.parent)
                ledger_check.check_identity(self._db, path, run_id)
                if not is_written:  # Else the command at work has checked it.
                    ledger_check.check_content(self._db, path)
            except BaseException:
                self._db.close()
                raise

    def get(self, kind: str, key: str) -> Value | None:
        """The value recorded under (kind, key), or None."""
        with translated(self.path):
            row = self._db.execute(
                "SELECT value FROM events WHERE kind = ? AND key = ?", (kind, key)
            ).fetchone()
        return None if row is None else self._value(kind, key, row[0])

    def all(self, kind: str) -> dict[str, Value]:
        """All values of `kind` by key, in the order they were recorded."""
        with translated(self.path):
            rows = self._db.execute(
                "SELECT key, value FROM events WHERE kind = ? ORDER BY seq", (kind,)
            ).fetchall()
        return {key: self._value(kind, key, value) for key, value in rows}

    def events(self) -> Iterator[tuple[str, str, Value]]:
        """Every event as (kind, key, value), in the order it was recorded."""
        with translated(self.path):
            rows = self._db.execute("SELECT kind, key, value FROM events ORDER BY seq").fetchall()
        for kind, key, value in rows:
            yield kind, key, self._value(kind, key, value)

    def keys(self, kind: str) -> list[str]:
        """All keys of `kind`, in the order they were recorded."""
        with translated(self.path):
            rows = self._db.execute(
                "SELECT key FROM events WHERE kind = ? ORDER BY seq", (kind,)
            ).fetchall()
        return [key for (key,) in rows]

    def counts(self) -> dict[str, int]:
        """How many events of each kind there are, in the order the kinds came up."""
        with translated(self.path):
            return dict(
                self._db.execute(
                    "SELECT kind, COUNT(*) FROM events GROUP BY kind ORDER BY MIN(seq)"
                ).fetchall()
            )

    def rows_after(self, seq: int, most: int = -1) -> list[tuple[int, str, str, str, float]]:
        """Events after `seq` as seq, kind, key, JSON and time, at most so many; -1: all."""
        with translated(self.path):
            return self._db.execute(
                "SELECT seq, kind, key, value, at FROM events WHERE seq > ? ORDER BY seq LIMIT ?",
                (seq, most),
            ).fetchall()

    def live_entries(self) -> dict[str, live_status.StatusEntry]:
        """The live status of the last command on this run, by name."""
        with translated(self.path):
            return live_status.read(self._db)

    def alive_seconds(self) -> float:
        """Seconds that commands have worked on this run, summed over all sessions."""
        with translated(self.path):
            row = self._db.execute("SELECT COALESCE(SUM(seconds), 0) FROM sessions").fetchone()
        return float(row[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _value(self, kind: str, key: str, text: str) -> Value:
        try:
            return dict(json.loads(text))
        except (ValueError, TypeError) as error:
            what = f"is damaged: the event {kind} {key} cannot be read"
            raise ledger_check.unusable(self.path, what) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close the file; an error of code that interprets events becomes one of the ledger."""
        self.close()
        if isinstance(error, ledger_check.MALFORMED):
            raise ledger_check.uninterpretable(self.path, error) from error


class Ledger(LedgerView):
    """Writer of a run's ledger; there is one at a time.

    An event is a kind, a key unique within its kind, and a JSON object. It is on the disk when
    `record` returns. A heartbeat counts the seconds the command was alive, so that a killed one
    loses at most a second of the count.

    Parameters
    ----------
    path : Path
        `RUN/ledger.db`; made where missing.
    since : float or None
        `time.monotonic()` at which the command started; None is now.
    lock : RunLock, optional
        The lock of its folder; by default it is taken, and held while the ledger is open.
    run_id : str, optional
        `Definition.run_id` of its folder; None: not checked.
    beside : sequence of str
        Names of folders with results of this run: with any, no ledger is begun.

    Raises
    ------
    ConfigError
        If another command works on the same run, or the ledger is damaged, missing beside results,
        not a ledger, or that of another run.
    MachineError
        If the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        since: float | None = None,
        lock: RunLock | None = None,
        run_id: str | None = None,
        beside: Sequence[str] = (),
    ) -> None:
        self.path = path
        self._since = time.monotonic() if since is None else since
        self._lock = threading.RLock()
        self.live_status = live_status.LiveStatus()
        """Status of the running command for `lepton status`; not an event."""
        self._observers: list[EventListener] = []
        self._run_lock = lock or RunLock(path.parent)
        self._owns_lock = lock is None
        try:
            self._open(run_id, beside)
        except LeptonError:
            self._release()
            raise
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="ledger heartbeat", daemon=True)
        self._heart.start()

    def record(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Write one event; writing the same event again changes nothing.

        Raises
        ------
        ValueError
            If (kind, key) already holds another value: events are never changed.
        ConfigError
            If the folder was moved, deleted or replaced meanwhile.
        MachineError
            If the disk is full or cannot be written.
        """
        self._run_lock.check()
        text = json.dumps(value, separators=(",", ":"))
        with self._lock, translated(self.path), self._db:
            digest = ledger_check.digest_of(kind, key, text)
            done = self._db.execute(
                "INSERT OR IGNORE INTO events (kind, key, value, at, digest) "
                "VALUES (?, ?, ?, ?, ?)",
                (kind, key, text, time.time(), digest),
            ).rowcount
            if done and self._counts_events:
                self._db.execute("UPDATE run SET events = events + 1")
        if not done and self.get(kind, key) != json.loads(text):
            raise ValueError(f"ledger: {kind} {key} is already recorded with another value")
        for observer in self._observers if done else ():
            observer(kind, key, value)

    @contextmanager
    def watched(self, observer: EventListener) -> Iterator[None]:
        """Call `observer` with every new event inside the block; it may record events itself."""
        self._observers.append(observer)
        try:
            yield
        finally:
            self._observers.remove(observer)

    def get(self, kind: str, key: str) -> Value | None:
        """The value recorded under (kind, key), or None."""
        with self._lock:
            return super().get(kind, key)

    def all(self, kind: str) -> dict[str, Value]:
        """All values of `kind` by key, in the order they were recorded."""
        with self._lock:
            return super().all(kind)

    def rows_after(self, seq: int, most: int = -1) -> list[tuple[int, str, str, str, float]]:
        """Events after `seq` as seq, kind, key, JSON and time, at most so many; -1: all."""
        with self._lock:
            return super().rows_after(seq, most)

    def alive_seconds(self) -> float:
        """Seconds that commands have worked on this run, this one included."""
        return self._before + self.session_seconds()

    def session_seconds(self) -> float:
        """Seconds since this command started."""
        return time.monotonic() - self._since

    def close(self) -> None:
        """Write the last heartbeat, close the file, release the lock."""
        self._stop.set()
        self._heart.join()
        with self._lock:
            self._save_seconds()
            self._db.close()
        self._release()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()  # What fails in the block is the work of a command.

    def _release(self) -> None:
        if self._owns_lock:
            self._run_lock.close()

    def _open(self, run_id: str | None, beside: Sequence[str]) -> None:
        ledger_check.check_file(self.path)
        if beside and not self.path.exists():
            raise ledger_check.without_ledger(self.path, beside)
        with translated(self.path):
            self._db = sqlite3.connect(self.path, timeout=20, check_same_thread=False)
            _limit(self._db)
            try:
                self._prepare(run_id, beside)
            except BaseException:
                self._db.close()
                raise

    def _prepare(self, run_id: str | None, beside: Sequence[str]) -> None:
        """Check the ledger or begin it, and enter this command."""
        has_begun = ledger_check.has_tables(self._db)
        if not has_begun:
            ledger_check.check_log(self.path)
        else:
            ledger_check.check_identity(self._db, self.path, run_id)
            ledger_check.check_content(self._db, self.path)
        self._counts_events = not has_begun or bool(ledger_check.columns_of(self._db, "run"))
        is_empty = not has_begun or not (self._counts_events or super().counts())
        if beside and is_empty:
            raise ledger_check.without_ledger(self.path, beside, "holds no event")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        if not has_begun:
            self._begin(run_id or "")
        self._db.executescript(live_status.TABLE)
        for table in ("events", "sessions", "live"):  # A ledger of a version without digests.
            if "digest" not in ledger_check.columns_of(self._db, table):
                self._db.execute(f"ALTER TABLE {table} ADD COLUMN digest TEXT")
        self._before = super().alive_seconds()
        seconds = float(time.monotonic() - self._since)
        with self._db:
            live_status.clear(self._db)
            self._session = self._db.execute(
                "INSERT INTO sessions (started, seconds, digest) VALUES (?, ?, ?)",
                (time.time(), seconds, ledger_check.digest_of(seconds)),
            ).lastrowid

    def _begin(self, run_id: str) -> None:
        """Make the tables in one transaction: a ledger without any was not begun."""
        self._db.execute("BEGIN")
        for statement in _TABLES:
            self._db.execute(statement)
        self._db.execute("INSERT INTO run VALUES (?, 0)", (run_id,))
        self._db.commit()

    def _beat(self) -> None:
        while not self._stop.wait(_HEARTBEAT_SECONDS):
            with self._lock:
                self._save_seconds()

    def _save_seconds(self) -> None:
        # A lost heartbeat costs a second of the count, so disk errors are ignored.
        try:
            self._db.execute("PRAGMA synchronous = NORMAL")
            with self._db:
                seconds = float(time.monotonic() - self._since)
                self._db.execute(
                    "UPDATE sessions SET seconds = ?, digest = ? WHERE id = ?",
                    (seconds, ledger_check.digest_of(seconds), self._session),
                )
                self.live_status.save(self._db)
        except sqlite3.Error:
            return
        finally:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("PRAGMA synchronous = FULL")


def write_ledger(
    path: Path,
    run_id: str,
    rows: Sequence[tuple[int, str, str, str, float]],
    alive_seconds: float,
) -> None:
    """Write a ledger with these events (`rows_after`) in place of one that may be there.

    The caller holds the lock of the folder.

    Parameters
    ----------
    path : Path
        `RUN/ledger.db`.
    run_id : str
        `Definition.run_id` of its folder.
    rows : sequence of tuple
        The events.
    alive_seconds : float
        Seconds that commands have worked on the run.

    Raises
    ------
    ConfigError, MachineError
        As `Ledger`.
    """
    held_folders.check_write(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    temporary.unlink(missing_ok=True)
    with translated(path), contextlib.closing(sqlite3.connect(temporary)) as db, db:
        for statement in _TABLES:
            db.execute(statement)
        db.execute("INSERT INTO run VALUES (?, ?)", (run_id, len(rows)))
        db.executemany(
            "INSERT INTO events (seq, kind, key, value, at, digest) VALUES (?, ?, ?, ?, ?, ?)",
            ((*row, ledger_check.digest_of(*row[1:4])) for row in rows),
        )
        db.execute(
            "INSERT INTO sessions (started, seconds, digest) VALUES (?, ?, ?)",
            (time.time(), alive_seconds, ledger_check.digest_of(alive_seconds)),
        )
    if path.exists():
        # What is in the log of the old one must not be applied to the new one.
        with translated(path), contextlib.closing(sqlite3.connect(path)) as old:
            old.execute("PRAGMA journal_mode = DELETE")
    with wrap_os_errors(path):
        temporary.replace(path)
        sync_folder(path.parent)


def not_begun(folder: Path) -> DataError:
    """The error for a run folder in which nothing was recorded yet."""
    return DataError(
        f"{folder} has not begun: there is no event in its ledger",
        fix="run `lepton run` or `lepton search` into this folder",
    )


def record_decision(ledger: Ledger, decision: Decision) -> None:
    """Record a decision, unless it is the recorded one of its name already.

    Raises
    ------
    MachineError
        As `Ledger.record`.
    """
    earlier = recorded_decisions(ledger)
    if decision not in earlier:
        number = len(ledger.keys(EventKind.DECISION))
        ledger.record(EventKind.DECISION, str(number), decision.document())


def recorded_decisions(ledger: LedgerView) -> tuple[Decision, ...]:
    """The decisions of a run, the last one of each name."""
    return decisions.latest(map(Decision.from_document, ledger.all(EventKind.DECISION).values()))


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite errors into one with a clear message.

    Raises
    ------
    ConfigError
        In place of a `sqlite3.Error` that a damaged or foreign file causes.
    MachineError
        In place of any other.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if not code and _NO_TEXT in str(error):
            code = sqlite3.SQLITE_CORRUPT
        if code in _UNUSABLE:
            raise ledger_check.unusable(path, f"{_UNUSABLE[code]}: {error}") from error
        what, fix = _MESSAGES.get(
            code, (f"cannot be used: {error}", "give another folder with --out")
        )
        raise MachineError(f"{path} {what}", fix=fix) from error
    except UnicodeDecodeError as error:  # Of a text in SQLite's message.
        raise ledger_check.unusable(path, _UNUSABLE[sqlite3.SQLITE_CORRUPT]) from error


def read_only(path: Path, *, at_rest: bool) -> sqlite3.Connection:
    """Open a ledger for reading.

    Parameters
    ----------
    path : Path
        Its file.
    at_rest : bool
        Everything is in that file and no command writes to it: SQLite then creates no further files
        next to it.

    Raises
    ------
    sqlite3.Error
        If it cannot be read.
    """
    if not at_rest:
        try:
            return _connect(path, "mode=ro")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _CLOSED:
                raise
    # Also where SQLite's index beside the file cannot be made, on a read-only disk.
    return _connect(path, "mode=ro&immutable=1")


def _limit(db: sqlite3.Connection) -> None:
    """Let a damaged file neither run functions of its own nor take much memory."""
    db.execute("PRAGMA trusted_schema = OFF")
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    db = sqlite3.connect(f"{real_path(path).as_uri()}?{mode}", uri=True)
    _limit(db)
    try:
        db.execute("SELECT 1 FROM sqlite_master LIMIT 1")
    except BaseException:
        db.close()
        raise
    return db
