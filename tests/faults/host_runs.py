"""A search over hosts whose command, hosts, workers and lines to the hosts die, stop or are cut.

A host is two processes of a line, as `ssh` and `sshd` are, a program and its workers, in sessions
of their own. A cut is a stopped far end of the line: nothing passes any more and nobody is told.
The same command is started again after each loss, and has to end with the ledger, the results and
the bytes of the net of a search on one machine without faults. One task runs at a time, because the
proposals follow from the order of results.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

from tests.faults import scenario as scenarios
from tests.faults.driver import Findings, Summary
from tests.faults.scenario import INTERRUPTED, SPACE, Scenario, Watched
from tests.faults.warm import Command, Warm, session_of
from tests.helpers.processes import read_rows

NAMES = ("red", "blue")
PATIENCE = 3.0
SILENCE = 6.0
"""Seconds after which a host that is cut off ends its trainings; `channel.SILENCE_SECONDS`."""
LIVENESS = 3.0
"""Seconds for which a worker of a host may be silent; many others share this machine."""
TRIALS = 4
LEFT_SECONDS = 20.0
_MOST_OF_HOSTS = 4
"""Faults of hosts during one task at most; it fails when it has lost six."""
_ANY_TASK = -1
"""A worker that is stopped while it is idle is lost with the task that it gets next."""
_SESSIONS = "sessions"
"""File of a host with the ids of its sessions: that of the command's end, then the far one."""
COMMAND, NEAR, FAR, AGENT, WORKER = "command", "near", "far", "agent", "worker"
_HOST = """
# A host: lepton_automl
from tests.faults.host_runs import near
near({home!r}, {run!r})
"""
_KINDS = (
    # Whom, signal, whether it goes on later.
    (COMMAND, signal.SIGKILL, False),
    (COMMAND, signal.SIGKILL, False),
    (COMMAND, signal.SIGINT, False),
    (COMMAND, signal.SIGSTOP, True),
    (NEAR, signal.SIGKILL, False),
    (FAR, signal.SIGKILL, False),
    (FAR, signal.SIGSTOP, False),
    (FAR, signal.SIGSTOP, True),
    (AGENT, signal.SIGKILL, False),
    (AGENT, signal.SIGSTOP, False),
    (AGENT, signal.SIGSTOP, True),
    (WORKER, signal.SIGKILL, False),
    (WORKER, signal.SIGSTOP, False),
)


@dataclass(frozen=True)
class Strike:
    """One fault."""

    whom: str
    number: signal.Signals
    is_continued: bool
    delay: float
    """Seconds after the start of the command, or after the last fault."""
    pause: float
    """Seconds after which a stopped process goes on."""

    def __str__(self) -> str:
        what = "cut" if (self.whom, self.number) == (FAR, signal.SIGSTOP) else self.number.name
        return f"{self.whom} {what}" + (" and back" if self.is_continued else "")


def write_hosts(base: Path) -> None:
    """The file of two hosts, each with a home of its own."""
    lines = []
    for name in NAMES:
        (base / "hosts" / name).mkdir(parents=True)
        program = _HOST.format(home=str(base / "hosts" / name), run=str(base / "run"))
        words = json.dumps([sys.executable, "-c", program])
        lines.append(f"[host.{name}]\ncommand = {words}\njobs = 1\npatience = {PATIENCE}\n")
    (base / "hosts.toml").write_text("\n".join(lines))


