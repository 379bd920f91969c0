"""List the members of archives from outside and read single ones; nothing is unpacked to disk.

Sizes, names and packing are checked before a member is read; a member takes at most the memory that
its entry states.
"""

from __future__ import annotations

import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, BinaryIO, cast

from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_arrays import DAMAGED, LimitedReader
from lepton_automl.core.untrusted_files import FileKind
from lepton_automl.errors import DataError

ARCHIVE = FileKind("archives", 1 << 40)
MAX_DIRECTORY = 32 << 20
"""Bytes of the list of members of a zip archive: about 300,000 pictures."""
MAX_RATIO, RATIO_FROM = 200, 1 << 20
"""From this unpacked size on, a member has at most this many times its packed size."""
MAX_TAR_HEADER = 1 << 20
"""Bytes of a header of a tar archive with what extends it, such as a long name."""
MAX_TAR_MEMBERS = 300_000
_LOCAL_HEADER = 30
"""Bytes before the name and the extra field of a member of a zip archive."""


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    archive: Path
    name: str
    """Path inside the archive, with `/`."""
    offset: int
    """Where its header is, in a zip archive; else where its content is."""
    packed_size: int
    """Bytes in the archive."""
    size: int
    """Bytes of its content."""
    crc: int | None
    """Of the content; None in archives that are not zip archives, whose members are not packed."""
    is_deflated: bool = False

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    @property
    def suffix(self) -> str:
        """As `Path.suffix`."""
        return Path(self.name).suffix

    def read(self, *, max_bytes: int, fix: str) -> bytes:
        """The content.

        Raises
        ------
        DataError
            If it is larger than `max_bytes` or damaged, or the archive has changed.
        """
        if self.size > max_bytes:
            raise DataError(f"{self} has {self.size} bytes, at most {max_bytes} are read", fix=fix)
        with untrusted_files.open_file(self.archive, ARCHIVE, fix=fix) as file:
            try:
                return self._content(file)
            except (ValueError, OSError, zlib.error) as error:
                raise DataError(f"{self} cannot be read: {error}", fix=fix) from error

    def _content(self, file: BinaryIO) -> bytes:
        file.seek(self.offset)
        if self.crc is not None:
            header = file.read(_LOCAL_HEADER)
            if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
                raise ValueError("its header is damaged")
            extra = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:], "little")
            file.seek(extra, 1)
        content = file.read(self.packed_size)
        if len(content) < self.packed_size:
            raise ValueError("it ends early")
        if self.is_deflated:
            content = zlib.decompressobj(-15).decompress(content, self.size + 1)
        if len(content) != self.size:
            raise ValueError(f"its entry claims {self.size} bytes, {len(content)} are there")
        if self.crc is not None and zlib.crc32(content) != self.crc:
            raise ValueError("its checksum is not that of its entry")
        return content


def list_zip(path: Path, *, fix: str) -> list[Member]:
    """The files in a zip archive, in its order.

    Raises
    ------
    DataError
        If it is not a zip archive, or a member is encrypted, packed in another way than by deflate,
        a link, unpacks to too much, reaches beyond the end, or has a name that leads out of the
        archive; or if members overlap, so that some bytes are many pictures.
    """
    with (
        _damage_named(path, "zip archive", fix),
        untrusted_files.open_file(path, ARCHIVE, fix=fix) as file,
    ):
        total = file.seek(0, 2)
        reader = LimitedReader(file, MAX_DIRECTORY, "its list of members")
        with zipfile.ZipFile(reader) as archive:
            found = [
                _zip_member(path, each, total) for each in archive.infolist() if not each.is_dir()
            ]
        for first, second in pairwise(sorted(found, key=lambda member: member.offset)):
            if first.offset + _LOCAL_HEADER + first.packed_size > second.offset:
                raise ValueError(f"{first.name!r} and {second.name!r} overlap")
        return found


@contextmanager
def _damage_named(path: Path, kind: str, fix: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, tarfile.TarError, *DAMAGED) as error:
        reason = str(error) or "it ends early"
        raise DataError(f"{path} is not a readable {kind}: {reason}", fix=fix) from error


def _zip_member(path: Path, entry: zipfile.ZipInfo, total: int) -> Member:
    name = entry.filename
    check_name(name)
    if entry.flag_bits & 1:
        raise ValueError(f"{name!r} is encrypted")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise ValueError(f"{name!r} is a link")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(
            f"{name!r} is packed by method {entry.compress_type}; 0 (stored) and 8 (deflate) are "
            "read"
        )
    size, packed = entry.file_size, entry.compress_size
    if entry.header_offset + packed > total:  # As much would be allocated before it is read.
        raise ValueError(f"{name!r} reaches beyond the end of the archive")
    if size > RATIO_FROM and size > MAX_RATIO * packed:
        raise ValueError(
            f"{name!r} unpacks {packed} bytes to {size}; from {RATIO_FROM} bytes on at most "
            f"{MAX_RATIO} times the packed size are read"
        )
    is_deflated = entry.compress_type == zipfile.ZIP_DEFLATED
    return Member(path, name, entry.header_offset, packed, size, entry.CRC, is_deflated)


def check_name(name: str) -> None:
    """Refuse a name that leads out of the archive.

    Raises
    ------
    ValueError
        If it is absolute, has `..`, or the form of another system.
    """
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or "\\" in name:
        raise ValueError(f"the name {name!r} leads out of the archive")


def list_tar(path: Path, *, fix: str) -> list[Member]:
    """The files in a plain tar archive, in its order.

    Raises
    ------
    DataError
        If it is not a tar archive or a packed one, or a member is a link, a device, sparse, reaches
        beyond the end, or has a name that leads out of the archive.
    """
    with (
        _damage_named(path, "tar archive", fix),
        untrusted_files.open_file(path, ARCHIVE, fix=fix) as file,
    ):
        start = file.read(6)
        if start[:2] == b"\x1f\x8b" or start[:3] == b"BZh" or start == b"\xfd7zXZ\x00":
            raise ValueError("it is compressed, and single members of it cannot be read")
        size = file.seek(0, 2)
        file.seek(0)
        found: list[Member] = []
        # Headers of long names and extensions are read whole, so that these are limited.
        reader = LimitedReader(file, MAX_TAR_HEADER, "a header")
        with tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r:") as archive:
            while (entry := archive.next()) is not None:
                if entry.isdir():
                    continue
                check_name(entry.name)
                if entry.size < 0:
                    raise ValueError(f"{entry.name!r} has a size below zero")
                if not entry.isreg() or entry.issparse():
                    raise ValueError(f"{entry.name!r} is not a regular file: a link, or the like")
                if entry.offset_data + entry.size > size:
                    raise ValueError(f"{entry.name!r} reaches beyond the end of the archive")
                if len(found) == MAX_TAR_MEMBERS:
                    raise ValueError(f"it has more than {MAX_TAR_MEMBERS} members")
                found.append(
                    Member(path, entry.name, entry.offset_data, entry.size, entry.size, None)
                )
        return found
