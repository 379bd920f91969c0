"""Runs commands on many mutants in forked children, and names each outcome that is a fault.

A child runs the whole command line in its own process, one mutant after the other, with limits on
memory and time and an audit hook; where a mutant ends it, or shows a fault, a fresh child goes on.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import io
import json
import os
import random
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from lepton_automl.cli.app import main
from lepton_automl.core import scratch
from tests.faults.driver import outcome_of
from tests.faults.mutants.content import Content, mutated_bytes

EXPECTED_CODES = frozenset({0, 2, 3, 4, 5, 6})
"""Exit codes of a command on bad input; 1 is a bug, 7 blames the machine."""
SECONDS = 10
"""Longest processor time of a command, which does not depend on what else a machine does."""
_PATIENCE = 12
"""A command that takes so many times as long by the clock hangs."""
MOST_BYTES = 1 << 30
"""Largest peak of memory of a command and its largest child process."""
_FRESH_BYTES = 400 << 20
"""Taken for what both hold before they read anything. Here they are forked from a process that may
hold more, such as one that has run many tests, so that only what they add is measured."""
_ADDRESS_SPACE = 3 << 30
"""Bytes of address space a command may map beyond those of the parent; allocations that large
fail at once, so that they are found without filling the memory."""
_BATCH = 200
"""Mutants of one child."""
_MOST_GROWN = 1 << 16
"""Bytes of the largest mutant that becomes an input."""
_MOST_SEEDS = 300
"""Inputs that mutants are grown from, the first ones among them."""
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that no output may hold."""

_HEAD = struct.Struct("<II")
"""Bytes of a mutant and of its result (JSON), which follow."""

Generator = Callable[[random.Random, Sequence[Content]], Content]


@dataclass(frozen=True)
class Subject:
    """A format, and the command that reads it.

    Parameters
    ----------
    name : str
        Name of the format.
    seeds : callable
        Stage -> valid files to grow mutants from.
    mutate : callable
        (random numbers, inputs) -> a mutant of one or several of them.
    place : callable
        (stage, content) -> arguments of the command, after it has put the content in its place.
    programs : tuple of str
        Names of the programs that the command may start.
    """

    name: str
    seeds: Callable[[Path], Sequence[Content]]
    mutate: Generator
    place: Callable[[Path, Content], Sequence[str]]
    programs: tuple[str, ...] = ()


@dataclass
class Result:
    """How a command ended."""

    outcome: str
    """Exit code and message, or the site of the exception, without what differs by chance."""
    fault: str = ""
    """What is wrong; empty where nothing is."""
    seconds: float = 0.0


@dataclass
class Totals:
    """What the mutants of a subject did."""

    mutants: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    grown: int = 0
    """Mutants that had a new outcome and became inputs of further ones."""
    faults: int = 0
    slowest: float = 0.0


