"""A folder with one sub-folder of pictures per class, maybe under train/ val/ test/."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from lepton_automl.data.decode import SUFFIXES
from lepton_automl.data.sources import Samples, Source
from lepton_automl.errors import DataError

LEVEL = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""Names of folders that are parts, not classes, where all sub-folders are called so."""

RULE = "put the pictures of each class into one sub-folder that is called after the class"


class ImageFolder(Source):
    """`DATA/CLASS/*.jpg` or `DATA/train/CLASS/*.jpg`, `DATA/val/...`, `DATA/test/...`.

    Classes are in the order of their names; folders below a class belong to it; names that
    begin with a dot are passed over. Files are pictures by their ending (`decode.SUFFIXES`).
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
        others += [str(file) for _, part in parts for file in _loose(part)]
        return Samples(
            pictures=tuple(file for _, _, file in pictures),
            labels=np.array([names.index(name) for _, name, _ in pictures], np.int64),
            class_names=tuple(_text(name) for name in names),
            ids=tuple(str(file.relative_to(root)) for _, _, file in pictures),
            parts=np.array([part for part, _, _ in pictures], "<U10"),
            notes=_notes(others),
        )


def _parts(root: Path) -> list[tuple[str, Path]]:
    """Part name and folder with class folders; the part is empty without a train/ level."""
    folders = _folders(root)
    parts = [(LEVEL.get(folder.name.lower(), ""), folder) for folder in folders]
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


def _loose(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.suffix.lower() in SUFFIXES]


def _entries(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise _closed(error) from error
    return [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]


def _files(folder: Path) -> list[Path]:
    files = []
    for place, inner, names in os.walk(folder, onerror=_refuse):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        files += [Path(place) / name for name in sorted(names) if not name.startswith(".")]
    return files


def _refuse(error: OSError) -> None:
    raise _closed(error) from error


def _closed(error: OSError) -> DataError:
    return DataError(
        f"{error.filename} cannot be read: {error.strerror}", fix="allow reading that folder"
    )


def _text(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the class folder {name!r} is not called in UTF-8", fix="rename the folder"
        ) from error
    return name


def _empty(root: Path, others: int) -> DataError:
    loose = len(_loose(root))
    if loose:
        return DataError(f"{loose} pictures lie in {root} itself, in no class folder", fix=RULE)
    what = f"{others} files, none of them a picture" if others else "no pictures"
    known = " ".join(sorted(SUFFIXES))
    return DataError(f"{root} holds {what}", fix=f"{RULE}; pictures end in {known}")


def _notes(others: list[str]) -> tuple[str, ...]:
    if not others:
        return ()
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return (
        f"passed over {len(others)} files that are no labelled pictures: "
        f"{', '.join(others[:3])}{more}",
    )
