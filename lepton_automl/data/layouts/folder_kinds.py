"""Recognise what a folder holds by the names in it, so that one source reads it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lepton_automl.core.untrusted_files import ARRAYS, open_file
from lepton_automl.data.audio_files import SUFFIXES as AUDIO_SUFFIXES
from lepton_automl.data.pictures.picture_files import SUFFIXES
from lepton_automl.errors import DataError

IDX_NAME = re.compile(
    r"(?P<part>.*?)[-_.]?(?P<kind>images|labels)[-.]idx(?P<ndim>[13])-ubyte(?:\.gz)?", re.IGNORECASE
)
"""Names of the files of MNIST and its likes: `train-images-idx3-ubyte`, also with `.gz`."""
CIFAR_NAME = re.compile(r"(?:data_batch_\d+|test_batch|train|test)\.bin")
"""Names of the binary files of CIFAR-10 and CIFAR-100."""
PICKLED_CIFAR_NAME = re.compile(r"data_batch_\d+|test_batch")
"""Names of the pickled files of CIFAR-10."""

UCR_NAME = re.compile(r"(?P<name>.+)_(?P<part>train|test)\.(?P<form>ts|tsv|txt)", re.IGNORECASE)
"""Names of the files of the UCR and UEA archives: `GunPoint_TRAIN.ts`."""
_UCR_FORMS = ("ts", "tsv", "txt")
_UCR_LINE = re.compile(rb"\s*[-+]?\d[\d.e+-]*[, \t]+[-+]?[\d.]", re.IGNORECASE)
"""How a table of UCR begins: with the label and a value, without names of columns."""

_RECORDINGS = frozenset({".csv", ".npy"})
_BY_SUFFIX = {".npy": "npy", ".tar": "tar_shards"}
"""Suffix of files beside which there are no folders -> source."""
_MOST_ENTRIES = 100_000
"""Names of a folder that are looked at."""


def folder_kind(data: str) -> str:
    """Name of the source that reads the folder `data`; empty if it is not a folder."""
    path = Path(data)
    if not path.is_dir():
        return ""
    files, folders = _names(path)
    if any(map(IDX_NAME.fullmatch, files)) or is_idx_in_raw(path, folders):
        return "idx"
    if any(map(CIFAR_NAME.fullmatch, files)) or any(map(PICKLED_CIFAR_NAME.fullmatch, files)):
        return "cifar"
    if {"train", "test", "meta"} <= set(files):  # CIFAR-100, pickled.
        return "cifar"
    if holds_parquet(path, files, folders):
        return "parquet"
    if any(is_ucr_file(path / name) for name in files if UCR_NAME.fullmatch(name)):
        return "ucr"
    if not folders and (source := _flat_kind(files)):
        return source
    return _first_kind(path, folders) or "image_folder"


def _flat_kind(files: list[str]) -> str:
    """Source that reads a folder without folders, by the suffixes of its files; else empty."""
    suffixes = {Path(name).suffix.lower() for name in files}
    for suffix, source in _BY_SUFFIX.items():
        if suffix in suffixes:
            return source
    if suffixes & AUDIO_SUFFIXES and not suffixes & SUFFIXES:
        return "audio_folder"
    return "recordings" if ".csv" in suffixes and not suffixes & SUFFIXES else ""


def _first_kind(path: Path, folders: list[str], depth: int = 3) -> str:
    """Source of the first files below a folder, in the order of names; empty if there are none."""
    for name in sorted(folders):
        files, inner = _names(path / name)
        suffixes = {Path(each).suffix.lower() for each in files}
        if suffixes & SUFFIXES:
            return "image_folder"
        if suffixes & AUDIO_SUFFIXES:
            return "audio_folder"
        if suffixes & _RECORDINGS:
            return "recordings"
        if depth and (kind := _first_kind(path / name, inner, depth - 1)):
            return kind
    return ""


def holds_parquet(path: Path, files: list[str], folders: list[str], depth: int = 3) -> bool:
    """Whether a folder, or the first folders below it, holds Parquet files and no pictures."""
    if any(name.lower().endswith(".parquet") for name in files):
        return True
    if not depth or not folders or any(Path(name).suffix.lower() in SUFFIXES for name in files):
        return False
    first = path / min(folders)
    return holds_parquet(first, *_names(first), depth - 1)


def is_idx_in_raw(path: Path, folders: list[str]) -> bool:
    """Whether IDX files are in a folder `raw`, where torchvision puts them."""
    return "raw" in folders and any(map(IDX_NAME.fullmatch, _names(path / "raw")[0]))


def is_ucr_file(path: Path) -> bool:
    """Whether a file is one of the UCR or UEA archives, by its name and its first bytes."""
    match = UCR_NAME.fullmatch(path.name)
    if match is None or match["form"].lower() == "ts":
        return path.suffix.lower() == ".ts"
    return begins_with_values(path)


def begins_with_values(path: Path) -> bool:
    """Whether a text begins as a table of UCR does: with numbers, no names of columns."""
    try:
        with open_file(path, ARRAYS, fix="") as file:
            return _UCR_LINE.match(file.read(100)) is not None
    except DataError:
        return False


def ucr_files(path: Path) -> dict[str, Path]:
    """Part -> file of the archives in a folder, of the first form with a training part.

    Empty where there is none, or files of this form have several names, none that of the folder.
    """
    matches = [match for name in sorted(_names(path)[0]) if (match := UCR_NAME.fullmatch(name))]
    for form in _UCR_FORMS:
        own = [match for match in matches if match["form"].lower() == form]
        own = [match for match in own if is_ucr_file(path / match[0])]
        names = {match["name"] for match in own if match["part"].lower() == "train"}
        if names:
            name = names.pop() if len(names) == 1 else path.resolve().name
            return {each["part"].lower(): path / each[0] for each in own if each["name"] == name}
    return {}


def _names(path: Path) -> tuple[list[str], list[str]]:
    """Names of files and folders, without hidden ones; empty where they cannot be read."""
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(path) as entries:
            for _, entry in zip(range(_MOST_ENTRIES), entries, strict=False):
                if not entry.name.startswith("."):
                    (folders if is_folder(entry) else files).append(entry.name)
    except OSError:
        return [], []
    return files, folders


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one; no error for links in a circle."""
    try:
        return entry.is_dir()
    except OSError:
        return False  # A link that leads to itself.
