"""Which files a list of paths, folders and patterns chooses."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

from lepton_automl.data.pictures.picture_files import OTHER_SUFFIXES, SUFFIXES
from lepton_automl.errors import DataError


def _named(files: Iterable[Path]) -> str:
    """The first of what was given; empty if nothing was."""
    first = next(iter(files), None)
    return "" if first is None else f" in {first}"


def chosen_files(files: Iterable[Path], suffixes: Set[str]) -> list[Path]:
    """The files; folders and patterns replaced by the files in them, of one of the suffixes.

    Pictures of kinds that are not read are among them, to be named, unless they are there in
    another kind too.
    """
    others = OTHER_SUFFIXES if suffixes >= SUFFIXES else frozenset[str]()

    wanted = suffixes | others

    def chosen(kept: list[Path]) -> list[Path]:
        unread = {path for path in kept if path.suffix.lower() in others} if others else None
        if not unread:
            return kept
        known = {path.with_suffix("") for path in kept if path not in unread}
        return [path for path in kept if path not in unread or path.with_suffix("") not in known]

    paths: list[Path] = []
    for given in files:
        if not given.exists() and glob.has_magic(str(given)):
            matching = sorted(map(Path, glob.glob(str(given), recursive=True)))  # noqa: PTH207
            paths += chosen([path for path in matching if path.suffix.lower() in wanted])
        elif given.is_dir():
            paths += chosen(list(_files_in(given, wanted)))
        else:
            paths.append(given)
    if not paths:
        raise DataError(
            f"there is no file to classify{_named(files)}; the suffixes read are "
            f"{', '.join(sorted(suffixes))}",
            fix="give files, or a folder with such files",
        )
    return paths


def _files_in(folder: Path, suffixes: Set[str]) -> Iterator[Path]:
    """Files of one of the suffixes in a folder and those inside it, in the order of their paths.

    As `Path.rglob`, without links to folders, in a tenth of its time.
    """
    waiting = [iter(_entries(folder))]
    while waiting:
        entry = next(waiting[-1], None)
        if entry is None:
            waiting.pop()
        elif entry.is_dir(follow_symlinks=False):
            waiting.append(iter(_entries(Path(entry.path))))
        elif entry.name[max(1, entry.name.rfind(".")) :].lower() in suffixes and _is_file(entry):
            yield Path(entry.path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; nothing where it may not be read."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except PermissionError:
        return []


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # A loop of links.
        return False
