"""Read files with values of signals over time: `.npy` and `.csv`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import untrusted_arrays, untrusted_files
from lepton_automl.core.decisions import Decision
from lepton_automl.data.signals import Layout, Signals, layout_of, to_int16, to_signals
from lepton_automl.errors import DataError
from lepton_automl.text import printable

__all__ = [
    "SUFFIXES",
    "Recording",
    "Windows",
    "check_alike",
    "cut_windows",
    "read_recording",
    "read_windows",
    "to_int16",
    "window_starts",
]

SUFFIXES = frozenset({".npy", ".csv"})
"""Of files with values of a signal."""

_MOST_BYTES = 1 << 30
"""Of the windows of one recording."""
_DELIMITERS = (",", ";", "\t")
_TIMES = re.compile(
    r"(date)?[_ ]?times?[_ ]?(stamps?)?([_ ](ms|us|ns|s|sec|seconds))?|date|t|ts|ms|secs?|seconds?|"
    r"index|idx",
    re.IGNORECASE,
)
"""Names of columns with the time of a row; one of them is left out where it only grows."""
_FIX = "give .npy or .csv files with a row each time and a column each channel"


@dataclass(frozen=True, eq=False)
class Recording:
    """Values of one file."""

    values: NDArray[Any]
    """(length, channels), of any numeric type."""
    names: tuple[str, ...] = ()
    """Of the channels; empty where the file does not name them."""
    time_column: str = ""
    """Name of a column of times that was left out; empty where there is none."""
    times: NDArray[np.float64] | None = None
    """(length,): that column."""

    @property
    def attributes(self) -> dict[str, NDArray[np.float64]]:
        """The column of times under its name; empty without one."""
        return {} if self.times is None else {self.time_column: self.times}


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows that a file holds."""

    values: Signals
    """float32 (n, length, channels)."""
    starts: tuple[int, ...] = ()
    """Places of the windows in their recording; empty where they are not cut from one."""


def read_windows(
    path: Path, length: int, channels: int, names: Sequence[str] = (), stride: int = 0
) -> Windows:
    """Windows in a file; those of a recording that is longer are cut from it.

    Parameters
    ----------
    path : Path
        `.npy`: a recording (at least length, channels) or (channels, at least length), or n windows
        of this length. `.csv`: a recording, as `read_recording`.
    length, channels : int
        Of a window.
    names : sequence of str
        Of the channels; columns of a `.csv` file with these names are used, others are left out.
    stride : int
        Values from the start of one window of a longer recording to the next; 0: half a window.

    Raises
    ------
    DataError
        If the file holds something else.
    """
    is_array = path.suffix.lower() == ".npy"
    values = _array(path) if is_array else read_recording(path, names).values
    return windows_in(values, length, channels, stride, str(path))