class Engine:
    """Runs the mutants of a subject in a folder of its own.

    Parameters
    ----------
    subject : Subject
        What is run.
    stage : Path
        A folder that holds what the subject needs, in which it may write.
    outside : Path
        A folder that no command may open anything in.
    report : callable
        (content, seed, what): receives each fault.
    """

    def __init__(
        self,
        subject: Subject,
        stage: Path,
        outside: Path,
        report: Callable[[Content, object, str], bool],
    ) -> None:
        self._subject, self._stage, self._outside = subject, stage, outside
        self._report, self.totals = report, Totals()
        self._inputs = list(subject.seeds(stage))

    def run(self, rng: random.Random, *, seconds: float, count: int | None = None) -> Totals:
        """Try mutants until the time is over or there were `count`."""
        seed, end, number = rng.randrange(1 << 32), time.monotonic() + seconds, 0
        self._warm_up(count)
        while time.monotonic() < end and (count is None or number < count):
            last = number + _BATCH if count is None else min(count, number + _BATCH)
            number = self._batch(seed, number, last, end)
        self.totals.mutants = number
        return self.totals

    def _warm_up(self, count: int | None) -> None:
        """Load what the commands import, once for all children, and count what is no mutant."""
        inputs = self._inputs[:count]
        first = {crc32(content) % 12: content for content in inputs}  # Of each command.
        for content in first.values():
            run_command(self._subject.place(self._stage, content), self._stage)
        with _child(lambda: ((b"", self._try(content)) for content in inputs)) as answers:
            found = [result for _, result in answers]
        if len(found) < len(inputs):
            found.append(Result("", "the process ended"))
        for result in found:
            self.totals.outcomes[result.outcome] += 1
            if result.fault:
                self._report(b"", "none", f"an input without a change: {result.fault}")

    def _batch(self, seed: int, first: int, last: int, end: float) -> int:
        """Run mutants in one child; the number of the first one that was not run."""
        known = set(self.totals.outcomes)

        def work() -> Iterator[tuple[Content, Result]]:
            for number in range(first, last):
                content = self.mutant(seed, number)
                result = self._try(content)
                is_new = result.outcome not in known or result.fault
                known.add(result.outcome)
                yield content if is_new else b"", result
                if result.fault or time.monotonic() > end:
                    return

        done = first
        with _child(work) as answers:
            for content, result in answers:
                self._count(seed, done, content, result)
                done += 1
                if result.fault:
                    return done
            if done < last and time.monotonic() < end:
                # The child has died of the next one; by a signal of its limits or by itself.
                content = self.mutant(seed, done)
                self._count(seed, done, content, self.alone(content))
                done += 1
        return done

    def mutant(self, seed: int, number: int) -> Content:
        """A mutant; the same as long as no input was added."""
        rng = random.Random(f"{seed} {number}")
        try:
            return self._subject.mutate(rng, self._inputs)
        except (RecursionError, MemoryError, ValueError):  # Too deep or too odd to be written.
            return mutated_bytes(rng, self._inputs)

    def alone(self, content: Content) -> Result:
        """Run one mutant in a child of its own."""
        status: list[int] = []
        begun = time.monotonic()
        with _child(lambda: [(b"", self._try(content))], status) as answers:
            found = next(answers, None)
        seconds = time.monotonic() - begun
        if found is not None:
            return found[1]
        number = os.WTERMSIG(status[0]) if os.WIFSIGNALED(status[0]) else 0
        if number in (signal.SIGALRM, signal.SIGPROF):
            what = f"took longer than {SECONDS} s"
        else:
            name = signal.Signals(number).name if number else f"code {os.WEXITSTATUS(status[0])}"
            what = f"the process ended by {name}"
        return Result(what, what, seconds)

    def _count(self, seed: int, number: int, content: Content, result: Result) -> None:
        totals = self.totals
        is_new = result.outcome not in totals.outcomes
        totals.outcomes[result.outcome] += 1
        totals.slowest = max(totals.slowest, result.seconds)
        is_small = 0 < len(content) <= _MOST_GROWN
        if is_new and is_small and not result.fault and len(self._inputs) < _MOST_SEEDS:
            self._inputs.append(content)
            totals.grown += 1
        if result.fault:
            again = self.alone(content)  # Not what an earlier mutant left in the process.
            what = again.fault or f"only after other mutants: {result.fault}"
            totals.faults += self._report(content, f"{seed} {number}", what)

    def _set_timers(self, seconds: int) -> None:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE * seconds)

    def _try(self, content: Content) -> Result:
        watch = _Watch.installed(self._stage, self._outside)
        watch.programs = self._subject.programs
        arguments = self._subject.place(self._stage, content)
        _added_bytes(0)  # Making a mutant may have taken much.
        held = _held_bytes()
        begun = time.monotonic()
        self._set_timers(SECONDS)
        try:
            code, out, err, failure = run_command(arguments, self._stage, watch)
        finally:
            self._set_timers(0)
        seconds = time.monotonic() - begun
        text = (failure or _message(out, err)).replace(str(self._stage), "STAGE")
        outcome = f"{code} {outcome_of(_without_quotes(text))[:300]}"
        return Result(outcome, _fault(code, out, err, failure, watch, held), seconds)


