"""One host: a command that runs `lepton worker` there, and the messages over its pipes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lepton_automl.core import untrusted_files
from lepton_automl.core.field_types import check_finite
from lepton_automl.core.version import __version__
from lepton_automl.errors import LeptonError, first_line
from lepton_automl.search.executors.hosts_file import HostSpec
from lepton_automl.search.workers.blob_cache import Blob, Received, pieces
from lepton_automl.search.workers.channel import MAX_LINE, PING_SECONDS, Message
from lepton_automl.search.workers.handle import MAX_STEP_SECONDS, WorkerLost
from lepton_automl.search.workers.launch import GroupPart
from lepton_automl.search.workers.remote_task import (
    Catalog,
    RemoteTask,
    accept,
    max_result_bytes,
    task_error,
)
from lepton_automl.search.workers.task import Task, TaskResult
from lepton_automl.text import printable

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 120.0
"""Before a host that failed is tried again; the pause doubles with each failure in a row."""
MAX_LOSSES = 3
"""A host that loses so many workers in a row without a result is given a pause."""
MAX_EARLY_LOSSES = 3
"""A host that greets and is lost so often in a row before it is ready counts as one that fails."""
_MAX_PORT = 65_535
_POLL_SECONDS = 0.5
_TERMINATION_SECONDS = 2.0
"""A command that is asked to end gets so long before it is killed."""
_ENDING_SECONDS = 0.4
"""A command that has closed its output ends within this time, else it is killed."""
_END_POLL_SECONDS = 0.02
_FOREIGN_LINES = 200
"""Lines that a login shell may write before the first message."""
_KEPT = 2000
"""Last bytes of the standard error of a command that are kept."""
_OLD_SPEED = 0.8
"""Weight of earlier trainings in the speed of a host, for each later one."""


class HostFailed(Exception):
    """A host cannot be used now; the message says why."""


class HostLost(HostFailed):
    """A host that has greeted has ended, or is silent."""


@contextlib.contextmanager
def _of_lepton() -> Iterator[None]:
    """Turn errors of reading a message into that of its host.

    Raises
    ------
    HostFailed
        If the message is none of lepton.
    """
    try:
        yield
    except (LeptonError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise HostFailed(f"sent no message of lepton: {first_line(error):.200}") from error


class HostEvents(Protocol):
    """Callbacks by which a host reports to its executor; the event loop's thread calls them."""

    def ready(self, host: Host) -> None:
        """It takes tasks from now on."""

    def finished_task(self, host: Host, number: int, result: TaskResult) -> None:
        """A task has ended, and its net is on the disk."""

    def failed_task(self, host: Host, number: int, error: LeptonError) -> None:
        """A task has raised an error."""

    def complete_part(self, host: Host, number: int) -> None:
        """The host has the data of its part of a group's task."""

    def listens(self, host: Host, number: int, port: int) -> None:
        """Rank 0 of a group awaits the other hosts at a port."""

    def ended_part(self, host: Host, number: int) -> None:
        """A part without rank 0 has ended."""

    def lost_task(self, host: Host, number: int, lost: WorkerLost, *, with_host: bool) -> None:
        """A task has lost its worker; `with_host`: with all of the host."""

    def down(self, host: Host, reason: str) -> None:
        """The host cannot be used; it is tried again unless it was closed."""


@dataclass
class Running:
    """A task on a host."""

    task: Task
    received: Received
    since: float = field(default_factory=time.time)
    begun: float = field(default_factory=time.monotonic)
    share: float = 0.0
    waits: bool = False
    slots: int = 1
    """Workers whose time it takes: those of its processes."""
    is_grouped: bool = False
    """Whether other hosts train parts of it."""
    has_net: bool = True
    """Whether its result has the net; of a group over hosts only that with rank 0."""


