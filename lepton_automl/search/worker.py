"""A worker process: reads tasks from its input, a line each, and answers on its output."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from lepton_automl.errors import LeptonError
from lepton_automl.search.quiet import Quiet
from lepton_automl.search.task import Task, run_task

OUTPUT, ERRORS = 1, 2
"""File descriptors every process starts with."""


def main() -> None:
    """Serve tasks until the input ends; the second argument is the folder for locks."""
    answers = os.fdopen(os.dup(OUTPUT), "w")
    os.dup2(ERRORS, OUTPUT)  # What a library prints is no answer.
    torch.set_num_threads(1)
    quiet = Quiet(Path(sys.argv[2]))
    for line in sys.stdin:
        answers.write(answer(line, quiet) + "\n")
        answers.flush()


def answer(line: str, quiet: Quiet) -> str:
    """The answer to one task: `{"result": ...}` or `{"error": ...}`, a line of JSON."""
    try:
        result = run_task(Task.from_json(line), quiet.turn)
    except LeptonError as error:
        known = {"what": error.what, "fix": error.fix, "kind": type(error).__name__}
        return json.dumps({"error": known})
    return json.dumps({"result": result.to_json()})
