"""Series of the UCR and UEA archives: `.ts` files, and the tables of UCR without a line of names.

The archives are described by Dau et al. 2019 (UCR) and Bagnall et al. 2018 (UEA), the form `.ts` by
the page of sktime and aeon on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_files import FileKind
from lepton_automl.data.layouts.folder_kinds import folder_kind, is_ucr_file, ucr_files
from lepton_automl.data.layouts.tables import class_texts
from lepton_automl.data.layouts.windows import LabelledRecording, cut_recordings
from lepton_automl.data.sources import Samples, Source
from lepton_automl.errors import DataError

_SERIES = FileKind("series", 512 << 20)
_FIX = (
    "give a .ts file of the UCR or UEA archive, or NAME_TRAIN.tsv with a series a line, its label "
    "first"
)


class Ucr(Source):
    """A series a line, with its label; `NAME_TRAIN.ts` and `NAME_TEST.ts` of a folder are parts.

    Of files with several names those with the name of the folder are read. A file by itself is
    undivided data. Series of one length are samples as they are, others are cut into windows
    (`data.layouts.windows.cut_recordings`).

    Parameters
    ----------
    window : int, optional
        Values of a window; None: whole series where all have one length, else 128 at most.
    stride : int, optional
        Values from the start of one window to the next; None: half a window.
    """

    uses = frozenset({"window", "stride"})

    def __init__(self, window: int | None = None, stride: int | None = None) -> None:
        self._window, self._stride = window, stride

    def accepts(self, data: str) -> bool:
        path = Path(data)
        return folder_kind(data) == "ucr" or (path.is_file() and is_ucr_file(path))

    def read(self, data: str) -> Samples:
        path = Path(data)
        files = ucr_files(path) if path.is_dir() else {"": path}
        if not files:
            raise DataError(
                f"{data} holds no training part, or files of several names, none of them that of "
                "the folder",
                fix="give one of the files, such as NAME_TRAIN.ts, and --test NAME_TEST.ts",
            )
        series = [
            each
            for part, file in files.items()
            for each in (_ts if file.suffix.lower() == ".ts" else _lines_of_values)(file, part)
        ]
        if not series:
            raise DataError(f"{data} holds no series", fix=_FIX)
        channels = {each.values.shape[1] for each in series}
        if len(channels) > 1:
            shown = " and ".join(map(str, sorted(channels)[:2]))
            raise DataError(
                f"{data} holds series of {shown} channels", fix="give series with the same channels"
            )
        return cut_recordings(data, series, window=self._window, stride=self._stride)


def _ts(path: Path, part: str) -> Iterator[LabelledRecording]:
    """Series of a `.ts` file: channels have `:` between them, values commas; the label is last."""
    lines = _text_lines(path)
    _check_head(path, lines)
    for number, line in lines:
        *channels, label = line.split(":")
        found = [_values(path, number, text.split(",")) for text in channels if text.strip()]
        if not found or not label.strip():
            raise DataError(f"{path}, line {number}: no values, or no label after `:`", fix=_FIX)
        if len({len(each) for each in found}) > 1:
            raise DataError(
                f"{path}, line {number}: its channels have different numbers of values",
                fix="give the channels of a series the same length",
            )
        yield _series(path, number, part, label.strip(), np.stack(found, axis=1))


def _check_head(path: Path, lines: Iterator[tuple[int, str]]) -> None:
    """Read the lines to `@data`, and check that series with classes and without times follow."""
    head: dict[str, bool] = {}
    for _, line in lines:
        key, *words = line.lower().split()
        if key == "@data" or not key.startswith("@"):
            break
        head[key] = words[:1] == ["true"]
    else:
        key = ""
    if key != "@data":
        raise DataError(f"{path} is no .ts file of series: it has no line @data", fix=_FIX)
    if head.get("@timestamps"):
        raise DataError(
            f"{path} has a time beside each value (@timeStamps true), which is not read",
            fix="give a table with a column each for time, values, label and name of the series",
        )
    if not head.get("@classlabel"):
        is_number = head.get("@targetlabel")
        raise DataError(
            f"{path} has {'numbers as labels (@targetLabel' if is_number else 'no labels ('}"
            f"{' true)' if is_number else '@classLabel is not true)'}",
            fix="give series with classes: @classLabel true and their names",
        )


def _lines_of_values(path: Path, part: str) -> Iterator[LabelledRecording]:
    """Series of a table of UCR: the label, then the values, with tabs, commas or spaces between."""
    rows = [(number, re.split(r"[,\s]+", line)) for number, line in _text_lines(path)]
    labels = class_texts([_plain(cells[0]) for _, cells in rows])
    for (number, cells), label in zip(rows, labels, strict=True):
        values = _values(path, number, cells[1:])
        yield _series(path, number, part, label, values[:, None])


def _plain(label: str) -> str:
    """A label that is written as `1.0000000e+00` in the way of others."""
    try:
        return f"{float(label):g}"
    except ValueError:
        return label


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and content of the lines that are neither empty nor a comment."""
    text = untrusted_files.read_text(path, _SERIES, fix=_FIX, errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.strip()
        if content and content[0] not in "#%":
            yield number, content


def _values(path: Path, number: int, cells: list[str]) -> NDArray[np.float64]:
    try:
        # `?` is a missing value.
        return np.array([cell if cell.strip() != "?" else "nan" for cell in cells], np.float64)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: {error}", fix=_FIX) from error


def _series(
    path: Path, number: int, part: str, label: str, values: NDArray[np.float64]
) -> LabelledRecording:
    """A series without the missing values that fill it up at its end."""
    known = np.flatnonzero(~np.isnan(values).all(axis=1))
    if not len(known):
        raise DataError(f"{path}, line {number}: a series without values", fix="remove the line")
    return LabelledRecording(
        name=f"{path.name}:{number}",
        values=values[: known[-1] + 1],
        labels=label,
        part=part,
    )
