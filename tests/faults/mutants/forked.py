"""Child processes of a command that are forked from it, so that they need not load their modules.

Their limits, pipes and end are those of the real ones.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import IO, Any


class ForkedProcess:
    """In place of `core.subprocesses.start_child`: `python -P -c PROGRAM PID` with three pipes."""

    def __init__(self, words: Sequence[str], **_: Any) -> None:
        *_python, program, parent = words
        pipes = [os.pipe() for _ in range(3)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of forks beside threads.
            self.pid = os.fork()
        if self.pid == 0:
            _run(program, parent, [pipes[0][0], pipes[1][1], pipes[2][1]])
        for handle in (pipes[0][0], pipes[1][1], pipes[2][1]):
            os.close(handle)
        self.stdin: IO[bytes] = os.fdopen(pipes[0][1], "wb", buffering=0)
        self.stdout: IO[bytes] = os.fdopen(pipes[1][0], "rb", buffering=0)
        self.stderr: IO[bytes] = os.fdopen(pipes[2][0], "rb", buffering=0)
        self._code: int | None = None

    def poll(self) -> int | None:
        return self._waited(os.WNOHANG)

    def wait(self) -> int:
        code = self._waited(0)
        assert code is not None
        return code

    def kill(self) -> None:
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)

    def _waited(self, options: int) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code


def _run(program: str, parent: str, handles: Sequence[int]) -> None:
    """Run a program in this process, with pipes as its standard streams, and end."""
    code = 1
    try:
        for timer in (signal.ITIMER_REAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        for number, handle in enumerate(handles):
            os.dup2(handle, number)
        os.closerange(3, 512)
        sys.argv = ["-c", parent]
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, closefd=False)  # noqa: SIM115
            for number, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        exec(program, {"__name__": "__main__"})
        code = 0
    except SystemExit:
        code = 0
    except BaseException as error:  # noqa: BLE001
        os.write(2, repr(error).encode())
    finally:
        os._exit(code)
