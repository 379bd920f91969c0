"""Lines of series in the files of the UCR and UEA archives: `.ts`, and the tables of UCR."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import untrusted_files
from lepton_automl.core.units import counted
from lepton_automl.core.untrusted_files import FileKind, whole_number
from lepton_automl.data.layouts.folder_kinds import begins_with_values
from lepton_automl.data.layouts.tables import class_texts
from lepton_automl.data.layouts.windows import LabelledRecording
from lepton_automl.data.signal_files import Windows, cut_windows, window_starts
from lepton_automl.data.signals import to_signals
from lepton_automl.errors import DataError

SUFFIXES = frozenset({".ts", ".tsv"})
"""Of files of series that are found in a folder."""
FIX = (
    "give a .ts file of the UCR or UEA archive, or NAME_TRAIN.tsv with a series a line, its label "
    "first"
)
_SERIES = FileKind("series", 512 << 20)
_BETWEEN = re.compile(r"[,\s]+")
"""What stands between the values of a line."""


def labelled(path: Path, part: str) -> Iterator[LabelledRecording]:
    """The series of a file, which have labels, as recordings of a part.

    Raises
    ------
    DataError
        If the file holds something else.
    """
    return (_ts if path.suffix.lower() == ".ts" else _lines_of_values)(path, part)


def read_series(
    path: Path, length: int, channels: int, stride: int = 0
) -> list[tuple[str, Windows]] | None:
    """Windows of each series in a file, with or without labels, which are not used.

    Parameters
    ----------
    path : Path
        A `.ts` file, or a table (`.tsv`, `.txt`) of series of one channel without a line of names:
        its first column is a label where lines are longer than a window.
    length, channels : int
        Of a window.
    stride : int
        Values from the start of one window of a longer series to the next; 0: half a window.

    Returns
    -------
    list of (str, Windows) or None
        Names of series, by their lines, and their windows; a series of this length has no `starts`.
        None where the file is something else.

    Raises
    ------
    DataError
        If a line is malformed, or a series is shorter than a window.
    """
    form = path.suffix.lower()
    if form == ".ts":
        series = _any_ts(path, channels)
    elif form in (".tsv", ".txt") and channels == 1 and begins_with_values(path):
        series = _any_lines(path, length)
    else:
        return None
    found, short = [], []
    for each in series:
        name = f"line {each.name.rpartition(':')[2]}"
        what = f"{path}, {name}"
        values = to_signals(what, each.values[None], "channels last")
        starts = window_starts(values.shape[1], length, stride or max(1, length // 2))
        if not starts:
            short.append(f"{what}: a series of {values.shape[1]} values")
        elif values.shape[1] == length:
            found.append((name, Windows(values)))
        else:
            found.append((name, cut_windows(what, values[0], starts, length)))
    if short or not found:
        why = f"{short[0]}; the net reads windows of {length}" if short else f"{path} has no series"
        more = f" ({len(short)} of {len(short) + len(found)} are shorter)" if found else ""
        raise DataError(why + more, fix="give series that are as long as a window, or longer")
    return found


def _any_ts(path: Path, channels: int) -> Iterator[LabelledRecording]:
    """Series of a `.ts` file, whose lines may end with a label."""
    lines = _text_lines(path)
    _check_head(path, lines, has_labels=False)
    for number, line in lines:
        texts = line.split(":")
        if len(texts) not in (channels, channels + 1):
            raise DataError(
                f"{path}, line {number}: {len(texts)} parts between `:`, the net reads "
                f"{counted(channels, 'channel')}, after which a label may follow",
                fix="give series with the channels that the net was made for",
            )
        yield _series(path, number, "", "?", _channels(path, number, texts[:channels]))


def _any_lines(path: Path, length: int) -> Iterator[LabelledRecording]:
    """Series of a table without names of columns, whose lines may begin with a label."""
    lines = list(_text_lines(path))
    are_windows = all(len(_BETWEEN.split(line)) == length for _, line in lines)
    first = 0 if are_windows else 1  # The label.
    for number, line in lines:
        cells = _BETWEEN.split(line)[first:]
        yield _series(path, number, "", "?", _values(path, number, cells)[:, None])


def _ts(path: Path, part: str) -> Iterator[LabelledRecording]:
    """Series of a `.ts` file: channels have `:` between them, values commas; the label is last."""
    lines = _text_lines(path)
    _check_head(path, lines)
    for number, line in lines:
        *channels, label = line.split(":")
        given = [text for text in channels if text.strip()]
        if not given or not label.strip():
            raise DataError(f"{path}, line {number}: no values, or no label after `:`", fix=FIX)
        yield _series(path, number, part, label.strip(), _channels(path, number, given))


def _channels(path: Path, number: int, texts: list[str]) -> NDArray[np.float64]:
    """Values (length, channels) of the channels of a series."""
    found = [_values(path, number, text.split(",")) for text in texts]
    if len({len(each) for each in found}) > 1:
        raise DataError(
            f"{path}, line {number}: its channels have different numbers of values",
            fix="give the channels of a series the same length",
        )
    return np.stack(found, axis=1)


def _check_head(path: Path, lines: Iterator[tuple[int, str]], *, has_labels: bool = True) -> None:
    """Read the lines to `@data`, and check that series without times and with classes follow."""
    head: dict[str, bool] = {}
    for _, line in lines:
        key, *words = line.lower().split()
        if key == "@data" or not key.startswith("@"):
            break
        head[key] = words[:1] == ["true"]
    else:
        key = ""
    if key != "@data":
        raise DataError(f"{path} is not a .ts file of series: it has no line @data", fix=FIX)
    if head.get("@timestamps"):
        raise DataError(
            f"{path} has a time beside each value (@timeStamps true), which is not read",
            fix="give a table with a column each for time, values, label and name of the series",
        )
    if has_labels and not head.get("@classlabel"):
        is_number = head.get("@targetlabel")
        raise DataError(
            f"{path} has {'numbers as labels (@targetLabel' if is_number else 'no labels ('}"
            f"{' true)' if is_number else '@classLabel is not true)'}",
            fix="give series with classes: @classLabel true and their names",
        )


def _lines_of_values(path: Path, part: str) -> Iterator[LabelledRecording]:
    """Series of a table of UCR: the label, then the values, with tabs, commas or spaces between."""
    lines = list(_text_lines(path))  # All cells at once would take twenty times their memory.
    labels = class_texts([_plain(_BETWEEN.split(line, 1)[0]) for _, line in lines])
    for (number, line), label in zip(lines, labels, strict=True):
        values = _values(path, number, _BETWEEN.split(line)[1:])
        yield _series(path, number, part, label, values[:, None])


def _plain(label: str) -> str:
    """A label that is written as `1.0000000e+00` in the way of others, where that is its value."""
    try:
        value = float(label)
    except ValueError:
        return label
    whole, short = whole_number(label), f"{value:g}"
    exact = value if whole is None else whole
    return short if float(short) == exact or math.isnan(value) else str(exact)


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and content of the lines that are neither empty nor a comment."""
    text = untrusted_files.read_text(path, _SERIES, fix=FIX, errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.strip()
        if content and content[0] not in "#%":
            yield number, content


def _values(path: Path, number: int, cells: list[str]) -> NDArray[np.float64]:
    try:
        # `?` is a missing value.
        return np.array([cell if cell.strip() != "?" else "nan" for cell in cells], np.float64)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: {error}", fix=FIX) from error


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
