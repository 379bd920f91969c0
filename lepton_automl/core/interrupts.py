"""Ctrl-C: a command ends at once while its modules load, and by KeyboardInterrupt afterwards."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from typing import Never

from lepton_automl.text import printable

_EXIT_CODE = 130
_SHOW_CURSOR = b"\x1b[?25h"


def exit_on_interrupt() -> None:
    """End the process at Ctrl-C or SIGTERM until `raise_on_interrupt` is called.

    Nothing is written yet while modules load, and an exception inside an import becomes one of many
    others, or a traceback of the import system.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # As nohup and shells' & set it.
            signal.signal(number, _exit)


def raise_on_interrupt() -> None:
    """From now on raise KeyboardInterrupt, where `exit_on_interrupt` is in effect."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is _exit:
            signal.signal(number, _raise)


def interrupted_texts() -> tuple[str, str]:
    """What happened and how to go on, for the message of an interrupted command."""
    command = shlex.join(["lepton", *sys.argv[1:]])
    return "interrupted; finished work is kept", f"continue with: {command}"


def _raise(signal_number: int, frame: object) -> Never:
    del signal_number, frame
    raise KeyboardInterrupt


def _exit(signal_number: int, frame: object) -> Never:
    del signal_number, frame
    what, fix = interrupted_texts()
    try:
        if "--json" in sys.argv:
            answer = {"error": what, "fix": fix, "exit_code": _EXIT_CODE}
            os.write(1, (json.dumps(answer, indent=2) + "\n").encode())
        cursor = _SHOW_CURSOR if os.isatty(2) else b""
        text = f"error: {printable(what)}\nfix: {printable(fix)}\n"
        os.write(2, cursor + text.encode())
    finally:
        os._exit(_EXIT_CODE)
