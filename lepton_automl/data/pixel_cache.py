"""Pixel cache: a part decoded once, block by block, into files that many processes map."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lepton_automl.core import files
from lepton_automl.data import decode
from lepton_automl.data.sources import Pictures

_BLOCK_BYTES = 32 << 20
"""Pixels in memory at once while a part is decoded, whatever its size."""

Blocks = Iterable[NDArray[np.generic]]


def decode_blocks(
    pictures: Pictures, channels: int, size: tuple[int, int]
) -> Iterator[NDArray[np.uint8]]:
    """Pictures as uint8 (n, H, W, C), in order, some at a time.

    Raises
    ------
    DataError
        If a picture file has gone or changed for the worse since the data were opened.
    """
    if isinstance(pictures, np.ndarray) and pictures.shape[1:] == (*size, channels):
        yield pictures
        return
    count = max(1, _BLOCK_BYTES // (size[0] * size[1] * channels))
    for start in range(0, len(pictures), count):
        yield _decoded(pictures[start : start + count], channels, size)


def _decoded(pictures: Pictures, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    pixels = np.empty((len(pictures), *size, channels), np.uint8)

    def put(place: int) -> None:
        pixels[place] = decode.decode(pictures[place], channels, size)

    decode.map_in_threads(put, range(len(pictures)))
    return pixels


def cache_array(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic], make: Callable[[], Blocks]
) -> None:
    """Have an array in a .npy file, from blocks of its rows; one that is there is left as it is.

    Raises
    ------
    MachineError
        If the file cannot be written.
    """
    try:
        if np.load(path, mmap_mode="r").shape == shape:
            return
    except (OSError, ValueError, EOFError):
        pass  # Not there, or not whole: made anew.
    files.write_chunks(path, _pieces(shape, dtype, make()))


def _pieces(
    shape: tuple[int, ...], dtype: np.dtype[np.generic], made: Blocks
) -> Iterator[bytes | memoryview]:
    yield _header(shape, dtype)
    for block in made:
        yield np.ascontiguousarray(block, dtype).data.cast("B")


def _header(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> bytes:
    """The first bytes of a .npy file, as numpy itself writes them."""
    buffer = io.BytesIO()
    about = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(buffer, about)
    return buffer.getvalue()
