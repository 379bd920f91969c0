"""The lock of a run folder: a command that changes one holds its lock first.

It is a lock of the operating system (flock) on the file `ledger.lock`, which ends with the process
that holds it, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Self

from lepton_automl.core import held_folders
from lepton_automl.core.files import make_durable_folder, real_path, wrap_os_errors
from lepton_automl.core.held_folders import HeldFolder
from lepton_automl.core.network_disks import network_disk
from lepton_automl.errors import ConfigError, MachineError

LOCK_FILE = "ledger.lock"
_WAIT_SECONDS = 0.5
"""Time to wait for the lock, which `is_held` of another command takes for a moment."""


class RunLock:
    """Exclusive lock of a run folder until it is closed.

    While it is held, `core.files` refuses to write into the folder once another folder is at its
    path.

    Parameters
    ----------
    folder : Path
        The run folder; made where missing.

    Raises
    ------
    ConfigError
        If another command works on the run.
    MachineError
        If the folder cannot be written, lies on a disk of another machine, or files on its disk
        cannot be locked.
    """

    def __init__(self, folder: Path) -> None:
        _check_disk(folder)
        file = folder / LOCK_FILE
        self.is_new = not file.exists()
        """Whether the lock file was made for this lock."""
        self._handle = _hold(file)
        found = os.fstat(self._handle)
        self._held = HeldFolder(str(folder), LOCK_FILE, found.st_dev, found.st_ino)
        held_folders.add(self._held)

    def check(self) -> None:
        """Check that the folder was not moved, deleted or replaced.

        Raises
        ------
        ConfigError, MachineError
            As `HeldFolder.check`.
        """
        self._held.check()

    def close(self) -> None:
        """Release the lock."""
        held_folders.remove(self._held)
        os.close(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def check_not_held(folder: Path) -> None:
    """Refuse a run folder on which another command works, before anything else is read.

    Raises
    ------
    ConfigError
        If the lock is held.
    MachineError
        If the folder lies on a disk of another machine.
    """
    _check_disk(folder)
    until = time.monotonic() + _WAIT_SECONDS
    while is_held(folder):
        if time.monotonic() > until:
            raise _refusal(folder)
        time.sleep(_WAIT_SECONDS / 50)


def is_held(folder: Path) -> bool:
    """Whether a command works on the run in this folder now."""
    try:
        handle = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # Where nothing can be locked, nobody holds a lock.
    finally:
        os.close(handle)
    return False


def _hold(file: Path) -> int:
    """Open and lock the file; the lock ends when the file is closed."""
    until = time.monotonic() + _WAIT_SECONDS
    while True:
        with wrap_os_errors(file.parent):
            make_durable_folder(real_path(file.parent))
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            if time.monotonic() > until:
                raise _refusal(file.parent) from error
            time.sleep(_WAIT_SECONDS / 50)
            continue
        except OSError as error:
            os.close(handle)
            raise MachineError(
                f"{file} cannot be locked: {error.strerror}; without a lock two commands could "
                "write into one run folder",
                fix="give a folder on a disk that supports file locks, such as a local one, with "
                "--out",
            ) from error
        found = os.fstat(handle)
        if held_folders.is_file_of(file, found.st_dev, found.st_ino):
            return handle
        os.close(handle)  # Its last holder has moved or deleted the folder.


def _check_disk(folder: Path) -> None:
    """Refuse a network disk: machines share its files, but not the memory of SQLite's log.

    https://www.sqlite.org/wal.html: all processes that use a database must be on one machine.
    """
    if kind := network_disk(folder):
        raise MachineError(
            f"{folder} is on a network disk ({kind}), on which the ledger of a run is not safe",
            fix="give a folder on a disk of this machine with --out; --store FOLDER keeps a copy "
            "of the run on the network disk, from which another machine can continue it",
        )


def _refusal(folder: Path) -> ConfigError:
    return ConfigError(
        f"another command works on the run in {folder}",
        fix="wait for it or stop it, or give another folder with --out",
    )
