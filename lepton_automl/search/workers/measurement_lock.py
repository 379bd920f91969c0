"""MeasurementLock: training pauses at a batch boundary while something is timed."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lepton_automl.core.files import wrap_os_errors

LONGEST_WAIT_SECONDS = 5.0
"""Who measures waits no longer: a process that was stopped in a batch may never end it."""
LOOK_SECONDS = 0.001


def _untold() -> None:
    """Tell nobody."""


class MeasurementLock:
    """A turnstile of two file locks, shared by all processes of a run.

    Workers share the room for the length of a batch; who measures takes the turnstile first, so
    that nobody new comes in, and then waits for the room to empty: it is never starved. The
    kernel drops the locks of a process that dies, so no crash can leave them held.

    Parameters
    ----------
    folder : Path
        A folder that all processes see; two empty files are made in it.
    """

    def __init__(self, folder: Path) -> None:
        with wrap_os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT
            self._turnstile = os.open(folder / "turnstile.lock", flags, 0o644)
            self._room = os.open(folder / "room.lock", flags, 0o644)

    @property
    def is_measuring(self) -> bool:
        """Whether somebody measures or is about to."""
        try:
            fcntl.flock(self._turnstile, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._turnstile, fcntl.LOCK_UN)
        return False

    @contextmanager
    def training_slot(self, waits: Callable[[], None] = _untold) -> Iterator[None]:
        """A worker's batch: waits while somebody measures, and calls `waits` before it does."""
        try:
            fcntl.flock(self._turnstile, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            fcntl.flock(self._turnstile, fcntl.LOCK_SH)
        fcntl.flock(self._room, fcntl.LOCK_SH)
        fcntl.flock(self._turnstile, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Nobody else computes inside; batches that have begun are ended first.

        One that does not end in `LONGEST_WAIT_SECONDS` is not waited for: a hanging worker is
        given up elsewhere, and until then the others have work to do.
        """
        _take(self._turnstile)
        _take(self._room)
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)
            fcntl.flock(self._turnstile, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the files back."""
        os.close(self._turnstile)
        os.close(self._room)


def _take(lock: int) -> None:
    """Hold a lock alone; after `LONGEST_WAIT_SECONDS` go on without it."""
    until = time.monotonic() + LONGEST_WAIT_SECONDS
    while time.monotonic() < until:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOOK_SECONDS)
        else:
            return
