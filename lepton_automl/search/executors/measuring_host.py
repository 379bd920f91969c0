"""Measure latencies on a host of the file, over its own connection, for all stages of a run.

The host runs `lepton worker` without workers: the messages are those of `workers.channel`, with
`measure` (files in base 64, rounds, seconds) and `quiet` (rounds, seconds). It holds the
measurement lock of all workers of that host that belong to this user while it measures.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from lepton_automl.core import untrusted_files
from lepton_automl.core.events import Emit, Event, silent
from lepton_automl.core.field_types import check_finite, check_types, with_tuples
from lepton_automl.core.machine import Machine
from lepton_automl.core.units import duration
from lepton_automl.core.version import __version__
from lepton_automl.cost.latency import Rounds, Stopwatch, fingerprint
from lepton_automl.errors import LeptonError, MachineError, first_line
from lepton_automl.search.executors.host_connection import HostFailed
from lepton_automl.search.executors.hosts_file import HostSpec
from lepton_automl.search.workers.channel import MAX_LINE, PING_SECONDS, Message
from lepton_automl.text import printable

_LONE_SECONDS = 300.0
"""The command ends if the host cannot be used for so long."""
_ANSWER_SECONDS = 300.0
"""A host that is alive answers within this time."""
_LONGEST_PAUSE_SECONDS = 30.0
_KEPT = 300
"""Last characters of the standard error of the command that are shown."""
_POLL_SECONDS = 1.0
_READ_BYTES = 1 << 18
_Answer = TypeVar("_Answer")


class HostStopwatch(Stopwatch):
    """Measures latencies on a host; it connects when it is first used.

    Parameters
    ----------
    spec : HostSpec
        Of the file, with `measures`.
    emit : callable
        Receives an event where the host is lost.
    program : tuple of str, optional
        What runs there, in place of `PYTHON -m lepton_automl worker`.
    """

    def __init__(
        self, spec: HostSpec, emit: Emit = silent, program: tuple[str, ...] | None = None
    ) -> None:
        self.host = spec.name
        self._spec, self._emit = spec, emit
        own = (spec.python, "-m", "lepton_automl", "worker") if program is None else program
        self._argv = (*spec.command, *own)
        self._session: _Session | None = None
        self._machine: Machine | None = None

    @property
    def machine(self) -> Machine:
        """The host, as it describes itself.

        Raises
        ------
        MachineError
            If it cannot be used for `_LONE_SECONDS`.
        """
        if self._machine is None:
            self._retried(lambda _: None)
        assert self._machine is not None
        return self._machine

    def quiet_reference_ms(self, *, rounds: int = 40, seconds: float = 0.2) -> float:
        """As `Stopwatch.quiet_reference_ms`, there; raises as `machine`."""

        def ask(session: _Session) -> float:
            found = session.ask({"quiet": [rounds, seconds]}, "quiet_ms")["quiet_ms"]
            return _positive(found)

        return self._retried(ask)

    def close(self) -> None:
        """End the connection."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def rounds(self, files: Mapping[str, bytes]) -> Rounds:
        """As `Stopwatch.rounds`, there; what it returns raises as `machine`."""
        names = list(files)
        sent = [base64.b64encode(file).decode("ascii") for file in files.values()]

        def run(rounds: int, seconds: float) -> tuple[dict[str, list[float]], list[float]]:
            def ask(session: _Session) -> tuple[dict[str, list[float]], list[float]]:
                message = {"measure": sent, "rounds": rounds, "seconds": seconds}
                answer = session.ask(message, "times")
                *own, references = [[_positive(s) for s in row] for row in answer["times"]]
                if any(len(row) != rounds for row in (*own, references)):
                    raise ValueError("times of another number of rounds")
                return dict(zip(names, own, strict=True)), references

            return self._retried(ask)

        return run

    def _retried(self, ask: Callable[[_Session], _Answer]) -> _Answer:
        """Ask over a connection that is made again when it is lost."""
        pause, since, is_said = 1.0, time.monotonic(), False
        while True:
            try:
                return ask(self._connected())
            except (HostFailed, OSError, LeptonError, ValueError, LookupError, TypeError) as error:
                if isinstance(error, MachineError):
                    raise
                reason = printable(first_line(error))[:_KEPT]
            if self._session is not None:
                reason += self._session.last_words()
                self.close()
            alone = time.monotonic() - since
            if alone + pause > _LONE_SECONDS:
                what = f"host {self.host}, which measures latencies, could not be used for "
                raise MachineError(
                    f"{what}{duration(alone)}: {reason}",
                    fix="correct the host or the file of hosts, then run the same command",
                )
            if not is_said:
                is_said = True
                what = f"host {self.host}, which measures latencies, cannot be used: {reason}"
                self._emit(Event("search", f"{what}; it is tried again and again"))
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _connected(self) -> _Session:
        if self._session is None:
            self._session = _Session(self._argv, self._spec)
            machine = self._session.greet()
            if self._machine is not None and fingerprint(machine) != fingerprint(self._machine):
                self.close()
                raise MachineError(
                    f"host {self.host} is another machine now ({machine}, before "
                    f"{self._machine}): their latencies cannot be compared",
                    fix="name each machine a host of its own, and begin another run",
                )
            if self._machine is None:
                self._emit(Event("plan", f"latencies are measured on host {self.host}: {machine}"))
            self._machine = machine
        return self._session


