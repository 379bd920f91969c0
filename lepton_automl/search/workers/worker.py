"""A worker process: reads tasks from its input, a line each, and answers on its output."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch

from lepton_automl.errors import LeptonError, first_line
from lepton_automl.search.workers.handle import is_out_of_memory
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.task import Task, run_task

OUTPUT, ERRORS = 1, 2
"""File descriptors every process starts with."""
BEAT_SECONDS = 0.25
"""Signs of life are at least so far apart."""


class Voice:
    """What a worker says while it works: a line of JSON each.

    `{"share": 0.4}` is a sign of life and how much of the task is done, with `free` and `total`
    bytes of memory where it computes on a GPU; `{"waits": true}` says that somebody measures.

    Parameters
    ----------
    output : TextIO
        Read by the coordinator.
    lock : MeasurementLock
        The turnstile at which it waits.
    """

    def __init__(self, output: TextIO, lock: MeasurementLock) -> None:
        self._output, self._lock = output, lock
        self._share, self._next = 0.0, 0.0
        self._is_waiting = False

    def say(self, words: str) -> None:
        """Write one line."""
        self._output.write(words + "\n")
        self._output.flush()

    def begin(self) -> None:
        """A task has come."""
        self._share, self._next = 0.0, 0.0
        self._beat()

    def told(self, share: float) -> None:
        """So much of the task is done."""
        self._share = share

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A batch, once nobody measures; a sign of life after it."""
        with self._lock.training_slot(self._wait):
            yield
        self._beat()

    def _wait(self) -> None:
        self._is_waiting = True
        self.say('{"waits":true}')

    def _beat(self) -> None:
        now = time.monotonic()
        if now >= self._next or self._is_waiting:
            self._next, self._is_waiting = now + BEAT_SECONDS, False
            self.say(json.dumps({"share": round(self._share, 4), **_memory()}))


def main() -> None:
    """Serve tasks until the input ends; the second argument is the folder for locks."""
    output = os.fdopen(os.dup(OUTPUT), "w")
    os.dup2(ERRORS, OUTPUT)  # What a library prints is no answer.
    torch.set_num_threads(1)
    voice = Voice(output, MeasurementLock(Path(sys.argv[2])))
    voice.begin()
    for line in sys.stdin:
        voice.begin()
        voice.say(answer(line, voice))


def answer(line: str, voice: Voice) -> str:
    """The answer to one task, a line of JSON.

    `{"result": ...}`, `{"error": ...}` with the message of a `LeptonError`, or
    `{"out_of_memory": reason}`.
    """
    try:
        result = run_task(Task.from_json(line), voice.turn, voice.told)
    except LeptonError as error:
        known = {"what": error.what, "fix": error.fix, "kind": type(error).__name__}
        return json.dumps({"error": known})
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        return json.dumps({"out_of_memory": first_line(error)[:200]})
    return json.dumps({"result": result.to_json()})


def _memory() -> dict[str, Any]:
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return {}
    free, total = torch.cuda.mem_get_info()
    return {"free": free, "total": total}
