"""Read windows of a signal from files, as `lepton predict` takes them: `.npy` and `.csv`."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from lepton_automl.core import untrusted_arrays, untrusted_files
from lepton_automl.data.signals import Layout, Signals, to_signals
from lepton_automl.errors import DataError

SUFFIXES = frozenset({".npy", ".csv"})
"""Of files with windows of a signal."""

_FIX = "give .npy or .csv files with windows of the length and channels that the net was made for"


def read_windows(path: Path, length: int, channels: int) -> Signals:
    """Windows in a file, float32 (n, length, channels).

    Parameters
    ----------
    path : Path
        `.npy`: one window (length, channels) or (channels, length), or n of them. `.csv`: one
        window, a row each time and a column each channel; a first row without numbers is skipped.
    length, channels : int
        Of a window.

    Raises
    ------
    DataError
        If the file holds something else.
    """
    is_array = path.suffix.lower() == ".npy"
    values = untrusted_arrays.read_npy(path, fix=_FIX) if is_array else _table(path)
    if values.dtype.kind not in "fiu" or values.ndim not in (2, 3):
        raise _unfit(path, f"it holds {values.dtype} {values.shape}", length, channels)
    windows = values if values.ndim == 3 else values[None]
    layouts: dict[tuple[int, ...], Layout] = {
        (channels, length): "channels first",
        (length, channels): "channels last",
    }
    layout = layouts.get(windows.shape[1:])
    if layout is None or not len(windows):
        raise _unfit(path, f"it holds values {values.shape}", length, channels)
    return to_signals(str(path), windows, layout)


def _table(path: Path) -> np.ndarray:
    text = untrusted_files.read_text(path, fix=_FIX)
    try:
        rows = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f"{path} is no table of numbers: {error}", fix=_FIX) from error
    if rows and not any(map(_is_number, rows[0])):
        rows = rows[1:]
    if not rows:
        raise DataError(f"{path} holds no numbers", fix=_FIX)
    found: list[list[float]] = []
    for number, row in enumerate(rows, start=1):
        if not all(map(_is_number, row)) or len(row) != len(rows[0]):
            raise DataError(
                f"{path}: row {number} of values is {','.join(row)[:60]!r}, the rule is "
                f"{len(rows[0])} numbers",
                fix="write one row a time with a number for each channel",
            )
        found.append([float(cell) for cell in row])
    return np.array(found, np.float64)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _unfit(path: Path, what: str, length: int, channels: int) -> DataError:
    return DataError(
        f"{path}: {what}; the net reads windows of {length} values in {channels} channels",
        fix=_FIX,
    )