def _positive(value: object) -> float:
    """A time; raises a TypeError or ValueError if it is none."""
    check_finite(value, "a time")
    assert isinstance(value, int | float)
    if value <= 0:
        raise ValueError(f"a time of {value}")
    return float(value)


class _Session:
    """A running command, and the thread that reads its messages and sends heartbeats."""

    def __init__(self, argv: tuple[str, ...], spec: HostSpec) -> None:
        self._spec = spec
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  Closed by `close`.
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,
                start_new_session=True,  # Nothing may ask for a password.
            )
        except OSError as error:
            self._errors.close()
            raise HostFailed(f"{argv[0]} cannot be started: {error.strerror}") from error
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._writing = threading.Lock()
        self._is_greeted, self._pinged = False, time.monotonic()
        self._thread = threading.Thread(target=self._follow, name="measuring host", daemon=True)
        self._thread.start()

    def greet(self) -> Machine:
        """Wait until the host is ready; the machine that it is.

        Raises
        ------
        HostFailed, LeptonError, ValueError, TypeError, LookupError
            If it is none that can be used.
        """
        version = self._next("lepton")["lepton"]
        if version != __version__:
            raise HostFailed(
                f"has lepton {str(version)[:40]}, this machine has {__version__}: install the same "
                "version there"
            )
        self._is_greeted = True
        settings = {
            "device": "cpu",
            "jobs": 0,
            "cache": self._spec.cache,
            "locks": "",
            "measures": True,
            "stopwatch": True,
            "group_address": "",
        }
        self._send({"hello": settings})
        machine = Machine(**with_tuples(self._next("ready")["ready"]["machine"]))
        check_types(machine)
        return Machine(
            printable(machine.cpu)[:200],
            tuple(printable(flag)[:40] for flag in machine.flags[:40]),
            machine.cores,
            printable(machine.onnxruntime)[:40],
            printable(machine.system)[:80],
        )

    def ask(self, message: Message, kind: str) -> Message:
        """Send a message and wait for the answer of a kind; raises as `greet`."""
        self._send(message)
        return self._next(kind)

    def last_words(self) -> str:
        """The end of the standard error of the command."""
        with contextlib.suppress(OSError, ValueError):
            self._errors.seek(0)
            words = self._errors.read()[-2000:].decode("utf-8", "replace").strip()
            if last := printable(words.rpartition("\n")[2])[:_KEPT]:
                return f" ({last})"
        return ""

    def close(self) -> None:
        """End the command."""
        self._kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                if stream is self._process.stdin:
                    stream.close()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._kill(signal.SIGKILL)
            self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def _kill(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _send(self, message: Message) -> None:
        line = memoryview(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        assert self._process.stdin is not None
        with self._writing:
            while line:
                line = line[os.write(self._process.stdin.fileno(), line) :]

    def _next(self, kind: str) -> Message:
        """The next message of a kind; others are left out."""
        while True:
            try:
                message = self._messages.get(timeout=_ANSWER_SECONDS)
            except queue.Empty:
                raise HostFailed(f"gave no answer for {duration(_ANSWER_SECONDS)}") from None
            if message is None:
                raise HostFailed("the connection was lost")
            if "fatal" in message:
                raise HostFailed(printable(str(message["fatal"]))[:500])
            if kind in message:
                return message

    def _follow(self) -> None:
        """Read messages until the command ends, is silent for too long, or writes none."""
        heard, unread = time.monotonic(), b""
        with contextlib.suppress(OSError, ValueError):
            while len(unread) <= MAX_LINE:
                more = self._read(_POLL_SECONDS)
                if more:
                    heard, (*lines, unread) = time.monotonic(), (unread + more).split(b"\n")
                    for line in lines:
                        self._take(line)
                is_silent = time.monotonic() - heard > self._spec.patience
                if more == b"" or (self._is_greeted and is_silent):
                    break
                self._ping()
        self._kill()
        self._messages.put(None)

    def _read(self, seconds: float) -> bytes | None:
        """What the command has written, empty at its end; None: nothing within the seconds."""
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        ready, _, _ = select.select([output], [], [], seconds)
        return os.read(output, _READ_BYTES) if ready else None

    def _ping(self) -> None:
        """Send a heartbeat, unless a message is being written."""
        now = time.monotonic()
        if not self._is_greeted or now - self._pinged < PING_SECONDS:
            return
        if self._writing.acquire(blocking=False):
            self._writing.release()
            self._pinged = now
            self._send({"ping": 1})

    def _take(self, line: bytes) -> None:
        """Queue a message; before the greeting a login shell may write anything."""
        try:
            message = untrusted_files.parse_json(line, "a message", fix="", top=dict)
        except LeptonError:
            if self._is_greeted:
                raise ValueError("no message of lepton") from None
            return
        if "alive" not in message:
            self._messages.put(message)


def measuring_host(hosts: Mapping[str, HostSpec]) -> HostSpec | None:
    """The host on which latencies are measured; None: this machine."""
    return next((each for each in hosts.values() if each.measures and not each.local), None)
