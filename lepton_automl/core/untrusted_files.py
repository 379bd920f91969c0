"""Open and parse files from outside: regular files only, sizes and contents within stated limits.

Every module reads such files through these functions (arrays: `core.untrusted_arrays`), so that any
content ends in a value or in one error of the caller's kind.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
import tomllib
from collections import Counter
from dataclasses import dataclass
from datetime import date, time
from io import BufferedReader
from pathlib import Path
from typing import Any

from lepton_automl.errors import DataError, LeptonError, MachineError


@dataclass(frozen=True)
class FileKind:
    """Files that are read in the same way."""

    name: str
    """In messages, in the plural."""
    max_bytes: int
    """Size of the largest file that is read."""


JSON = FileKind("JSON files", 16 << 20)
TOML = FileKind("TOML files", 256 << 10)
DEFINITION = FileKind("run definitions", 64 << 20)
TEXT = FileKind("text files", 16 << 20)
PICTURE = FileKind("pictures", 256 << 20)
MODEL = FileKind("ONNX files", 1 << 30)
WEIGHTS = FileKind("files of weights", 1 << 30)
ARRAYS = FileKind("files of arrays", 64 << 30)

MAX_DEPTH = 64
"""Levels of objects and arrays in a JSON or TOML file."""
MAX_LINE = 2_000
"""Characters in a line of TOML, unless it is one key with one text: the time of the parser grows
with the square of the parts of a key."""
_ONE_TEXT = re.compile(r'[\w-]+ = "(?:[^"\\]|\\.)*+"')

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

Source = Path | str
"""A file, or the name of a place in one, in messages."""
ErrorType = type[LeptonError]


def open_file(
    path: Path, kind: FileKind, *, fix: str, error: ErrorType = DataError
) -> BufferedReader:
    """Open a regular file, or a link to one, for reading; never waits for a pipe or a device.

    Parameters
    ----------
    path : Path
        Its path.
    kind : FileKind
        What it should be; says how large it may be.
    fix : str
        The way out in the error.
    error : type of LeptonError
        Class of the error.

    Raises
    ------
    LeptonError
        `error`, if there is no such file, it is not a regular file, or it is too large.
    OSError
        If the machine lacks memory or file handles.
    """
    handle, _ = _opened(path, kind, fix, error)
    return os.fdopen(handle, "rb")


def open_or_read(
    path: Path, kind: FileKind, *, most: int, fix: str, error: ErrorType = DataError
) -> BufferedReader | bytes:
    """As `open_file`; the content of a file of up to `most` bytes is read at once, by one call."""
    handle, size = _opened(path, kind, fix, error)
    if size > most:
        return os.fdopen(handle, "rb")
    try:
        return _read(handle, size, size)
    except OSError as failure:
        raise _unreadable(path, failure, fix, error) from failure
    finally:
        os.close(handle)


def read_bytes(path: Path, kind: FileKind, *, fix: str, error: ErrorType = DataError) -> bytes:
    """Content of a file; parameters and errors as of `open_file`."""
    handle, size = _opened(path, kind, fix, error)
    try:
        content = _read(handle, size, size + 1)
    except OSError as failure:
        raise _unreadable(path, failure, fix, error) from failure
    finally:
        os.close(handle)
    if len(content) != size:
        raise error(
            f"{path} cannot be read: its size changed from {size} bytes while it was read", fix=fix
        )
    return content


def _opened(path: Path, kind: FileKind, fix: str, error: ErrorType) -> tuple[int, int]:
    """Handle and size of a file; parameters and errors as of `open_file`."""
    try:
        # Opening a device may have effects, so that it is not even opened.
        _check_regular(path, os.stat(path), fix, error)  # noqa: PTH116 (10,000 pictures)
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as failure:
        if _is_shortage(failure):
            raise
        raise _unreadable(path, failure, fix, error) from failure
    try:
        info = os.fstat(handle)  # The path may lead to another file by now.
        _check_regular(path, info, fix, error)
        _check_size(path, info.st_size, kind, fix, error)
    except BaseException:
        os.close(handle)
        raise
    return handle, info.st_size


def _unreadable(path: Path, failure: Exception, fix: str, error: ErrorType) -> LeptonError:
    reason = getattr(failure, "strerror", None) or failure
    return error(f"{path} cannot be read: {reason}", fix=fix)


def _read(handle: int, size: int, most: int) -> bytes:
    """Up to `most` bytes of a file of `size` bytes; fewer than `size` only if it became shorter."""
    content = os.read(handle, most)
    while len(content) < size and (part := os.read(handle, most - len(content))):
        content += part
    return content


def read_text(
    path: Path,
    kind: FileKind = TEXT,
    *,
    fix: str,
    error: ErrorType = DataError,
    errors: str = "strict",
) -> str:
    """Content of a UTF-8 text without its byte-order mark; parameters as of `open_file`.

    `errors` says what other bytes become, as in `bytes.decode`: `surrogateescape` is for text that
    `files.write` wrote.

    Raises
    ------
    LeptonError
        `error`, as `open_file`, or if it is not UTF-8 text.
    """
    content = read_bytes(path, kind, fix=fix, error=error)
    return decode_text(content, path, fix=fix, error=error, errors=errors)


def read_json(
    path: Path,
    *,
    fix: str,
    top: type = object,
    finite: bool = True,
    error: ErrorType = DataError,
) -> Any:
    """The value in a JSON file; parameters as of `open_file` and `parse_json`."""
    content = read_bytes(path, JSON, fix=fix, error=error)
    return parse_json(content, path, fix=fix, top=top, finite=finite, error=error)


def read_toml(
    path: Path, kind: FileKind = TOML, *, fix: str, error: ErrorType = DataError
) -> dict[str, Any]:
    """The fields in a TOML file; parameters as of `open_file` and `parse_toml`."""
    content = read_bytes(path, kind, fix=fix, error=error)
    return parse_toml(content, path, fix=fix, error=error)


def parse_json(
    content: bytes | str,
    source: Source,
    *,
    fix: str,
    top: type = object,
    finite: bool = True,
    error: ErrorType = DataError,
) -> Any:
    """The value in a JSON text.

    Parameters
    ----------
    content : bytes or str
        The text; bytes are UTF-8, with or without a byte-order mark.
    source : Path or str
        Where it comes from, in messages.
    fix : str
        The way out in the error.
    top : type
        Type of the value, such as `dict`; any by default.
    finite : bool
        Whether NaN and Infinity are refused.
    error : type of LeptonError
        Class of the error.

    Raises
    ------
    LeptonError
        `error`, if it is not JSON, has a key twice, is nested deeper than `MAX_DEPTH`, holds an
        integer of more than 64 bits, or text that no file can hold.
    """
    text = decode_text(content, source, fix=fix, error=error)
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError as failure:
        raise error(f"{source}: {_TOO_DEEP}", fix=fix) from failure
    except ValueError as failure:
        raise error(f"{source}: {_reason(failure)}", fix=fix) from failure
    if not isinstance(value, top):
        found, wanted = _JSON_NAMES[type(value)], _JSON_NAMES[top]
        raise error(f"{source}: it holds {found}, the rule is {wanted}", fix=fix)
    _check_values(value, source, fix, error, finite=finite)
    return value


def parse_toml(
    content: bytes | str, source: Source, *, fix: str, error: ErrorType = DataError
) -> dict[str, Any]:
    """The fields in a TOML text; parameters as of `parse_json`.

    Raises
    ------
    LeptonError
        `error`, if it is not TOML, has a line of more than `MAX_LINE` characters, is nested deeper
        than `MAX_DEPTH`, or holds a date, NaN, infinity or an integer of more than 64 bits.
    """
    text = decode_text(content, source, fix=fix, error=error)
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > MAX_LINE and ("'''" in line or not _ONE_TEXT.fullmatch(line)):
            what = f"line {number} has {len(line)} characters, at most {MAX_LINE} are read"
            raise error(f"{source}: {what}", fix=fix)
    try:
        value = tomllib.loads(text)
    except RecursionError as failure:
        raise error(f"{source}: {_TOO_DEEP}", fix=fix) from failure
    except ValueError as failure:
        raise error(f"{source}: {_reason(failure)}", fix=fix) from failure
    _check_values(value, source, fix, error, finite=True)
    return value


def decode_text(
    content: bytes | str,
    source: Source,
    *,
    fix: str,
    error: ErrorType = DataError,
    errors: str = "strict",
) -> str:
    """Decode UTF-8 without its byte-order mark; parameters and errors as of `read_text`."""
    if isinstance(content, str):
        return content
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        what = "it is text in UTF-16 or UTF-32, UTF-8 is read"
        raise error(f"{source} cannot be read: {what}", fix=fix)
    place = content.find(0)
    if place >= 0:
        what = f"byte {place} is NUL, text in UTF-8 is read"
        raise error(f"{source} cannot be read: {what}", fix=fix)
    try:
        return content.decode("utf-8-sig", errors)
    except UnicodeDecodeError as failure:
        what = f"byte {failure.start} (0x{content[failure.start]:02x}) is not UTF-8"
        raise error(f"{source} cannot be read: {what}", fix=fix) from failure


def sha256(path: Path, kind: FileKind, *, fix: str, error: ErrorType = DataError) -> str:
    """Hexadecimal SHA-256 of a file, read in blocks; parameters and errors as of `open_file`."""
    with open_file(path, kind, fix=fix, error=error) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_TOO_DEEP = f"it is nested deeper than {MAX_DEPTH} levels"
_JSON_NAMES = {
    dict: "an object",
    list: "an array",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def whole_number(text: str) -> int | None:
    """The whole number that a text from outside is, such as `-12` or `007`; None where it is none.

    A text of more than 1,000 digits is none: Python refuses to convert some thousand, in a time
    that grows with their square.
    """
    return int(text) if _WHOLE.fullmatch(text) else None


_WHOLE = re.compile(r"-?\d{1,1000}")


def is_of_machine(error: BaseException | None) -> bool:
    """Whether the machine, not a file, is the cause of an exception, or of one it was raised from.

    That are a shortage of file handles or memory, and a disk that fails.
    """
    while error is not None:
        if isinstance(error, (MachineError, MemoryError)) or _is_shortage(error):
            return True
        if isinstance(error, OSError) and error.errno == errno.EIO:
            return True
        error = error.__cause__
    return False


def may_be_whole(error: BaseException) -> bool:
    """Whether the file of a failed reading may be there and whole.

    So it is where the machine does not let it be read now: its disk fails, or rights are missing.
    Such a file is not deleted as a damaged one is.
    """
    cause = error.__cause__
    of_rights = isinstance(cause, OSError) and cause.errno in {errno.EACCES, errno.EPERM}
    return of_rights or is_of_machine(error)


def _is_shortage(error: BaseException) -> bool:
    scarce = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
    return isinstance(error, OSError) and error.errno in scarce


def _check_regular(path: Path, info: os.stat_result, fix: str, error: ErrorType) -> None:
    if not stat.S_ISREG(info.st_mode):
        found = _KINDS.get(stat.S_IFMT(info.st_mode), "no regular file")
        raise error(f"{path} cannot be read: it is {found}, only regular files are read", fix=fix)


def _check_size(path: Path, size: int, kind: FileKind, fix: str, error: ErrorType) -> None:
    if size > kind.max_bytes:
        raise error(
            f"{path} has {size} bytes, {kind.name} of at most {kind.max_bytes} bytes are read",
            fix=fix,
        )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = counts.most_common(1)[0][0]
        raise ValueError(f"the key {_short(twice)} stands twice in one object")
    return made


def _reason(failure: ValueError) -> str:
    text = str(failure)
    return "an integer has more than 64 bits" if "int_max_str_digits" in text else text


def _check_values(
    document: Any, source: Source, fix: str, error: ErrorType, *, finite: bool
) -> None:
    """Refuse values that later steps cannot handle; without recursion."""
    waiting = [(document, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                raise error(f"{source}: {_TOO_DEEP}", fix=fix)
            inner = [*value, *value.values()] if isinstance(value, dict) else value
            waiting += [(each, depth + 1) for each in inner]
        elif problem := _problem(value, finite=finite):
            raise error(f"{source}: {problem}", fix=fix)


def _problem(value: object, *, finite: bool) -> str:
    """What is wrong with a single value; empty where nothing is."""
    match value:
        case int() if not -(1 << 63) <= value < 1 << 64:
            return "an integer has more than 64 bits"
        case float() if finite and not math.isfinite(value):
            return f"the number {value} is not finite"
        case str() if "\0" in value or not _is_encodable(value):
            return f"the text {_short(value)} holds NUL or a half of a surrogate pair"
        case date() | time():
            return f"{value} is a date or a time; numbers, texts, lists and tables are read"
    return ""


def _is_encodable(text: str) -> bool:
    # Names of files that are not UTF-8 hold surrogates, which stand for their bytes.
    if text.isascii():
        return True
    try:
        text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _short(text: str) -> str:
    return ascii(text if len(text) <= 40 else f"{text[:40]}...")