class Case:
    """One search, struck again and again.

    Parameters
    ----------
    start : Scenario
        Data and search space.
    base : Path
        Folder of the case; made.
    warm : Warm
        Starts commands.
    rng : Random
        Decides everything but the moments at which processes run.
    """

    def __init__(self, start: Scenario, base: Path, warm: Warm, rng: random.Random) -> None:
        self.scenario, self.warm, self.rng = start.copy(base), warm, rng
        write_hosts(base)
        self.watched = Watched(base / "run")
        self.history: list[str] = []
        self._resumed: list[tuple[float, int]] = []
        """When stopped processes go on, and which."""
        self._hits = Counter[tuple[int, str]]()
        """Faults of hosts and of workers, by the number of results before them."""

    @property
    def arguments(self) -> list[str]:
        """Of the command."""
        return [*search_words(), "--hosts", "hosts.toml"]

    def play(self, strikes: int) -> list[str]:
        """Strike so often at most, then let the command end by itself; what is wrong."""
        problems, left = list[str](), strikes
        for _ in range(strikes + 1):
            command = self._start()
            left, is_struck = self._strike(command, left)
            code = command.wait()
            allowed = {0, INTERRUPTED, -signal.SIGKILL, -signal.SIGINT} if is_struck else {0}
            problems += scenarios.message_problems(command, code, allowed)
            if code is None:
                command.send(signal.SIGUSR1)
                time.sleep(1)
            if problems:
                problems.append(command.err[-4000:])
            command.destroy()
            self.warm.forget(command)
            problems += self.watched.look()
            if problems or code == 0:
                break
        problems += self._left()
        repeated = Counter(row[1:3] for row in self.watched.rows if row[1] in {"rung", "trial"})
        problems += [f"{key} is recorded twice" for key, count in repeated.items() if count > 1]
        if sum(kind == "trial" for kind, _ in repeated) > TRIALS:
            problems.append("more trials than were wanted")
        return problems

    def _start(self) -> Command:
        patches = [["short_patience", SILENCE], ["one_at_a_time"]]
        return self.scenario.start(self.warm, *self.arguments, patches=patches)

    def _strike(self, command: Command, left: int) -> tuple[int, bool]:
        """Strike until the command is hit or ends; faults left, and whether it was hit."""
        while left:
            strike = self._choose()
            if self._ends_within(command, strike.delay):
                return left, False
            # 0: it is not there yet, or this task has had its share of faults.
            if pid := self._target(command, strike.whom):
                left -= 1
                self._hit(strike, pid)
                if strike.whom == COMMAND and strike.number != signal.SIGSTOP:
                    _send(signal.SIGCONT, command.pid)  # It may have been stopped before.
                    return left, True
        while self._resumed and not self._ends_within(command, 0.05):
            pass
        return left, False

    def _ends_within(self, command: Command, seconds: float) -> bool:
        """Whether the command ends by itself; what was stopped goes on at its time."""
        until = time.monotonic() + seconds
        while True:
            self._resume()
            if command.wait(0.02) is not None:
                return True
            if time.monotonic() >= until:
                return False

    def _hit(self, strike: Strike, pid: int) -> None:
        self.history.append(str(strike))
        _send(strike.number, pid)
        self._count(strike.whom)
        if (strike.whom, strike.number) == (WORKER, signal.SIGSTOP):
            self._hits[_ANY_TASK, WORKER] += 1
        if strike.is_continued:
            self._resumed.append((time.monotonic() + strike.pause, pid))

    def _choose(self) -> Strike:
        rng = self.rng
        pause = 2 * PATIENCE * rng.random()
        return Strike(*rng.choice(_KINDS), delay=1.5 * rng.random() ** 2, pause=pause)

    def _target(self, command: Command, whom: str) -> int:
        """The process to strike; 0 where there is none or it has had enough."""
        if whom == COMMAND:
            return command.pid
        kind, most = (WORKER, 1) if whom == WORKER else ("host", _MOST_OF_HOSTS)
        if self._hits[self._done(), kind] >= most or (
            whom == WORKER and self._hits[_ANY_TASK, kind]
        ):
            return 0
        hosts = [found for name in NAMES if (found := self._host(name)).get(whom)]
        if not hosts:
            return 0
        before = [_ticks(host.get(WORKER, 0)) for host in hosts]
        time.sleep(0.03)
        busy = [h for h, t in zip(hosts, before, strict=True) if _ticks(h.get(WORKER, 0)) > t]
        chosen = busy if busy and self.rng.random() < 0.8 else hosts
        return self.rng.choice(chosen)[whom]

    def _done(self) -> int:
        return sum(row[1] == "rung" for row in read_rows(self.scenario.run / "ledger.db"))

    def _count(self, whom: str) -> None:
        if whom == COMMAND:
            self._hits.clear()  # The next command counts losses anew.
            return
        kind = WORKER if whom == WORKER else "host"
        done = self._done()
        # It may have hit the task after the one that was seen.
        self._hits[done, kind] += 1
        self._hits[done + 1, kind] += 1

    def _host(self, name: str) -> dict[str, int]:
        """Process ids of the newest session with a host, of those that run."""
        sessions = self._sessions(name)
        if not sessions:
            return {}
        ends, far = sessions[-1]
        alive = {pid: state for pid, state in session_of(far) if state not in "ZX"}
        found = {NEAR: ends} if any(pid == ends for pid, _ in session_of(ends)) else {}
        if far in alive:
            found[FAR] = far
        for pid in sorted(alive):
            kind = {far: AGENT, found.get(AGENT, -1): WORKER}.get(_parent(pid))
            if kind and kind not in found:
                found[kind] = pid
        return found

    def _sessions(self, name: str) -> list[tuple[int, int]]:
        file = self.scenario.base / "hosts" / name / _SESSIONS
        words = file.read_text().split() if file.exists() else []
        numbers = list(map(int, words[: len(words) // 2 * 2]))
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    def _resume(self) -> None:
        now = time.monotonic()
        for at, pid in [each for each in self._resumed if each[0] <= now]:
            self._resumed.remove((at, pid))
            _send(signal.SIGCONT, pid)

    def _left(self) -> list[str]:
        """End what is stopped; processes of the hosts that do not end by themselves, as problems.

        First of all behind lines that are cut, then with these lines again.
        """
        ends = [each for name in NAMES for each in self._sessions(name)]
        far = {each[1] for each in ends}
        problems = []
        for is_cut in (True, False):
            kept = far if is_cut else set()
            until = time.monotonic() + LEFT_SECONDS
            while left := [
                pid for pid in _of_sessions(ends) if not (pid in kept and _state(pid) == "T")
            ]:
                for pid in left:
                    if _state(pid) == "T":
                        _send(signal.SIGCONT, pid)
                if time.monotonic() > until:
                    where = "behind a cut line" if is_cut else "of hosts"
                    problems.append(f"processes {where} are left: {len(left)}")
                    for pid in left:
                        _send(signal.SIGKILL, pid)
                    break
                time.sleep(0.05)
        return problems


def search_words() -> list[str]:
    """The command, but where it trains; nothing in its result depends on a clock."""
    words = ["search", "few.npz", "--space", "space.toml", "--trials", str(TRIALS)]
    return [*words, "--objective", "accuracy,size_bytes", "--out", "run"]


def results(run: Path) -> dict[str, Any]:
    """Trials, results and winner in a ledger, without what a lost worker or a host changes."""
    dropped = {"seconds", "host", "retried", "micro_batches", "arithmetic"}
    return {
        f"{kind} {key}": {k: v for k, v in json.loads(value).items() if k not in dropped}
        for _, kind, key, value, _ in read_rows(run / "ledger.db")
        if kind in {"rung", "trial", "winner"}
    }


class HostRuns:
    """Kills, stops and cuts of everything that takes part in a search over hosts."""

    name = "host-runs"

    def __init__(self) -> None:
        self.expected: dict[str, Any] = {}
        self.files: dict[str, str] = {}

    def prepared(self) -> tuple[Warm, Scenario, Path]:
        """The warm process, a folder with data, and one for cases; the undisturbed search ran."""
        warm, place = scenarios.warm_process()
        folder = Path(tempfile.mkdtemp(dir=place))
        start = Scenario(folder / "start", trials=TRIALS).make()
        text = SPACE.replace("epochs = 1", "epochs = 9")
        (start.base / "space.toml").write_text(text)
        alone = start.copy(folder / "alone")
        modules = folder / "modules"
        patches = [["list_modules", str(modules)]]
        command = alone.start(warm, *search_words(), "--jobs", "1", patches=patches)
        assert command.wait() == 0, command.err
        warm.import_more(modules.read_text().split())
        self.expected, self.files = results(alone.run), alone.files("run/models/best")
        assert self.files
        return warm, start, folder

    def run(self, rng: random.Random, seconds: float, findings: Findings) -> Summary:
        """Strike search after search until the time is over."""
        warm, start, folder = self.prepared()
        end, done, searches = time.monotonic() + seconds, Counter[str](), 0
        while time.monotonic() < end:
            seed = rng.getrandbits(32)
            case = Case(start, folder / f"case-{searches}", warm, random.Random(seed))
            problems = self.checked(case)
            searches += 1
            done.update(case.history)
            if problems:
                what = "; ".join(problems) + f"\nafter: {', '.join(case.history)}"
                findings.save(self.name, case.scenario.base, seed, what)
            shutil.rmtree(case.scenario.base, ignore_errors=True)
        return Summary(done.total(), {"searches": searches, **dict(sorted(done.items()))})

    def checked(self, case: Case, strikes: int = 0) -> list[str]:
        """Play a case and compare its end with that of the undisturbed search."""
        problems = case.play(strikes or case.rng.randint(3, 8))
        found = results(case.scenario.run)
        different = sorted(
            key
            for key in found.keys() | self.expected.keys()
            if found.get(key) != self.expected.get(key)
        )
        if different:
            problems.append(f"other results than undisturbed: {different[:4]}")
        files = case.scenario.files("run/models/best")
        return problems + scenarios.difference(self.files, files)


def _of_sessions(ends: list[tuple[int, int]]) -> list[int]:
    return [pid for both in ends for one in both for pid, state in session_of(one) if state != "Z"]


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _state(pid: int) -> str:
    return (_stat(pid) or ["X"])[0]


def _parent(pid: int) -> int:
    return int((_stat(pid) or ["X", "0"])[1])


def _ticks(pid: int) -> int:
    stat = _stat(pid) if pid else []
    return int(stat[11]) + int(stat[12]) if stat else 0


def _send(number: int, pid: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


# What follows runs in processes of a host.


def near(home: str, run: str) -> Never:
    """The near end of the line, which the command has started; starts the far end."""
    os.environ.clear()
    os.environ.update(HOME=home, TMPDIR=home, LEPTON_CACHE_DIR=home, OMP_NUM_THREADS="1")
    os.chdir(home)
    ours, theirs = _line()
    own = os.getpid()
    if not os.fork():
        for end in ours:
            os.close(end)
        _far(theirs, own, home, run)
    for end in theirs:
        os.close(end)
    _pump(((0, ours[1]), (ours[0], 1)))


def _line() -> tuple[tuple[int, int], tuple[int, int]]:
    """Two ends, each to read from and to write to."""
    (a, b), (c, d) = os.pipe(), os.pipe()
    return (a, d), (c, b)


def _far(line: tuple[int, int], near_id: int, home: str, run: str) -> Never:
    os.setsid()
    with (Path(home) / _SESSIONS).open("a") as file:
        file.write(f"{near_id} {os.getpid()}\n")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    ours, theirs = _line()
    if not os.fork():
        for end in (*ours, *line):
            os.close(end)
        os.dup2(theirs[0], 0)
        os.dup2(theirs[1], 1)
        for end in (*theirs, null):
            os.close(end)
        _agent(home, run)
    for end in (*theirs, null):
        os.close(end)
    _pump(((line[0], ours[1]), (ours[0], line[1])))


def _agent(home: str, run: str) -> Never:
    errors = os.open(Path(home) / "errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 2)

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        seen = event in ("open", "os.listdir", "os.mkdir", "os.rename", "os.remove")
        if seen and str(arguments[0]).startswith(run):
            raise PermissionError("a host must not see " + str(arguments[0]))

    sys.addaudithook(refuse)
    from lepton_automl.search.workers.agent import Agent
    from lepton_automl.search.workers.channel import Channel

    Agent(Channel(), liveness_seconds=LIVENESS).serve()
    os._exit(0)


def _pump(ways: tuple[tuple[int, int], ...]) -> Never:
    """Copy bytes both ways until one of the ends is closed."""

    def copy(source: int, target: int) -> None:
        try:
            while more := os.read(source, 1 << 16):
                while more:
                    more = more[os.write(target, more) :]
        except OSError:
            pass
        os._exit(0)

    for way in ways[1:]:
        threading.Thread(target=copy, args=way, daemon=True).start()
    copy(*ways[0])
    os._exit(0)


KINDS = (HostRuns(),)