def run_command(
    arguments: Sequence[str], folder: Path, watch: _Watch | None = None
) -> tuple[int, str, str, str]:
    """Run `lepton ARGUMENTS` in this process: exit code, stdout, stderr, traceback of a bug."""
    failure, code = "", 0
    with _captured() as (out, err), contextlib.chdir(folder), _arguments(arguments):
        try:
            with contextlib.nullcontext() if watch is None else watch:
                main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:  # noqa: BLE001 (also of libraries)
            code, failure = 1, _site()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        return code, _read(out), _read(err), failure


@contextlib.contextmanager
def _arguments(words: Sequence[str]) -> Iterator[None]:
    kept = sys.argv
    sys.argv = ["lepton", *words]
    try:
        yield
    finally:
        sys.argv = kept


def _site() -> str:
    """The exception, and the last lines of the package that it went through."""
    kind, error, _ = sys.exc_info()
    frames = traceback.extract_tb(error.__traceback__ if error else None)
    ours = [f for f in frames if "lepton_automl" in f.filename and "/tests/" not in f.filename]
    places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in ours[-3:]]
    line = (str(error).splitlines() or [""])[0]
    return f"{kind.__name__ if kind else ''} at {' > '.join(places)}: {line}"


def _message(out: str, err: str) -> str:
    found = re.search(r"^error: .*", err, re.M)
    return found[0] if found else f"{out[:60]} {err[:60]}"


def _without_quotes(text: str) -> str:
    """Values of the input are shown in quotes."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|'.*", "TEXT", text)


def _fault(code: int, out: str, err: str, failure: str, watch: _Watch, held: int) -> str:
    if failure:
        return f"traceback: {failure}"
    if code not in EXPECTED_CODES:
        return f"exit code {code}: {_message(out, err)}"
    if watch.events:
        return f"{watch.events[0]}"
    if found := RAW.search(out + err):
        return f"raw character {found[0]!a} in the output"
    if "Traceback (most recent" in err:
        return "traceback in the output"
    if (peak := _FRESH_BYTES + _added_bytes(held)) > MOST_BYTES:
        return f"peak of {peak >> 20} MiB"
    return ""


@contextlib.contextmanager
def _captured() -> Iterator[tuple[int, int]]:
    """Standard output and error, of native code too, go to files in memory."""
    files, before = [os.memfd_create(name) for name in ("out", "err")], [os.dup(1), os.dup(2)]
    for number, file in enumerate(files, start=1):
        os.dup2(file, number)
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(os.fdopen(number, "wb", closefd=False), encoding="utf-8")
        for number in (1, 2)
    )
    try:
        yield files[0], files[1]
    finally:
        sys.stdout, sys.stderr = kept
        for number, file in enumerate(before, start=1):
            os.dup2(file, number)
        for file in (*files, *before):
            os.close(file)


def _read(file: int) -> str:
    return os.pread(file, 1 << 24, 0).decode("utf-8", "surrogateescape")


def _held_bytes() -> int:
    """Memory that this process holds."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10


def _added_bytes(held: int) -> int:
    """Most memory since the last call beyond `held` bytes, here and in the largest child."""
    status = Path("/proc/self/status").read_text()
    here = int(status.partition("VmHWM:")[2].split()[0]) << 10
    Path("/proc/self/clear_refs").write_text("5")
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    return max(here - held, 0) + max(child - held, 0)


