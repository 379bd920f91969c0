"""A run with a store: its commands are struck, its store fails, other folders take the run over.

Every folder stands for a machine. What a generation of the store names is never lost, and the last
folder ends with the artifact of a run without faults and without a store.
"""

from __future__ import annotations

import errno
import math
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lepton_automl.errors import LeptonError
from lepton_automl.runs.ledger import EventKind
from lepton_automl.runs.store import Store
from lepton_automl.runs.stored_run import LostContent, content_of
from tests.faults import scenario as scenarios
from tests.faults import warm as shim
from tests.faults.driver import Findings, Summary
from tests.faults.scenario import INTERRUPTED, MEASURED, Scenario
from tests.faults.warm import Command, Warm
from tests.helpers.processes import Row, read_rows

STORE = "shop"
MOST_STRIKES = 4
"""On one run, which then has to end by itself."""
PATIENCE = 1.0
"""Seconds in which a folder waits for signs of life of another command."""
LEFT_SECONDS = 15.0
"""Processes of a killed command have so long to notice."""
TAKEN = 4
"""Exit code of a command whose run another one has taken."""
_PATCHES = [["short_store", PATIENCE]]


@dataclass(frozen=True)
class Strike:
    """One fault of a command on the run."""

    fault: str
    """`kill`, `kill all`, `interrupt`, `store fails`, `store fails from then on`, `taken over`."""
    at: float
    """Share of the operations of a run at which it happens."""
    error: int
    moves: bool
    """Whether the next command works in another folder."""
    takes: bool
    """Whether the next command is given `--take-over`."""

    def __str__(self) -> str:
        then = f"{'another' if self.moves else 'the same'} folder{', taken' * self.takes}"
        return f"{self.fault} at {self.at:.3f} ({errno.errorcode[self.error]}), then {then}"


_FAULTS = ("kill", "kill all", "kill all", "interrupt", "store fails", "store fails from then on")


class Stores:
    """Faults of runs with a store in a folder."""

    name = "store"

    def run(self, rng: random.Random, seconds: float, findings: Findings) -> Summary:
        """Try run after run until the time is over."""
        end, done, runs = time.monotonic() + seconds, Counter[str](), 0
        warm, works, folder = scenarios.prepared("run")
        if not warm.has_shim:
            return Summary(0, {"left out": "there is no C compiler"})
        made = _without_folder(works["run"].made)
        operations = (0, 0)
        while time.monotonic() < end:
            seed, base = rng.getrandbits(32), folder / f"case-{runs}"
            case = Case(works["run"].start.copy(base), warm, random.Random(seed), operations, made)
            problems = case.play(end)
            operations = case.operations
            done += case.done
            runs += 1
            if problems:
                told = ", ".join(map(str, case.history))
                findings.save(self.name, base, seed, f"{'; '.join(problems)}\nafter: {told}")
            shutil.rmtree(base, ignore_errors=True)
        return Summary(done.total(), {"runs": runs, **done})


