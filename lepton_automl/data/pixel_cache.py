"""Cache decoded pixels in .npy files, block by block, for several processes to map.

Beside each file lies its SHA-256, as `sha256sum` writes it. A command believes a file only after
its content had this digest; worker processes are told the state of the file (`file_state`) in which
that was so, and compute the digest again only if the state has changed.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lepton_automl.core import files, untrusted_files
from lepton_automl.core.untrusted_files import ARRAYS
from lepton_automl.data import decode
from lepton_automl.data.framing import Framing
from lepton_automl.data.pixel_scale import SIXTEEN_BIT, PixelScale
from lepton_automl.data.samples import Pictures
from lepton_automl.errors import DataError

_BLOCK_BYTES = 32 << 20
"""Bytes of pixels in memory at once while a part is decoded."""

_DIGEST_SUFFIX = ".sha256"
"""Of the text file with the digest of a cache file, after the whole name of that."""

Blocks = Iterable[NDArray[np.generic]]

_checked: dict[Path, str] = {}
"""Cache file -> its state when this process last wrote it or found its digest right."""


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
) -> str:
    """Write an array to a .npy file from blocks of its rows, unless the file is there and intact.

    A file of another content than was written, or of another shape or type, is written again.

    Returns
    -------
    str
        State of the file for `map_array`.

    Raises
    ------
    MachineError
        If the file cannot be written.
    """
    if not _is_intact(path, shape, dtype):
        digest = hashlib.sha256()
        files.write_chunks(path, _hashed(digest, _npy_chunks(shape, dtype, make())))
        files.write(digest_file(path), _digest_line(path, digest.hexdigest()))
        _checked[path] = file_state(path)
    return _checked[path]


def map_array(path: Path, *, state: str = "", mode: Literal["r", "c"] = "r") -> np.ndarray:
    """Map a file of `cache_array` into memory.

    Parameters
    ----------
    path : Path
        The file. One without a digest beside it was not written by `cache_array` and is mapped as
        it is, unless `state` says that it was.
    state : str
        State of the file in which its digest was right; another state makes it be computed again.
    mode : {"r", "c"}
        As that of `numpy.memmap`.

    Raises
    ------
    DataError
        If the content is not what was written.
    """
    is_of_cache = state or digest_file(path).exists()
    try:
        if is_of_cache and file_state(path) not in (state, _checked.get(path)):
            found = file_state(path)
            if not _has_digest(path):
                raise ValueError("its SHA-256 is not that of what was written")
            _checked[path] = found
        array: np.ndarray = np.load(path, mmap_mode=mode, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path}, a copy of the data, has changed: {error}",
            fix="run the same command again, which makes it again from the data",
        ) from error
    return array


def file_state(path: Path) -> str:
    """Text that changes with every change of a file: inode, bytes, and times in nanoseconds."""
    found = path.stat()
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def digest_file(path: Path) -> Path:
    """The file with the digest of a cache file."""
    return path.with_name(path.name + _DIGEST_SUFFIX)


def _is_intact(path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> bool:
    """Whether a file has the digest that was written with it, this shape and this type."""
    try:
        state = file_state(path)
        if _checked.get(path) != state and not _has_digest(path):
            return False
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    _checked[path] = state
    return (array.shape, array.dtype) == (shape, dtype)


def _has_digest(path: Path) -> bool:
    fix = "remove that file"
    try:
        line = _digest_line(path, untrusted_files.sha256(path, ARRAYS, fix=fix))
        return untrusted_files.read_text(digest_file(path), fix=fix) == line
    except DataError as error:
        raise ValueError(error.what) from error


def _digest_line(path: Path, digest: str) -> str:
    """A line of `sha256sum`; the name in it makes a copy of another cache file be noticed."""
    return f"{digest}  {path.name}\n"


def _hashed(
    digest: hashlib._Hash, chunks: Iterable[bytes | memoryview]
) -> Iterator[bytes | memoryview]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


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