def windows_in(values: NDArray[Any], length: int, channels: int, stride: int, what: str) -> Windows:
    """Windows in an array, as `read_windows` finds them in a `.npy` file.

    Raises
    ------
    DataError
        If it holds something else; `what` names it.
    """
    many = values if values.ndim == 3 else values[None]
    layouts: dict[tuple[int, ...], Layout] = {
        (channels, length): "channels first",
        (length, channels): "channels last",
    }
    layout = layouts.get(many.shape[1:])
    if layout is not None and len(many):
        return Windows(to_signals(what, many, layout))
    if values.ndim == 2 and channels in values.shape:
        is_turned = values.shape[1] != channels
        whole = to_signals(what, many, "channels first" if is_turned else "channels last")[0]
        starts = window_starts(len(whole), length, stride or max(1, length // 2))
        if starts:
            return cut_windows(what, whole, starts, length)
    raise DataError(
        f"{what} holds values {values.shape}; the net reads windows of {length} values in "
        f"{channels} channels",
        fix="give windows of the length and channels that the net was made for, or a recording "
        "that is longer",
    )


def cut_windows(what: str, whole: Signals, starts: Sequence[int], length: int) -> Windows:
    """Windows of `length` values at these places of a recording (values, channels).

    Raises
    ------
    DataError
        If they take more memory than is used for them; `what` names the recording.
    """
    size = len(starts) * length * whole.shape[1] * whole.itemsize
    if size > _MOST_BYTES:
        raise DataError(
            f"{what} has {len(starts)} windows of {length} values, which take {size >> 20} MiB, at "
            f"most {_MOST_BYTES >> 20} MiB are used",
            fix="cut it into shorter recordings",
        )
    return Windows(np.stack([whole[n : n + length] for n in starts]), tuple(starts))


def window_starts(length: int, window: int, stride: int) -> range:
    """Places at which windows of a recording start; the rest at its end makes no window."""
    return range(0, length - window + 1, stride)


def read_recording(path: Path, wanted: Sequence[str] = ()) -> Recording:
    """The values of a recording of any length.

    Parameters
    ----------
    path : Path
        `.npy`: (length, channels) or (channels, length), channels being the shorter axis. `.csv`:
        a row each time and a column each channel, separated by commas, semicolons or tabs; a first
        row without numbers names the columns, of which one with times is left out.
    wanted : sequence of str
        Names of channels; a `.csv` file that has all of them is read without its other columns,
        which need not hold numbers.

    Raises
    ------
    DataError
        If the file holds something else.
    """
    if path.suffix.lower() == ".npy":
        values = _array(path)
        if values.ndim == 1:
            values = values[:, None]
        if values.ndim != 2:
            raise DataError(f"{path} holds values {values.shape}, not one recording", fix=_FIX)
        is_turned = layout_of((1, *values.shape)) == "channels first"
        return Recording(values.T if is_turned else values)
    return _table(path, wanted)


def read_recordings(
    files: Sequence[Path], *, skip_corrupt: bool
) -> tuple[list[int], list[Recording], tuple[str, ...], dict[int, str]]:
    """Read recordings, those that cannot be read left out or refused.

    Returns
    -------
    list of int
        Places of the files that were read.
    list of Recording
    tuple of str
        A note on those that were left out; empty where all were read.
    dict of int to str
        Place of each that was left out, and its error.

    Raises
    ------
    DataError
        If one cannot be read and `skip_corrupt` is false, or none can.
    """
    places, read, errors = list[int](), list[Recording](), dict[int, DataError]()
    for place, file in enumerate(files):
        try:
            read.append(read_recording(file))
            places.append(place)
        except DataError as error:
            if not skip_corrupt:
                fix = f"{error.fix}; --skip-corrupt ignores files that cannot be read"
                raise DataError(error.what, fix=fix) from error
            errors[place] = error
    if errors and not read:
        raise errors[0]
    whats = {place: error.what for place, error in errors.items()}
    if not errors:
        return places, read, (), whats
    shown = "; ".join(list(whats.values())[:3])
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    note = f"ignored {len(errors)} of {len(files)} recordings that cannot be read: {shown}{more}"
    return places, read, (note,), whats


def check_alike(files: Sequence[Path], read: Sequence[Recording]) -> None:
    """Check that recordings have the same channels, by number and by name.

    Raises
    ------
    DataError
        Naming the first that differs.
    """
    first, channels = read[0], read[0].values.shape[1]
    for file, recording in zip(files, read, strict=True):
        if recording.values.shape[1] != channels:
            raise DataError(
                f"{file} has {recording.values.shape[1]} channels, {files[0]} has {channels}",
                fix="give recordings with the same columns",
            )
        if recording.names and first.names and recording.names != first.names:
            raise DataError(
                f"{file} has the columns {', '.join(recording.names)}, {files[0]} has "
                f"{', '.join(first.names)}",
                fix="give recordings with the same columns in the same order",
            )


def time_decisions(read: Sequence[Recording]) -> Iterator[Decision]:
    """Which column of recordings was left out because it holds times."""
    left = [n for n, recording in enumerate(read) if recording.time_column]
    if left:
        name = read[left[0]].time_column
        yield Decision(
            name="time column",
            choice=f"the column {name!r} is not a channel",
            evidence=f"it only grows, in {len(left)} of {len(read)} recordings",
            certainty="inferred",
            option="rename the column",
            is_detail=True,
        )


def is_time_name(name: str) -> bool:
    """Whether a column of this name holds times: `Timestamp (ms)`, `t`, `index`."""
    return _TIMES.fullmatch(re.split(r"[(\[]", name)[0].strip(" _")) is not None


def _array(path: Path) -> NDArray[Any]:
    values = untrusted_arrays.read_npy(path, fix=_FIX)
    if values.dtype.kind not in "fiu" or not values.size:
        raise DataError(f"{path} holds {values.dtype} {values.shape}, not numbers", fix=_FIX)
    return values


def _table(path: Path, wanted: Sequence[str]) -> Recording:
    lines = untrusted_files.read_text(path, fix=_FIX).lstrip("\ufeff").splitlines()
    lines = [line for line in lines if line.strip(" ,;\t")]
    delimiter = max(_DELIMITERS, key=lines[0].count) if lines else ","
    names = tuple(cell.strip() for cell in next(_rows(path, lines[:1], delimiter), ()))
    has_head = bool(lines) and not any(map(_is_number, names))
    if has_head and (places := _places(path, names, wanted)):
        return Recording(_numbers(path, lines[1:], delimiter, places), tuple(wanted))
    values = _numbers(path, lines[has_head:], delimiter)
    if not has_head:
        return Recording(values)
    if len(names) != values.shape[1]:
        raise DataError(
            f"{path}: {len(names)} names above {values.shape[1]} columns of values", fix=_FIX
        )
    times = [
        n
        for n, name in enumerate(names)
        if is_time_name(name) and len(names) > 1 and (np.diff(values[:, n]) >= 0).all()
    ]
    if not times:
        return Recording(values, names)
    kept = [n for n in range(len(names)) if n != times[0]]
    kept_names = tuple(names[n] for n in kept)
    return Recording(values[:, kept], kept_names, names[times[0]], values[:, times[0]])


def _places(path: Path, names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Places of the wanted columns; none where names say nothing, so that all columns are meant.

    Raises
    ------
    DataError
        If one of them is there and another is not, or one is there twice: by their order, other
        columns would be taken for them.
    """
    if len(set(wanted)) < len(wanted):
        return []
    fix = f"name the columns as in training: {', '.join(map(printable, wanted[:10]))}"
    if twice := [name for name in wanted if names.count(name) > 1]:
        raise DataError(f"{path}: two columns are named {twice[0]!r}", fix=fix)
    if missing := [name for name in wanted if name not in names]:
        plain = {name.casefold() for name in names}
        if not any(name.casefold() in plain for name in wanted):
            return []
        raise DataError(
            f"{path} has no column {missing[0]!r}, of which the net reads the values; its columns "
            f"are {', '.join(map(printable, names[:10]))}",
            fix=fix,
        )
    return [names.index(name) for name in wanted]


def _numbers(
    path: Path, lines: list[str], delimiter: str, columns: Sequence[int] | None = None
) -> NDArray[np.float64]:
    if not lines:
        raise DataError(f"{path} holds no numbers", fix=_FIX)
    try:
        return np.loadtxt(
            lines,
            np.float64,
            delimiter=delimiter,
            ndmin=2,
            comments=None,
            quotechar='"',
            usecols=columns,
        )
    except ValueError:
        pass  # The rows are read one by one, for the place of the mistake.
    found: list[list[float]] = []
    for number, cells in enumerate(_rows(path, lines, delimiter), start=1):
        row = cells if columns is None else [cells[n] for n in columns if n < len(cells)]
        if not all(map(_is_number, row)) or (found and len(row) != len(found[0])):
            raise DataError(
                f"{path}: row {number} of values is {delimiter.join(row)[:60]!r}, the rule is "
                f"{len(found[0]) if found else len(columns or row)} numbers",
                fix="write one row a time with a number for each channel",
            )
        found.append([float(cell) for cell in row])
    return np.array(found, np.float64)


def _rows(path: Path, lines: list[str], delimiter: str) -> Any:
    try:
        yield from csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter)
    except csv.Error as error:
        raise DataError(f"{path} is not a table of numbers: {error}", fix=_FIX) from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
