"""Python programs forked from a process that has imported everything, so that none takes seconds.

`ForkedPopen` takes the place of `subprocess.Popen` in a process of tests: a Python program that
uses lepton is forked from a server and becomes a child of the process of tests, as if it had been
started. In such a program `ForkingPopen` does the same for its own children (workers,
verification), which are forked from itself. Working folder, environment, streams, session, signals
and command line are those of a started program.

Left to `subprocess.Popen`: programs whose imports are what is tested (they name `sys.modules`),
other interpreters' options, and what needs the start of an interpreter (limits, encodings).
"""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Never

ROOT = Path(__file__).parents[2]
KEPT_HANDLE = 900
"""Descriptors from here on stay open in child processes."""
HANDLED = (signal.SIGINT, signal.SIGTERM)
"""Signals that wait while a process is forked."""

_STARTED_POPEN = subprocess.Popen
_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER: orphans among the descendants become children."""
_TITLE = "-" * 4096
"""Room for the command lines of forked programs."""
_AT_START = ("LD_", "PYTHON", "LC_", "LANG", "OMP_", "MKL_")
"""Beginnings of variables that count when an interpreter starts."""
_AS_LOADED = ("sys.modules", "sys.meta_path", "setrlimit")
"""A program with one of these depends on what it has loaded."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

# A child has no threads but its own. A session of ONNX Runtime that it collected, in a cycle of an
# earlier test, would wait for its threads without end: what there was before is not collected.
os.register_at_fork(after_in_child=gc.freeze)


