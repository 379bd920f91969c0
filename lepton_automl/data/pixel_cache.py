"""Cache decoded pixels in .npy files, block by block, for several processes to map.

Beside each file lies its SHA-256, as `sha256sum` writes it. A command believes a file only after
its content had this digest; worker processes are told the state of the file (`file_state`) in which
that was so, and compute the digest again only if the state has changed. Of large files the state
is kept in a file too, for the next command.

Many picture files are decoded in several processes into a file of another name, beside a list of
the blocks that are done with their CRC-32: a command that is killed continues with the others.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lepton_automl.core import files, held_folders, untrusted_files
from lepton_automl.core.progress import Countdown
from lepton_automl.core.untrusted_arrays import read_npy_header
from lepton_automl.core.untrusted_files import ARRAYS
from lepton_automl.data.decode_pool import DecodePool, Decoding, ReadOptions
from lepton_automl.data.pictures import decode
from lepton_automl.data.pictures.framing import Framing
from lepton_automl.data.pictures.picture_files import PictureFile, Pictures
from lepton_automl.data.pictures.pixel_scale import SIXTEEN_BIT, PixelScale
from lepton_automl.errors import DataError

_BLOCK_BYTES = 32 << 20
"""Bytes of pixels in memory at once while a part is decoded."""

_DIGEST_SUFFIX, _STATE_SUFFIX = ".sha256", ".state"
"""Of the text files with the digest of a cache file and with its state when the digest was right,
after the whole name of that."""
_FIX = "run the same command again, which makes it again from the data"
_LARGE = 64 << 20
"""Bytes of a file from which on its state is kept."""
_SETTLED_NS = 2_000_000_000
"""Age of a change from which on a second one has another time in every file system."""
_POOL_BLOCK_BYTES = 4 << 20
"""Bytes of pixels that a process decodes at a time."""

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


def decode_16_bit_blocks(
    pictures: NDArray[np.uint16] | Sequence[PictureFile], channels: int, size: tuple[int, int]
) -> Iterator[NDArray[np.uint16]]:
    """Decode pictures of 16 bits in blocks of uint16 (n, H, W, C), in order.

    Raises
    ------
    DataError
        As `decode.decode_16_bit`.
    """
    count = max(1, _BLOCK_BYTES // (2 * size[0] * size[1] * channels))
    for start in range(0, len(pictures), count):
        places = range(start, min(start + count, len(pictures)))
        yield np.stack(
            decode.map_in_threads(
                lambda place: decode.decode_16_bit(pictures[place], channels, size), places
            )
        )


def cache_array(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[np.generic],
    make: Callable[[], Blocks],
    *,
    is_forced: bool = False,
) -> str:
    """Write an array to a .npy file from blocks of its rows, unless the file is there and intact.

    A file of another content than was written, or of another shape or type, is written again.
    `is_forced`: its digest is computed whatever its state.

    Returns
    -------
    str
        State of the file for `map_array`.

    Raises
    ------
    MachineError
        If the file cannot be written.
    """
    if not _is_intact(path, shape, dtype, is_forced=is_forced):
        digest = hashlib.sha256()
        files.write_chunks(path, _hashed(digest, _npy_chunks(shape, dtype, make())))
        files.write(digest_file(path), _digest_line(path, digest.hexdigest()))
        _checked[path] = file_state(path)
    _keep_state(path)
    return _checked[path]


def cache_pictures(
    path: Path,
    pictures: Sequence[PictureFile],
    how: Decoding,
    reading: ReadOptions,
    what: str = "pictures",
) -> str:
    """Decode many picture files to a .npy file, unless it is there and intact.

    Parameters
    ----------
    path : Path
        The file, uint8 (N, H, W, C). Its name tells all that decides its content.
    pictures : sequence of Path or Member
        The picture files.
    how : Decoding
        How they are decoded.
    reading : ReadOptions
        Processes, memory and where progress goes.
    what : str
        What the pictures are, in progress.

    Returns
    -------
    str
        As of `cache_array`.

    Raises
    ------
    DataError
        If a picture file was removed or damaged since the data were opened.
    MachineError
        If the file cannot be written.
    """
    shape, dtype = (len(pictures), *how.size, how.channels), np.dtype(np.uint8)
    if not _is_intact(path, shape, dtype, is_forced=reading.is_forced):
        digest = _Partial(path, shape, pictures, how).fill(reading, what)
        files.write(digest_file(path), _digest_line(path, digest))
        _checked[path] = file_state(path)
    _keep_state(path)
    return _checked[path]


class _Partial:
    """A .npy file that is filled block by block, and the list of the blocks that are done."""

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        pictures: Sequence[PictureFile],
        how: Decoding,
    ) -> None:
        self._path, self._pictures, self._how = path, pictures, how
        self._file = path.with_name(f".{path.name}.partial")
        self._list = path.with_name(f".{path.name}.blocks")
        self._header = _header(shape, np.dtype(np.uint8))
        self._each = how.size[0] * how.size[1] * how.channels
        count = max(1, _POOL_BLOCK_BYTES // self._each)
        self._blocks = [
            range(n, min(n + count, len(pictures))) for n in range(0, len(pictures), count)
        ]
        self._digest = hashlib.sha256(self._header)
        self._done: dict[int, int] = {}
        self._hashed = 0

    def fill(self, reading: ReadOptions, what: str) -> str:
        """Decode what is missing, move the file to its place, and return its SHA-256."""
        held_folders.check_write(self._path)
        with files.wrap_os_errors(self._path):
            files.make_durable_folder(self._path.parent)
            handle = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self._resume(handle)
                with self._list.open("ab") as done:
                    self._decode(handle, done, reading, what)
                os.fsync(handle)
            finally:
                os.close(handle)
            held_folders.check_write(self._path)  # Decoding may take long.
            self._file.replace(self._path)
            files.sync_folder(self._path.parent)
        files.remove(self._list)
        return self._digest.hexdigest()

    def _resume(self, handle: int) -> None:
        """Find the blocks that are done; without any, write the header and a new list."""
        begin = f"{len(self._blocks)} blocks of {self._blocks[0].stop} pictures\n"
        size = len(self._header) + self._each * len(self._pictures)
        with contextlib.suppress(DataError):
            lines = untrusted_files.read_text(self._list, fix="").splitlines(keepends=True)
            if lines[:1] == [begin] and os.fstat(handle).st_size == size:
                self._done = dict(filter(self._is_done(handle), map(_block_line, lines[1:])))
        if not self._done:
            os.truncate(handle, 0)
            os.posix_fallocate(handle, 0, size)  # A full disk is noticed now.
            _write_at(handle, 0, self._header)
            files.write(self._list, begin)

    def _is_done(self, handle: int) -> Callable[[tuple[int, int]], bool]:
        return lambda line: (
            0 <= line[0] < len(self._blocks)
            and zlib.crc32(self._read(handle, self._blocks[line[0]])) == line[1]
        )

    def _decode(self, handle: int, done: BinaryIO, reading: ReadOptions, what: str) -> None:
        missing = [n for n in range(len(self._blocks)) if n not in self._done]
        before = sum(len(self._blocks[n]) for n in self._done)
        height, width = self._how.size
        text = f"decoding {what} at {height}x{width}"
        countdown = Countdown(text, len(self._pictures), reading.emit, before)
        self._hash(handle)
        for n, crc in self._decoded(missing, handle, reading):
            done.write(b"%d %d\n" % (n, crc))
            done.flush()
            self._done[n] = crc
            self._hash(handle)
            countdown.add(len(self._blocks[n]))

    def _decoded(
        self, missing: Sequence[int], handle: int, reading: ReadOptions
    ) -> Iterator[tuple[int, int]]:
        """Decode blocks to their places in the file: number and CRC-32 of each."""
        chunks, count = [self._blocks[n] for n in missing], reading.count_for(self._pictures)
        if count == 1:
            for n in missing:
                yield n, self._decode_here(handle, n)
            return
        with DecodePool(count, reading.memory) as pool:
            left = []
            for number, crc in pool.decode_into(
                self._file, len(self._header), self._pictures, chunks, self._how
            ):
                if crc < 0:
                    left.append(missing[number])
                else:
                    yield missing[number], crc
        for n in left:
            yield n, self._decode_here(handle, n)

    def _decode_here(self, handle: int, n: int) -> int:
        block, how = self._blocks[n], self._how
        chosen = tuple(self._pictures[block.start : block.stop])
        pixels = _decoded(chosen, how.channels, how.size, how.scale, how.framing)
        content = pixels.data.cast("B")
        _write_at(handle, self._place(block), content)
        return zlib.crc32(content)

    def _hash(self, handle: int) -> None:
        """Go on with the SHA-256 of the file, as far as its beginning is there."""
        while self._hashed in self._done:
            self._digest.update(self._read(handle, self._blocks[self._hashed]))
            self._hashed += 1

    def _place(self, block: range) -> int:
        return len(self._header) + block.start * self._each

    def _read(self, handle: int, block: range) -> bytes:
        return os.pread(handle, len(block) * self._each, self._place(block))


def _block_line(line: str) -> tuple[int, int]:
    """Number and CRC-32 of a block; (-1, 0) where the line is damaged."""
    found = re.fullmatch(r"(\d{1,12}) (\d{1,12})\n", line)
    return (int(found[1]), int(found[2])) if found else (-1, 0)


def _write_at(handle: int, place: int, content: bytes | memoryview) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(handle, view, place)
        view, place = view[written:], place + written


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
        return _mapped(path, mode)
    except (OSError, ValueError, DataError) as error:
        what = error.what if isinstance(error, DataError) else error
        raise DataError(f"{path}, a copy of the data, has changed: {what}", fix=_FIX) from error


def _mapped(path: Path, mode: Literal["r", "c"]) -> NDArray[Any]:
    """Map an array in a `.npy` file into memory.

    Of a header that is damaged numpy's own reader raises errors of many kinds.

    Raises
    ------
    DataError, OSError, ValueError
        If the header is damaged or the file too short.
    """
    header = read_npy_header(path, fix=_FIX)
    order: Literal["C", "F"] = "F" if header.is_fortran else "C"
    if not header.data_bytes:
        return np.zeros(header.shape, header.dtype, order)  # No file of 0 bytes can be mapped.
    return np.memmap(path, header.dtype, mode, header.size, header.shape, order)


def file_state(path: Path) -> str:
    """Text that changes with every change of a file: inode, bytes, and times in nanoseconds."""
    found = path.stat()
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def digest_file(path: Path) -> Path:
    """The file with the digest of a cache file."""
    return path.with_name(path.name + _DIGEST_SUFFIX)


def _is_intact(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic], *, is_forced: bool = False
) -> bool:
    """Whether a file has the digest that was written with it, this shape and this type."""
    try:
        state = file_state(path)
        is_known = _checked.get(path) == state or (not is_forced and _kept_state(path) == state)
        if not is_known and not _has_digest(path):
            return False
        array = _mapped(path, "r")
    except (OSError, ValueError, DataError):
        return False
    _checked[path] = state
    return (array.shape, array.dtype) == (shape, dtype)


def _keep_state(path: Path) -> None:
    """Keep the state of a large file whose digest is right, once it is old enough to tell."""
    found, kept = path.stat(), path.with_name(path.name + _STATE_SUFFIX)
    is_old = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > _SETTLED_NS
    state = _checked[path]
    if found.st_size >= _LARGE and is_old and _kept_state(path) != state == file_state(path):
        files.write(kept, f"{state}  {path.name}\n")


def _kept_state(path: Path) -> str:
    """The state that `_keep_state` wrote; empty where there is none."""
    kept = path.with_name(path.name + _STATE_SUFFIX)
    with contextlib.suppress(DataError):
        state, _, name = untrusted_files.read_text(kept, fix="").rpartition("  ")
        return state if name == f"{path.name}\n" else ""
    return ""


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