class Host:
    """A host of the file; a session with it lasts until the command ends, fails or is silent.

    Parameters
    ----------
    spec : HostSpec
        Of the file.
    catalog : Catalog
        Digests and places of files of this machine.
    events : HostEvents
        Is told what happens.
    locks : Path
        Folder of the measurement lock of this machine.
    program : tuple of str, optional
        What runs there, in place of `PYTHON -m lepton_automl worker`.
    """

    def __init__(
        self,
        spec: HostSpec,
        catalog: Catalog,
        events: HostEvents,
        locks: Path,
        program: tuple[str, ...] | None = None,
    ) -> None:
        python = sys.executable if spec.local and spec.python == "python3" else spec.python
        self.spec = spec
        if program is None:
            program = (python, "-m", "lepton_automl", "worker")
        self.argv = (*spec.command, *program)
        self._catalog, self._events, self._locks = catalog, events, locks
        self.running: dict[int, Running] = {}
        self.jobs, self.arithmetic, self.device, self.pid = 0, "", "cpu", 0
        self.is_ready = self.is_closed = False
        self.sent = self.received = 0
        """Bytes over all sessions."""
        self.tasks = self.lost_workers = 0
        """Tasks that have ended, and workers that were lost, over all sessions."""
        self.idle_seconds = 0.0
        """Seconds of all its workers together without a task, since it was first ready."""
        self.failure = ""
        """Why it cannot be used; empty while it can, or is tried for the first time."""
        self._seconds = self._work = 0.0
        self._losses, self._idle_since = 0, 0.0
        self._early_losses = 0
        """Sessions in a row that were lost after the greeting, all but the first one before it was
        ready; 0 where the last one failed."""
        self._sending: set[Blob] = set()
        self._messages: deque[Message] = deque()
        self._files: deque[Iterator[Message]] = deque()
        self._wake = asyncio.Event()
        self._beside: set[asyncio.Task[None]] = set()
        self._process: asyncio.subprocess.Process | None = None
        self._errors = b""

    @property
    def is_expected(self) -> bool:
        """Whether it may soon be ready: it is tried for the first time, or its loss is no rule."""
        return not self.failure or 0 < self._early_losses < MAX_EARLY_LOSSES

    @property
    def free(self) -> int:
        """Workers without a task."""
        used = sum(running.slots for running in self.running.values())
        return max(0, self.jobs - used) if self.is_ready else 0

    def has_room(self, task: Task) -> bool:
        """Whether as many workers are free as the task has processes here."""
        return self.free >= min(task.ranks, self.jobs) > 0

    @property
    def seconds_per_work(self) -> float | None:
        """Measured seconds for one unit of `time_plan.work_of`; None before the first task."""
        return self._seconds / self._work if self._work else None

    def learn(self, seconds: float, work: float) -> None:
        """Record that a training of `work` took `seconds`; the newest count most."""
        if work > 0 and seconds > 0:
            self._seconds = _OLD_SPEED * self._seconds + seconds
            self._work = _OLD_SPEED * self._work + work

    def facts(self) -> dict[str, Any]:
        """State of the host, for the live status."""
        state = "ready" if self.is_ready else "lost" if self.failure else "connecting"
        return {
            "name": self.spec.name,
            "state": state,
            "jobs": self.jobs,
            "busy": len(self.running),
            "tasks": self.tasks,
            "sent_bytes": self.sent,
            "received_bytes": self.received,
            "idle_seconds": round(self.idle_seconds + self._idle_now(), 1),
            "lost_workers": self.lost_workers,
            "arithmetic": self.arithmetic,
            "reason": self.failure,
        }

    def assign(self, number: int, task: Task) -> None:
        """Start a task that `has_room`. Called by the thread of the event loop."""
        self._count_idle()
        task = dataclasses.replace(task, ranks=min(task.ranks, self.jobs))
        received = Received(max_result_bytes(task))
        self.running[number] = Running(task, received, slots=task.ranks)
        self._spawn(self._send_task(number, task))

    def assign_part(self, number: int, task: Task, count: int, *, has_net: bool) -> None:
        """Send a task of a group over hosts, of which `count` processes are here; `begin` follows.

        Called by the thread of the event loop.
        """
        self._count_idle()
        received = Received(max_result_bytes(task))
        self.running[number] = Running(
            task, received, slots=count, is_grouped=True, has_net=has_net
        )
        self._spawn(self._send_task(number, task))

    def begin(self, number: int, part: GroupPart) -> None:
        """Start the processes of a part, whose host has the data."""
        if number in self.running:
            self._send({"begin": number, "part": part.to_json()})

    def drop(self, number: int) -> None:
        """End a part; nothing is heard of it any more."""
        if self._take(number) is not None:
            self._send({"drop": number})

    async def serve(self) -> None:
        """Keep a session open, until `close`."""
        pause = FIRST_PAUSE_SECONDS
        while not self.is_closed:
            begun = time.monotonic()
            try:
                await self._session()
            except HostFailed as error:
                reason = str(error)
                before = 0 if self.is_ready else self._early_losses
                self._early_losses = before + 1 if isinstance(error, HostLost) else 0
            else:
                reason = "ended"
            self._end_session(reason)
            if time.monotonic() - begun > LONGEST_PAUSE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            if not self.is_closed:
                await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def close(self) -> None:
        """End the session for good; its tasks are lost with the host."""
        self.is_closed = True
        self._kill()

    def _end_session(self, reason: str) -> None:
        self._count_idle()
        self.is_ready, self.failure = False, reason
        lost, self.running = dict(self.running), {}
        self.lost_workers += len(lost)
        self._events.down(self, reason)
        for number in lost:
            self._events.lost_task(self, number, WorkerLost(f"was lost: {reason}"), with_host=True)

    async def _session(self) -> None:
        """Start the command and follow it.

        Raises
        ------
        HostFailed
            Always, unless `close` was called: there is nothing else that ends a session.
        """
        self._messages.clear()
        self._files.clear()
        self._sending.clear()
        self._errors, self._losses = b"", 0
        try:
            process = await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=MAX_LINE,
                # Ctrl-C is handled by the coordinator, and nothing may ask for a password.
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            raise HostFailed(f"{self.argv[0]} cannot be started: {reason}") from error
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        helpers = [
            asyncio.ensure_future(self._write(process.stdin)),
            asyncio.ensure_future(self._keep_errors(process.stderr)),
        ]
        try:
            await self._follow(process.stdout, helpers[1])
        finally:
            self._kill()
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            process.stdin.close()
            await self._ended(process)
            self._process = None
            process._transport.close()  # type: ignore[attr-defined]

    def _kill(self) -> None:
        """End the command with all that it has started.

        By SIGTERM: srun, when it is killed, leaves its job allocated until the time limit.
        """
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    async def _ended(self, process: asyncio.subprocess.Process) -> None:
        """Wait for the end of the command, and kill it where it takes too long.

        Before Python 3.12.4 `wait` also waits for the ends of the pipes, which a connection that
        ssh keeps for later (ControlPersist) holds open.
        """
        kill_at = time.monotonic() + _TERMINATION_SECONDS
        while process.returncode is None:
            if time.monotonic() > kill_at:
                self._signal(signal.SIGKILL)
            await asyncio.sleep(_END_POLL_SECONDS)

    async def _follow(self, output: asyncio.StreamReader, errors: asyncio.Future[None]) -> None:
        """Read messages until the host fails."""
        with _of_lepton():
            await self._greet(output, errors)
        while True:
            line = await self._line(output, self.spec.patience)
            if not line:
                raise HostLost(await self._ending(errors))
            with _of_lepton():
                message = untrusted_files.parse_json(line, "a message", fix="", top=dict)
                self._receive(message)

    async def _greet(self, output: asyncio.StreamReader, errors: asyncio.Future[None]) -> None:
        """Wait for the version of the host, and answer with its settings.

        Without a limit of time: a cluster may start the command when it has room.
        """
        for _ in range(_FOREIGN_LINES):
            line = await self._line(output, None)
            if not line:
                raise HostFailed(await self._ending(errors))
            with contextlib.suppress(LeptonError):
                greeting = untrusted_files.parse_json(line, "a message", fix="")
                if isinstance(greeting, dict) and "lepton" in greeting:
                    break
        else:
            raise HostFailed("writes text instead of messages of lepton")
        if greeting["lepton"] != __version__:
            raise HostFailed(
                f"has lepton {str(greeting['lepton'])[:40]}, this machine has {__version__}: "
                "install the same version there"
            )
        check_finite(greeting["pid"], "pid", int)
        self.pid = greeting["pid"]
        settings = {
            "device": self.spec.device,
            "jobs": self.spec.jobs,
            "cache": self.spec.cache,
            "locks": str(self._locks.resolve()) if self.spec.local else "",
            "measures": self.spec.measures,
            "group_address": self.spec.group_address,
        }
        self._send({"hello": settings})

    async def _line(self, output: asyncio.StreamReader, patience: float | None) -> bytes:
        """The next line; empty at the end.

        Time in which this process was stopped itself does not count: the line may be there.

        Raises
        ------
        HostFailed
            If there is none within `patience` seconds, or it is too long.
        """
        reading = asyncio.ensure_future(output.readline())
        silent, last = 0.0, time.monotonic()
        try:
            while not reading.done():
                await asyncio.wait({reading}, timeout=_POLL_SECONDS)
                now = time.monotonic()
                silent, last = silent + min(now - last, MAX_STEP_SECONDS), now
                if patience is not None and silent > patience and not reading.done():
                    raise HostLost(f"gave no sign of life for {silent:.0f} s")
            line = reading.result()
        except (ValueError, OSError) as error:
            raise HostFailed(f"sent no message of lepton: {first_line(error)}") from error
        finally:
            reading.cancel()
        self.received += len(line)
        return line

    async def _ending(self, errors: asyncio.Future[None]) -> str:
        """How the command has ended, with its last words."""
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ENDING_SECONDS):
                await self._process.wait()
        await asyncio.wait({errors}, timeout=_ENDING_SECONDS)
        code = self._process.returncode
        how = "closed its output" if code is None else f"ended with {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        words = printable(self._errors.decode("utf-8", "replace").strip().rpartition("\n")[2])
        if "No module named" in words and "lepton_automl" in words:
            words += f": install lepton {__version__} there, or name its python"
        command = printable(Path(self.argv[0]).name)
        return f"{command} {how}" + (f": {words[:300]}" if words else "")

    async def _keep_errors(self, stream: asyncio.StreamReader) -> None:
        while more := await stream.read(1 << 16):
            self._errors = (self._errors + more)[-_KEPT:]

    def _receive(self, message: Message) -> None:
        """Handle a message of the host, which may be anything.

        Raises
        ------
        HostFailed, LeptonError, ValueError, TypeError, KeyError
            If it is none.
        """
        for kind, handle in (
            ("alive", self._on_alive),
            ("ready", self._start),
            ("piece", self._on_piece),
            ("lacks", self._send_files),
            ("result", self._on_result),
            ("error", self._on_error),
            ("complete", self._on_complete),
            ("listens", self._on_listens),
            ("lost", self._on_lost),
            ("fatal", self._on_fatal),
        ):
            if kind in message:
                handle(message)

    def _on_alive(self, message: Message) -> None:
        for number, (share, waits) in message["alive"].items():
            check_finite(share, "share")
            running = self.running.get(int(number))
            if running is not None and running.has_net:
                running.share, running.waits = min(1.0, max(0.0, share)), bool(waits)

    def _on_piece(self, message: Message) -> None:
        if running := self.running.get(message["of"]):
            running.received.add(message["piece"])

    def _on_result(self, message: Message) -> None:
        running = self._take(message["result"])
        if running is not None and not running.has_net:
            self._losses = 0
            self._events.ended_part(self, message["result"])
        elif running is not None:
            self._spawn(self._accept(message["result"], running, message["text"]))

    def _on_complete(self, message: Message) -> None:
        if message["complete"] in self.running:
            self._events.complete_part(self, message["complete"])

    def _on_listens(self, message: Message) -> None:
        number, port = message["listens"], message["port"]
        check_finite(port, "port", int)
        if not 1 <= port <= _MAX_PORT:
            raise ValueError(f"port {port}")
        running = self.running.get(number)
        if running is not None and running.has_net:
            self._events.listens(self, number, port)

    def _on_error(self, message: Message) -> None:
        self._fail(message["error"], task_error(dict(message["fields"])))

    def _on_lost(self, message: Message) -> None:
        reason = printable(str(message["reason"]))[:500]
        is_memory = message["out_of_memory"] is True
        self._fail(message["lost"], WorkerLost(reason, is_out_of_memory=is_memory))

    def _on_fatal(self, message: Message) -> None:
        raise HostFailed(printable(str(message["fatal"]))[:500])

    def _start(self, message: Message) -> None:
        about = message["ready"]
        check_finite(about["jobs"], "jobs", int)
        if not 1 <= about["jobs"] <= 1 << 12:
            raise ValueError(f"{about['jobs']} jobs")
        self.jobs, self.arithmetic = about["jobs"], printable(str(about["arithmetic"]))[:200]
        self.device = "cuda" if about["device"] == "cuda" else "cpu"
        self.is_ready, self.failure = True, ""
        self._idle_since = time.monotonic()
        self._events.ready(self)

    def _take(self, number: int) -> Running | None:
        """The task with a number, which is not running any more; None where it was given up."""
        self._count_idle()
        return self.running.pop(number, None)

    def _fail(self, number: int, error: LeptonError | WorkerLost) -> None:
        if self._take(number) is None:
            return
        if isinstance(error, WorkerLost):
            self.lost_workers += 1
            self._losses += 1
            self._events.lost_task(self, number, error, with_host=False)
            if self._losses >= MAX_LOSSES:
                raise HostFailed(f"lost {self._losses} workers in a row, the last one {error}")
        else:
            self._events.failed_task(self, number, error)

    async def _send_task(self, number: int, task: Task) -> None:
        """Send a task; its files follow when the host says which of them it lacks."""
        packed = functools.partial(
            RemoteTask.packed,
            task,
            self._catalog,
            device=self.device,
            is_shared=self.spec.shared or self.spec.local,
        )
        try:
            remote = await asyncio.to_thread(packed)
        except LeptonError as error:
            self._fail(number, error)
            return
        if running := self.running.get(number):
            grouped = {"group": 1} if running.is_grouped else {}
            self._send({"task": number, "text": remote.to_json(), **grouped})

    def _send_files(self, message: Message) -> None:
        """Send the contents that a task lacks, each once, however many tasks lack it.

        Of a content that the host has a part of, from a transfer that was cut, the rest is sent.
        """
        for fields in message["blobs"]:
            blob, start = Blob.asked(*fields)
            place = self._catalog.place(blob)
            if place is None:
                raise ValueError("asks for a file that no task has")
            if blob not in self._sending:
                self._sending.add(blob)
                self._files.append(self._pieces(blob, place, start))
                self._wake.set()

    def _pieces(self, blob: Blob, place: Path, start: int) -> Iterator[Message]:
        for piece in pieces(blob, place, start):
            yield {"piece": piece}
        self._sending.discard(blob)

    def _send(self, message: Message) -> None:
        self._messages.append(message)
        self._wake.set()

    async def _write(self, stream: asyncio.StreamWriter) -> None:
        """Write messages, and pieces of files between them, until the pipe breaks."""
        with contextlib.suppress(OSError):
            while True:
                self._wake.clear()
                while message := self._next_message():
                    line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
                    stream.write(line)
                    self.sent += len(line)
                    await stream.drain()
                with contextlib.suppress(TimeoutError):
                    # `asyncio.wait_for` of Python 3.11 may swallow a cancellation.
                    async with asyncio.timeout(PING_SECONDS):
                        await self._wake.wait()
                    continue
                self._messages.append({"ping": 1})
        self._kill()  # A file or the pipe cannot be used; what reads from the host ends too.

    def _next_message(self) -> Message | None:
        """The next message; a task goes before the rest of a file."""
        if self._messages:
            return self._messages.popleft()
        while self._files:
            piece = next(self._files[0], None)
            if piece is not None:
                return piece
            self._files.popleft()
        return None

    async def _accept(self, number: int, running: Running, text: object) -> None:
        """Check a result and write its net, beside the messages of other tasks."""
        try:
            if not isinstance(text, str):
                raise WorkerLost("sent no result of this task")
            result = await asyncio.to_thread(accept, running.task, text, running.received)
        except WorkerLost as lost:
            self.lost_workers += 1
            self._events.lost_task(self, number, lost, with_host=False)
        except LeptonError as error:
            self._events.failed_task(self, number, error)
        else:
            self.tasks, self._losses = self.tasks + 1, 0
            if not running.is_grouped:  # Else the speed is that of several hosts.
                self.learn(sum(result.seconds), result.share * running.task.work)
            self._events.finished_task(self, number, result)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside the session; the event loop alone would forget it."""
        task = asyncio.ensure_future(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    def _idle_now(self) -> float:
        """Seconds without a task of all workers since the last change."""
        return self.free * (time.monotonic() - self._idle_since) if self.is_ready else 0.0

    def _count_idle(self) -> None:
        """Count the idle time up to now; call it before `running` or `is_ready` changes."""
        self.idle_seconds += self._idle_now()
        self._idle_since = time.monotonic()
