"""Object storage: whole objects by name, in a folder or behind a URL that fsspec opens.

An object is written whole or not at all. Requests that fail for a moment (HTTP 503 and 429, torn
connections, timeouts) are repeated with growing pauses, for a bounded time. Credentials come from
the environment only; a URL that holds some is refused.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lepton_automl.core import untrusted_files
from lepton_automl.core.files import TEMPORARY_SUFFIX, make_durable_folder, real_path, sync_folder
from lepton_automl.core.untrusted_files import FileKind
from lepton_automl.errors import ConfigError, DataError, MachineError, first_line

T = TypeVar("T")

_CONNECT_SECONDS, _READ_SECONDS = 5.0, 20.0
"""After which a request that gets no answer has failed."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
"""Seconds between the first and the second try, and at most; each pause is twice the last one."""
_SKEWED = "RequestTimeTooSkewed"
_DENIED = {
    *("AccessDenied", "AllAccessDisabled", "AccountProblem", "ExpiredToken", "InvalidAccessKeyId"),
    *("InvalidToken", "InvalidSecurity", "NotSignedUp", "SignatureDoesNotMatch", "403"),
}
_EXISTS = {"PreconditionFailed", "412"}
_MISSING = {"NoSuchBucket", "InvalidBucketName"}
_LASTING = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR),
    errno.ENAMETOOLONG,
}
"""Numbers of errors of a disk that do not go away by themselves."""
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_CREDENTIALS = (
    "set the variables of your store's provider (for S3 AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; AWS_ENDPOINT_URL for a store of another maker), then "
    "run the same command"
)


class StorageError(Exception):
    """A request to an object storage failed.

    Parameters
    ----------
    what : str
        What is wrong.
    fix : str
        The way out.
    is_temporary : bool
        Whether the same request may succeed later.
    """

    def __init__(self, what: str, *, fix: str, is_temporary: bool) -> None:
        super().__init__(what)
        self.what, self.fix, self.is_temporary = what, fix, is_temporary

    def as_machine_error(self) -> MachineError:
        """The same for the user of a command."""
        return MachineError(self.what, fix=self.fix)


@dataclass(frozen=True)
class StoredObject:
    """An object of a listing."""

    name: str
    size: int
    """Bytes."""
    modified: float
    """Seconds since 1970 by the clock of the storage; 0 where it tells none."""


class ObjectStorage(Protocol):
    """Objects by names such as `objects/ab/abcd`; every method may raise a `StorageError`."""

    place: str
    """URL or path, in messages."""

    def read(self, name: str, most: int) -> bytes | None:
        """Content of an object, of which at most `most` + 1 bytes are read; None without one."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write an object whole, or not at all; one of that name is replaced."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """As `write`, unless there is one of that name: False."""
        ...

    def objects(self, prefix: str) -> list[StoredObject]:
        """The objects whose names begin with the folder `prefix`, sorted by name."""
        ...

    def remove(self, name: str) -> None:
        """Delete an object that may be missing."""
        ...


def open_storage(url: str) -> ObjectStorage:
    """The storage at a URL, or in a folder.

    Parameters
    ----------
    url : str
        `s3://BUCKET/PREFIX`, any other URL that fsspec opens, `file://PATH` or the path of a
        folder, which is made where it is missing.

    Raises
    ------
    ConfigError
        If it is no such URL, or holds credentials.
    MachineError
        If the package for it is not installed.
    """
    check_url(url)
    scheme, mark, rest = url.partition("://")
    if not mark or scheme in ("file", "local"):
        return FolderStorage(Path(rest if mark else url))
    return FsspecStorage(url)


def check_url(url: str) -> None:
    """Refuse a URL with credentials, or with parts that name no place.

    Raises
    ------
    ConfigError
        If it has some; the message does not repeat them.
    """
    scheme, mark, rest = url.partition("://")
    if not url.strip() or (mark and not rest.strip("/")):
        raise ConfigError(
            f"--store {url!r} names no place",
            fix="give s3://BUCKET/PREFIX, another URL that fsspec opens, or a folder",
        )
    if mark and "@" in rest.split("/")[0]:
        raise ConfigError(
            f"--store {scheme}://... holds a user name or a password; a URL is shown and recorded",
            fix=f"leave it out of the URL; {_CREDENTIALS}",
        )
    if mark and any(sign in url for sign in ("?", "#", "::")):
        raise ConfigError(
            f"--store {scheme}://... holds one of ? # ::, which may carry credentials or chain "
            "file systems",
            fix=f"give a plain URL such as s3://BUCKET/PREFIX; {_CREDENTIALS}",
        )


class FolderStorage:
    """Objects as files of a folder, also one that several machines share.

    Files are written under another name, flushed and renamed. `create` makes a hard link, which
    is atomic on local disks and over NFS; no lock is used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = real_path(folder)
        self.place = str(self._folder)

    def read(self, name: str, most: int) -> bytes | None:
        path = self._folder / name
        with self._translated():
            try:
                kind = FileKind("objects", 1 << 40)
                with untrusted_files.open_file(path, kind, fix="") as file:
                    return file.read(most + 1)
            except DataError as error:
                if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                    return None
                if isinstance(error.__cause__, OSError):
                    raise error.__cause__ from error
                raise StorageError(
                    error.what, fix="move that file away", is_temporary=False
                ) from error

    def write(self, name: str, content: bytes) -> None:
        with self._translated(), self._written(name, content) as temporary:
            temporary.replace(self._folder / name)

    def create(self, name: str, content: bytes) -> bool:
        path = self._folder / name
        with self._translated(), self._written(name, content) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return self._create_without_links(path, content)
        return True

    @staticmethod
    def _create_without_links(path: Path, content: bytes) -> bool:
        """As `create`; a crash may leave an object without its end."""
        try:
            file = path.open("xb")
        except FileExistsError:
            return False
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return True

    def objects(self, prefix: str) -> list[StoredObject]:
        found = []
        with self._translated():
            for folder, _, names in os.walk(self._folder / prefix, onerror=_raise_but_missing):
                for name in names:
                    path = Path(folder, name)
                    with contextlib.suppress(FileNotFoundError):
                        info = path.lstat()
                        own = path.relative_to(self._folder).as_posix()
                        found.append(StoredObject(own, info.st_size, info.st_mtime))
        return sorted(found, key=lambda each: each.name)

    def remove(self, name: str) -> None:
        with self._translated():
            (self._folder / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _written(self, name: str, content: bytes) -> Iterator[Path]:
        """A flushed file of another name with the content, deleted if it is still there."""
        path = self._folder / name
        make_durable_folder(path.parent)
        # Not the process identifier: several machines may write here.
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"the store {self.place} cannot be used: {error.strerror or error}",
                fix="check that disk and your rights there, then run the same command",
                is_temporary=error.errno not in _LASTING,
            ) from error