def install() -> None:
    """From now on fork, where processes can be forked so: on Linux."""
    if sys.platform == "linux":
        subprocess.Popen = ForkedPopen  # type: ignore[misc]


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """Fork within the block, and then do as before."""
    before = subprocess.Popen
    install()
    try:
        yield
    finally:
        subprocess.Popen = before  # type: ignore[misc]


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Start every program as usual."""
    before, subprocess.Popen = subprocess.Popen, _STARTED_POPEN  # type: ignore[misc]
    try:
        yield
    finally:
        subprocess.Popen = before  # type: ignore[misc]


class ForkedPopen(subprocess.Popen):  # type: ignore[type-arg]
    """Forks Python programs that use lepton from a server; starts everything else."""

    def _execute_child(self, args: Any, *more: Any) -> None:  # type: ignore[override]
        names = (
            "executable",
            "preexec_fn",
            "close_fds",
            "pass_fds",
            "cwd",
            "env",
            "_",
            "_",
            "shell",
        )
        given = dict(zip(names, more, strict=False))
        is_plain = not (given["executable"] or given["preexec_fn"] or given["pass_fds"])
        env = dict(os.environ if given["env"] is None else given["env"])
        words = _words(args)
        session = more[-2]
        others = tuple(more[16:-2])  # Groups, user and umask.
        if (
            not is_plain
            or given["shell"]
            or others != (None, None, None, -1)
            or not _uses_lepton(words)
            or _at_start(env) != _at_start(os.environ)
        ):
            super()._execute_child(args, *more)  # type: ignore[misc]
            return
        child_in, _, _, child_out, _, child_err = more[9:15]
        request = {
            "words": words,
            "unbuffered": "-u" in args[1:3],
            "cwd": str(Path(given["cwd"] or ".").absolute()),
            "env": env,
            "session": bool(session),
            "mask": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
            "parent": os.getpid(),
        }
        handles = [
            own if own != -1 else n for n, own in enumerate((child_in, child_out, child_err))
        ]
        self.pid = _server().fork(request, handles)
        self._child_created = True
        self._close_pipe_fds(*more[9:15])


def _words(command: Any) -> list[str]:
    """`-c PROGRAM ...` or `-m MODULE ...` of a command of this interpreter; empty for others."""
    if not isinstance(command, list | tuple) or list(command[:1]) != [sys.executable]:
        return []
    words = [os.fspath(word) for word in command[1:]]
    while words[:1] in (["-P"], ["-u"]):  # The folder is no place of modules; unbuffered.
        words = words[1:]
    return words if words[:1] in (["-c"], ["-m"]) and len(words) > 1 else []


def _uses_lepton(words: Sequence[str]) -> bool:
    """Whether a program spends its time on the imports of lepton."""
    if words[:1] == ["-m"]:
        return words[1] == "lepton_automl"
    return (
        bool(words) and "lepton_automl" in words[1] and not any(n in words[1] for n in _AS_LOADED)
    )


def _at_start(env: Mapping[str, str]) -> dict[str, str]:
    """The variables that an interpreter and its libraries read when they start.

    Folders of modules that this process has do not count.
    """
    found = {name: value for name, value in env.items() if name.startswith(_AT_START)}
    found = _ONE_THREAD | found
    paths = [path for path in found.pop("PYTHONPATH", "").split(os.pathsep) if path]
    known = {os.path.realpath(path) for path in (*sys.path, ROOT)}
    new = [path for path in paths if os.path.realpath(path) not in known]
    return found | ({"PYTHONPATH": os.pathsep.join(new)} if new else {})


class _Server:
    """A process that has imported lepton and forks a program for each request."""

    def __init__(self) -> None:
        own, other = socket.socketpair()
        program = "import sys; from tests.helpers.forked import serve; serve(int(sys.argv[1]))"
        self._process = _STARTED_POPEN(
            [sys.executable, "-c", program, str(other.fileno()), _TITLE],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            stdin=subprocess.DEVNULL,
            pass_fds=[other.fileno()],
        )
        other.close()
        self._socket = own
        self._lock = threading.Lock()
        atexit.register(self.close)

    def fork(self, request: Mapping[str, Any], handles: Sequence[int]) -> int:
        """Fork a program; its process id.

        Raises
        ------
        RuntimeError
            If the server has ended.
        """
        text = json.dumps(request).encode()
        with self._lock:
            prctl = ctypes.CDLL(None).prctl
            prctl(_SUBREAPER, 1, 0, 0, 0)
            try:
                self._socket.sendall(f"{len(text):<16}".encode())
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", handles))
                sent = self._socket.sendmsg([text], [rights])
                self._socket.sendall(text[sent:])
                answer = self._socket.recv(64)
            finally:
                prctl(_SUBREAPER, 0, 0, 0, 0)
        if not answer:
            raise RuntimeError("the server of forked programs has ended")
        return int(answer)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


@functools.cache
def _server() -> _Server:
    return _Server()


# What follows runs in the server and in programs forked from it.


def serve(handle: int) -> None:
    """Import everything, then fork a program for each request on a socket."""
    import_all()
    importlib.import_module("tests.helpers.short").shorten()
    subprocess.Popen = ForkingPopen  # type: ignore[misc]
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=handle) as requests:
        while head := requests.recv(16, socket.MSG_WAITALL):
            text, handles = b"", array.array("i")
            while len(text) < int(head):
                more, rights, _, _ = requests.recvmsg(int(head) - len(text), 256)
                text += more
                for _, _, data in rights:
                    handles.frombytes(data)
            requests.sendall(str(_fork(json.loads(text), list(handles))).encode())


def _fork(request: Mapping[str, Any], handles: list[int]) -> int:
    """Fork a program that is a child of the process that asks for it; its process id.

    It is forked twice: what it was forked from ends at once, and the orphan passes to the nearest
    ancestor that takes orphans.
    """
    read, write = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    between = os.fork()
    if not between:
        if pid := os.fork():
            os.write(write, str(pid).encode())
            os._exit(0)
        os.close(read)
        os.close(write)
        _start(request, handles)
    os.close(write)
    for handle in handles:
        os.close(handle)
    os.waitpid(between, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with os.fdopen(read) as pipe:
        return int(pipe.read())


def _start(request: Mapping[str, Any], handles: list[int]) -> Never:
    """Become the program of a request."""
    try:
        while os.getppid() != request["parent"]:
            time.sleep(0.0005)
        if request["session"]:
            os.setsid()
        take_streams(handles, unbuffered=request["unbuffered"])
        os.chdir(request["cwd"])
    except BaseException:  # noqa: BLE001  (nothing may return into the loop of `serve`)
        traceback.print_exc()
        os._exit(99)
    run_program(request["words"], request["env"], request["mask"])


def import_all() -> None:
    """Import every module of lepton, and what it imports late."""
    import lepton_automl

    for module in pkgutil.walk_packages(lepton_automl.__path__, "lepton_automl."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)
    for name in (*_LATE, "sklearn.datasets", "sklearn.model_selection", "optuna", "rich.console"):
        importlib.import_module(name)


_LATE = ("encodings.ascii", "encodings.latin_1", "encodings.idna", "torch._dynamo")
"""Another user may have no right to read the folder in which Python is; the last is what
DistributedDataParallel imports when it is used."""


def take_streams(handles: Sequence[int], *, unbuffered: bool = False) -> None:
    """Make descriptors the standard streams, and close all others but kept ones."""
    # Above the streams first: one of them may be the number of another.
    copies = [os.dup(handle) for handle in handles]
    spare = [os.dup(handle) if handle < 3 else handle for handle in copies]
    for number, handle in enumerate(spare):
        os.dup2(handle, number)
    os.closerange(3, KEPT_HANDLE)
    sys.stdin = os.fdopen(0, "r", closefd=False)
    size = 0 if unbuffered else -1
    out, err = (os.fdopen(number, "wb", size, closefd=False) for number in (1, 2))
    sys.stdout = io.TextIOWrapper(out, "utf-8", write_through=unbuffered)
    sys.stderr = io.TextIOWrapper(
        err, "utf-8", "backslashreplace", line_buffering=True, write_through=unbuffered
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def reset_signals() -> None:
    """As in a program that has just been started."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run_program(words: Sequence[str], env: Mapping[str, str] | None, mask: Iterable[int]) -> Never:
    """Become `python WORDS`: `-c PROGRAM ...` or `-m MODULE ...`, streams and folder being set."""
    _set_title([sys.executable, *words])
    if env is not None:
        os.environ.clear()
        os.environ.update(env)
        # The server may have been started before a test added a folder of plug-ins.
        given = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
        sys.path[:0] = [path for path in given if path not in sys.path]
        importlib.invalidate_caches()
    kind, program, *more = words
    tempfile.tempdir = None
    reset_signals()
    options = importlib.import_module("lepton_automl.cli.options")
    options._STARTED = time.monotonic()  # type: ignore[attr-defined]
    importlib.import_module("lepton_automl.core.held_folders")._held.clear()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if kind == "-m":
        sys.argv = [program, *more]
        end(lambda: runpy.run_module(program, run_name="__main__", alter_sys=True))
    sys.argv = ["-c", *more]
    end(lambda: exec(compile(program, "<string>", "exec"), {"__name__": "__main__"}))


