"""Lifeline: a worker dies with its coordinator, and leaves Ctrl-C to it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

PARENT_CHECK_SECONDS = 0.2


def hold() -> None:
    """Called before anything slow is imported; the first argument is the parent's process id."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = int(sys.argv[1])
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: int) -> None:
    # A killed coordinator cannot say goodbye; its workers must not train on for nobody.
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(1)
