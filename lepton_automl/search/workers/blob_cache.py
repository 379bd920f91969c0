"""Content-addressed files that tasks need, on a machine that has no disk with the coordinator.

A file has the SHA-256 of its content as its name and is there whole or not at all; what reads it
checks the digest once a process and again after a change of its state (`file_state`). Files may be
deleted at any time: whoever needs one that is missing asks for it. Several processes and machines
may share the folder, without a lock: two that write a file write the same content. What was
received of a file before its process ended is copied by the next one that needs it (`resume`).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from lepton_automl.core import untrusted_files
from lepton_automl.core.field_types import check_finite, check_types
from lepton_automl.core.files import make_folder, write_error
from lepton_automl.core.untrusted_files import ARRAYS
from lepton_automl.core.user_cache import cache_folder
from lepton_automl.errors import DataError, MachineError

PIECE_BYTES = 192 << 10
"""Bytes of content in a message: 256 KiB of base 64, a third of a second at 6 Mbit/s."""
MAX_CACHE_BYTES, MAX_CACHE_DAYS = 64 << 30, 30.0
"""Files beyond these are deleted, those that were not used for the longest time first."""
_SHARE_OF_DISK = 0.5
"""The cache takes at most this share of what it has and what is free on its disk."""
_PARTIAL_SECONDS = 86_400.0
"""Unfinished files of killed processes are deleted after this time."""
_COPY_BYTES = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIX = "nothing: it is sent again"


@dataclass(frozen=True, order=True)
class Blob:
    """Content of a file, identified by its digest."""

    sha256: str
    """64 hexadecimal digits."""
    size: int
    """Bytes."""

    def __post_init__(self) -> None:
        check_types(self)
        check_finite(self.size, "size", int)
        if not _DIGEST.fullmatch(self.sha256) or not 0 <= self.size <= ARRAYS.max_bytes:
            raise ValueError(f"{self.sha256:.70} of {self.size} bytes names no content")

    @classmethod
    def of(cls, content: bytes) -> Self:
        """The name of a content."""
        return cls(hashlib.sha256(content).hexdigest(), len(content))

    @classmethod
    def asked(cls, sha256: str, size: int, start: int) -> tuple[Self, int]:
        """A content that another machine asks for, and how many bytes of it are there.

        Raises
        ------
        ValueError, TypeError
            If these are not such values.
        """
        check_finite(start, "bytes that are there", int)
        if not 0 <= start <= max(0, size - 1):
            raise ValueError(f"{start} of {size} bytes are there")
        return cls(sha256, size), start


class BlobCache:
    """Files by digest in a folder; safe for several threads.

    Parameters
    ----------
    folder : Path, optional
        By default `blobs` in the user's cache folder.

    Raises
    ------
    MachineError
        If the folder cannot be made.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (folder or cache_folder()) / "blobs"
        make_folder(self.folder)
        self._checked: dict[Blob, tuple[int, ...]] = {}
        self._partial: dict[Blob, _Partial] = {}
        self._lock = threading.Lock()

    def find(self, blob: Blob) -> Path | None:
        """The file with a content, whose digest was checked; None where there is none.

        A file with another content is deleted.
        """
        path = self._path(blob)
        try:
            state = _state(path)
            if self._checked.get(blob) != state:
                if untrusted_files.sha256(path, ARRAYS, fix=_FIX) != blob.sha256:
                    path.unlink(missing_ok=True)
                    return None
                self._checked[blob] = state
            # The time of access says what was not used for long.
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        except (OSError, DataError):
            return None
        return path

    def resume(self, blob: Blob) -> int:
        """Bytes of a content that are here already, from a transfer that was cut.

        Its next piece is expected to follow them. With all bytes here, the content is complete now.

        Raises
        ------
        MachineError
            If the disk is full.
        """
        with self._lock:
            if blob in self._partial:
                return self._partial[blob].size
            found = [path for path in self._unfinished(blob) if _size(path) <= blob.size]
            longest = max(found, key=_size, default=None)
            if longest is None or not _size(longest):
                return 0
            self.collect(blob.size)
            partial = self._partial[blob] = _Partial(self._path(blob))
            try:
                partial.copy(longest)
                if partial.size == blob.size:
                    self._complete(blob)
                return partial.size
            except (OSError, ValueError):  # Another process has deleted it, or it is damaged.
                self._discard(blob)
                return 0
            except BaseException:
                self._discard(blob)
                raise

    def add(self, piece: Mapping[str, Any]) -> Blob | None:
        """Add a piece of a content, as `pieces` makes them; the content if it is complete now.

        Raises
        ------
        ValueError
            If the piece does not follow the one before it, or the content has another digest.
        MachineError
            If the disk is full.
        """
        blob = Blob(piece["sha256"], piece["size"])
        with self._lock:
            partial = self._partial.get(blob)
            if partial is None and self.find(blob) is not None:
                return blob  # It was sent twice.
            if partial is None or piece["offset"] == 0:
                if partial is not None:
                    partial.discard()
                self.collect(blob.size)
                partial = self._partial[blob] = _Partial(self._path(blob))
            try:
                partial.add(piece)
                if partial.size < blob.size:
                    return None
                self._complete(blob)
            except BaseException:
                self._discard(blob)
                raise
            return blob

    def _complete(self, blob: Blob) -> None:
        """Check what has come of a content and give it its name; nothing else of it is kept.

        Raises
        ------
        ValueError
            If it has another digest.
        """
        try:
            self._partial[blob].complete(blob)
        finally:
            for path in self._unfinished(blob):
                path.unlink(missing_ok=True)
        del self._partial[blob]
        self._checked[blob] = _state(self._path(blob))

    def _discard(self, blob: Blob) -> None:
        if (partial := self._partial.pop(blob, None)) is not None:
            partial.discard()

    def _unfinished(self, blob: Blob) -> list[Path]:
        """What processes have received of a content that was not complete."""
        return list(self.folder.glob(f".{blob.sha256}.*"))

    def collect(self, needed: int = 0) -> None:
        """Delete old files, and as many others that `needed` bytes fit into the cache.

        Raises
        ------
        MachineError
            If the disk has no room for `needed` bytes.
        """
        now, found = time.time(), list[tuple[float, int, Path]]()
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):
                info = path.stat()
                is_partial = not _DIGEST.fullmatch(path.name)
                limit = _PARTIAL_SECONDS if is_partial else MAX_CACHE_DAYS * 86_400
                if now - info.st_atime > limit:
                    path.unlink()
                elif not is_partial:
                    found.append((info.st_atime, info.st_size, path))
        used, free = sum(size for _, size, _ in found), shutil.disk_usage(self.folder).free
        room = min(MAX_CACHE_BYTES, _SHARE_OF_DISK * (used + free))
        for _, size, path in sorted(found):
            if used + needed <= room:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            used, free = used - size, free + size
        if needed > free:
            raise MachineError(
                f"no space left on the disk that holds {self.folder}: {needed} bytes are needed",
                fix="free some space there, or name another folder for the cache of this host",
            )

    def _path(self, blob: Blob) -> Path:
        return self.folder / blob.sha256


