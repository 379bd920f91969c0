"""Folders for temporary files, each locked by its process; those of killed processes are deleted.

Python's `tempfile` writes a file into the folder for temporary files to find out whether it can;
a process that is killed meanwhile leaves it. Here the new folder itself is what is tried.

The lock (flock on the folder) ends with the process that holds it, however that ends, so it tells
whether a folder is still used, whichever process has its process id by now.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lepton_automl.core.files import machine_error, no_scratch_error
from lepton_automl.errors import MachineError

_NAME = re.compile(r"lepton-[0-9]+-[0-9a-f]{16}")
_VARIABLES = ("TMPDIR", "TEMP", "TMP")
_USUAL = ("/tmp", "/var/tmp", "/usr/tmp")
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FULL_BYTES = 1 << 18
"""What a disk must still take, so that an error of a library is not blamed on it."""


class Scratch:
    """A new folder for temporary files that only this user can read, until `remove`.

    Raises
    ------
    OSError
        If none can be made in any of the places of `places`.
    """

    def __init__(self) -> None:
        self._handle: int | None = None
        tried = places()
        for place in tried:
            self.path = place / f"lepton-{os.getpid()}-{os.urandom(8).hex()}"
            try:
                self._make()
            except OSError:
                self.remove()
            except BaseException:  # Ctrl-C may come before `mkdir` returns.
                self.remove()
                raise
            else:
                return
        raise FileNotFoundError(
            errno.ENOENT, f"No usable temporary directory found in {[str(each) for each in tried]}"
        )

    def _make(self) -> None:
        """Make the folder and lock it; write a byte, for a disk that is full."""
        while True:
            self.path.mkdir(mode=0o700)
            try:
                self._handle = os.open(self.path, _FLAGS)
                with contextlib.suppress(
                    OSError
                ):  # Where nothing can be locked nothing is deleted.
                    fcntl.flock(self._handle, fcntl.LOCK_EX)
                (self.path / "probe").write_bytes(b"\0")
                (self.path / "probe").unlink()
            except FileNotFoundError:  # Another command has deleted it before it was locked.
                self._close()
                continue
            return

    def remove(self) -> None:
        """Delete the folder with its content, as far as that is possible."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._close()

    def _close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def write_failure(self) -> OSError | None:
        """The error of writing 256 kB into it; None if that works."""
        try:
            (self.path / "probe").write_bytes(bytes(_FULL_BYTES))
            (self.path / "probe").unlink()
        except OSError as error:
            return error
        return None


def places() -> list[Path]:
    """Folders in which temporary files may be, the preferred one first, as of `tempfile`."""
    named = [os.environ[name] for name in _VARIABLES if os.environ.get(name)]
    found = [Path(os.path.abspath(each)) for each in (*named, *_USUAL)]  # noqa: PTH100  Links stay.
    with contextlib.suppress(OSError):
        found.append(Path.cwd())
    return list(dict.fromkeys(found))


def _misses_a_file(error: Exception, folder: Path) -> bool:
    """Whether a library looked in vain for a file of its own: it ignores that a write failed."""
    if not isinstance(error, FileNotFoundError) or error.filename is None:
        return False
    return Path(os.fsdecode(error.filename)).is_relative_to(folder)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder until the block ends; an interruption at any moment leaves none.

    Libraries report a full disk in words of their own, as if their input were wrong; so whatever
    is raised while nothing can be written to the folder becomes an error of the machine.

    Raises
    ------
    MachineError
        If it cannot be made, or nothing more can be written to it.
    """
    try:
        scratch = Scratch()
    except OSError as error:
        raise machine_error(error) or no_scratch_error(error) from error
    try:
        yield scratch.path
    except Exception as error:
        full = scratch.write_failure()
        if full is None and not _misses_a_file(error, scratch.path):
            raise
        reason = "a file is not there after it was written" if full is None else full.strerror
        raise MachineError(
            f"the folder for temporary files {scratch.path.parent} cannot be written: {reason}",
            fix="free some space there, or name another folder in TMPDIR",
        ) from error
    finally:
        scratch.remove()


def remove_abandoned() -> None:
    """Delete the temporary folders of this user whose processes were killed.

    Only folders with a name of ours that belong to this user and are locked by no process are
    deleted; no link is followed. What cannot be deleted stays.
    """
    for place in places():
        with contextlib.suppress(OSError), os.scandir(place) as entries:
            names = [entry.name for entry in entries if _NAME.fullmatch(entry.name)]
            for name in names:
                with contextlib.suppress(OSError):
                    _remove_unlocked(place / name)


def _remove_unlocked(folder: Path) -> None:
    """Delete a folder of this user unless a process has locked it.

    Raises
    ------
    OSError
        If it is locked, no folder, or cannot be deleted.
    """
    handle = os.open(folder, _FLAGS)
    try:
        if os.fstat(handle).st_uid != os.geteuid():
            return
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Below the open folder, whatever is at its path meanwhile.
        for name in os.listdir(handle):  # noqa: PTH208
            try:
                os.unlink(name, dir_fd=handle)
            except OSError:
                shutil.rmtree(name, ignore_errors=True, dir_fd=handle)
        folder.rmdir()
    finally:
        os.close(handle)
