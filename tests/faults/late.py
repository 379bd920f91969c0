"""Kills of runs whose machine becomes slow: final trainings are late, shortened, and go on.

What a final training had done when its process was killed is not done again, and the command ends
with an artifact, however late it is.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import struct
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults import scenario as scenarios
from tests.faults.driver import Findings, Summary
from tests.faults.scenario import SPACE, Scenario, Watched
from tests.faults.warm import Command, Warm

BUDGET_SECONDS = 14
SLOW_SECONDS = (0.0, 0.002, 0.005, 0.02)
"""Longer that a batch takes in final trainings: a batch of the net takes about 2 ms."""
LONGEST_SECONDS = 300.0
"""A command that takes longer than its budget by so much hangs."""
_MOST_KILLS = 3
_SPACE = SPACE.replace("epochs = 1", "epochs = 400").replace("an epoch each", "400 epochs each")
_HEAD = struct.Struct("<Q")


class Late:
    """Kills of the coordinator, a worker or all processes during late final trainings."""

    name = "late"

    def run(self, rng: random.Random, seconds: float, findings: Findings) -> Summary:
        """Try run after run until the time is over."""
        end, done, runs, over = time.monotonic() + seconds, Counter[str](), 0, [0.0]
        warm, works, folder = scenarios.prepared("run")
        while time.monotonic() < end:
            seed, base = rng.getrandbits(32), folder / f"case-{runs}"
            case = Case(works["run"].start.copy(base), warm, random.Random(seed))
            problems = case.play()
            done += case.done
            over.append(case.seconds - BUDGET_SECONDS)
            runs += 1
            if problems:
                what = f"{'; '.join(problems)}\nafter: {', '.join(case.history)}"
                findings.save(self.name, base, seed, what)
            shutil.rmtree(base, ignore_errors=True)
        return Summary(runs, {**done, "seconds beyond the budget, most": round(max(over), 1)})


class Case:
    """One run with a budget, killed up to three times while it trains finalists.

    Parameters
    ----------
    scenario : Scenario
        Data and search space, which is replaced.
    warm : Warm
        Starts commands.
    rng : Random
        Decides everything.
    """

    def __init__(self, scenario: Scenario, warm: Warm, rng: random.Random) -> None:
        self.scenario, self.warm, self.rng = scenario, warm, rng
        (scenario.base / "space.toml").write_text(_SPACE)
        self.watched = Watched(scenario.run)
        self.done: Counter[str] = Counter()
        self.history: list[str] = []
        self.seconds = 0.0
        """That all commands worked, as the ledger says."""
        self._shares: dict[str, float] = {}
        """Checkpoint of a final training -> share that is done, as its file said last."""
        self._behind: list[str] = []
        """Final trainings that have begun anew."""
        self._slow = rng.choice(SLOW_SECONDS)

    def play(self) -> list[str]:
        """Kill, then let the command end by itself; what is wrong."""
        problems, code = list[str](), None
        kills = self.rng.randint(1, _MOST_KILLS)
        for number in range(kills + 1):
            command = self._start()
            code = self._watch(command, kills=number < kills)
            allowed = {0, -signal.SIGKILL} if number < kills else {0}
            problems += scenarios.message_problems(command, code, allowed)
            command.destroy()
            self.warm.forget(command)
            problems += self.watched.look()
            if code == 0 or problems:
                break
        return problems or self._ended()

    def _start(self) -> Command:
        words = ["run", "few.npz", "--space", "space.toml", "--jobs", "1"]
        words += ["--objective", "accuracy,size_bytes", "--budget", f"{BUDGET_SECONDS}s"]
        patches = [
            ["slow_final_trainings", str(self.scenario.run), self._slow],
            ["save_often", 0.1],
        ]
        return self.scenario.start(self.warm, *words, "--out", "run", patches=patches)

    def _watch(self, command: Command, *, kills: bool) -> int | None:
        """Wait for the end, or kill while a final training is done in part; the exit code."""
        until, at = time.monotonic() + LONGEST_SECONDS, self.rng.uniform(0.0, 0.9)
        whom = self.rng.choice(("coordinator", "worker", "all"))
        while time.monotonic() < until:
            if (code := command.wait(0.02)) is not None:
                return code
            self._look_at_shares()
            if kills and any(share > at for share in self._shares.values()):
                kills = False
                self._kill(command, whom)
        return None

    def _kill(self, command: Command, whom: str) -> None:
        children = [pid for pid in command.session() if pid != command.pid]
        chosen = {"coordinator": [command.pid], "worker": children[:1], "all": children}[whom]
        for pid in chosen + [command.pid] * (whom == "all"):
            command.send(signal.SIGKILL, pid)
        self.done[f"kill {whom}"] += 1
        self.history.append(f"kill {whom} at {json.dumps(self._shares)}")

    def _look_at_shares(self) -> None:
        """Read how far final trainings are."""
        for file in self.scenario.run.glob("checkpoints/*final*/resume.safetensors"):
            share, name = _share(file), file.parent.name
            if share is None:
                continue
            before = self._shares.get(name, 0.0)
            if share < before:
                self._behind.append(f"{name} has begun anew: {before:.2f}, then {share:.2f}")
            self._shares[name] = share

    def _ended(self) -> list[str]:
        """What is wrong at the end."""
        self.seconds = _alive_seconds(self.scenario.run / "ledger.db")
        finals = [row for row in self.watched.rows if row[1] == "rung" and "final" in row[2]]
        found = list(self._behind)
        if self._shares and not finals:
            found.append("no final training was recorded")
        changed = [bool(json.loads(row[3]).get("schedule_changes")) for row in finals]
        self.done += Counter({"final trainings": len(finals), "shortened": sum(changed)})
        return found + scenarios.end_problems(self.scenario)


def _share(file: Path) -> float | None:
    """`share` in the metadata of a checkpoint, read without lepton."""
    try:
        with file.open("rb") as opened:
            (size,) = _HEAD.unpack(opened.read(_HEAD.size))
            header: dict[str, Any] = json.loads(opened.read(size))
    except (OSError, ValueError, struct.error):
        return None
    return float(header["__metadata__"]["share"])


def _alive_seconds(ledger: Path) -> float:
    from lepton_automl.runs.ledger import LedgerView

    with LedgerView(ledger) as view:
        return float(view.alive_seconds())


KINDS = (Late(),)
