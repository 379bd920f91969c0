"""Write to stdout and stderr where these may be full or closed."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from rich.console import Console

from lepton_automl.errors import MachineError


class Output(Console):
    """A console that raises BrokenPipeError; rich's own ends the process with code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


@contextmanager
def writing(stream: TextIO) -> Iterator[None]:
    """Drop what a closed pipe does not take, so that the command ends with its own exit code.

    Raises
    ------
    MachineError
        If the stream cannot be written for another reason, such as a full disk.
    """
    try:
        yield
        stream.flush()
    except BrokenPipeError:
        discard(stream)
    except OSError as error:
        discard(stream)
        raise MachineError(
            f"standard {'error' if stream is sys.stderr else 'output'} cannot be written: "
            f"{error.strerror}",
            fix="free some space or send the output elsewhere, then run the same command",
        ) from error


def discard(stream: TextIO) -> None:
    """Send the rest of a stream to /dev/null: it is flushed again when the process ends."""
    with suppress(OSError, ValueError):
        number, target = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(target, number)
        os.close(target)