class _Partial:
    """An unfinished file of a cache."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        self._digest, self.size = hashlib.sha256(), 0
        try:
            # Unbuffered: what has come outlives the process.
            self._file = self._temporary.open("xb", buffering=0)
        except OSError as error:
            raise write_error(path, error) from error

    def add(self, piece: Mapping[str, Any]) -> None:
        if piece["offset"] != self.size:
            raise ValueError(f"a piece at {piece['offset']} follows {self.size} bytes")
        self._append(piece_content(piece))

    def copy(self, other: Path) -> None:
        """Begin with what another process has received."""
        with other.open("rb") as file:
            while content := file.read(_COPY_BYTES):
                self._append(content)

    def _append(self, content: bytes) -> None:
        self._digest.update(content)
        self.size += len(content)
        left = memoryview(content)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise write_error(self._path, error) from error

    def complete(self, blob: Blob) -> None:
        """Check the digest, then give the file its name."""
        if (self._digest.hexdigest(), self.size) != (blob.sha256, blob.size):
            raise ValueError(f"the content sent as {blob.sha256[:16]} has another digest")
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self._path)
        except FileNotFoundError as error:
            if not self._path.exists():  # Else another process has completed it.
                raise write_error(self._path, error) from error
        except OSError as error:
            raise write_error(self._path, error) from error

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)


@dataclass
class Received:
    """Contents in memory that come in pieces, of at most so many bytes together."""

    max_bytes: int
    contents: dict[Blob, bytearray] = field(default_factory=dict)

    def add(self, piece: Mapping[str, Any]) -> None:
        """Add a piece, as `pieces` makes them.

        Raises
        ------
        ValueError
            If it does not follow the one before it, or there are too many bytes.
        """
        blob = Blob(piece["sha256"], piece["size"])
        if piece["offset"] == 0:
            self.contents[blob] = bytearray()
        content = self.contents.get(blob)
        if content is None or piece["offset"] != len(content):
            raise ValueError("a piece does not follow the one before it")
        content += piece_content(piece)
        if len(content) > blob.size or sum(map(len, self.contents.values())) > self.max_bytes:
            raise ValueError(f"more than the {self.max_bytes} bytes that a result may have")

    def take(self, blob: Blob) -> bytes:
        """Remove a content and return it.

        Raises
        ------
        ValueError
            If it is incomplete or has another digest.
        """
        content = bytes(self.contents.pop(blob, b""))
        if Blob.of(content) != blob:
            raise ValueError(f"the content received as {blob.sha256[:16]} has another digest")
        return content


def pieces(blob: Blob, source: Path | bytes, start: int = 0) -> Iterator[dict[str, Any]]:
    """A content in pieces of at most `PIECE_BYTES`, each a JSON object; at least one.

    Parameters
    ----------
    blob : Blob
        The content.
    source : Path or bytes
        Where it is, or itself.
    start : int
        Bytes that the receiver has already, fewer than all.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    if isinstance(source, bytes):
        for offset in range(start, max(1, len(source)), PIECE_BYTES):
            yield _piece(blob, offset, source[offset : offset + PIECE_BYTES])
        return
    with source.open("rb") as file:
        file.seek(start)
        for offset in range(start, max(1, blob.size), PIECE_BYTES):
            yield _piece(blob, offset, file.read(PIECE_BYTES))


def _piece(blob: Blob, offset: int, content: bytes) -> dict[str, Any]:
    data = base64.b64encode(content).decode("ascii")
    return {"sha256": blob.sha256, "size": blob.size, "offset": offset, "data": data}


def piece_content(piece: Mapping[str, Any]) -> bytes:
    """The bytes of a piece.

    Raises
    ------
    ValueError
        If it is not base 64, or longer than a piece may be.
    """
    data = piece["data"]
    if not isinstance(data, str) or len(data) > 2 * PIECE_BYTES:
        raise ValueError("a piece is too long")
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError(f"a piece is not base 64: {error}") from error


def _size(path: Path) -> int:
    """Bytes of a file; 0 where it is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _state(path: Path) -> tuple[int, ...]:
    """Numbers that change when another file takes the place of this one."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
