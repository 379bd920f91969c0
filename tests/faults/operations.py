"""The operations that `shim.c` records in a log."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults import warm as shim

_HEAD = struct.Struct("<4I2qQ")


@dataclass(frozen=True)
class Operation:
    """One record of the shim."""

    kind: int
    path: str
    other: str
    offset: int
    data: bytes


def changes(log: Path) -> list[Operation]:
    """What was done to the disk, in order."""
    return [operation for operation, _ in _records(log) if operation.kind != shim.COUNTED]


def counted(log: Path, root: Path) -> list[tuple[int, str]]:
    """Every counted operation in the order of its number: its kind, and its place.

    The place is the path below `root` without numbers and digests: equal ones do the same.
    """
    found = sorted(
        (operation.offset, int(extra), operation.path)
        for operation, extra in _records(log)
        if operation.kind == shim.COUNTED
    )
    begin = str(root.resolve())
    return [(kind, _place(path.removeprefix(begin))) for _, kind, path in found]


def _place(path: str) -> str:
    path = re.sub(r"[0-9a-f]{8,}", "HEX", path.lstrip("/"))
    return re.sub(r"\d+", "N", path)


def _records(log: Path) -> Iterator[tuple[Operation, int]]:
    """Each record, and its last field."""
    content, at = log.read_bytes(), 0
    while at < len(content):
        kind, size, other_size, _, offset, length, extra = _HEAD.unpack_from(content, at)
        at += _HEAD.size
        texts = []
        for part in (size, other_size):
            texts.append(content[at : at + part].decode("utf-8", "surrogateescape"))
            at += part
        data = content[at : at + length]
        at += length
        yield Operation(kind, *texts, offset, data), extra
