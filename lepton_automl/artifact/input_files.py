"""Expand paths, folders and patterns to the files that are classified."""

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


def input_files(files: Iterable[Path], suffixes: Set[str]) -> list[Path]:
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
            matching = sorted(map(Path, set(_matching(str(given)))))
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


def _matching(pattern: str) -> Iterator[str]:
    """Paths that match a pattern, in which `**` stands for any folders, but not for links to some.

    `glob` follows links, of which two that lead to their own folder make 2^40 paths.
    """
    parts = pattern.split("/")
    if "**" not in parts:
        yield from glob.iglob(pattern)  # noqa: PTH207 (absolute patterns)
        return
    place = parts.index("**")
    head, rest = "/".join(parts[:place]), "/".join(parts[place + 1 :]) or "*"
    for base in glob.iglob(head) if head else ["/" if place else ""]:  # noqa: PTH207
        for folder in _folders_in(base):
            yield from _matching(os.path.join(glob.escape(folder), rest))  # noqa: PTH118


def _folders_in(folder: str) -> Iterator[str]:
    """A folder and all inside it, without links and hidden ones."""
    waiting = [folder]
    while waiting:
        yield (folder := waiting.pop())
        entries = _entries(Path(folder or "."))
        inner = [e.name for e in entries if e.is_dir(follow_symlinks=False) and e.name[0] != "."]
        waiting += [os.path.join(folder, name) for name in inner]  # noqa: PTH118


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
    """What is in a folder, by name; nothing where it is none, or gone.

    Raises
    ------
    DataError
        If it may not be read: files in it would be left out without a word.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise DataError(
            f"{folder} cannot be read: {error.strerror}",
            fix="allow reading that folder, or give the files that are to be classified",
        ) from error


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # A loop of links.
        return False
