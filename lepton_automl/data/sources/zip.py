"""A zip archive of folders: `CLASS/1.jpg` in it, optionally below train/ val/ test/."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from lepton_automl.core import untrusted_archives
from lepton_automl.core.untrusted_archives import Member
from lepton_automl.data.layouts.class_folders import Folder, is_leftover, read_folders
from lepton_automl.data.pictures.picture_files import SUFFIXES
from lepton_automl.data.samples import Samples
from lepton_automl.data.sources import Source
from lepton_automl.errors import DataError

_FIX = "pack the folder again, for instance with `zip -r photos.zip photos`"


class Zip(Source):
    """Its members are read as the files of a folder, without being unpacked to disk.

    Parameters
    ----------
    parts : mapping of str to str, optional
        Part -> name of its folder; empty: every folder is a class.
    """

    uses = frozenset({"parts"})

    def __init__(self, parts: Mapping[str, str] | None = None) -> None:
        self._stated = parts

    def accepts(self, data: str) -> bool:
        return data.lower().endswith(".zip") and Path(data).is_file()

    def read(self, data: str) -> Samples:
        top = Path(data)
        members: dict[Path, Member] = {}
        for member in untrusted_archives.list_zip(top, fix=_FIX):
            if members.setdefault(top / member.name, member) is not member:
                raise DataError(f"{data} holds {member.name} twice", fix=_FIX)
        samples = read_folders(_tree(top, list(members)), self._stated)
        pictures = tuple(members[path] for path in samples.pictures if isinstance(path, Path))
        return dataclasses.replace(samples, pictures=pictures)


def _tree(top: Path, files: list[Path]) -> Folder:
    """The folders that the names of files make, each sorted as `ImageFolder` reads them."""
    inner: dict[str, list[Path]] = {}
    own: list[Path] = []
    depth = len(top.parts)
    for file in sorted(files):
        names = PurePosixPath(file).parts[depth:]
        if not names or any(map(is_leftover, names)):
            continue
        if len(names) == 1:
            own.append(file)
        else:
            inner.setdefault(names[0], []).append(file)
    return Folder(
        top,
        tuple(_tree(top / name, inner[name]) for name in sorted(inner)),
        tuple(file for file in own if file.suffix.lower() in SUFFIXES),
        tuple(file for file in own if file.suffix.lower() not in SUFFIXES),
    )
