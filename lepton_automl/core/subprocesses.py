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
from lepton_automl.errors import LeptonError

_PARENT_CHECK_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1


def run_json(
    program: str, request: str, what: str, died: Callable[[int], LeptonError]
) -> dict[str, Any]:
    """What a program says to a request.

    Parameters
    ----------
    program : str
        Python text; it reads stdin and writes one JSON object to stdout.
    request : str
        JSON.
    what : str
        What it does, for those who read of its failure.
    died : callable
        The error for a process that a signal ended, of that number.

    Raises
    ------
    LeptonError
        What the answer says a user can put right, or what `died` gives.
    """
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    child = subprocess.run(
        [sys.executable, "-c", program, str(os.getpid())],
        input=request,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    if child.returncode < 0:
        raise died(-child.returncode)
    if child.returncode:
        raise RuntimeError(f"{what} failed:\n{child.stderr}")
    answer: dict[str, Any] = json.loads(child.stdout)
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["what"], fix=answer["fix"])
    return answer


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
