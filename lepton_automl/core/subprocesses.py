"""What child processes share: they end with their parent, and return errors as JSON."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from lepton_automl.core.files import machine_error
from lepton_automl.errors import LeptonError

_PARENT_CHECK_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1


def start_child(arguments: list[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a Python program that first calls `exit_with_parent`.

    It cannot receive Ctrl-C until then: Python would show a traceback while it starts.

    Parameters
    ----------
    arguments : list of str
        The program and its arguments.
    **options
        Of `subprocess.Popen`.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(arguments, **options)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def error_answer(error: BaseException) -> dict[str, str]:
    """The answer of a program that failed for a reason the user can correct.

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
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Blocked by `start_child`.
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
