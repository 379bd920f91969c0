"""Run one JSON request in a child process, and end children with their parent."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lepton_automl import errors
from lepton_automl.core.files import machine_error
from lepton_automl.errors import LeptonError, MachineError

_PARENT_CHECK_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1
_CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS}
    | {signal.SIGTRAP}
)
"""Signals that a program causes itself."""


def run_json(
    program: str, request: str, what: str, signal_error: Callable[[int], LeptonError]
) -> dict[str, Any]:
    """Run a program in a child process: JSON request in, JSON answer out.

    A crash of the program cannot take the caller down.

    Parameters
    ----------
    program : str
        Python source; it reads stdin and writes one JSON object to stdout.
    request : str
        JSON, written to the program's stdin.
    what : str
        Name of the work, for the message of a RuntimeError.
    signal_error : callable
        Signal number -> the error to raise when a signal ended the program.

    Raises
    ------
    LeptonError
        An error that the program returned in its answer (`error`, `what`, `fix`), or that of
        `signal_error`. A signal from outside, such as SIGKILL where memory ran out, is a
        MachineError.
    RuntimeError
        If the program failed otherwise; with its stderr.
    """
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    child = _run(
        [sys.executable, "-c", program, str(os.getpid())],
        input=request,
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
        check=False,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    if child.returncode < 0:
        raise _signal_error(-child.returncode, what, signal_error)
    if child.returncode:
        raise RuntimeError(f"{what} failed:\n{child.stderr}")
    answer: dict[str, Any] = json.loads(child.stdout)
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["what"], fix=answer["fix"])
    return answer


def _signal_error(
    number: int, what: str, signal_error: Callable[[int], LeptonError]
) -> LeptonError:
    if number in _CRASHES:
        return signal_error(number)
    return MachineError(
        f"the process for {what} was killed by signal {number}",
        fix="free some memory if it ran out, then run the same command",
    )


def _run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(*arguments, **options)
    except (OSError, MemoryError) as error:
        raise machine_error(error) or error from error


def error_answer(error: BaseException) -> dict[str, str]:
    """The answer of a program of `run_json` that failed for a reason the user can correct.

    Raises
    ------
    BaseException
        `error` itself, if it is a bug.
    """
    known = error if isinstance(error, LeptonError) else machine_error(error)
    if known is None:
        raise error
    return {"error": type(known).__name__, "what": known.what, "fix": known.fix}


def exit_with_parent() -> None:
    """Make this process end when its parent ends, and ignore Ctrl-C, which the parent handles.

    Must be called before slow imports. `sys.argv[1]` is the process id of the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = int(sys.argv[1])
    # On Linux the kernel also ends a process that is stopped or stuck in native code.
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: int) -> None:
    # A parent that is killed cannot end its children itself.
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_SECONDS)
    os._exit(1)
