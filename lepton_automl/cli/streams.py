"""Standard output and error of a command: escaped text, and streams that are closed or full."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from lepton_automl.errors import DataError, LeptonError, MachineError
from lepton_automl.text import printable, printable_lines

_LONGEST_LINE = 64 << 10
"""Bytes of a path on standard input."""


class Unescaped(io.TextIOBase):
    """Writes text with its terminal codes to a standard stream, which may be full or closed.

    What a closed pipe does not take is dropped, so that a command ends with its own exit code, and
    so is whatever standard error does not take: work goes on without its reports.

    Parameters
    ----------
    stream : text stream
        Where to write.
    is_output : bool
        Whether it is standard output.
    """

    def __init__(self, stream: TextIO, *, is_output: bool) -> None:
        self.stream, self._is_output = stream, is_output
        self.is_lost = False
        """Whether something was dropped."""

    def write(self, text: str) -> int:
        """Write `text` as it is.

        Raises
        ------
        MachineError
            If this is standard output and cannot be written, except for a closed pipe.
        """
        try:
            if text:  # click writes "" to find out what a stream is, and hides the error.
                self.stream.write(text)
        except OSError as error:
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered; raises as `write` does."""
        try:
            self.stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        self.is_lost = True
        with contextlib.suppress(OSError, ValueError):
            # The stream is flushed again when the process ends.
            number, target = self.stream.fileno(), os.open(os.devnull, os.O_WRONLY)
            os.dup2(target, number)
            os.close(target)
        if self._is_output and not isinstance(error, BrokenPipeError):
            raise MachineError(
                f"standard output cannot be written: {error.strerror}",
                fix="free some space or send the output elsewhere, then run the same command",
            ) from error

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return self.stream.errors or "strict"


class Escaped(Unescaped):
    """Writes text with control and bidirectional characters escaped; line breaks stay."""

    def write(self, text: str) -> int:
        super().write(printable_lines(text))
        return len(text)


def prepare() -> None:
    """Put an `Escaped` in the place of stdout and stderr; open /dev/null for closed streams.

    A file of the run would get the number of a closed stream otherwise. Characters that the
    encoding lacks are written as escapes.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest free number is the closed one.
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        if not isinstance(stream, Escaped):
            setattr(sys, name, Escaped(stream, is_output=name == "stdout"))


def unescaped(stream: TextIO) -> Unescaped:
    """`stream`, standard output or error, for text that holds terminal codes of its writer."""
    raw = stream.stream if isinstance(stream, Unescaped) else stream
    return Unescaped(raw, is_output=stream is sys.stdout)


def write_line(text: str, stream: TextIO | None = None) -> None:
    """Write one line to `stream`, by default standard output.

    Raises
    ------
    MachineError
        If standard output cannot be written.
    """
    target = unescaped(sys.stdout if stream is None else stream)
    target.write(printable(text) + "\n")
    target.flush()


def write_lines(lines: Iterable[str]) -> None:
    """Write printable lines to standard output.

    Raises
    ------
    MachineError
        If it cannot be written.
    """
    target = unescaped(sys.stdout)
    for line in lines:
        target.write(line + "\n")
    target.flush()


def write_rows(text: str) -> None:
    """Write whole lines of any length to standard output, control characters escaped.

    Raises
    ------
    MachineError
        If it cannot be written.
    """
    target = unescaped(sys.stdout)
    target.write(printable_lines(text))
    target.flush()


def paths_from(handle: int, most: int = 64) -> Iterator[list[Path]]:
    """Paths that a stream lists, a line each or with zero bytes between them, as they arrive.

    Parameters
    ----------
    handle : int
        Number of an open file, such as 0 for standard input.
    most : int
        Paths at once.

    Raises
    ------
    DataError
        If a line has more than 64 KiB.
    """
    rest, mark = b"", b""
    while block := os.read(handle, 1 << 16):
        # A first block may end within the first path, whatever ends it.
        mark = mark or next((end for end in (b"\0", b"\n") if end in block), b"")
        *lines, rest = (rest + block).split(mark) if mark else [rest + block]
        if len(rest) > _LONGEST_LINE:
            raise DataError(
                f"standard input has a line of more than {_LONGEST_LINE} bytes",
                fix="give a path a line, or separate them by zero bytes",
            )
        yield from _in_parts(lines, mark, most)
    yield from _in_parts([rest], mark, most)


def _in_parts(lines: list[bytes], mark: bytes, most: int) -> Iterator[list[Path]]:
    if mark != b"\0":
        lines = [line.rstrip(b"\r") for line in lines]
    paths = [Path(os.fsdecode(line)) for line in lines if line]
    for start in range(0, len(paths), most):
        yield paths[start : start + most]


def write_json(document: dict[str, Any]) -> None:
    """Write one JSON object in ASCII to standard output.

    Raises
    ------
    MachineError
        If it cannot be written.
    """
    target = unescaped(sys.stdout)
    target.write(json.dumps(document, indent=2) + "\n")
    target.flush()


def write_error(error: LeptonError) -> None:
    """Write what is wrong and the way out to standard error, without rich."""
    write_line(f"error: {error.what}", sys.stderr)
    write_line(f"fix: {error.fix}", sys.stderr)
