"""Asking: a fresh process answers one request, JSON in and JSON out; it alone may die of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lepton_automl import errors
from lepton_automl.errors import LeptonError


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
    root = str(Path(__file__).parents[1])
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
