"""Write a table of picture files without those that are damaged, repeated or contradictory."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

from lepton_automl.core import files
from lepton_automl.core.files import real_path
from lepton_automl.data.audit.checks import SampleKey
from lepton_automl.data.dataset import Dataset
from lepton_automl.errors import ConfigError, DataError

COLUMNS = ("path", "label", "split", "group")


@dataclass(frozen=True)
class CleanedTable:
    """A table that was written, and what was left out of it."""

    path: Path
    root: Path
    """Folder from which its paths start; `--root` where it is not that of the table."""
    rows: int
    copies: tuple[SampleKey, ...]
    """Left out: equal to a sample of a later part."""
    contradictory: tuple[SampleKey, ...]
    """Left out: equal to a sample of another class."""

    @property
    def command(self) -> str:
        """The options that read it."""
        is_beside = self.root == real_path(self.path.parent)
        return f"{self.path}" if is_beside else f"{self.path} --root {self.root}"


def check_place(path: Path) -> None:
    """Refuse a place for the table before any data are read.

    Raises
    ------
    ConfigError
        If something is there, or the name does not end in .csv.
    """
    if path.suffix.lower() != ".csv":
        raise ConfigError(f"--fix {path}: the name does not end in .csv", fix="name a .csv file")
    if os.path.lexists(path):
        raise ConfigError(
            f"--fix {path}: it exists, and nothing is overwritten", fix="give another name"
        )


def check_files(dataset: Dataset) -> None:
    """Refuse data whose pictures are not files, which a table cannot name.

    Raises
    ------
    ConfigError
        If they are arrays, signals or members of an archive.
    """
    if not all(isinstance(each, Path) for part in dataset.parts for each in part.pictures):
        raise ConfigError(
            "--fix has no effect: the data are arrays or an archive, not picture files",
            fix="leave --fix out, and remove the samples that the report names",
        )


def write_cleaned(dataset: Dataset, path: Path) -> CleanedTable:
    """Write the samples that stay, with their part and group; no picture is touched.

    Of equal samples in several parts that of the latest part stays, so that the test part is as it
    was. Equal samples of different classes are all left out.

    Raises
    ------
    ConfigError
        As `check_place`, or if the data are not picture files.
    DataError
        If a path or a label cannot stand in a table, or nothing stays.
    MachineError
        If it cannot be written.
    """
    check_place(path)
    check_files(dataset)
    kept, copies, contradictory = _sorted_out(dataset)
    if not kept:
        raise DataError("no sample is left for --fix", fix="correct the labels by hand")
    root = _root(dataset, kept, path)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    has_groups = any(part.groups is not None for part in dataset.parts)
    rows.writerow(COLUMNS if has_groups else COLUMNS[:-1])
    for name, place in kept:
        part = dataset.part(name)
        file = os.path.relpath(_absolute(part.pictures[place]), root)
        cells = [file, dataset.class_names[part.labels[place]], name]
        if has_groups:
            cells.append("" if part.groups is None else str(part.groups[place]))
        for cell in cells:
            _check_cell(cell)
        rows.writerow(cells)
    files.write(path, text.getvalue())
    return CleanedTable(path, root, len(kept), tuple(copies), tuple(contradictory))


def _sorted_out(
    dataset: Dataset,
) -> tuple[list[SampleKey], list[SampleKey], list[SampleKey]]:
    """Samples that stay, copies of a sample of a later part, and contradictory ones."""
    labels: dict[bytes, set[int]] = {}
    last: dict[bytes, str] = {}
    for part in dataset.parts:
        for digest, label in zip(part.digests, part.labels.tolist(), strict=True):
            labels.setdefault(digest, set()).add(label)
            last[digest] = part.name
    kept, copies, contradictory = [], [], []
    for part in dataset.parts:
        for place, digest in enumerate(part.digests):
            key = (part.name, place)
            if len(labels[digest]) > 1:
                contradictory.append(key)
            elif last[digest] != part.name:
                copies.append(key)
            else:
                kept.append(key)
    return kept, copies, contradictory


def _root(dataset: Dataset, kept: list[SampleKey], path: Path) -> Path:
    """The folder of the table where all pictures are below it, else the one above all of them."""
    beside = real_path(path.parent)
    folders = {os.path.dirname(_absolute(dataset.part(n).pictures[p])) for n, p in kept}  # noqa: PTH120
    common = Path(os.path.commonpath(folders))
    return beside if common.is_relative_to(beside) else common


def _absolute(picture: object) -> str:
    """Path of a picture file, its folder without links; the file itself may be a link."""
    assert isinstance(picture, Path)
    return str(real_path(picture.parent) / picture.name)


def _check_cell(cell: str) -> None:
    try:
        cell.encode()
        is_text = cell.isprintable() and cell == cell.strip() and "://" not in cell
    except UnicodeEncodeError:
        is_text = False
    if not is_text:
        raise DataError(
            f"{cell!r} cannot stand in a table: it is not printable UTF-8 text, begins or ends "
            "with a space, or holds ://",
            fix="rename that file or class",
        )
