"""Arrays that need little anonymous memory: large ones lie in a deleted file that is mapped.

The kernel keeps the pages of a file in memory as long as there is room, and writes them back where
there is none, so that a data set may be larger than the memory. A deleted file ends with the
process that has mapped it, however that ends.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lepton_automl.core.files import machine_error
from lepton_automl.core.scratch import places

IN_MEMORY = 64 << 20
"""Bytes of the largest array that is kept in memory."""
_BLOCK = 16 << 20
"""Bytes that are copied at a time."""

Array = NDArray[Any]


def empty(shape: Sequence[int], dtype: DTypeLike, folder: Path | None = None) -> Array:
    """A new array, of any content.

    Parameters
    ----------
    shape : sequence of int
        Its shape.
    dtype : dtype
        Type of its elements.
    folder : Path, optional
        Where its file lies if it is large; by default a folder for large temporary files.

    Raises
    ------
    MachineError
        If the disk is full or no file can be made.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        return np.empty(tuple(shape), dtype)
    try:
        with tempfile.TemporaryFile(dir=folder or _large_folder(), prefix="lepton-") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, "r+", shape=tuple(shape))
    except OSError as error:
        raise machine_error(error) or error from error


def take(values: Array, index: NDArray[np.int64], folder: Path | None = None) -> Array:
    """Rows of an array at indices, in their order; errors as of `empty`."""
    made = empty((len(index), *values.shape[1:]), values.dtype, folder)
    rows = max(1, _BLOCK // max(1, made[:1].nbytes))
    for start in range(0, len(index), rows):
        np.take(values, index[start : start + rows], 0, made[start : start + rows], mode="clip")
    return made


def join(arrays: Iterable[Array], folder: Path | None = None) -> Array:
    """Arrays one after the other, as `numpy.concatenate`; errors as of `empty`."""
    parts = list(arrays)
    dtype = np.result_type(*parts)
    made = empty((sum(map(len, parts)), *parts[0].shape[1:]), dtype, folder)
    place = 0
    for part in parts:
        made[place : place + len(part)] = part
        place += len(part)
    return made


def convert(values: Array, dtype: DTypeLike, function: Callable[[Array], Array]) -> Array:
    """`function` of an array, block by block of its rows; its shape stays. Errors as of `empty`."""
    made = empty(values.shape, dtype)
    rows = max(1, _BLOCK // max(1, values[:1].nbytes))
    for start in range(0, len(values), rows):
        made[start : start + rows] = function(values[start : start + rows])
    return made


def _large_folder() -> Path:
    """`/var/tmp` unless `TMPDIR` names another folder: `/tmp` is often held in memory."""
    named, large = places(), Path("/var/tmp")
    if os.environ.get("TMPDIR"):
        return named[0]
    with contextlib.suppress(OSError):
        if os.access(large, os.W_OK):
            return large
    return named[0]
