"""Patience: when a worker that says nothing is given up, told from one that has to wait."""

from __future__ import annotations

LEAST_SECONDS = 20.0
"""A worker may be silent so long, whatever it does."""
USUAL_GAPS = 30
"""... and so many times as long as it usually is between two signs of life."""
FIRST = 3
"""Before its first batch a task may take so many times as long: a GPU wakes up, data are read."""
STARTING = 15
"""... and a process that was never heard at all: it loads torch, maybe from a slow disk."""
LONGEST_STEP = 1.0
"""Who listens looks more often than every so many seconds; a longer gap is his own."""


class Patience:
    """Counts the seconds in which a worker could have said something and did not.

    A gap in the listener's own clock does not count: both were stopped together (Ctrl-Z), or the
    machine slept. Nor does the time in which the worker waits for somebody who measures.

    Parameters
    ----------
    now : float
        Seconds of a clock that never goes back.
    least : float
        Seconds of silence that are always allowed.
    is_known : bool
        Whether the process has been heard before.
    """

    def __init__(self, now: float, least: float = LEAST_SECONDS, *, is_known: bool = True) -> None:
        self._last, self._least, self._is_known = now, least, is_known
        self._awake, self._heard = 0.0, 0
        self.silent = 0.0
        """Seconds since the last sign of life."""

    @property
    def limit(self) -> float:
        """Seconds of silence that are allowed now."""
        if not self._is_known:
            return STARTING * self._least
        if self._heard < FIRST:
            return FIRST * self._least
        return max(self._least, USUAL_GAPS * self._awake / self._heard)

    @property
    def is_over(self) -> bool:
        """The worker hangs."""
        return self.silent > self.limit

    def heard(self) -> None:
        """A sign of life has come."""
        self._awake += self.silent
        self._heard += 1
        self._is_known = True
        self.silent = 0.0

    def look(self, now: float, *, excused: bool) -> None:
        """So late it is; `excused`: the worker waits for somebody else."""
        step, self._last = min(now - self._last, LONGEST_STEP), now
        if not excused:
            self.silent += step
