"""Live status of the running command: progress, messages and workers, in the ledger's file."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lepton_automl.core.events import Emit, Event
from lepton_automl.errors import LeptonError
from lepton_automl.runs.ledger_check import columns_of, digest_of

TABLE = """
CREATE TABLE IF NOT EXISTS live (
    name TEXT PRIMARY KEY, value TEXT NOT NULL, at REAL NOT NULL, digest TEXT);
"""
HEART, ENDED = "heart", "ended"
"""Entry names: heartbeat of the command; its end, with `error` if it failed."""
COMMAND, WORKERS = "command", "workers"
"""Entry names: the command line; `Executor.facts`."""
STORE = "store"
"""Entry name: `StoreCopy.facts`."""
PROGRESS, MESSAGES, FOUND = "progress", "messages", "found"
"""Entry names: progress of the stage; last messages; best trial and front, kept after the end."""
_LAST_MESSAGES = 6

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class StatusEntry:
    """One entry of the live status, with the time it was written."""

    value: dict[str, Any]
    at: float
    """Seconds since 1970."""


class LiveStatus:
    """Entries of the running command, by name; a new entry replaces the one of the same name."""

    def __init__(self) -> None:
        self._sources: dict[str, Callable[[], Facts]] = {}
        self._saved: dict[str, str] = {}
        self._messages: deque[dict[str, Any]] = deque(maxlen=_LAST_MESSAGES)

    def publish(self, name: str, facts: Facts) -> None:
        """Set an entry."""
        self.publish_from(name, lambda: facts)

    def publish_from(self, name: str, source: Callable[[], Facts]) -> None:
        """Set an entry that is read from `source` whenever the status is saved."""
        self._sources[name] = source

    @contextmanager
    def running(self, command: Facts) -> Iterator[None]:
        """Publish the command, and its end unless it is interrupted or killed."""
        self.publish(COMMAND, command)
        try:
            yield
        except LeptonError as error:
            self.publish(ENDED, {"error": error.what})
            raise
        self.publish(ENDED, {})

    def recorded(self, emit: Emit) -> Emit:
        """`emit`, with all events published too."""

        def emit_and_publish(event: Event) -> None:
            self._record(event)
            emit(event)

        return emit_and_publish

    def save(self, db: sqlite3.Connection) -> None:
        """Write the entries that have changed since the last call."""
        now = time.time()
        found = {name: json.dumps(source()) for name, source in list(self._sources.items())}
        changed = {name: text for name, text in found.items() if self._saved.get(name) != text}
        rows = [(name, text, now, digest_of(name, text, now)) for name, text in changed.items()]
        rows.append((HEART, "{}", now, digest_of(HEART, "{}", now)))
        db.executemany(
            "INSERT OR REPLACE INTO live (name, value, at, digest) VALUES (?, ?, ?, ?)", rows
        )
        self._saved |= changed

    def _record(self, event: Event) -> None:
        entry = {"stage": event.stage, "message": event.message}
        if event.done is None:
            self._messages.append(entry | {"at": time.time()})
            self.publish(MESSAGES, {"last": list(self._messages)})
        else:
            self.publish(PROGRESS, {**entry, "done": event.done, "total": event.total})
            if event.stage == "search" and event.data:
                self.publish(FOUND, dict(event.data))


def clear(db: sqlite3.Connection) -> None:
    """Delete the entries of the previous command, except `FOUND`."""
    db.execute("DELETE FROM live WHERE name <> ?", (FOUND,))


def read(db: sqlite3.Connection) -> dict[str, StatusEntry]:
    """Read all entries by name; none where the table is missing, and no damaged ones."""
    columns = columns_of(db, "live")
    if not {"name", "value", "at"} <= set(columns):
        return {}
    digest = "digest" if "digest" in columns else "NULL"
    entries = {}
    for name, value, at, known in db.execute(f"SELECT name, value, at, {digest} FROM live"):
        if known not in (None, digest_of(name, value, at)) or not isinstance(at, float):
            continue
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            entries[str(name)] = StatusEntry(dict(json.loads(value)), at)
    return entries
