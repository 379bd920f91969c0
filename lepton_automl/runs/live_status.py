"""Live notes: what a command does at this moment, in a table beside the events."""

from __future__ import annotations

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

TABLE = """
CREATE TABLE IF NOT EXISTS live (name TEXT PRIMARY KEY, value TEXT NOT NULL, at REAL NOT NULL);
"""
HEART, ENDED = "heart", "ended"
"""Names: that the command is alive; that it has ended by itself, with an `error` or well."""
COMMAND, WORKERS = "command", "workers"
"""What was typed; what `Workers.facts` says."""
PROGRESS, MESSAGES, FOUND = "progress", "messages", "found"
"""How far the stage is; the last messages; the best and the front, which outlive the command."""
LAST_MESSAGES = 6
"""So many are kept."""

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class StatusEntry:
    """One thing a command says of itself."""

    value: dict[str, Any]
    at: float
    """Seconds since 1970."""


class LiveStatus:
    """What a command says of itself; a new note takes the place of the old one."""

    def __init__(self) -> None:
        self._sources: dict[str, Callable[[], Facts]] = {}
        self._saved: dict[str, str] = {}
        self._messages: deque[dict[str, Any]] = deque(maxlen=LAST_MESSAGES)

    def publish(self, name: str, facts: Facts) -> None:
        """StatusEntry what does not change by itself."""
        self.publish_from(name, lambda: facts)

    def publish_from(self, name: str, source: Callable[[], Facts]) -> None:
        """StatusEntry what `source` says from now on, whenever notes are saved."""
        self._sources[name] = source

    @contextmanager
    def running(self, command: Facts) -> Iterator[None]:
        """StatusEntry the command, and how it ends unless it is interrupted or killed."""
        self.publish(COMMAND, command)
        try:
            yield
        except LeptonError as error:
            self.publish(ENDED, {"error": error.what})
            raise
        self.publish(ENDED, {})

    def recorded(self, emit: Emit) -> Emit:
        """`emit` whose events are noted as well."""

        def noted(event: Event) -> None:
            self._record(event)
            emit(event)

        return noted

    def save(self, db: sqlite3.Connection) -> None:
        """Write what has changed since the last time."""
        now = time.time()
        found = {name: json.dumps(source()) for name, source in list(self._sources.items())}
        changed = {name: text for name, text in found.items() if self._saved.get(name) != text}
        rows = [(name, text, now) for name, text in changed.items()]
        rows.append((HEART, "{}", now))
        db.executemany("INSERT OR REPLACE INTO live VALUES (?, ?, ?)", rows)
        self._saved |= changed

    def _record(self, event: Event) -> None:
        said = {"stage": event.stage, "message": event.message}
        if event.done is None:
            self._messages.append(said | {"at": time.time()})
            self.publish(MESSAGES, {"last": list(self._messages)})
        else:
            self.publish(PROGRESS, {**said, "done": event.done, "total": event.total})
            if event.stage == "search" and event.data:
                self.publish(FOUND, dict(event.data))


def clear(db: sqlite3.Connection) -> None:
    """Forget what the command before said of itself, but what it found."""
    db.execute("DELETE FROM live WHERE name <> ?", (FOUND,))


def read(db: sqlite3.Connection) -> dict[str, StatusEntry]:
    """All notes by name; none in a ledger that is older than they are."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'live'").fetchone():
        return {}
    rows = db.execute("SELECT name, value, at FROM live").fetchall()
    return {name: StatusEntry(dict(json.loads(value)), at) for name, value, at in rows}
