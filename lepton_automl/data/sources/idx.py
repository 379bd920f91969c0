"""IDX files in a folder, as MNIST has them: `train-images-idx3-ubyte` beside its labels."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable
from gzip import GzipFile
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_files import ARRAYS
from lepton_automl.data.layouts.folder_kinds import IDX_NAME, folder_kind, is_idx_in_raw
from lepton_automl.data.layouts.named_arrays import MemoryArrays, converted, read_raw
from lepton_automl.data.layouts.part_names import parts_named
from lepton_automl.data.samples import RawSamples, Samples
from lepton_automl.data.sources import Source
from lepton_automl.errors import DataError

_PARTS = {"train": "train", "validation": "val", "test": "test"}
_TEST = "t10k"
"""Part of the ten thousand test pictures of MNIST."""
_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
"""Type byte of the format -> numpy type."""
_MOST_BYTES = 8 << 30
"""Bytes of one array."""
_MAX_RATIO, _RATIO_FROM = 200, 256 << 20
"""From this unpacked size on, a file has at most this many times its packed size."""
_BLOCK = 1 << 20
_FIX = "download the file again; the layout is that of http://yann.lecun.com/exdb/mnist"


class Idx(Source):
    """Pictures and labels in pairs of IDX files, gzipped or not.

    A folder holds one pair a part, `train-...` and `t10k-...` or `test-...`, itself or in `raw`;
    one pair is undivided data where its name says no part. A file name stands for its folder.
    """

    def accepts(self, data: str) -> bool:
        path = Path(data)
        is_file = IDX_NAME.fullmatch(path.name) is not None and path.is_file()
        return is_file or folder_kind(data) == "idx"

    def read(self, data: str) -> Samples:
        return converted(data, self.read_raw(data))

    def read_raw(self, data: str) -> RawSamples | Samples:
        folder = Path(data) if Path(data).is_dir() else Path(data).parent
        if is_idx_in_raw(folder, ["raw"] if (folder / "raw").is_dir() else []):
            folder = folder / "raw"
        files = _files(folder)
        arrays = {}
        for key, path in files.items():
            arrays[key] = _read(path, is_picture=key.startswith("x"))
        return read_raw(data, MemoryArrays(arrays))


def _files(folder: Path) -> dict[str, Path]:
    """Key of the array (`x_train`) -> its file; of a file and its gzipped copy the first."""
    matches = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and (match := IDX_NAME.fullmatch(path.name)) is not None:
            matches[path] = match
    prefixes = dict.fromkeys(match["part"] for match in matches.values())
    parts = _parts(folder, prefixes)
    found: dict[str, Path] = {}
    for path, match in matches.items():
        what = "x" if match["kind"].lower() == "images" else "y"
        part = parts[match["part"]]
        key = f"{what}_{part}" if part else what
        other = found.setdefault(key, path)
        if other is not path and path.name != f"{other.name}.gz":
            raise DataError(
                f"{folder}: {other.name} and {path.name} both could be {key}",
                fix="leave one data set a folder",
            )
    return found


def _parts(folder: Path, prefixes: Iterable[str]) -> dict[str, str]:
    """What stands before `images` -> part of a key, empty for undivided data."""
    # EMNIST names its variant first: emnist-letters-train-images-idx3-ubyte.
    last = {prefix: re.split(r"[-_.]", prefix)[-1] for prefix in prefixes}
    named = parts_named(last.values()) | {_TEST: "test"}
    if len(last) > 1 and not all(word in named for word in last.values()):
        shown = ", ".join(f"{prefix}-images" for prefix in last)
        raise DataError(
            f"{folder}: {shown} do not say which part they are",
            fix="name the files train-images-idx3-ubyte, t10k-images-idx3-ubyte and the like",
        )
    return {prefix: _PARTS.get(named.get(word, ""), "") for prefix, word in last.items()}


def _read(path: Path, *, is_picture: bool) -> NDArray[Any]:
    with untrusted_files.open_file(path, ARRAYS, fix=_FIX) as file:
        size = file.seek(0, 2)
        file.seek(0)
        is_packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream = cast("IO[bytes]", GzipFile(fileobj=file) if is_packed else file)
        try:
            dtype, shape = _header(stream, is_picture=is_picture)
            return _content(stream, dtype, shape, size, is_packed=is_packed)
        except (ValueError, OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is not a readable IDX file: {error}", fix=_FIX) from error


def _header(stream: IO[bytes], *, is_picture: bool) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Type and shape that the file claims."""
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _TYPES:
        raise ValueError("it does not begin with the magic number")
    dimensions = (3, 4) if is_picture else (1,)
    if start[3] not in dimensions:
        raise ValueError(
            f"it has {start[3]} dimensions, {' or '.join(map(str, dimensions))} are the rule"
        )
    raw = stream.read(4 * start[3])
    if len(raw) < 4 * start[3]:
        raise ValueError("its header ends early")
    return np.dtype(_TYPES[start[2]]), tuple(int(n) for n in np.frombuffer(raw, ">u4"))


def _content(
    stream: IO[bytes],
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    size: int,
    *,
    is_packed: bool,
) -> NDArray[Any]:
    """The array of a file of `size` bytes; what it claims is checked before any allocation."""
    claimed, header = math.prod(shape) * dtype.itemsize, 4 + 4 * len(shape)
    claim = f"its header claims {shape}, {claimed} bytes"
    if claimed > _MOST_BYTES:
        raise ValueError(f"{claim}; at most {_MOST_BYTES} are read")
    if not is_packed and claimed + header != size:
        raise ValueError(f"{claim}; {size - header} are there")
    if is_packed and claimed > _RATIO_FROM and claimed > _MAX_RATIO * size:
        raise ValueError(f"{claim}, more than {_MAX_RATIO} times the packed size")
    content = np.empty(claimed, np.uint8)
    done = 0
    while done < claimed:
        block = stream.read(min(_BLOCK, claimed - done))
        if not block:
            raise ValueError(f"it ends after {done} of {claimed} bytes")
        content[done : done + len(block)] = np.frombuffer(block, np.uint8)
        done += len(block)
    if stream.read(1):
        raise ValueError(f"{claim}; more are there")
    return content.view(dtype).reshape(shape)
