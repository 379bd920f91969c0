"""Commands forked from a process that has imported everything, so that one takes no time to load.

A command is `lepton ARGUMENTS` in a session of its own, with its own working folder, environment
and output files. Its child processes (workers, verification) are forked too, from the command
itself, with the same pipes, arguments and relations between processes as those that the product
starts. With a C compiler, `shim.c` is preloaded, and a `Plan` says what it does.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import mmap
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Never

from tests.helpers import forked

ROOT = Path(__file__).parents[2]
HAS_COMPILER = shutil.which("cc") is not None
_SHIM = Path(__file__).with_name("shim.c")
LONGEST_SECONDS = 120.0
"""After which a command hangs."""

OPEN, CREATE, WRITE, SYNC, RENAME, UNLINK, MKDIR, TRUNCATE, MARK, COUNTED, READ = (
    1 << n for n in range(11)
)
CHANGES = CREATE | WRITE | SYNC | RENAME | UNLINK | MKDIR | TRUNCATE
"""Kinds of operations that change a disk."""
NAMES = {
    OPEN: "open",
    READ: "read",
    CREATE: "create",
    WRITE: "write",
    SYNC: "fsync",
    RENAME: "rename",
    UNLINK: "unlink",
    MKDIR: "mkdir",
    TRUNCATE: "truncate",
    MARK: "mark",
}
COUNT, FAIL, FAIL_FROM, SIGNAL_AFTER, SIGNAL_BEFORE = range(5)
SELF, PARENT, GROUP = range(3)


class Plan(ctypes.Structure):
    """`struct plan` of shim.c, shared with the command and its children."""

    _fields_ = [
        ("count", ctypes.c_int64),
        ("target", ctypes.c_int64),
        ("mask", ctypes.c_int32),
        ("action", ctypes.c_int32),
        ("number", ctypes.c_int32),
        ("whom", ctypes.c_int32),
        ("fired", ctypes.c_int32),
        ("log", ctypes.c_int32),
        ("kind", ctypes.c_int32),
        ("unused", ctypes.c_int32),
        ("root", ctypes.c_char * 1024),
        ("path", ctypes.c_char * 1024),
    ]

    @classmethod
    def shared(cls, file: Path) -> Plan:
        """The plan in a file, mapped into this process."""
        with file.open("r+b") as opened:
            return cls.from_buffer(mmap.mmap(opened.fileno(), ctypes.sizeof(cls)))

    @classmethod
    def new(cls, file: Path, root: Path) -> Plan:
        """A plan that counts all changes below a folder, in a new file."""
        file.write_bytes(bytes(ctypes.sizeof(cls)))
        file.chmod(0o666)
        made = cls.shared(file)
        made.root, made.log, made.mask = str(root.resolve()).encode(), -1, CHANGES
        return made

    @property
    def place(self) -> str:
        """The operation at which it happened: its name and file, without the root."""
        path = self.path.decode(errors="replace").removeprefix(self.root.decode())
        return f"{NAMES.get(self.kind, 'nothing')} {path.lstrip('/')}"


@dataclass
class Command:
    """A running or ended command."""

    pid: int
    folder: Path
    """Holds its output."""
    plan: Plan | None
    _server: Warm
    _code: int | None = None
    begun: float = field(default_factory=time.monotonic)

    def wait(self, seconds: float = LONGEST_SECONDS) -> int | None:
        """The exit code, negative for a signal; None if it has not ended after so long."""
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(self.pid)
                try:
                    if not select.select([handle], [], [], max(0.0, seconds))[0]:
                        return None
                finally:
                    os.close(handle)
            self._code = self._server.ask({"reap": self.pid})
        return self._code

    def session(self) -> dict[int, str]:
        """Living processes of its session, with their state (zombies are not alive)."""
        return {pid: state for pid, state in session_of(self.pid) if state not in "ZX"}

    def send(self, signal_number: int, pid: int | None = None) -> None:
        """Send a signal to one of its processes, by default the coordinator."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid if pid is None else pid, signal_number)

    def destroy(self) -> None:
        """Kill whatever is left of it."""
        for pid in self.session():
            self.send(signal.SIGKILL, pid)
        self.wait()

    @property
    def out(self) -> str:
        return self._written("out")

    @property
    def err(self) -> str:
        return self._written("err")

    def _written(self, name: str) -> str:
        file = self.folder / name
        return file.read_text(errors="replace") if file.exists() else ""  # Killed before.


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder, in memory where that is possible: cases wait for no disk."""
    memory = Path("/dev/shm")
    chosen = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(
        prefix="faults-", dir=chosen, ignore_cleanup_errors=True
    ) as name:
        yield Path(name)


def session_of(leader: int) -> Iterator[tuple[int, str]]:
    """Processes of a session with their state."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            stat = entry.read_text().rpartition(")")[2].split()
            if int(stat[3]) == leader:
                yield int(entry.parent.name), stat[0]


def build_shim(folder: Path) -> Path:
    """Compile `shim.c` in a folder; the library."""
    library = folder / "shim.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(_SHIM), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


