"""The program of a child process with limits that reads Parquet files with pyarrow.

A request that holds `path` opens a file and returns its columns; one that holds `columns` returns
their next rows, and an empty answer at the end. Bytes of pictures, and numbers of arrays, are the
payload.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet, types

from lepton_automl.core import untrusted_files
from lepton_automl.core.limited_process import Message, serve
from lepton_automl.core.untrusted_archives import ARCHIVE
from lepton_automl.core.untrusted_files import PICTURE
from lepton_automl.data.layouts.tables import cell_text
from lepton_automl.data.sources.parquet import FIX
from lepton_automl.errors import DataError, first_line

_ROWS = 64
"""Rows of an answer."""
_MAX_COLUMNS = 1024
_LONGEST_NAME = 100
"""Characters of the name of a file, the last ones."""
_MAX_METADATA = 16 << 20
"""Bytes of the metadata of Hugging Face, which list the names of the classes."""


@dataclass
class _Server:
    """Holds the file that was opened last."""

    path: str = ""
    file: Any = None
    batches: Iterator[Any] | None = None

    def answer(self, request: Message) -> Message:
        """Open a file, or read the next rows of the open one."""
        fields = request.fields
        self.path = fields.get("path", self.path)
        try:
            return self._open() if "path" in fields else self._rows(fields["columns"])
        except MemoryError:
            raise
        except (pa.ArrowException, OSError, ValueError, TypeError, LookupError) as error:
            raise DataError(
                f"{self.path} is not a readable Parquet file: {first_line(error)}", fix=FIX
            ) from error

    def _open(self) -> Message:
        stream = untrusted_files.open_file(Path(self.path), ARCHIVE, fix=FIX)
        self.file = parquet.ParquetFile(stream, memory_map=False, pre_buffer=False)
        self.batches = None
        schema = self.file.schema_arrow
        if len(schema.names) > _MAX_COLUMNS:
            raise ValueError(f"it has {len(schema.names)} columns, at most {_MAX_COLUMNS} are read")
        if len(set(schema.names)) < len(schema.names):
            raise ValueError("two columns have one name")
        described = (schema.metadata or {}).get(b"huggingface", b"")
        if len(described) > _MAX_METADATA:
            raise ValueError(f"its metadata have {len(described)} bytes")
        kinds = {field.name: _kind(field.type) for field in schema}
        return Message({"kinds": kinds, "is_described": bool(described)}, described)

    def _rows(self, columns: dict[str, str]) -> Message:
        """The next rows of columns (name -> kind, at most one of pictures or arrays)."""
        if columns.pop("", None) is not None:  # The first rows.
            self.batches = self.file.iter_batches(_ROWS, columns=list(columns), use_threads=False)
        assert self.batches is not None, "the first rows are asked for first"
        batch = next(self.batches, None)
        if batch is None:
            return Message({})
        found: dict[str, Any] = {"rows": batch.num_rows, "texts": {}}
        payload = b""
        for name, kind in columns.items():
            column = batch.column(name)
            if kind == "picture":
                found["sizes"], payload = _pictures(column)
                found["names"] = _file_names(column)
            elif kind == "array":
                values = _array(column)
                found["shape"], found["dtype"] = list(values.shape), values.dtype.str
                payload = values.tobytes()
            else:
                found["texts"][name] = [cell_text(value) for value in column.to_pylist()]
        return Message(found, payload)


def _kind(found: Any) -> str:
    """What a column holds: `picture`, `array`, `text`, or something that is not read."""
    found = _stored(found)
    if types.is_struct(found):
        inner = {field.name: field.type for field in found}
        return "picture" if "bytes" in inner and _is_binary(inner["bytes"]) else "other"
    if _is_binary(found):
        return "picture"
    depth = 0
    while _is_list(found):
        depth, found = depth + 1, _stored(found.value_type)
    is_number = types.is_integer(found) or types.is_floating(found) or types.is_boolean(found)
    if depth:
        return "array" if is_number else "other"
    is_text = _is_text(found) or types.is_temporal(found)
    return "text" if is_number or is_text else "other"


def _is_text(found: Any) -> bool:
    return bool(types.is_string(found) or types.is_large_string(found))


def _stored(found: Any) -> Any:
    """The type under an extension type or a dictionary."""
    found = getattr(found, "storage_type", found)
    return found.value_type if types.is_dictionary(found) else found


def _is_binary(found: Any) -> bool:
    return bool(types.is_binary(found) or types.is_large_binary(found))


def _is_list(found: Any) -> bool:
    return bool(
        types.is_list(found) or types.is_large_list(found) or types.is_fixed_size_list(found)
    )


def _pictures(column: Any) -> tuple[list[int], bytes]:
    """Sizes and contents of picture files; an absent one is empty."""
    if types.is_struct(column.type):
        column = column.field("bytes")
    contents = [each or b"" for each in column.to_pylist()]
    largest = max(map(len, contents), default=0)
    if largest > PICTURE.max_bytes:
        raise ValueError(f"a picture has {largest} bytes, at most {PICTURE.max_bytes} are read")
    return [len(each) for each in contents], b"".join(contents)


def _file_names(column: Any) -> list[str]:
    """Name of each file without its folders; empty where the column has none."""
    if types.is_struct(column.type):
        at = column.type.get_field_index("path")
        if at >= 0 and _is_text(column.type.field(at).type):
            paths = column.field(at).to_pylist()
            return [re.split(r"[/\\]", path or "")[-1][-_LONGEST_NAME:] for path in paths]
    return [""] * len(column)


def _array(column: Any) -> NDArray[Any]:
    """Values (n, ...) of nested lists, which must have equal lengths."""
    shape = [len(column)]
    column = getattr(column, "storage", column)
    while _is_list(column.type):
        if column.null_count:
            raise ValueError("an array is missing")
        flat = column.flatten()
        length, rest = divmod(len(flat), max(1, math.prod(shape)))
        if rest or not _are_equal(column, length):
            raise ValueError("arrays of one column have several shapes; one is read")
        shape.append(length)
        column = getattr(flat, "storage", flat)
    if column.null_count:
        raise ValueError("a value of an array is missing")
    values = column.to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "buif":
        raise ValueError(f"arrays hold {values.dtype}")
    return np.ascontiguousarray(values.reshape(shape))


def _are_equal(column: Any, length: int) -> bool:
    if types.is_fixed_size_list(column.type):
        return True
    return bool((column.value_lengths().to_numpy(zero_copy_only=False) == length).all())


def main() -> None:
    """Answer requests until the parent process closes the pipe."""
    # Each thread reserves some 130 MiB of addresses, which the limit on memory counts.
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    serve(_Server().answer)
