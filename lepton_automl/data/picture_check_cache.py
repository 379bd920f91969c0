"""Cache of the checks of picture files, by path, size, times and inode.

A file is read again unless its size, its inode and its times of modification and of change are
those of before. No program can set the time of change, so that a file of the same size with a
restored time of modification is read again; damage of the disk itself is not noticed, for which
there is `--rehash`. Files that were changed less than two seconds before they were read are not
remembered: a second change might leave the times as they are.

The tables lie in the user's cache folder, one folder a data set; each has its own SHA-256, and one
that does not have it, or was written by another version, is ignored. They may be deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from lepton_automl.core import files, untrusted_files
from lepton_automl.core.untrusted_archives import Member
from lepton_automl.core.untrusted_files import FileKind
from lepton_automl.core.user_cache import cache_folder
from lepton_automl.core.version import __version__
from lepton_automl.data import picture_check
from lepton_automl.data.picture_check import CheckedPicture, CheckResult
from lepton_automl.data.pictures.picture_files import PictureFile
from lepton_automl.errors import DataError, LeptonError

_FORMAT = f"3 {__version__} {PIL.__version__}"
"""What is found depends on it."""
_TABLE = FileKind("tables of checked pictures", 4 << 30)
_SUFFIX, _GROUPS_SUFFIX = ".pictures", ".groups"
_ROWS, _SECONDS = 4096, 10.0
"""Pictures, or seconds, after which what was found so far is written."""
_SETTLED_NS = 2_000_000_000
"""Age of a change from which on a second one has another time in every file system."""

State = list[int]
"""Size, times of modification and of change in nanoseconds, and inode of a file."""


class PictureCheckCache:
    """Results of the checks of the picture files of a data set, kept between commands.

    Parameters
    ----------
    name : str
        Names the data set, such as its absolute path.
    pictures : sequence of Path or Member
        Its files.
    is_forced : bool
        Whether nothing that is known is used.
    """

    def __init__(
        self, name: str, pictures: Sequence[PictureFile], *, is_forced: bool = False
    ) -> None:
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
        self._folder = cache_folder() / digest[:32]
        self._is_forced = is_forced
        self._names, self._states = _names_and_states(pictures)
        self._old: list[Path] = []
        self._rows: list[tuple[int, CheckedPicture]] = []
        self._written: list[Path] = []
        self._last = time.monotonic()
        self._is_new = False
        self.failure = ""
        """Why nothing can be written; empty where it can."""

    def find(self) -> dict[int, CheckedPicture]:
        """Place -> what is known of a file that has not changed since."""
        with contextlib.suppress(OSError):
            self._old = sorted(self._folder.glob(f"*{_SUFFIX}"))
        place_of = {name: n for n, name in enumerate(self._names)}
        found: dict[int, CheckedPicture] = {}
        for path in () if self._is_forced else self._old:
            with contextlib.suppress(LeptonError, OSError, ValueError, TypeError, KeyError):
                names, states, results = _read_table(path)
                for name, state, result in zip(names, states, results, strict=True):
                    n = place_of.get(name, -1)
                    if n >= 0 and self._states[n] == state and isinstance(result, CheckedPicture):
                        found[n] = result
        self._is_new = len(found) < len(self._names) or len(self._old) > 1
        self._rows = []
        return found

    def keep(self, places: Sequence[int], results: Sequence[CheckResult]) -> None:
        """Remember what was found; it is written from time to time."""
        for n, result in zip(places, results, strict=True):
            if isinstance(result, CheckedPicture) and self._states[n] is not None:
                self._rows.append((n, result))
        now = time.monotonic()
        if len(self._rows) >= _ROWS or (self._rows and now - self._last > _SECONDS):
            self._written.append(self._write(self._rows))
            self._rows, self._last = [], now

    def finish(self, results: Sequence[CheckResult]) -> None:
        """Write all that is known into one table, in place of the others."""
        if not self._is_new or self.failure:
            return
        rows = [
            (n, result)
            for n, result in enumerate(results)
            if isinstance(result, CheckedPicture) and self._states[n] is not None
        ]
        whole = self._write(rows)
        for path in {*self._old, *self._written} - {whole}:
            with contextlib.suppress(LeptonError):
                files.remove(path)

    def groups(
        self,
        content: Sequence[bytes | memoryview],
        make: Callable[[], tuple[NDArray[np.int64], float]],
    ) -> tuple[NDArray[np.int64], float]:
        """Groups of pictures and a number that follow from `content` alone, made once.

        Parameters
        ----------
        content : sequence of bytes
            What they follow from.
        make : callable
            Makes them.
        """
        digest = hashlib.sha256(_FORMAT.encode())
        for each in content:
            digest.update(each)
        path = self._folder / f"{digest.hexdigest()[:32]}{_GROUPS_SUFFIX}"
        if not self._is_forced:
            with contextlib.suppress(LeptonError, OSError, ValueError, TypeError, KeyError):
                header, content_read = _read(path)
                return np.frombuffer(content_read, np.int64), float(header["number"])
        groups, number = make()
        self._write_file(path, {"number": number}, groups.astype(np.int64).tobytes())
        for other in self._folder.glob(f"*{_GROUPS_SUFFIX}"):
            if other != path:
                with contextlib.suppress(LeptonError):
                    files.remove(other)
        return groups, number

    def _write(self, rows: Sequence[tuple[int, CheckedPicture]]) -> Path:
        header = {
            "names": [self._names[n] for n, _ in rows],
            "states": [self._states[n] for n, _ in rows],
        }
        content = picture_check.pack([result for _, result in rows])
        name = hashlib.sha256(content + json.dumps(header).encode()).hexdigest()[:32]
        path = self._folder / f"{name}{_SUFFIX}"
        self._write_file(path, header, content)
        return path

    def _write_file(self, path: Path, header: dict[str, Any], content: bytes) -> None:
        line = json.dumps({"format": _FORMAT, **header}, separators=(",", ":")).encode() + b"\n"
        digest = hashlib.sha256(line)
        digest.update(content)
        with contextlib.suppress(OSError):  # Thumbnails are private.
            cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            files.write_chunks(path, [digest.hexdigest().encode() + b"\n", line, content])
        except LeptonError as error:
            self.failure = error.what


def _names_and_states(
    pictures: Sequence[PictureFile],
) -> tuple[list[str], list[State | None]]:
    """A name and the state of each file; None where it cannot be told or is too young."""
    names, states = [], []
    of_archives: dict[Path, State | None] = {}
    for picture in pictures:
        if isinstance(picture, Member):
            archive = picture.archive
            if archive not in of_archives:
                of_archives[archive] = _state(str(archive))
            state = of_archives[archive]
            where = (picture.name, str(picture.offset), str(picture.crc))
            names.append("\0".join((os.path.abspath(archive), *where)))  # noqa: PTH100
        else:
            path = os.fspath(picture)
            state = _state(path)
            names.append(os.path.abspath(path))  # noqa: PTH100  Links stay.
        states.append(state)
    return names, states


def _state(path: str) -> State | None:
    try:
        found = os.stat(path)  # noqa: PTH116 (20,000 pictures)
    except (OSError, ValueError):
        return None
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < _SETTLED_NS:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _read(path: Path) -> tuple[dict[str, Any], memoryview]:
    """Header and content of a file of `_write_file`.

    Raises
    ------
    DataError, ValueError, KeyError
        If it is damaged or of another version.
    """
    whole = untrusted_files.read_bytes(path, _TABLE, fix="remove that file")
    view = memoryview(whole)
    if hashlib.sha256(view[65:]).hexdigest().encode() + b"\n" != bytes(view[:65]):
        raise DataError(f"{path} is damaged", fix="remove that file")
    end = whole.index(b"\n", 65) + 1
    header = json.loads(bytes(view[65:end]))
    if header["format"] != _FORMAT:
        raise ValueError("another version wrote it")
    return header, view[end:]


def _read_table(path: Path) -> tuple[list[str], list[State], list[CheckResult]]:
    header, content = _read(path)
    names, states = list(header["names"]), list(header["states"])
    return names, states, picture_check.unpack(content, len(names))
