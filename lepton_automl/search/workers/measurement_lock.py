"""Cross-process lock: workers pause between batches while a latency is measured."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lepton_automl.core.files import make_folder, wrap_os_errors

MAX_WAIT_SECONDS = 5.0
"""A measurement waits no longer: a process that was stopped inside a batch may never end it."""
_POLL_SECONDS = 0.001


class MeasurementLock:
    """Readers-writer lock with writer preference, made of two file locks.

    Each worker holds the batch lock shared for one batch. A measurement first takes the entry lock,
    so that no new batch begins, then the batch lock exclusively: workers cannot starve it. The
    kernel drops the locks of a process that dies, so no crash can leave them held.

    Parameters
    ----------
    folder : Path
        A folder that all processes see; two empty files are made in it.
    """

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        with wrap_os_errors(folder):
            flags = os.O_RDWR | os.O_CREAT
            self._entry = os.open(folder / "entry.lock", flags, 0o644)
            self._batch = os.open(folder / "batch.lock", flags, 0o644)

    @property
    def is_measuring(self) -> bool:
        """Whether a measurement runs or is about to begin."""
        try:
            fcntl.flock(self._entry, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._entry, fcntl.LOCK_UN)
        return False

    @contextmanager
    def training_slot(self, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the lock for one batch; calls `on_wait` before waiting for a measurement."""
        try:
            fcntl.flock(self._entry, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is not None:
                on_wait()
            fcntl.flock(self._entry, fcntl.LOCK_SH)
        fcntl.flock(self._batch, fcntl.LOCK_SH)
        fcntl.flock(self._entry, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._batch, fcntl.LOCK_UN)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Hold the lock for a measurement, after the batches that have begun are done.

        A batch that does not end within `MAX_WAIT_SECONDS` is not waited for: the pool replaces a
        hanging worker later, and until then the other workers have work to do.
        """
        _lock_exclusively(self._entry)
        _lock_exclusively(self._batch)
        try:
            yield
        finally:
            fcntl.flock(self._batch, fcntl.LOCK_UN)
            fcntl.flock(self._entry, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the lock files."""
        os.close(self._entry)
        os.close(self._batch)


def _lock_exclusively(lock: int) -> None:
    """Take an exclusive lock; after `MAX_WAIT_SECONDS` return without it."""
    until = time.monotonic() + MAX_WAIT_SECONDS
    while time.monotonic() < until:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_POLL_SECONDS)
        else:
            return