def end(call: Any) -> Never:
    """Call a function as the whole program of this process."""
    code = 0
    try:
        call()
        threading._shutdown()  # type: ignore[attr-defined]
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
    except KeyboardInterrupt:
        traceback.print_exc()
        code = 130
    except BaseException:  # noqa: BLE001  (as the interpreter does)
        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(code)


def _set_title(words: Sequence[str]) -> None:
    """Make `/proc/PID/cmdline` what it were if the program had been started."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, stop = int(fields[45]), int(fields[46])  # arg_start and arg_end
    text = "\0".join(words).encode(errors="surrogateescape")[: stop - start - 1]
    ctypes.memmove(start, text.ljust(stop - start, b"\0"), stop - start)


class ForkingPopen(subprocess.Popen):  # type: ignore[type-arg]
    """Forks this process where a Python program given as text is started; else as usual."""

    def _execute_child(self, args: Any, *more: Any) -> None:  # type: ignore[override]
        cwd, env, pipes = more[4], more[5], more[9:15]
        words = _words(args)
        if words[:1] != ["-c"] or cwd is not None:
            super()._execute_child(args, *more)  # type: ignore[misc]
            return
        child_in, _, _, child_out, _, child_err = pipes
        is_leader = bool(more[-2])
        begun, begins = os.pipe() if is_leader else (-1, -1)
        # Like a program that is loaded, the child has no handlers of the command.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        self.pid = os.fork()
        if not self.pid:
            if is_leader:
                os.setsid()
                os.close(begins)
            streams = enumerate((child_in, child_out, child_err))
            handles = [pipe if pipe != -1 else own for own, pipe in streams]
            take_streams(handles, unbuffered="-u" in args[1:3])
            run_program(words, env, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if is_leader:  # Whoever kills its group finds the group.
            os.close(begins)
            os.read(begun, 1)
            os.close(begun)
        self._child_created = True
        self._close_pipe_fds(*pipes)