class _Watch:
    """An audit hook, and a watch of a folder for what native code opens."""

    _made: _Watch | None = None

    def __init__(self, stage: Path, outside: Path) -> None:
        self.events: list[str] = []
        self.programs: tuple[str, ...] = ()
        """Names of programs that may be started."""
        self._is_on = False
        self._stage = str(stage)
        places = (sys.prefix, sys.base_prefix, *sys.path, "/proc", "/sys", "/usr", "/etc", "/lib")
        # Commands look for temporary folders that killed ones have left.
        left = [f"{place}/lepton-" for place in scratch.places()]
        self._readable = tuple(filter(None, (str(p) for p in (self._stage, *places, *left))))
        self._scratch = tuple(
            {self._stage, os.environ.get("LEPTON_STATE_DIR", self._stage), tempfile.gettempdir()}
        )
        self._outside, self._notices = str(outside), _watched_folder(outside)
        sys.addaudithook(self._hook)

    @classmethod
    def installed(cls, stage: Path, outside: Path) -> _Watch:
        """The watch of this process; there is one, since hooks cannot be removed."""
        if cls._made is None:
            cls._made = cls(stage, outside)
        return cls._made

    def __enter__(self) -> None:
        self.events.clear()
        self._is_on = True

    def __exit__(self, *exc: object) -> None:
        self._is_on = False
        with contextlib.suppress(BlockingIOError):
            if os.read(self._notices, 1 << 16):
                self.events.append("native code opened a file outside of its folder")

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_on:
            return
        if event == "open":
            self._opened(*arguments)
        elif event == "exec":
            name = getattr(arguments[0], "co_filename", "")
            if not (name.startswith(("<string>", "<frozen")) or name.startswith(self._readable)):
                self.events.append(f"exec of {name}")
        elif event == "socket.gethostname" or (
            event == "subprocess.Popen" and Path(arguments[0]).name in self.programs
        ):
            pass
        elif event == "ctypes.dlopen" and str(arguments[0]).startswith(sys.prefix):
            pass  # A library of the environment, such as libtiff, whose messages are silenced.
        elif event == "pickle.find_class" or event.startswith(
            ("socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.system", "ctypes.dlopen")
        ):
            self.events.append(f"{event} {str(arguments)[:200]}")

    def _opened(self, path: Any, mode: Any, flags: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        name = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 (fast)
        writes = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        allowed = self._scratch if writes else (*self._readable, *self._scratch)
        if name.startswith(self._outside) or not (
            name.startswith(allowed) or name in ("/dev/null", "/dev/urandom")
        ):
            self.events.append(f"{'writes' if writes else 'reads'} {name}, outside of its folder")


def _watched_folder(folder: Path) -> int:
    """A handle of inotify that can be read once a file in the folder was opened."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    in_open = 0x20
    libc.inotify_add_watch(handle, os.fsencode(folder), in_open)
    return int(handle)


@contextlib.contextmanager
def _child(
    work: Callable[[], Iterable[tuple[Content, Result]]], status: list[int] | None = None
) -> Iterator[Iterator[tuple[Content, Result]]]:
    """The mutants with results that `work` yields in a forked child; fewer where it dies."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of forks beside threads, which work no more in the child.
        pid = os.fork()
    if pid == 0:
        _work(work, reader, writer)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as stream:
            yield _received(stream)
    finally:
        found = os.waitpid(pid, 0)[1]
        if status is not None:
            status.append(found)


def _work(work: Callable[[], Iterable[tuple[Content, Result]]], reader: int, writer: int) -> None:
    code, errors = 1, os.dup(2)
    try:
        os.close(reader)
        _limit()
        with os.fdopen(writer, "wb", buffering=0) as stream:
            for content, result in work():
                text = json.dumps(dataclasses.asdict(result)).encode()
                stream.write(_HEAD.pack(len(content), len(text)) + content + text)
        code = 0
    except BrokenPipeError:
        code = 0
    except BaseException:  # noqa: BLE001 (nothing may return from here)
        os.write(errors, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _limit() -> None:
    for number in (signal.SIGALRM, signal.SIGPROF, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    with Path("/proc/self/statm").open() as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    most = mapped + _ADDRESS_SPACE
    # Soft limits: the child processes of a command set their own.
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    devnull = os.open(os.devnull, os.O_RDWR)
    os.dup2(devnull, 0)


def _received(stream: io.BufferedReader) -> Iterator[tuple[Content, Result]]:
    while len(head := stream.read(_HEAD.size)) == _HEAD.size:
        sizes = _HEAD.unpack(head)
        content, text = (stream.read(size) for size in sizes)
        if (len(content), len(text)) != sizes:
            return
        yield content, Result(**json.loads(text))
