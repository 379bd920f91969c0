"""Read numpy arrays of files from outside; what a header claims is checked before any allocation.

No array of Python objects is read, since that would unpickle them.
"""

from __future__ import annotations

import ast
import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import large_arrays, untrusted_files
from lepton_automl.core.untrusted_files import ARRAYS, ErrorType
from lepton_automl.errors import DataError

MAX_HEADER = 10_000
"""Bytes in the header of an array, as in numpy."""
MAX_DIRECTORY = 1 << 20
"""Bytes in the list of the arrays of a `.npz` file."""
MAX_UNPACKED = 32 << 30
"""Bytes of one array."""
MAX_RATIO, RATIO_FROM = 200, 256 << 20
"""From this unpacked size on, an array has at most this many times its packed size."""
_MAX_SIDE = 1 << 40
_BLOCK = 1 << 20
_MAGIC = b"\x93NUMPY"
_TYPE = re.compile(r"[<>=|]?[?bhilqBHILQuefdFDcSUO]\d{0,9}")

_ANOTHER = "give the path of a .npz file that you may read"

Array = NDArray[Any]


class ObjectArrayError(ValueError):
    """An array of Python objects, which would have to be unpickled."""


@dataclass(frozen=True)
class Header:
    """What the header of an array states."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool
    """Whether the first index changes fastest."""
    size: int
    """Bytes of the header itself."""

    @property
    def data_bytes(self) -> int:
        """Bytes of the data that the header claims."""
        return math.prod(self.shape) * self.dtype.itemsize


class ArrayFile:
    """The arrays of an open `.npz` file, each of which is read when it is asked for."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in archive.infolist():
            _check_member(member)
            key = member.filename.removesuffix(".npy")
            if key in self._members:
                raise ValueError(f"it holds {key!r} twice")
            self._members[key] = member

    @property
    def files(self) -> list[str]:
        """Keys of the arrays, in their order."""
        return list(self._members)

    def headers(self) -> dict[str, Header]:
        """The headers of the arrays that have one that can be read."""
        found = {}
        for key, member in self._members.items():
            try:
                with self._archive.open(member) as file:
                    found[key] = _header(file)
            except (ValueError, *DAMAGED):
                continue
        return found

    def read(self, key: str) -> Array:
        """Read an array.

        Raises
        ------
        ObjectArrayError
            If it is an array of Python objects.
        ValueError, OSError, EOFError, BadZipFile, zlib.error
            If it is damaged or larger than its limits.
        """
        member = self._members[key]
        _check_ratio(key, member)
        with self._archive.open(member) as file:
            try:
                return _read(file, member.file_size)
            except ObjectArrayError:
                raise
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error


@contextmanager
def open_npz(path: Path, *, fix: str) -> Iterator[ArrayFile]:
    """Open a `.npz` file until the block ends.

    Parameters
    ----------
    path : Path
        Its path.
    fix : str
        The way out where it is damaged.

    Raises
    ------
    DataError
        If it is not a regular file, no archive of arrays, or an array in it cannot be read.
    """
    with untrusted_files.open_file(path, ARRAYS, fix=_ANOTHER) as file:
        try:
            if file.read(len(_MAGIC)) == _MAGIC:
                raise ValueError("it holds one bare array")
            file.seek(0)
            reader = LimitedReader(file, MAX_DIRECTORY, "its list of arrays")
            with zipfile.ZipFile(reader) as archive:
                reader.limit = None
                yield ArrayFile(archive)
        except (ValueError, *DAMAGED) as error:
            reason = error.strerror or error if isinstance(error, OSError) else error
            raise DataError(
                f"{path} is not a readable .npz file: {str(reason) or 'it ends early'}", fix=fix
            ) from error


def read_npy(path: Path, *, fix: str, error: ErrorType = DataError) -> Array:
    """Read the array in a `.npy` file.

    Raises
    ------
    LeptonError
        `error`, if it is not a regular file, no array of numbers or texts, or damaged.
    """
    with untrusted_files.open_file(path, ARRAYS, fix=fix, error=error) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        try:
            return _read(file, size)
        except (ValueError, *DAMAGED) as failure:
            raise error(f"{path} is not a readable .npy file: {failure}", fix=fix) from failure


def read_npy_header(path: Path, *, fix: str) -> Header:
    """Read the header of a `.npy` file.

    Raises
    ------
    DataError
        If it is not a regular file or holds no array of numbers or texts.
    """
    with untrusted_files.open_file(path, ARRAYS, fix=fix) as file:
        try:
            return _header(file)
        except (ValueError, *DAMAGED) as failure:
            raise DataError(f"{path} is not a readable .npy file: {failure}", fix=fix) from failure


