"""Watching: observers of a run's events that may be slow or fail, each in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from lepton_automl.events import Emit, Event
from lepton_automl.search.ledger import Ledger

LAST_SECONDS = 10.0
"""A search that has ended waits so long for a slow observer."""

Happened = tuple[str, str, Mapping[str, Any]]
"""Kind, key and value of a ledger event."""


class Slow(Protocol):
    """Somebody who is told of events and may take time or fail."""

    name: str
    """For messages."""
    failures: tuple[type[Exception], ...]
    """What it raises where its own storage or service fails; anything else is a bug."""

    def observe(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Take notice of one event."""
        ...

    def close(self) -> None:
        """No event will follow."""
        ...


class Background:
    """Hands events to `observer` in a thread of its own: neither its time nor its failures count.

    The search never waits for it but at the end, and there for `LAST_SECONDS` at most. After a
    failure it is left alone; the next session completes what it missed from the ledger.

    Parameters
    ----------
    observer : Slow
        Who is told.
    emit : callable
        Told of a failure, once, from the thread that calls this object.
    """

    def __init__(self, observer: Slow, emit: Emit) -> None:
        self._observer, self._emit = observer, emit
        self._waiting: queue.SimpleQueue[Happened | None] = queue.SimpleQueue()
        self._failure = ""
        self._is_told = False
        self._thread = threading.Thread(target=self._work, name=observer.name, daemon=True)
        self._thread.start()

    def __call__(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Pass one event on."""
        if not self._failure:
            self._waiting.put((kind, key, value))
        self._tell()

    def close(self) -> None:
        """Wait for what is not passed on yet, if it does not take too long."""
        self._waiting.put(None)
        self._thread.join(LAST_SECONDS)
        if self._thread.is_alive():
            self._failure = f"is not done after {LAST_SECONDS:.0f} s"
        self._tell()

    def _work(self) -> None:
        reason = "stopped because of a bug"  # Its traceback is shown; the search goes on.
        try:
            while (happened := self._waiting.get()) is not None:
                self._observer.observe(*happened)
            self._observer.close()
            reason = ""
        except self._observer.failures as error:
            lines = str(error).splitlines() or [type(error).__name__]
            reason = f"failed: {lines[0]}"
        finally:
            self._failure = reason

    def _tell(self) -> None:
        if self._failure and not self._is_told:
            self._is_told = True
            message = (
                f"warning: {self._observer.name} {self._failure}; the search goes on without it, "
                "and the same command again completes it"
            )
            self._emit(Event("search", message))


@contextmanager
def watched(ledger: Ledger, observers: Iterable[Slow], emit: Emit) -> Iterator[None]:
    """Tell every observer all that a ledger holds, then every new event until the block ends."""
    made = [Background(observer, emit) for observer in observers]
    past = list(ledger.events()) if made else []
    with ExitStack() as stack:
        for background in made:
            stack.callback(background.close)
            stack.enter_context(ledger.watched(background))
            for happened in past:
                background(*happened)
        yield
