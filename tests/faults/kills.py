"""Signals to any process of a command, at its operations on files and at random moments.

The command is started again after each signal that ends it, a few times, and then left alone.
"""

from __future__ import annotations

import random
import shutil
import signal
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.faults import scenario as scenarios
from tests.faults import warm as shim
from tests.faults.driver import Findings, Summary
from tests.faults.scenario import INTERRUPTED, Scenario, Watched, Work
from tests.faults.warm import Command, Warm
from tests.helpers.processes import note

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP)
MOST_STRIKES = 12
"""On one run, which then has to end by itself."""
LEFT_SECONDS = 15.0
"""Processes of a killed coordinator have so long to notice."""
STOPPED_SECONDS = 1.5
"""At most; a stopped worker is replaced after `handle.LIVENESS_SECONDS`, far later."""


@dataclass
class Strike:
    """One signal."""

    signal_number: signal.Signals
    whom: str
    """`coordinator`, `child` or `group`; where there is no child it is the coordinator."""
    operation: int
    """Number of the operation after which the process gets it that did it; 0: by time."""
    seconds: float
    """Since the start of the command, where it is by time."""
    is_before: bool
    """Before the operation instead of after it."""

    def __str__(self) -> str:
        when = f"at operation {self.operation}" if self.operation else f"after {self.seconds:.2f} s"
        return f"{self.signal_number.name} to {self.whom} {when}"


class Kills:
    """Kills, stops and interruptions of `run`, `pick` and `compress MODEL.onnx`."""

    name = "kills"

    def run(self, rng: random.Random, seconds: float, findings: Findings) -> Summary:
        """Strike run after run until the time is over."""
        end, done, starts = time.monotonic() + seconds, Counter[str](), list[float]()
        warm, commands, name = scenarios.prepared("run", "pick", "compress")
        two = scenarios.prepared("run", jobs=2)[1]["run"]
        choices = [commands["run"]] * 3 + [two] * 2 + [commands["pick"], commands["compress"]]
        runs = 0
        while time.monotonic() < end:
            seed = rng.getrandbits(32)
            work, base = rng.choice(choices), name / f"case-{runs}"
            case = Case(work, base, warm, random.Random(seed), work is not two)
            problems = case.play(end)
            done += case.strikes
            starts += case.starts
            runs += 1
            if problems:
                what = f"{work.name}: " + "; ".join(problems)
                told = ", ".join(map(str, case.history))
                findings.save(self.name, base, seed, f"{what}\nafter: {told}")
            shutil.rmtree(base, ignore_errors=True)
        middle, slowest = (round(pick(starts or [0.0]), 2) for pick in (statistics.median, max))
        notes = {"runs": runs, "seconds to the first task": f"median {middle}, most {slowest}"}
        return Summary(done.total(), {**notes, **done})


