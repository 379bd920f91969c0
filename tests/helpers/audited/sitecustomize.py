"""Python loads this first in every process that has its folder in PYTHONPATH: an audit hook.

It appends a line of JSON to the file that LEPTON_AUDIT_LOG names for each process, and for each
thing that no command of lepton may do. Folders in which files may be opened are in
LEPTON_AUDIT_PLACES.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

_FORBIDDEN = (
    *("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.", "ftplib."),
    *("socket.", "http.client", "urllib.Request", "smtplib.", "webbrowser."),
)
_DEVICES = {"/dev/null", "/dev/urandom", "/dev/random"}


_MADE = ("<string>", "<frozen", "<__array", "<lambdifygen")
"""Names of code that the standard library and numpy make of their own texts."""


class _Watch:
    """The hook of this process."""

    def __init__(self, log: str, places: str) -> None:
        self._handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._places = tuple(places.split(os.pathsep))
        self.note("start", "")

    def note(self, event: str, what: str) -> None:
        words = " ".join(sys.orig_argv)[:300]
        os.write(self._handle, (json.dumps([event, what, words]) + "\n").encode())

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._is_forbidden(event, arguments):
            self.note(event, str(arguments)[:200])

    def _is_forbidden(self, event: str, arguments: tuple[Any, ...]) -> bool:
        match event:
            case "open":
                return not self._is_allowed(arguments[0])
            case "exec":
                name = getattr(arguments[0], "co_filename", "")
                return not name.startswith(_MADE) and not self._is_allowed(name)
            case "subprocess.Popen":
                return str(arguments[0]) != sys.executable
        return event.startswith(_FORBIDDEN) and event != "socket.gethostname"

    def _is_allowed(self, path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return True  # The number of a file that is open.
        name = os.path.realpath(os.fsdecode(path))
        return name.startswith(self._places) or name in _DEVICES


if "LEPTON_AUDIT_LOG" in os.environ:
    watch = _Watch(os.environ["LEPTON_AUDIT_LOG"], os.environ["LEPTON_AUDIT_PLACES"])
    sys.addaudithook(watch.hook)