class Warm:
    """The process from which commands are forked.

    Parameters
    ----------
    folder : Path
        For the compiled shim, plans and outputs; not below the folder of a scenario.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.has_shim = HAS_COMPILER
        if HAS_COMPILER:
            settings["LD_PRELOAD"] = str(build_shim(folder))
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.faults.warm import serve; serve()"],
            cwd=ROOT,
            env=os.environ | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._number = 0
        self.ask({"ping": 1})

    def ask(self, request: Mapping[str, Any]) -> Any:
        """Send a request to the process and return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(
        self,
        *arguments: str,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        root: Path | None = None,
        log: Path | None = None,
        patches: Sequence[Sequence[Any]] = (),
        user: int | None = None,
        umask: int = 0o022,
        **plan: int,
    ) -> Command:
        """Start `lepton ARGUMENTS`.

        Parameters
        ----------
        *arguments : str
            Of the command.
        cwd : Path
            Working folder.
        environment : mapping, optional
            Variables to set.
        root : Path, optional
            Operations below it are counted; None: without the shim.
        log : Path, optional
            File in which the shim records operations.
        patches : sequence
            Name of a function of `patches.py` and its arguments.
        user : int, optional
            User and group of the command; needs root.
        umask : int
            Of the command.
        **plan : int
            `mask`, `target`, `action`, `number`, `whom` of the `Plan`.
        """
        self._number += 1
        folder = self.folder / f"command-{self._number}"
        folder.mkdir(mode=0o777)
        shared = None
        if root is not None:
            shared = Plan.new(folder / "plan", root)
            for name, value in plan.items():
                setattr(shared, name, value)
        pid = self.ask(
            {
                "arguments": arguments,
                "cwd": str(cwd),
                "environment": dict(environment or {}),
                "folder": str(folder),
                "plan": "" if root is None else str(folder / "plan"),
                "log": "" if log is None else str(log),
                "patches": [list(each) for each in patches],
                "user": user,
                "umask": umask,
            }
        )
        return Command(pid, folder, shared, self)

    def import_more(self, names: Iterable[str]) -> None:
        """Import modules that commands import late, where they exist in this process."""
        self.ask({"import": sorted(set(names))})

    def forget(self, command: Command) -> None:
        """Delete the output of an ended command."""
        shutil.rmtree(command.folder, ignore_errors=True)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


# What follows runs in the warm process and in those forked from it.


def serve() -> None:
    """Import everything, then fork a process for each request on standard input."""
    os.environ.pop("LD_PRELOAD", None)  # Programs that a command starts do without.
    forked.import_all()
    subprocess.Popen = forked.ForkingPopen  # type: ignore[misc]
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans end as our children.
    gc.collect()
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    codes: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answers.write(json.dumps(_answer(request, codes)) + "\n")
        answers.flush()


def _answer(request: Mapping[str, Any], codes: dict[int, int]) -> int | None:
    """Do what a request says; the id of a new process, or the code of an ended one.

    Parameters
    ----------
    request : mapping
        Of `Warm`.
    codes : dict
        Exit codes of ended processes, which are kept until they are wanted.
    """
    for name in request.get("import", ()):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    if "arguments" in request:
        signal.pthread_sigmask(signal.SIG_BLOCK, forked.HANDLED)
        pid = os.fork()
        if not pid:
            _command(request)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, forked.HANDLED)
        codes.pop(pid, None)  # Of an orphan that had the same number.
        return pid
    if "reap" not in request:
        return None
    with contextlib.suppress(ChildProcessError):
        while request["reap"] not in codes:
            ended, status = os.waitpid(-1, 0)  # Orphans too.
            codes[ended] = os.waitstatus_to_exitcode(status)
    return codes.pop(request["reap"])


def _command(request: Mapping[str, Any]) -> Never:
    """Become the command of a request."""
    try:
        os.setsid()
        os.umask(request["umask"])
        folder = Path(request["folder"])
        if request["user"] is not None:
            folder.chmod(0o777)
            os.setgroups([])
            os.setgid(request["user"])
            os.setuid(request["user"])
        os.environ.update(request["environment"])
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        streams = [os.open(os.devnull, os.O_RDONLY)]
        streams += [os.open(folder / name, flags, 0o666) for name in ("out", "err")]
        forked.take_streams(streams)
        sys.argv = ["lepton", *request["arguments"]]
        forked.reset_signals()
        with contextlib.suppress(OSError):
            os.chdir(request["cwd"])
        from tests.faults import patches

        patches.apply_usual()
        for name, *given in request["patches"]:
            getattr(patches, name)(*given)
        if request["plan"]:
            arm(Path(request["plan"]), request["log"])
        options = importlib.import_module("lepton_automl.cli.options")
        options._STARTED = time.monotonic()  # type: ignore[attr-defined]
    except BaseException:  # noqa: BLE001  (nothing may return into the loop of `serve`)
        traceback.print_exc()
        os._exit(99)
    from lepton_automl.__main__ import main
    from lepton_automl.core.interrupts import exit_on_interrupt

    exit_on_interrupt()  # The first step of `main`: nothing comes before it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, forked.HANDLED)
    forked.end(main)


def arm(file: Path, log: str) -> None:
    """Let the shim follow the plan in a file from now on, and write to a log if one is named."""
    plan = Plan.shared(file)
    if log:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(handle, forked.KEPT_HANDLE, inheritable=True)
        os.close(handle)
        plan.log = forked.KEPT_HANDLE
    library = ctypes.CDLL(None)
    library.faults_arm.argtypes = [ctypes.c_void_p]
    globals()["_plan"] = plan  # Keeps it mapped.
    library.faults_arm(ctypes.addressof(plan))


def mark(text: str) -> None:
    """Record in the log of the shim that the command has acknowledged something."""
    library = ctypes.CDLL(None)
    if hasattr(library, "faults_mark"):
        library.faults_mark(text.encode())
