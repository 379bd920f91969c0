"""Progress of long loops as events, with the time that is left."""

from __future__ import annotations

import time

from lepton_automl.core.events import Emit, Event
from lepton_automl.core.units import duration

_LEAST_SECONDS = 2.0
"""From which on the time that is left is stated."""


class Countdown:
    """Counts items of the stage `data`, and emits an event every 500 of them.

    Parameters
    ----------
    what : str
        The message.
    total : int
        Items in all.
    emit : callable
        Receives the events.
    done : int
        Items that were done before.
    """

    def __init__(self, what: str, total: int, emit: Emit, done: int = 0) -> None:
        self._what, self._total, self._emit = what, total, emit
        self._first = self._done = done
        self._start = time.monotonic()

    def add_one(self, done: int) -> None:
        """Count one item more, as `done` says; a callback of `decode.map_in_threads`."""
        del done
        self.add(1)

    def add(self, count: int) -> None:
        """Count items that are done now."""
        before = self._done
        self._done += count
        if before // 500 == self._done // 500:
            return
        passed = time.monotonic() - self._start
        left = passed * (self._total - self._done) / (self._done - self._first)
        rest = f", about {duration(left)} left" if passed > _LEAST_SECONDS else ""
        text = f"{self._what}, {self._done:,} of {self._total:,}{rest}"
        self._emit(Event("data", text, self._done, self._total))
