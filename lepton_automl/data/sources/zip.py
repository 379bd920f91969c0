"""A zip archive of folders: `CLASS/1.jpg` in it, optionally below train/ val/ test/.

Folders with recordings of sound and no pictures are read as such.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from lepton_automl.core import untrusted_archives
from lepton_automl.core.untrusted_archives import Member
from lepton_automl.data.audio_files import SUFFIXES as AUDIO_SUFFIXES
from lepton_automl.data.layouts.audio_recordings import AudioRecording, in_class_folder
from lepton_automl.data.layouts.audio_tables import AUDIO_OPTIONS, AudioOptions, refuse
from lepton_automl.data.layouts.class_folders import Folder, is_leftover, read_folders
from lepton_automl.data.layouts.part_names import parts_named
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
    **audio
        Fields of `data.layouts.audio_tables.AudioOptions`, for recordings of sound.
    """

    uses = frozenset({"parts"}) | AUDIO_OPTIONS

    def __init__(self, parts: Mapping[str, str] | None = None, **audio: Any) -> None:
        self._stated, self._audio = parts, AudioOptions(**audio)

    def accepts(self, data: str) -> bool:
        return data.lower().endswith(".zip") and Path(data).is_file()

    def read(self, data: str) -> Samples:
        top = Path(data)
        members: dict[Path, Member] = {}
        for member in untrusted_archives.list_zip(top, fix=_FIX):
            if members.setdefault(top / member.name, member) is not member:
                raise DataError(f"{data} holds {member.name} twice", fix=_FIX)
        suffixes = {path.suffix.lower() for path in members}
        if suffixes & AUDIO_SUFFIXES and not suffixes & SUFFIXES:
            return self._read_sound(data, {path.relative_to(top): m for path, m in members.items()})
        self._audio.refuse("pictures")
        samples = read_folders(_tree(top, list(members)), self._stated)
        pictures = tuple(members[path] for path in samples.pictures if isinstance(path, Path))
        return dataclasses.replace(samples, pictures=pictures)

    def _read_sound(self, data: str, members: Mapping[Path, Member]) -> Samples:
        if self._stated is not None:
            shown = ",".join(f"{part}={name}" for part, name in self._stated.items()) or "none"
            refuse("--parts", shown, "recordings of sound, whose parts have the usual names")
        files = list(_recordings(members))
        if not files:
            raise DataError(
                f"{data} has no folders with recordings of sound",
                fix="pack a folder with one sub-folder of recordings per class",
            )
        return self._audio.cut(files)


def _recordings(members: Mapping[Path, Member]) -> Iterator[AudioRecording]:
    """The recordings in class folders, as `layouts.recording_folders` finds those of a folder."""
    files = {
        path.parts: member
        for path, member in sorted(members.items())
        if path.suffix.lower() in AUDIO_SUFFIXES and not any(map(is_leftover, path.parts))
    }
    while len({names[0] for names in files}) == 1 and all(len(names) > 2 for names in files):
        files = {names[1:]: member for names, member in files.items()}
    tops = {names[0] for names in files if len(names) > 1}
    parts = parts_named(tops)
    is_divided = len(parts) == len(tops) and "train" in parts.values()
    for names, member in files.items():
        inner = names[1:] if is_divided else names
        if len(inner) > 1:
            part = parts[names[0]] if is_divided else ""
            yield in_class_folder(member, "/".join(names), inner[0], part)


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
