"""Child processes that answer requests within limits on memory, processor time and elapsed time.

What parses or runs content from outside does so here. Libraries written in C++ crash on crafted
files, and a kilobyte can ask for terabytes or run for ever; neither can be seen beforehand in all
cases, so the operating system enforces the limits and the caller receives one error:

- memory: RLIMIT_AS, counted from what the process holds when the request arrives, so that the size
  of the loaded libraries does not matter. A failed allocation is reported by the process, or ends
  it.
- processor time: RLIMIT_CPU, counted in the same way. It does not depend on how busy the machine
  is and is the limit that ends endless loops.
- elapsed time: the caller waits until a deadline. It only ends processes that stand still, so it is
  many times the processor time.

One process answers any number of requests. It inherits no file but its pipes, can leave no core
file, ignores Ctrl-C, which its parent handles, and ends with its parent. An answer comes from a
process that may be damaged, so its size and form are checked like those of a file.

These are limits on resources, no sandbox: the process has the rights of the user.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Never, Self

from lepton_automl import errors
from lepton_automl.core import untrusted_files
from lepton_automl.core.files import machine_error
from lepton_automl.core.scratch import Scratch
from lepton_automl.core.subprocesses import error_answer, start_child
from lepton_automl.errors import DataError, LeptonError, MachineError, first_line

_FRAME = struct.Struct(">IQ")
"""Bytes of the fields (JSON) and of the payload of a message that follows."""
_MAX_FIELDS, _MAX_PAYLOAD = 64 << 20, 2 << 30
"""Bytes of the largest answer that is read."""
_START_SECONDS = 300.0
"""Until a process has loaded its modules, also on a slow disk."""
_OPEN_FILES = 256
_CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS}
    | {signal.SIGTRAP}
)
"""Signals that a program causes itself; all others come from outside, SIGKILL where memory ran
out."""
_ALLOCATION = ("bad_alloc", "bad allocation", "Failed to allocate", "Unable to allocate")
"""Parts of the messages of C++ libraries whose allocation failed."""


@dataclass(frozen=True)
class ProcessLimits:
    """Limits on the answer to one request."""

    memory_bytes: int
    """Beyond what the process holds before."""
    processor_seconds: float
    elapsed_seconds: float


@dataclass(frozen=True)
class Message:
    """A request or an answer."""

    fields: dict[str, Any]
    """What JSON can hold."""
    payload: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class _Pending:
    """A request that was sent and is not answered yet."""

    subject: str
    fix: str
    limits: ProcessLimits | None
    deadline: float


class LimitedProcess:
    """A child process that runs a program whose `main` calls `serve`; starts at once.

    It belongs to the thread that makes it and ends with that thread.

    Parameters
    ----------
    program : str
        Python source. It must call `subprocesses.exit_with_parent` before slow imports.
    """

    def __init__(self, program: str) -> None:
        paths = os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path)
        scratch, settings = _made_scratch(), {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        if scratch is not None:
            settings["TMPDIR"] = str(scratch.path)
        try:
            child = start_child(
                # Unbuffered: a buffer raises an error where what it prints fills the pipe.
                [sys.executable, "-u", "-P", "-c", program, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | settings,
            )
        except BaseException as error:
            _remove_scratch(scratch)
            raise machine_error(error) or error from error
        self.program = program
        self._child, self._is_ready = child, False
        self._pending: _Pending | None = None
        for pipe in (child.stdin, child.stdout, child.stderr):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        self._finish = weakref.finalize(self, _end, child, os.getpid(), scratch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_usable(self) -> bool:
        """Whether it can take a request."""
        return self._finish.alive and self._pending is None and self._child.poll() is None

    def close(self) -> None:
        """End the process at once."""
        self._finish()

    def call(
        self,
        fields: dict[str, Any],
        payload: bytes = b"",
        *,
        subject: str,
        fix: str,
        limits: ProcessLimits | None,
    ) -> Message:
        """Send a request and return its answer; parameters and errors as of `send`, `receive`."""
        self.send(fields, payload, subject=subject, fix=fix, limits=limits)
        return self.receive()

    def send(
        self,
        fields: dict[str, Any],
        payload: bytes = b"",
        *,
        subject: str,
        fix: str,
        limits: ProcessLimits | None,
    ) -> None:
        """Send a request; the answer to the one before must have been received.

        Parameters
        ----------
        fields : dict
            What JSON can hold.
        payload : bytes
            Sent as it is.
        subject : str
            What is opened, such as the path of a file, in messages.
        fix : str
            The way out where it exceeds a limit or crashes the process.
        limits : ProcessLimits, optional
            None: none, in a process that has answered no request with limits.

        Raises
        ------
        LeptonError
            As `receive`.
        """
        assert self._pending is None, "one request at a time"
        elapsed = math.inf if limits is None else limits.elapsed_seconds
        try:
            if not self._is_ready:
                deadline = time.monotonic() + _START_SECONDS
                self._pending = _Pending(subject, fix, limits, deadline)
                self._read_message()
                self._is_ready = True
            self._pending = _Pending(subject, fix, limits, time.monotonic() + elapsed)
            head = None if limits is None else [limits.memory_bytes, limits.processor_seconds]
            text = json.dumps({"limits": head, "fields": fields}).encode()
            for part in (_FRAME.pack(len(text), len(payload)), text, payload):
                self._write(part)
        except BaseException:
            self.close()
            raise

    def receive(self) -> Message:
        """Wait for the answer to the request that was sent.

        Raises
        ------
        DataError
            If the subject exceeds a limit or crashes the process.
        LeptonError
            An error that the program raised.
        MachineError
            If the process was killed from outside, or could not be started.
        RuntimeError
            If the program has a bug; with its traceback.
        """
        pending = self._pending
        assert pending is not None, "nothing was sent"
        try:
            body, payload = self._read_message()
            kind, value = next(iter(body.items()))
            if kind == "limit":
                raise _exceeded(pending, "memory")
        except BaseException:
            self.close()
            raise
        self._pending = None
        if kind == "error":
            raise _raised(pending, value)
        if kind == "bug":
            raise RuntimeError(f"{pending.subject}: its process failed:\n{value}")
        return Message(value, payload)

    def _write(self, content: bytes) -> None:
        assert self._child.stdin is not None
        handle, left = self._child.stdin.fileno(), memoryview(content)
        while left:
            self._wait(handle, select.POLLOUT)
            try:
                left = left[os.write(handle, left) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                self._fail()

    def _read_message(self) -> tuple[dict[str, Any], bytes]:
        assert self._pending is not None
        sizes = _FRAME.unpack(self._read(_FRAME.size))
        if sizes[0] > _MAX_FIELDS or sizes[1] > _MAX_PAYLOAD:
            raise _crashed(self._pending, f"answer of {sum(sizes)} bytes")
        text, payload = self._read(sizes[0]), self._read(sizes[1])
        subject, fix = self._pending.subject, self._pending.fix
        body = untrusted_files.parse_json(text, subject, fix=fix, top=dict, finite=False)
        return body, payload

    def _read(self, size: int) -> bytes:
        assert self._child.stdout is not None
        handle, parts, left = self._child.stdout.fileno(), [], size
        while left:
            self._wait(handle, select.POLLIN)
            try:
                part = os.read(handle, min(left, 1 << 20))
            except BlockingIOError:
                continue
            if not part:
                self._fail()
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _wait(self, handle: int, event: int) -> None:
        """Wait until a pipe is ready or closed."""
        assert self._pending is not None
        poll, deadline = select.poll(), self._pending.deadline
        poll.register(handle, event)
        left = deadline - time.monotonic()
        if not poll.poll(None if left == math.inf else max(0.0, 1e3 * left)):
            raise _exceeded(self._pending, "elapsed")

    def _fail(self) -> Never:
        """Raise the error of a process that has ended."""
        pending = self._pending
        assert pending is not None
        assert self._child.stderr is not None
        code, said = self._child.wait(), ""
        with contextlib.suppress(BlockingIOError):
            said = os.read(self._child.stderr.fileno(), 1 << 16).decode(errors="replace")
        if not self._is_ready:
            raise _failed_start(code, said)
        if code == -signal.SIGXCPU:
            raise _exceeded(pending, "processor")
        if code < 0 and (-code not in _CRASHES or pending.limits is None):
            raise MachineError(
                f"the process that opened {pending.subject} was killed by signal {-code}",
                fix="free some memory if it ran out, then run the same command",
            )
        if pending.limits is None:
            raise RuntimeError(f"{pending.subject}: its process failed:\n{said}")
        if "MemoryError" in said or any(words in said for words in _ALLOCATION):
            raise _exceeded(pending, "memory")
        raise _crashed(pending, f"signal {-code}" if code < 0 else f"exit code {code}")


def acquire(program: str) -> LimitedProcess:
    """The idle process of this thread that runs a program, or a new one; see `release`."""
    kept: LimitedProcess | None = _idle().__dict__.pop(_key(program), None)
    if kept is None or not kept.is_usable:
        return LimitedProcess(program)
    return kept


def release(process: LimitedProcess) -> None:
    """Leave a process to the next `acquire`, or end it where it still works on a request."""
    if process.is_usable:
        _idle().__dict__.setdefault(_key(process.program), process)
    else:
        process.close()


@functools.cache
def _idle() -> threading.local:
    """The idle processes of each thread: they end with the thread that started them."""
    return threading.local()


def _key(program: str) -> str:
    # A copy of this process (fork) must not use the pipes of the original.
    return f"{os.getpid()} {program}"


def _made_scratch() -> Scratch | None:
    """A folder for the temporary files of a process, which may be killed; None where none can be.

    The process then uses those of this one, or says that there are none.
    """
    try:
        return Scratch()
    except OSError:
        return None


def _remove_scratch(scratch: Scratch | None) -> None:
    if scratch is not None:
        scratch.remove()


def _end(child: subprocess.Popen[bytes], owner: int, scratch: Scratch | None) -> None:
    """Kill a process, unless this is a copy (fork) of the process that started it."""
    if os.getpid() != owner:
        return
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        assert pipe is not None
        pipe.close()
    _remove_scratch(scratch)


def _raised(pending: _Pending, value: object) -> LeptonError:
    """The error that the program raised."""
    match value:
        case {"error": str(name), "what": str(what), "fix": str(fix)}:
            kind = getattr(errors, name, None)
            if isinstance(kind, type) and issubclass(kind, LeptonError):
                return kind(what, fix=fix)
    return _crashed(pending, "its answer is malformed")


def _exceeded(pending: _Pending, which: str) -> LeptonError:
    limits = pending.limits
    if limits is None:
        return MachineError(
            f"{pending.subject} takes more memory or processor time than this machine allows",
            fix="raise the limits (ulimit -v, ulimit -t), then run the same command",
        )
    words = {
        "memory": f"{limits.memory_bytes >> 20} MiB of memory",
        "processor": f"{limits.processor_seconds:.0f} s of processor time",
        "elapsed": f"{limits.elapsed_seconds:.0f} s",
    }
    return DataError(
        f"{pending.subject} takes more than {words[which]}, the limit for a file of its size",
        fix=pending.fix,
    )


def _crashed(pending: _Pending, how: str) -> LeptonError:
    return DataError(
        f"{pending.subject} crashed the process that opened it ({how})", fix=pending.fix
    )


def _failed_start(code: int, said: str) -> Exception:
    """The error of a process that has ended before it took a request."""
    if any(words in said for words in ("MemoryError", "failed to map segment", *_ALLOCATION)):
        found = machine_error(MemoryError())
        assert found is not None
        return found
    if code < 0:
        return MachineError(
            f"a process that opens files was killed by signal {-code} while it started",
            fix="free some memory, then run the same command",
        )
    return RuntimeError(f"a process that opens files did not start:\n{said}")


def serve(answer: Callable[[Message], Message]) -> None:
    """Answer the requests of the parent process until it closes the pipe.

    Parameters
    ----------
    answer : callable
        Gives the answer to a request. A LeptonError or an error of the machine is raised in the
        parent, also one of memory; any other exception is a bug.
    """
    requests, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    # What libraries print must not reach the parent, and must never wait for it.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    os.set_blocking(2, False)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _send(answers, Message({"ready": True}))
    while head := requests.read(_FRAME.size):
        _send(answers, _answered(answer, requests, *_FRAME.unpack(head)))


def _answered(
    answer: Callable[[Message], Message], requests: BinaryIO, size: int, payload_size: int
) -> Message:
    is_machine = False
    try:
        body = json.loads(requests.read(size))
        is_machine = _limit(body["limits"])
        made = answer(Message(body["fields"], requests.read(payload_size)))
        return Message({"answer": made.fields}, made.payload)
    except Exception as error:  # noqa: BLE001 (raised again in the parent)
        known: BaseException = error
        if is_out_of_memory(error):
            if not is_machine:
                return Message({"limit": "memory"})
            known = MemoryError(first_line(error))
        try:
            return Message({"error": error_answer(known)})
        except Exception:  # noqa: BLE001 (an error of lepton itself, told as a bug)
            return Message({"bug": "".join(traceback.format_exception(error))})


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or one that it was raised from, comes from a failed allocation."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or any(words in str(seen) for words in _ALLOCATION):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _send(handle: int, message: Message) -> None:
    text = json.dumps(message.fields).encode()
    for part in (_FRAME.pack(len(text), len(message.payload)), text, message.payload):
        left = memoryview(part)
        while left:
            left = left[os.write(handle, left) :]


def _limit(limits: tuple[int, float] | None) -> bool:
    """Set the limits of a request; whether the limit on memory is that of the machine."""
    if limits is None:
        return True
    memory_bytes, processor_seconds = limits
    _lower(resource.RLIMIT_CPU, math.ceil(time.process_time() + processor_seconds))
    held = _held_bytes()
    return held is None or _lower(resource.RLIMIT_AS, held + memory_bytes)


def extend_limits(memory_bytes: int, processor_seconds: float) -> None:
    """Raise the limits of the request that is answered now, as far as the machine allows."""
    for kind, more in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, processor_seconds),
    ):
        soft = resource.getrlimit(kind)[0]
        if soft != resource.RLIM_INFINITY:
            _lower(kind, soft + math.ceil(more))


def _held_bytes() -> int | None:
    """Size of the address space of this process; None where the system does not say it."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    except OSError:
        return None
    return int(pages) * resource.getpagesize()


def _lower(kind: int, value: int) -> bool:
    """Set a soft limit, at most the hard one; whether the hard one is lower."""
    hard = resource.getrlimit(kind)[1]
    is_lower = hard != resource.RLIM_INFINITY and not 0 <= value <= hard
    resource.setrlimit(kind, (hard if is_lower else value, hard))
    return is_lower
