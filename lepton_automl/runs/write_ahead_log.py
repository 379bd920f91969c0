"""Find damage in the write-ahead log of a ledger, the file `-wal` that SQLite keeps beside it.

SQLite reads such a log up to the first frame whose checksum is wrong and ignores the rest in
silence, because the last transaction of a machine that lost its power looks like that. An event
that was recorded before another transaction began was on the disk, though: if it is not among the
frames that are read, the log was damaged later. The format is described in
https://www.sqlite.org/fileformat2.html#the_write_ahead_log.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_files import FileKind
from lepton_automl.errors import LeptonError

_LOG = FileKind("write-ahead logs", 1 << 30)
_HEADER, _FRAME_HEADER = 32, 24
_MAGIC = 0x377F0682
"""Of the header; one more where the checksums take the numbers with the high byte first."""
_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class _Frame:
    """A page in the log."""

    page: int
    is_commit: bool
    is_read: bool
    """Whether SQLite reads it: its checksum is right, and those of all before it are."""


def damage(ledger: Path, pages: Collection[int] | None = None) -> str:
    """What is lost by damage of the log, in words; empty where nothing is.

    Parameters
    ----------
    ledger : Path
        The database file.
    pages : collection of int, optional
        Numbers of pages that change only when an event is recorded; None: all, for a database that
        is empty without the log.

    Raises
    ------
    LeptonError
        If the log is not a regular file or larger than 1 GiB.
    """
    path = ledger.with_name(f"{ledger.name}-wal")
    try:
        content = untrusted_files.read_bytes(path, _LOG, fix="move the run folder aside")
    except LeptonError:
        if not path.exists():
            return ""
        raise
    frames = list(_frames(content))
    lost = [number for number, frame in enumerate(frames) if not frame.is_read]
    # The last transaction may be incomplete; one that another followed was on the disk.
    ends = [number for number in lost if frames[number].is_commit]
    complete = [
        number for number in lost if ends and number <= ends[-1] and number + 1 < len(frames)
    ]
    if any(pages is None or frames[number].page in pages for number in complete):
        return (
            f"its write-ahead log {path.name} can be read up to frame {lost[0]} of {len(frames)}; "
            "events were recorded after it"
        )
    return ""


def _frames(content: bytes) -> Iterator[_Frame]:
    """The frames of the last use of the log; those of earlier uses have other salts."""
    if len(content) < _HEADER + _FRAME_HEADER:
        return
    magic, _, size = struct.unpack(">III", content[:12])
    order = ">" if magic & 1 else "<"
    sums = _checksum(content[:24], order, (0, 0))
    is_read = magic & ~1 == _MAGIC and sums == struct.unpack(">II", content[24:32])
    size = size if is_read else 4096
    # With a damaged header, the salts are those that most frames would have: of the first one.
    salts = content[16:24] if is_read else content[_HEADER + 8 : _HEADER + 16]
    step = _FRAME_HEADER + size
    for start in range(_HEADER, len(content) - step + 1, step):
        head = content[start : start + _FRAME_HEADER]
        if head[8:16] != salts:
            if is_read:
                return
            continue
        if is_read:
            sums = _checksum(head[:8] + content[start + _FRAME_HEADER : start + step], order, sums)
            is_read = sums == struct.unpack(">II", head[16:])
        page, pages = struct.unpack(">II", head[:8])
        yield _Frame(page, pages > 0, is_read)


def _checksum(content: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """Checksum of SQLite's log, continued from that of what is before it."""
    first, second = sums
    numbers = struct.unpack(f"{order}{len(content) // 4}I", content)
    for a, b in zip(numbers[::2], numbers[1::2], strict=True):
        first = (first + a + second) & _MASK
        second = (second + b + first) & _MASK
    return first, second
