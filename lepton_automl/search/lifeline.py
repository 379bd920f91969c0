"""Lifeline: a worker dies with its coordinator, and leaves Ctrl-C to it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

PARENT_CHECK_SECONDS = 0.2
PR_SET_PDEATHSIG = 1


def hold() -> None:
    """Called before anything slow is imported; the first argument is the parent's process id."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = int(sys.argv[1])
    _ask_the_kernel()
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _ask_the_kernel() -> None:
    """On Linux a worker that is stopped, or stuck in a kernel of torch, dies too."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _die_with(parent: int) -> None:
    # A killed coordinator cannot say goodbye; its workers must not train on for nobody.
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(1)