DAMAGED = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    LookupError,
    OverflowError,
)
"""What `zipfile` raises for archives that are damaged or of another kind."""


class LimitedReader(io.RawIOBase):
    """A file whose single reads are limited while `zipfile` reads the list of its members."""

    def __init__(self, file: BinaryIO, limit: int, what: str) -> None:
        self._file, self._what = file, what
        self.limit: int | None = limit

    def read(self, size: int = -1, /) -> bytes:
        if self.limit is None:
            return self._file.read(size)
        if size > self.limit:
            raise ValueError(f"{self._what} has {size} bytes, at most {self.limit} are read")
        content = self._file.read(size if size >= 0 else self.limit + 1)
        if len(content) > self.limit:
            raise ValueError(f"{self._what} has more than {self.limit} bytes")
        return content

    def seek(self, place: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _check_member(member: zipfile.ZipInfo) -> None:
    name = member.filename
    if member.flag_bits & 1:
        raise ValueError(f"{name!r} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = member.compress_type
        raise ValueError(
            f"{name!r} is packed by method {method}; 0 (stored) and 8 (deflate) are read"
        )
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
        raise ValueError(f"the name {name!r} leads out of the file")


def _check_ratio(key: str, member: zipfile.ZipInfo) -> None:
    size, packed = member.file_size, member.compress_size
    if size > MAX_UNPACKED:
        raise ValueError(f"{key} has {size} bytes, at most {MAX_UNPACKED} are read")
    if size > RATIO_FROM and size > MAX_RATIO * packed:
        raise ValueError(
            f"{key} unpacks {packed} bytes to {size}; from {RATIO_FROM} bytes on at most "
            f"{MAX_RATIO} times the packed size are read"
        )


def _read(file: Any, size: int) -> Array:
    """Read an array from a stream of `size` bytes."""
    header = _header(file)
    if header.size + header.data_bytes != size:
        raise ValueError(
            f"its header claims {header.dtype} {header.shape}, {header.data_bytes} bytes; "
            f"{size - header.size} bytes are there"
        )
    content = large_arrays.empty((header.data_bytes,), np.uint8)
    done = 0
    while done < len(content):
        block = file.read(min(_BLOCK, len(content) - done))
        if not block:
            raise ValueError(f"it ends after {done} of {len(content)} bytes")
        content[done : done + len(block)] = np.frombuffer(block, np.uint8)
        done += len(block)
    array = content.view(header.dtype)
    if header.is_fortran:
        return array.reshape(header.shape[::-1]).T
    return array.reshape(header.shape)


def _header(file: Any) -> Header:
    """Read the header of an array; `numpy.lib.format` describes it."""
    start = file.read(8)
    if len(start) < 8 or start[:6] != _MAGIC or start[6] not in (1, 2, 3):
        raise ValueError("it holds no array of numpy")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > MAX_HEADER:
        raise ValueError(f"its header has {length} bytes, at most {MAX_HEADER} are read")
    raw = file.read(length)
    if len(raw) < length:
        raise ValueError("its header ends early")
    try:
        stated = ast.literal_eval(re.sub(r"(\d)L\b", r"\1", raw.decode("utf-8")).strip())
        descr, is_fortran, shape = (stated[key] for key in ("descr", "fortran_order", "shape"))
    except (ValueError, SyntaxError, TypeError, LookupError, RecursionError, MemoryError) as error:
        raise ValueError("its header is not that of an array") from error
    return Header(_shape(shape), _dtype(descr), is_fortran is True, 8 + width + length)


def _shape(shape: object) -> tuple[int, ...]:
    if isinstance(shape, tuple) and len(shape) <= 32:  # noqa: SIM102
        if all(type(n) is int and 0 <= n <= _MAX_SIDE for n in shape):
            return shape
    raise ValueError(f"its shape is {str(shape)[:80]}; up to 32 numbers from 0 on are read")


def _dtype(descr: object) -> np.dtype[Any]:
    if not isinstance(descr, str):
        raise ValueError("its elements have several fields; numbers and texts are read")
    if not _TYPE.fullmatch(descr):
        raise ValueError(f"its elements are {descr[:40]!r}; numbers and texts are read")
    try:
        dtype = np.dtype(descr)
    except (TypeError, ValueError) as error:
        raise ValueError(f"its elements are {descr!r}; numbers and texts are read") from error
    if dtype.hasobject:
        raise ObjectArrayError("it holds Python objects; numbers and texts are read")
    if not dtype.itemsize or dtype.kind not in "buifcSU":
        raise ValueError(f"its elements are {descr!r}; numbers and texts are read")
    return dtype
