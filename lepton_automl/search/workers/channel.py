"""Messages between the coordinator and a host, one JSON object a line; loads nothing heavy.

Coordinator to host: `hello` with the settings of the host, `task` (a number) with the `text` of a
`RemoteTask`, `piece` of a content (`blob_cache`), `ping`. Host to coordinator: `lepton` with its
version, before anything slow is loaded; `ready`; `alive` with the share done of each task, at least
every `BEAT_SECONDS`; `lacks` (a task) with `blobs`, the digest and size of each content and the
bytes of it that are there from a transfer that was cut; `piece`, with the task whose net it is
`of`; and of each task one of `result`, `lost`, `error`.

A task of a group of hosts has `group` beside its text. The host answers `complete` (its number)
once the data are there, and waits for `begin` (its number) with `part`, the text of a `GroupPart`;
with rank 0 it then says `listens` (its number) with the `port` for the others. `drop` (its number)
ends it.

A host that is greeted with `stopwatch` has no workers: it says the `machine` in `ready`, and
answers `measure` (files in base 64, with `rounds` and `seconds`) by `times`, of each file and last
of the reference net, and `quiet` (rounds, seconds) by `quiet_ms`.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from lepton_automl.core.version import __version__

BEAT_SECONDS = 0.5
"""A host says that it is alive so often."""
PING_SECONDS = 5.0
"""So does the coordinator where it has nothing else to say."""
MAX_LINE = 16 << 20
"""Bytes of the longest message."""
SILENCE_SECONDS = 120.0
"""A host that hears nothing from its coordinator for so long ends its tasks: the line is cut."""
_READ_BYTES = 1 << 18
_STDIN, _STDOUT, _STDERR = 0, 1, 2
Message = dict[str, Any]


class Channel:
    """The host's end: standard input and output of this process, which nothing else may use."""

    def __init__(self) -> None:
        self._input, self._output = os.dup(_STDIN), os.dup(_STDOUT)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, _STDIN)
        os.close(null)
        os.dup2(_STDERR, _STDOUT)  # What a library prints must not mix with the messages.
        self._lock = threading.Lock()
        self._beat: Callable[[], Message] = dict
        self.send({"lepton": __version__, "python": sys.version.split()[0], "pid": os.getpid()})
        # The first loading of torch from a slow disk may take minutes.
        threading.Thread(target=self._send_beats, daemon=True).start()

    def send(self, message: Message) -> None:
        """Write a message at once; a process whose coordinator has gone ends."""
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        try:
            with self._lock:
                while line:
                    line = line[os.write(self._output, line) :]
        except OSError:
            os._exit(1)

    def beat_with(self, status: Callable[[], Message]) -> None:
        """From now on send what `status` returns as the sign of life."""
        self._beat = status

    def messages(self) -> Iterator[Message]:
        """Messages of the coordinator, until it ends or is silent for `SILENCE_SECONDS`."""
        poll = select.poll()
        poll.register(self._input)
        unread: list[bytes] = []
        while poll.poll(1000 * SILENCE_SECONDS):
            more = os.read(self._input, _READ_BYTES)
            if not more:
                return
            *lines, rest = more.split(b"\n")
            if lines:
                lines[0] = b"".join([*unread, lines[0]])
                unread = []
            unread.append(rest)
            yield from (dict(json.loads(line)) for line in lines)

    def _send_beats(self) -> None:
        while True:
            self.send({"alive": self._beat()})
            time.sleep(BEAT_SECONDS)