class Case:
    """One run with a store.

    Parameters
    ----------
    scenario : Scenario
        Data and search space; all folders of the run lie beside them.
    warm : Warm
        Starts commands.
    rng : Random
        Decides everything.
    operations : tuple of int
        Operations of an undisturbed run, and those in its store; 0: not known, they are counted.
    made : dict
        sha256 of the files of the undisturbed artifact.
    """

    def __init__(
        self,
        scenario: Scenario,
        warm: Warm,
        rng: random.Random,
        operations: tuple[int, int],
        made: dict[str, str],
    ) -> None:
        self.scenario, self.warm, self.rng, self.made = scenario, warm, rng, made
        self.operations = operations
        self.history: list[Strike] = []
        self.done: Counter[str] = Counter()
        self._folders = 1
        self._takes = False
        self._known: list[Row] = []
        """What the store has acknowledged."""

    @property
    def shop(self) -> Path:
        return self.scenario.base / STORE

    @property
    def _name(self) -> str:
        return f"machine-{self._folders}"

    def play(self, end: float) -> list[str]:
        """Strike, then let a command end by itself; what is wrong."""
        if not all(self.operations):
            return self._count()
        count = self.rng.randint(1, MOST_STRIKES)
        return self.strikes((self._choose() for _ in range(count)), end)

    def strikes(self, chosen: Iterable[Strike], end: float = math.inf) -> list[str]:
        """Strike as is said, then let a command end by itself; what is wrong."""
        problems: list[str] = []
        for strike in chosen:
            self.history.append(strike)
            self.done[strike.fault] += 1
            problems += self._strike(strike)
            if problems or time.monotonic() > end:
                break
        return problems + self._finish()

    def _choose(self) -> Strike:
        rng = self.rng
        fault = "taken over" if rng.random() < 0.15 else rng.choice(_FAULTS)
        return Strike(
            fault,
            rng.random() ** 2 if rng.random() < 0.5 else rng.random(),
            rng.choice((errno.EIO, errno.ENOSPC, errno.EROFS, errno.EMFILE)),
            fault == "taken over" or rng.random() < 0.6,
            rng.random() < 0.5,
        )

    def _start(self, root: Path | None = None, **plan: int) -> Command:
        words = [*self.scenario.run_arguments[:-1], self._name, "--store", STORE]
        takes = ["--take-over"] if self._takes else []
        return self.scenario.start(
            self.warm, *words, *takes, root=root or self.scenario.base, patches=_PATCHES, **plan
        )

    def _count(self) -> list[str]:
        """Run undisturbed, twice: operations everywhere, and in the store only."""
        found = []
        for root in (self.scenario.base, self.shop):
            self.shop.mkdir(exist_ok=True)
            command = self._start(root, action=shim.COUNT)
            code = command.wait()
            assert code == 0, command.err
            assert command.plan is not None
            found.append(int(command.plan.count))
            problems = self._finish()
            shutil.rmtree(self.shop)
            self._folders, self._known = self._folders + 1, []
            if problems:
                return problems
        self.operations = (found[0], found[1])
        return []

    def _strike(self, strike: Strike) -> list[str]:
        """Run the command with one fault; what is wrong."""
        everywhere, in_store = self.operations
        fails = strike.fault.startswith("store")
        count = in_store if fails else everywhere
        root = self.shop if fails else self.scenario.base
        plan = {"target": max(1, int(strike.at * count))}
        if fails:
            lasts = strike.fault.endswith("on")
            mask = shim.CHANGES & ~shim.SYNC if lasts else shim.CHANGES
            action = shim.FAIL_FROM if lasts else shim.FAIL
            plan |= {"action": action, "number": strike.error, "mask": mask}
            self.shop.mkdir(exist_ok=True)
        else:
            number = {"interrupt": signal.SIGINT, "taken over": signal.SIGSTOP}
            plan |= {
                "action": shim.SIGNAL_AFTER,
                "number": int(number.get(strike.fault, signal.SIGKILL)),
                "whom": shim.SELF if strike.fault == "kill" else shim.GROUP,
            }
        command = self._start(root, **plan)
        if strike.fault == "taken over":
            return self._take_over(command)
        code = command.wait()
        problems = scenarios.message_problems(command, code, self._allowed(strike, command))
        problems += self._end(command)
        self._takes = strike.takes and strike.moves
        problems += self._look()
        self._folders += strike.moves
        return [f"{problem} ({strike.fault})" for problem in problems]

    def _allowed(self, strike: Strike, command: Command) -> set[int]:
        assert command.plan is not None
        if not command.plan.fired:
            return {0}
        if strike.fault.startswith("store"):
            return {0, 7}
        if strike.fault == "interrupt":
            return {INTERRUPTED, 0, -signal.SIGINT}
        # A killed worker is replaced; a killed process of the verification is told.
        return {-signal.SIGKILL, 0} | ({7} if strike.fault == "kill" else set())

    def _take_over(self, stopped: Command) -> list[str]:
        """Another folder takes the run from a stopped command to its end, which then goes on."""
        plan = stopped.plan
        assert plan is not None
        until = time.monotonic() + shim.LONGEST_SECONDS
        while not plan.fired and stopped.wait(0.01) is None and time.monotonic() < until:
            pass
        first = self._name
        self._folders += 1
        self._takes = True
        problems = self._finish()
        for pid in stopped.session():
            stopped.send(signal.SIGCONT, pid)
        code = stopped.wait()
        # 0: it had ended its work; 6 to 130 would be no answer to that.
        problems += scenarios.message_problems(stopped, code, {0, TAKEN})
        if code == TAKEN and "tak" not in stopped.err:
            problems.append(f"{first} does not say why it ends: {stopped.err[-200:]}")
        problems += self._end(stopped)
        problems += self._look()
        return [f"{problem} (taken over)" for problem in problems]

    def _end(self, command: Command) -> list[str]:
        """Wait until all processes of a command have ended."""
        until, problems = time.monotonic() + LEFT_SECONDS, list[str]()
        while (left := command.session()) and time.monotonic() < until:
            time.sleep(0.01)
        if left:
            problems.append(f"processes are left: {sorted(left.values())}")
        command.destroy()
        self.warm.forget(command)
        return problems

    def _finish(self) -> list[str]:
        """Let a command end by itself in the folder whose turn it is; what is wrong."""
        command = self._start()
        code = command.wait()
        problems = scenarios.message_problems(command, code, {0})
        command.destroy()
        self.warm.forget(command)
        self._takes = False
        problems = [f"the command afterwards: {problem}" for problem in problems]
        problems += self._look()
        if problems:
            return problems
        # Commands in other folders were killed, or are stopped: those stay as they are.
        problems += scenarios.end_problems(Scenario(self.scenario.base / self._name), "artifact")
        found = _without_folder(self.scenario.files(f"{self._name}/artifact"))
        problems += scenarios.difference(self.made, found)
        rows = read_rows(self.scenario.base / self._name / "ledger.db")
        if self._known != rows:
            problems.append(f"the store has {len(self._known)} of {len(rows)} events at the end")
        return problems

    def _look(self) -> list[str]:
        """Read the store; what is wrong with it."""
        problems, store = list[str](), Store.at(str(self.shop), 1.0)
        try:
            manifest, log = store.latest_log()
        except LeptonError as error:
            return [f"the store is damaged: {error.what}"]
        rows = [tuple(row) for row in log.rows]
        if rows[: len(self._known)] != self._known:
            lost = [row[1:3] for row in self._known if row not in rows]
            problems.append(f"the store has lost or changed events: {lost[:3]}")
        self._known = rows
        here = read_rows(self.scenario.base / self._name / "ledger.db")
        if manifest is not None and here and here[: len(rows)] != rows[: len(here)]:
            problems.append("folder and store hold different events")
        for entry in log.files.values():
            try:
                for _ in content_of(store, entry):
                    pass
            except LostContent:
                problems.append(f"the store lacks content of {entry.path}")
        trained = Counter(row[2] for row in rows if row[1] == EventKind.RUNG)
        if twice := [name for name, count in trained.items() if count > 1]:
            problems.append(f"trained twice: {twice[:3]}")
        return problems


def _without_folder(files: dict[str, str]) -> dict[str, str]:
    """Digests by the path below the run folder."""
    found = {name.partition("/")[2]: digest for name, digest in files.items()}
    return {name: digest for name, digest in found.items() if Path(name).name not in MEASURED}


KINDS = (Stores(),)
