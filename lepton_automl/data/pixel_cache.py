"""Cache decoded pixels in .npy files, block by block, for several processes to map."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lepton_automl.core import files
from lepton_automl.data import decode
from lepton_automl.data.framing import Framing
from lepton_automl.data.pixel_scale import SIXTEEN_BIT, PixelScale
from lepton_automl.data.sources import Pictures

_BLOCK_BYTES = 32 << 20
"""Bytes of pixels in memory at once while a part is decoded."""

Blocks = Iterable[NDArray[np.generic]]


def decode_blocks(
    pictures: Pictures,
    channels: int,
    size: tuple[int, int],
    scale: PixelScale = SIXTEEN_BIT,
    framing: Framing | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Decode pictures in blocks of uint8 (n, H, W, C), in order; `scale` as in `decode`.

    Raises
    ------
    DataError
        If a picture file was removed or damaged since the data were opened.
    """
    if (
        framing is None
        and isinstance(pictures, np.ndarray)
        and pictures.shape[1:] == (*size, channels)
    ):
        yield pictures
        return
    count = max(1, _BLOCK_BYTES // (size[0] * size[1] * channels))
    for start in range(0, len(pictures), count):
        yield _decoded(pictures[start : start + count], channels, size, scale, framing)


def _decoded(
    pictures: Pictures,
    channels: int,
    size: tuple[int, int],
    scale: PixelScale,
    framing: Framing | None,
) -> NDArray[np.uint8]:
    pixels = np.empty((len(pictures), *size, channels), np.uint8)

    def put(place: int) -> None:
        pixels[place] = decode.decode(pictures[place], channels, size, scale, framing)

    decode.map_in_threads(put, range(len(pictures)))
    return pixels


def cache_array(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic], make: Callable[[], Blocks]
) -> None:
    """Write an array to a .npy file from blocks of its rows, unless a valid file exists.

    Raises
    ------
    MachineError
        If the file cannot be written.
    """
    try:
        if np.load(path, mmap_mode="r").shape == shape:
            return
    except (OSError, ValueError, EOFError):
        pass  # Missing or damaged: written again.
    files.write_chunks(path, _npy_chunks(shape, dtype, make()))


def _npy_chunks(
    shape: tuple[int, ...], dtype: np.dtype[np.generic], made: Blocks
) -> Iterator[bytes | memoryview]:
    yield _header(shape, dtype)
    for block in made:
        yield np.ascontiguousarray(block, dtype).data.cast("B")


def _header(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> bytes:
    """Header of a .npy file, as numpy writes it."""
    buffer = io.BytesIO()
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(buffer, header)
    return buffer.getvalue()
