"""Recordings in a sub-folder per class, optionally below folders of the parts."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from lepton_automl.data.layouts.part_names import parts_named


@dataclass(frozen=True)
class RecordingFile:
    """A file with a recording."""

    path: Path
    id: str
    """Its path below the data folder."""
    part: str
    """`train`, `validation`, `test` or empty."""
    label: str
    """Name of its class folder; empty where it is in none."""


def recording_files(root: Path, suffixes: Set[str]) -> Iterator[RecordingFile]:
    """The files with these suffixes in class folders, in the order of their paths."""
    folders = folders_in(root)
    parts = parts_named(path.name for path in folders)
    if len(parts) == len(folders) > 0 and "train" in parts.values():
        for folder in folders:
            for inner in folders_in(folder):
                yield from _of_class(root, inner, parts[folder.name], suffixes)
        return
    for folder in folders:
        yield from _of_class(root, folder, "", suffixes)


def folders_in(root: Path) -> list[Path]:
    """The folders in a folder in order, without hidden ones."""
    return [path for path in sorted(root.iterdir()) if path.is_dir() and path.name[0] != "."]


def _of_class(root: Path, folder: Path, part: str, suffixes: Set[str]) -> Iterator[RecordingFile]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes and path.name[0] != "." and path.is_file():
            yield RecordingFile(path, path.relative_to(root).as_posix(), part, folder.name)
