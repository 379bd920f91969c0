"""Write files atomically: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lepton_automl.core import held_folders
from lepton_automl.errors import LeptonError, MachineError

TEMPORARY_SUFFIX = ".tmp"
"""Suffix of unfinished files: `.NAME.PROCESS_ID` and this."""


def write(path: Path, content: bytes | str) -> Path:
    """Write `content` to `path` so that a crash leaves the old file or the new one.

    Text is written as UTF-8; bytes of file names that are not UTF-8 stay as they are.

    Raises
    ------
    MachineError
        If the disk is full, the folder is read-only or cannot be made.
    ConfigError
        If it lies in a run folder that was replaced meanwhile (`held_folders`).
    """
    return write_chunks(path, [_encoded(content) if isinstance(content, str) else content])


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def write_chunks(path: Path, chunks: Iterable[bytes | memoryview]) -> Path:
    """Write chunks of content to `path` one after the other, as atomically as `write`.

    Raises
    ------
    MachineError, ConfigError
        As `write`.
    """
    held_folders.check_write(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    with wrap_os_errors(path):
        make_durable_folder(path.parent)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            with temporary.open("wb") as file:
                file.writelines(chunks)
                file.flush()
                os.fsync(file.fileno())
            held_folders.check_write(path)  # Making and writing the content may take long.
            temporary.replace(path)
            os.fsync(folder)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary.name, dir_fd=folder)  # The folder may have moved meanwhile.
            raise
        finally:
            os.close(folder)
    return path


def write_json(path: Path, document: Any) -> Path:
    """Write `document` as indented JSON, keys in their order, as atomically as `write`."""
    return write(path, json.dumps(document, indent=2) + "\n")


def remove(path: Path) -> None:
    """Delete a file that may be missing.

    Raises
    ------
    MachineError
        If the folder is read-only.
    ConfigError
        If it lies in a run folder that was replaced meanwhile (`held_folders`).
    """
    held_folders.check_write(path)
    with wrap_os_errors(path):
        path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Delete a folder that may be missing, as far as that is possible.

    Raises
    ------
    ConfigError
        If it lies in a run folder that was replaced meanwhile (`held_folders`).
    """
    held_folders.check_write(path)
    shutil.rmtree(path, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Make a folder that may exist, with those above it.

    Raises
    ------
    MachineError, ConfigError
        As `write`.
    """
    held_folders.check_write(path)
    with wrap_os_errors(path):
        make_durable_folder(path)


def real_path(path: Path | str) -> Path:
    """The absolute path without links; a link that leads to itself stays, as in later errors.

    `Path.resolve` raises a RuntimeError for such a link.
    """
    return Path(os.path.realpath(path))


def is_leftover(path: Path) -> bool:
    """Whether the name is that of an unfinished file of `write`."""
    return path.name.startswith(".") and path.name.endswith(TEMPORARY_SUFFIX)


def remove_leftovers(folder: Path) -> None:
    """Delete unfinished files of killed writers below `folder`; nothing else may write there.

    Raises
    ------
    MachineError
        If the folder is read-only.
    ConfigError
        If it lies in a run folder that was replaced meanwhile (`held_folders`).
    """
    held_folders.check_write(folder)
    with wrap_os_errors(folder):
        for path in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
            path.unlink(missing_ok=True)


def remove_leftovers_of(path: Path) -> None:
    """Delete unfinished files of killed writers of one file, whose folder others may use too.

    Raises
    ------
    MachineError
        If the folder is read-only.
    """
    with wrap_os_errors(path):
        for each in path.parent.glob(f".{path.name}.*{TEMPORARY_SUFFIX}"):
            each.unlink(missing_ok=True)


def make_durable_folder(path: Path) -> None:
    """Make a folder with those above it, so that their names survive power loss.

    Only folders that are missing are made and their parents flushed.

    Raises
    ------
    OSError
        If a folder cannot be made or flushed.
    """
    made, folder = [], path
    while not folder.exists():
        made.append(folder)
        folder = folder.parent
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(made):
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Flush the directory entry to disk, so that a rename inside `folder` survives power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def wrap_os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a MachineError about `path`."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error


_MACHINE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}
)
"""Numbers of errors that the machine causes, not the command."""


def machine_error(error: BaseException) -> LeptonError | None:
    """The MachineError for an exception that the machine causes; None for any other.

    These are a full or read-only disk, too many open files, missing memory, missing rights, and no
    folder for temporary files.
    """
    if isinstance(error, OSError) and str(error.strerror).startswith("No usable temporary"):
        return no_scratch_error(error)
    if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
        return MachineError(
            f"too many open files: {error.strerror}",
            fix="raise the limit (ulimit -n 4096), then run the same command",
        )
    is_unmapped = isinstance(error, ImportError) and "failed to map segment" in str(error)
    is_short = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if isinstance(error, MemoryError) or is_unmapped or is_short:
        return MachineError(
            f"not enough memory: {error or 'an allocation failed'}",
            fix="free some memory or raise its limit (ulimit -v), then run the same command",
        )
    if isinstance(error, OSError) and error.errno in _MACHINE:
        return write_error(Path(error.filename or "."), error)
    return None


def no_scratch_error(error: OSError) -> LeptonError:
    """The MachineError where no folder for temporary files can be made."""
    return MachineError(
        f"no folder for temporary files can be written: {error.strerror}",
        fix="free some space there, or name another folder in TMPDIR",
    )


def write_error(path: Path, error: OSError) -> LeptonError:
    """The MachineError for an OSError while writing `path`."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return MachineError(
            f"no space left on the disk that holds {path}",
            fix="free some space or give another folder with --out, then run the same command",
        )
    if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
        return MachineError(
            f"{path} cannot be written: {error.strerror}",
            fix="give a folder you may write to with --out",
        )
    what = "read or written" if error.errno == errno.EIO else "written"
    return MachineError(
        f"{path} cannot be {what}: {error.strerror or error}",
        fix="check the disk, or give another folder with --out",
    )