class Case:
    """One run that is struck again and again.

    Parameters
    ----------
    work : Work
        The command.
    base : Path
        Folder of the case.
    warm : Warm
        Starts commands.
    rng : Random
        Decides everything.
    is_exact : bool
        Whether the artifact has to be that of the undisturbed run, byte for byte.
    """

    def __init__(
        self, work: Work, base: Path, warm: Warm, rng: random.Random, is_exact: bool
    ) -> None:
        self.work, self.warm, self.rng, self.is_exact = work, warm, rng, is_exact
        self.scenario: Scenario = work.start.copy(base)
        self.watched = Watched(base / work.folder)
        self.strikes: Counter[str] = Counter()
        self.history: list[Strike] = []
        self.starts: list[float] = []

    def play(self, end: float) -> list[str]:
        """Strike, then let the command end by itself; what is wrong."""
        problems: list[str] = []
        for _ in range(self.rng.randint(3, MOST_STRIKES)):
            is_over, found = self.strike(self._choose())
            problems += found
            if is_over or found or time.monotonic() > end:
                break
        problems += scenarios.finish(self.scenario, self.warm, self.work.arguments)
        problems += self.watched.look()
        problems += scenarios.end_problems(self.scenario, self.work.artifact)
        if self.is_exact:
            problems += scenarios.difference(
                self.work.made, self.scenario.files(self.work.artifact)
            )
        return problems

    def _choose(self) -> Strike:
        rng = self.rng
        # Half of them early: commands that go on have less to do, and starts are short.
        share = rng.random() ** 2 if rng.random() < 0.5 else rng.random()
        by_operation = self.warm.has_shim and rng.random() < 0.6
        return Strike(
            rng.choice(SIGNALS),
            rng.choice(("coordinator", "child", "group")),
            max(1, int(share * self.work.operations)) if by_operation else 0,
            3.0 * share,
            rng.random() < 0.3,
        )

    def strike(self, strike: Strike) -> tuple[bool, list[str]]:
        """Start the command and strike it once; whether it ended by itself, and what is wrong."""
        self.history.append(strike)
        begun = time.time()
        action = shim.SIGNAL_BEFORE if strike.is_before else shim.SIGNAL_AFTER
        whom = {"coordinator": shim.SELF, "child": shim.SELF, "group": shim.GROUP}[strike.whom]
        command = self.scenario.start(
            self.warm,
            *self.work.arguments,
            root=self.scenario.base if self.warm.has_shim else None,
            target=strike.operation,
            action=action if strike.operation else shim.COUNT,
            number=int(strike.signal_number),
            whom=whom,
        )
        problems = list[str]()
        if strike.operation:
            struck = self._wait_for_operation(command)
        else:
            struck = self._strike_by_time(command, strike)
        if struck:
            self.strikes[f"{strike.signal_number.name} {self._who(command, struck)}"] += 1
        if strike.signal_number == signal.SIGSTOP and struck:
            self._continue(command)
        code = command.wait()
        is_struck = bool(struck)
        hits_coordinator = struck in {command.pid, -command.pid}
        problems += scenarios.message_problems(
            command, code, self._allowed(strike.signal_number, hits_coordinator, is_struck)
        )
        until = time.monotonic() + LEFT_SECONDS
        while (left := command.session()) and time.monotonic() < until:
            time.sleep(0.01)
        if left:
            problems.append(f"processes are left: {sorted(left.values())}")
        command.destroy()
        problems += self.watched.look()
        self.warm.forget(command)
        first = note(self.scenario.run / "ledger.db", "workers").get("first", 0.0)
        if self.work.name == "run" and first > begun:
            self.starts.append(first - begun)
        is_over = code == 0
        return is_over, [f"{problem} ({strike.signal_number.name})" for problem in problems]

    def _allowed(self, number: signal.Signals, hits_coordinator: bool, is_struck: bool) -> set[int]:
        """Exit codes that are right."""
        if not is_struck or number == signal.SIGSTOP:
            return {0}
        if not hits_coordinator:
            return {0, 7}  # 7: the process that was killed verified the artifact.
        # 0: it was about to end; negative: it had not begun to handle signals.
        return {-number, 0} if number == signal.SIGKILL else {INTERRUPTED, 0, -number}

    def _who(self, command: Command, struck: int) -> str:
        if struck == -command.pid:
            return "group"
        return "coordinator" if struck == command.pid else "child"

    def _wait_for_operation(self, command: Command) -> int:
        """Wait until the shim has sent its signal or the command has ended; whom it was sent to."""
        plan = command.plan
        assert plan is not None
        until = time.monotonic() + shim.LONGEST_SECONDS
        while not plan.fired and time.monotonic() < until:
            if command.wait(0.005) is not None:
                break
        if plan.fired and plan.whom == shim.GROUP:
            return -command.pid
        return int(plan.fired)

    def _strike_by_time(self, command: Command, strike: Strike) -> int:
        if command.wait(strike.seconds) is not None:
            return 0
        children = [pid for pid in command.session() if pid != command.pid]
        if strike.whom == "group":
            for pid in (command.pid, *children):
                command.send(strike.signal_number, pid)
            return -command.pid
        chosen = command.pid
        if strike.whom == "child" and children:
            chosen = self.rng.choice(sorted(children))
        command.send(strike.signal_number, chosen)
        return chosen

    def _continue(self, command: Command) -> None:
        """Let stopped processes go on after a while."""
        time.sleep(self.rng.random() * STOPPED_SECONDS)
        for pid, state in command.session().items():
            if state == "T":
                command.send(signal.SIGCONT, pid)


KINDS = (Kills(),)