class FsspecStorage:
    """Objects behind a URL that fsspec opens, such as `s3://BUCKET/PREFIX`."""

    def __init__(self, url: str) -> None:
        self.place = url.rstrip("/")
        scheme = url.partition("://")[0]
        try:
            core = importlib.import_module("fsspec.core")
            options = _S3_OPTIONS if scheme in ("s3", "s3a") else {}
            self._fs, root = core.url_to_fs(
                self.place, skip_instance_cache=True, use_listings_cache=False, **options
            )
        except ImportError as error:
            raise MachineError(
                f"--store {self.place} needs a package that is not installed: {error}",
                fix="pip install 'lepton-automl[s3]' for s3://, else the package that fsspec names",
            ) from error
        except ValueError as error:
            raise ConfigError(
                f"--store {self.place}: {first_line(error)}",
                fix="give s3://BUCKET/PREFIX, another URL that fsspec opens, or a folder",
            ) from error
        if options:
            self._fs.retries = 1  # `RetryingStorage` repeats what fails, for a bounded time.
        self._root = str(root).rstrip("/")

    def read(self, name: str, most: int) -> bytes | None:
        try:
            with self._translated():
                return bytes(self._fs.cat_file(self._path(name), start=0, end=most + 1))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        with self._translated(is_write=True):
            self._fs.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        try:
            with self._translated(is_write=True):
                self._fs.pipe_file(self._path(name), content, mode="create")
        except FileExistsError:
            return False
        return True

    def objects(self, prefix: str) -> list[StoredObject]:
        try:
            with self._translated():
                found = self._fs.find(self._path(prefix), detail=True, withdirs=False)
        except FileNotFoundError:
            return []
        made = [
            StoredObject(path.removeprefix(self._root).lstrip("/"), info["size"] or 0, _time(info))
            for path, info in found.items()
            if info["type"] == "file"
        ]
        return sorted(made, key=lambda each: each.name)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._translated():
            self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _translated(self, *, is_write: bool = False) -> Iterator[None]:
        """Turn errors of the library into a `StorageError`, or that of a missing or known object.

        `is_write`: a missing place is an error of the storage.
        """
        try:
            yield
        except Exception as error:  # fsspec's file systems raise errors of many libraries.
            codes = _codes(error)
            if isinstance(error, FileExistsError) or codes & _EXISTS:
                raise FileExistsError(str(error)) from error
            is_missing = isinstance(error, FileNotFoundError) and not codes & _MISSING
            if is_missing and not is_write:
                raise
            raise self._error(error, codes) from error

    def _error(self, error: BaseException, codes: set[str]) -> StorageError:
        what, again = f"the store {self.place}", "then run the same command"
        if _SKEWED in codes:
            now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
            return StorageError(
                f"{what} refuses requests because of the clock of this machine, which says {now} "
                f"({_SKEWED})",
                fix=f"set the clock (timedatectl set-ntp true), {again}",
                is_temporary=False,
            )
        is_denied = isinstance(error, PermissionError) or bool(codes & _DENIED)
        if is_denied or type(error).__name__ in _NO_CREDENTIALS:
            return StorageError(
                f"{what} denies access: {first_line(error)}", fix=_CREDENTIALS, is_temporary=False
            )
        if isinstance(error, FileNotFoundError):
            return StorageError(
                f"{what} does not exist: {first_line(error)}",
                fix=f"make the bucket, or correct the URL, {again}",
                is_temporary=False,
            )
        return StorageError(
            f"{what} does not answer as it should: {type(error).__name__}: {first_line(error)}",
            fix=f"check the network and the store, {again}",
            is_temporary=True,
        )


