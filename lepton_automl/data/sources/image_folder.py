"""A folder with one sub-folder of pictures per class, optionally below train/ val/ test/."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lepton_automl.core.files import real_path
from lepton_automl.data.layouts.class_folders import Folder, is_leftover, read_folders
from lepton_automl.data.layouts.folder_kinds import folder_kind, is_folder
from lepton_automl.data.pictures.picture_files import SUFFIXES
from lepton_automl.data.samples import Samples
from lepton_automl.data.sources import Source
from lepton_automl.errors import DataError


class ImageFolder(Source):
    """`DATA/CLASS/*.jpg` or `DATA/train/CLASS/*.jpg`, `DATA/val/...`, `DATA/test/...`.

    Classes are in the order of their names; folders below a class belong to it. Links to files and
    folders are followed. Names that begin with a dot and what systems leave behind are ignored.
    Files are pictures by their suffix (`picture_files.SUFFIXES`).

    Parameters
    ----------
    parts : mapping of str to str, optional
        Part -> name of its folder in DATA; empty: every folder is a class. By default folders are
        parts by their names (`data.layouts.part_names`).
    """

    uses = frozenset({"parts"})

    def __init__(self, parts: Mapping[str, str] | None = None) -> None:
        self._stated = parts

    def accepts(self, data: str) -> bool:
        return folder_kind(data) == "image_folder"

    def read(self, data: str) -> Samples:
        # A link to a folder that DATA lies in would read DATA again.
        above = tuple(_identity(folder) for folder in real_path(data).parents)
        return read_folders(_scan(Path(data), above), self._stated)


def _scan(path: Path, above: tuple[tuple[int, int], ...]) -> Folder:
    """Read a folder with all below it; `above` identifies the folders that it lies in."""
    try:
        with os.scandir(path) as entries:
            kept = sorted((e for e in entries if not is_leftover(e.name)), key=lambda e: e.name)
        inside = (*above, _identity(path))
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}", fix="allow reading that folder"
        ) from error
    folders: list[Folder] = []
    pictures: list[Path] = []
    others: list[Path] = []
    loops: list[Path] = []
    broken: list[Path] = []
    has_links = False
    for entry in kept:
        inner, is_link = path / entry.name, entry.is_symlink()
        if is_folder(entry):
            if is_link and _identity(inner) in inside:
                loops.append(inner)
                continue
            folders.append(_scan(inner, inside))
            has_links |= is_link or folders[-1].has_links
        elif inner.suffix.lower() in SUFFIXES:
            pictures.append(inner)
            has_links |= is_link
        else:
            (others if not is_link or inner.exists() else broken).append(inner)
    return Folder(
        path,
        tuple(folders),
        tuple(pictures),
        tuple(others),
        tuple(loops),
        tuple(broken),
        has_links,
    )


def _identity(path: Path) -> tuple[int, int]:
    """Device and number of the file or folder that a path leads to."""
    status = path.stat()
    return status.st_dev, status.st_ino
