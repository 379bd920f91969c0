"""A worker process: reads tasks from its input, a line each, and answers on its output."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from lepton_automl.errors import LeptonError
from lepton_automl.search.quiet import Quiet
from lepton_automl.search.task import Task, run_task

OUTPUT, ERRORS = 1, 2
"""File descriptors every process starts with."""
PARENT_CHECK_SECONDS = 0.2


def main() -> None:
    """Serve tasks until the input ends; arguments: the parent's process id, a folder for locks."""
    parent, locks = int(sys.argv[1]), Path(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the coordinator to answer.
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    answers = os.fdopen(os.dup(OUTPUT), "w")
    os.dup2(ERRORS, OUTPUT)  # What a library prints is no answer.
    torch.set_num_threads(1)
    quiet = Quiet(locks)
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


def _die_with(parent: int) -> None:
    # A killed coordinator cannot say goodbye; its workers must not train on for nobody.
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(1)