_S3_OPTIONS: dict[str, Any] = {
    "config_kwargs": {
        "retries": {"total_max_attempts": 1},
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": _READ_SECONDS,
    }
}
_NO_CREDENTIALS = {
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"),
    *("TokenRetrievalError", "ProfileNotFound", "DefaultCredentialsError"),
}
"""Names of exceptions of botocore and of Google's library."""


class RetryingStorage:
    """Repeats requests that fail for a moment, and counts requests and bytes.

    Parameters
    ----------
    storage : ObjectStorage
        What answers them.
    seconds : float
        Time after which a request is given up.
    """

    def __init__(self, storage: ObjectStorage, seconds: float) -> None:
        self._storage, self.seconds = storage, seconds
        self.place = storage.place
        self.is_ending = threading.Event()
        """Once it is set, no request is repeated."""
        self.requests, self.bytes_written, self.bytes_read = 0, 0, 0
        self._lock = threading.Lock()

    def read(self, name: str, most: int) -> bytes | None:
        content = self._patiently(lambda: self._storage.read(name, most))
        self._count(read=len(content or b""))
        return content

    def write(self, name: str, content: bytes) -> None:
        self._patiently(lambda: self._storage.write(name, content))
        self._count(written=len(content))

    def create(self, name: str, content: bytes) -> bool:
        is_made = self._patiently(lambda: self._storage.create(name, content))
        self._count(written=len(content))
        # An answer may be lost after the object was made: then it is that of a former try.
        return is_made or self.read(name, len(content)) == content

    def objects(self, prefix: str) -> list[StoredObject]:
        return self._patiently(lambda: self._storage.objects(prefix))

    def remove(self, name: str) -> None:
        self._patiently(lambda: self._storage.remove(name))

    def _count(self, read: int = 0, written: int = 0) -> None:
        with self._lock:
            self.bytes_read += read
            self.bytes_written += written

    def _patiently(self, request: Callable[[], T]) -> T:
        end, pause = time.monotonic() + self.seconds, _FIRST_PAUSE
        while True:
            with self._lock:
                self.requests += 1
            try:
                return request()
            except StorageError as error:
                if not error.is_temporary or time.monotonic() + pause > end:
                    raise
            # Machines that lost the same store do not come back all at once.
            if self.is_ending.wait(pause * random.uniform(0.5, 1.0)):
                end = 0.0
            pause = min(2 * pause, _LONGEST_PAUSE)


def remove_all(storage: ObjectStorage, names: Sequence[str]) -> None:
    """Delete objects that may be missing."""
    for name in names:
        storage.remove(name)


def _codes(error: BaseException) -> set[str]:
    """Codes of an answer of S3 in an exception and those that it was raised from."""
    found, each = set[str](), error
    for _ in range(8):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            found.add(str(response.get("Error", {}).get("Code", "")))
        nearest = each.__cause__ or each.__context__
        if nearest is None:
            break
        each = nearest
    return found


def _time(info: dict[str, Any]) -> float:
    """Time of the last change of an object, seconds since 1970; 0 where it is not told."""
    for name in ("LastModified", "mtime", "updated", "last_modified", "created"):
        value = info.get(name)
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            if isinstance(value, datetime):
                return value.timestamp()
            if isinstance(value, str):
                return datetime.fromisoformat(value).timestamp()
            if isinstance(value, int | float):
                return float(value)
    return 0.0


def _raise_but_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
