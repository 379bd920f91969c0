"""Lifeline: a process dies with the one that started it, and leaves Ctrl-C to it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

_PARENT_CHECK_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1


def exit_with_parent() -> None:
    """Called before anything slow is imported; the first argument is the parent's process id."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = int(sys.argv[1])
    _ask_the_kernel()
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _ask_the_kernel() -> None:
    """On Linux a process that is stopped, or stuck in a kernel of torch, dies too."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _die_with(parent: int) -> None:
    # A killed parent cannot say goodbye; nobody is left to read what its children work out.
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_SECONDS)
    os._exit(1)
