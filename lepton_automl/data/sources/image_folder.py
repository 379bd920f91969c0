"""A folder with one sub-folder of pictures per class, optionally below train/ val/ test/."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from lepton_automl.data.decode import SUFFIXES
from lepton_automl.data.sources import Samples, Source
from lepton_automl.errors import DataError

_PART_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""Folder name -> part, if all sub-folders of DATA have such names; otherwise they are classes."""

_LAYOUT = "put the pictures of each class into one sub-folder named after the class"


class ImageFolder(Source):
    """`DATA/CLASS/*.jpg` or `DATA/train/CLASS/*.jpg`, `DATA/val/...`, `DATA/test/...`.

    Classes are in the order of their names; folders below a class belong to it; names that
    begin with a dot are ignored. Files are pictures by their suffix (`decode.SUFFIXES`).
    """

    def accepts(self, data: str) -> bool:
        return Path(data).is_dir()

    def read(self, data: str) -> Samples:
        root = Path(data)
        parts = _parts(root)
        found = [
            (part, class_folder.name, file)
            for part, folder in parts
            for class_folder in _folders(folder)
            for file in _files(class_folder)
        ]
        pictures = [sample for sample in found if sample[2].suffix.lower() in SUFFIXES]
        if not pictures:
            raise _empty(root, len(found))
        names = sorted({folder.name for _, part in parts for folder in _folders(part)})
        others = [f"{sample[2]}" for sample in found if sample[2].suffix.lower() not in SUFFIXES]
        others += [str(file) for _, part in parts for file in _pictures_in(part)]
        return Samples(
            pictures=tuple(file for _, _, file in pictures),
            labels=np.array([names.index(name) for _, name, _ in pictures], np.int64),
            class_names=tuple(_text(name) for name in names),
            ids=tuple(str(file.relative_to(root)) for _, _, file in pictures),
            parts=np.array([part for part, _, _ in pictures], "<U10"),
            notes=_notes(others),
        )


def _parts(root: Path) -> list[tuple[str, Path]]:
    """Part and folder of class folders; the part is an empty string without a train/ level."""
    folders = _folders(root)
    parts = [(_PART_FOLDERS.get(folder.name.lower(), ""), folder) for folder in folders]
    named = {part for part, _ in parts}
    if "train" not in named or not any(_folders(folder) for _, folder in parts):
        return [("", root)]
    if "" in named and len(named) > 2:
        odd = ", ".join(folder.name for part, folder in parts if not part)
        raise DataError(
            f"{root} has parts (train, test) and also folders that are neither: {odd}",
            fix="keep only train/, val/ and test/ beside each other, or only class folders",
        )
    return [("", root)] if "" in named else parts


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _pictures_in(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.suffix.lower() in SUFFIXES]


def _entries(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise _unreadable(error) from error
    return [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]


def _files(folder: Path) -> list[Path]:
    files = []
    for place, inner, names in os.walk(folder, onerror=_raise_unreadable):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        files += [Path(place) / name for name in sorted(names) if not name.startswith(".")]
    return files


def _raise_unreadable(error: OSError) -> None:
    raise _unreadable(error) from error


def _unreadable(error: OSError) -> DataError:
    return DataError(
        f"{error.filename} cannot be read: {error.strerror}", fix="allow reading that folder"
    )


def _text(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the name of the class folder {name!r} is not valid UTF-8", fix="rename the folder"
        ) from error
    return name


def _empty(root: Path, others: int) -> DataError:
    loose = len(_pictures_in(root))
    if loose:
        return DataError(
            f"{loose} pictures are in {root} itself, not in a class folder", fix=_LAYOUT
        )
    what = f"{others} files, none of them a picture" if others else "no pictures"
    known = " ".join(sorted(SUFFIXES))
    return DataError(f"{root} holds {what}", fix=f"{_LAYOUT}; pictures end in {known}")


def _notes(others: list[str]) -> tuple[str, ...]:
    if not others:
        return ()
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return (
        f"ignored {len(others)} files that are not labelled pictures: "
        f"{', '.join(others[:3])}{more}",
    )
