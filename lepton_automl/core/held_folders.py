"""Folders that this process has locked: each write below one checks that it is still the same.

A command that works in a folder opens its files by path. If the folder is moved, deleted or
replaced meanwhile, another folder may be at that path, in which the command must not write.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from lepton_automl.errors import ConfigError, MachineError


@dataclass(frozen=True)
class HeldFolder:
    """A locked folder, recognised by its lock file."""

    folder: str
    """Path as the command uses it; a relative one follows the working directory."""
    lock_file: str
    """Name of the lock file in the folder."""
    device: int
    inode: int
    """Device and inode of the lock file."""

    def check(self) -> None:
        """Check that the lock file is still the one at its path.

        Raises
        ------
        ConfigError
            If it is not: the folder was moved, deleted or replaced.
        MachineError
            If the folder cannot be read any more.
        """
        file = Path(self.folder, self.lock_file)
        try:
            if is_file_of(file, self.device, self.inode):
                return
        except OSError as error:
            raise MachineError(
                f"{self.folder} cannot be read: {error.strerror}",
                fix="make it readable, then run the same command",
            ) from error
        raise ConfigError(
            f"{self.folder} was moved, deleted or replaced while this command worked in it; "
            "nothing more is written",
            fix="continue in the place where the folder is now, or start again in another folder "
            "with --out",
        )


def is_file_of(path: Path, device: int, inode: int) -> bool:
    """Whether the file at `path` has this device and inode; not where there is none."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return (found.st_dev, found.st_ino) == (device, inode)


_held: list[HeldFolder] = []


def add(held: HeldFolder) -> None:
    """Check writes below a folder from now on."""
    _held.append(held)


def remove(held: HeldFolder) -> None:
    """Check writes below a folder no more."""
    _held.remove(held)


def check_write(path: Path) -> None:
    """Check every held folder that `path` lies in, before it is written or deleted.

    Raises
    ------
    ConfigError, MachineError
        As `HeldFolder.check`.
    """
    place = path.absolute()
    for held in tuple(_held):
        if place.is_relative_to(Path(held.folder).absolute()):
            held.check()


def to_json() -> str:
    """The held folders as text, for a child process that writes into them."""
    return json.dumps([dataclasses.astuple(held) for held in _held])


def add_json(text: str) -> None:
    """Hold the folders of `to_json` of the parent process."""
    for fields in json.loads(text):
        add(HeldFolder(*fields))
