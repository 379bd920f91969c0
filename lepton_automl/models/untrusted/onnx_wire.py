"""Whether a file can be an ONNX file: the fields of its outermost message, without any library.

What is refused here needs no process that parses it (`models.untrusted.onnx_graph`), and no torch.
"""

from __future__ import annotations

import os
from io import BufferedReader
from pathlib import Path

from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_files import MODEL
from lepton_automl.errors import DataError

_GRAPH = 7
"""Number of the field `graph` of a ModelProto."""
_FIXED_BYTES = {1: 8, 5: 4}
"""Bytes of a value by the wire types of protobuf that have a fixed length."""
_MOST_FIELDS = 10_000
"""That are looked at: files have some dozens."""


def check_is_onnx(path: Path, *, fix: str) -> None:
    """Refuse a file that is not a message of protobuf with a graph.

    Raises
    ------
    DataError
        If it cannot be read, is not a regular file or too large, or holds something else.
    """
    with untrusted_files.open_file(path, MODEL, fix=fix) as file:
        problem = _problem(file, os.fstat(file.fileno()).st_size)
    if problem:
        raise DataError(f"{path}: not an ONNX file: {problem}", fix=fix)


def _problem(file: BufferedReader, size: int) -> str:
    has_graph = False
    for _ in range(_MOST_FIELDS):
        start = file.tell()
        if start == size:
            return "" if has_graph else "it holds no graph"
        try:
            number, kind = divmod(_varint(file), 8)
            length = _length(file, kind)
        except ValueError as error:
            return f"{error} at byte {start}"
        if not number or file.tell() + length > size:
            return f"a field at byte {start} is malformed or cut off"
        has_graph |= number == _GRAPH and kind == 2
        file.seek(length, os.SEEK_CUR)
    return ""


def _length(file: BufferedReader, kind: int) -> int:
    """Bytes of a value that follow."""
    if kind == 0:
        _varint(file)
        return 0
    if kind == 2:
        return _varint(file)
    if kind not in _FIXED_BYTES:
        raise ValueError(f"wire type {kind}")
    return _FIXED_BYTES[kind]


def _varint(file: BufferedReader) -> int:
    """A number of protobuf: seven bits a byte, the lowest first."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("the end of the file")
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise ValueError("a number of more than 10 bytes")
