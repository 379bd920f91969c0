"""Kills a run of `killing` at random moments: a worker, the coordinator or all of them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.helpers.crash import POLL_SECONDS, Run
from tests.helpers.processes import alive, children, ended, note, zombies

ORPHAN_SECONDS = 60.0
"""A killed coordinator's processes have so long to notice."""
Whom = Literal["group", "worker", "coordinator"]
EARLY = 0.2
"""Share of commands that are killed while they start."""
AMONG: tuple[Whom, ...] = ("group", "coordinator", *["worker"] * 4)


@dataclass(frozen=True)
class Moment:
    """A moment of a run, told by its progress, so that it is the same on a slower machine."""

    after: str
    """What has been reached; empty at the start."""
    seconds: float
    """Since then."""
    before: str
    """What comes next; empty at the end. At the latest then."""


def uninterrupted(home: Path) -> tuple[Run, dict[str, float]]:
    """A run nobody disturbs, and the seconds at which each step was reached."""
    run, timeline, begun = Run(home, "whole"), {}, time.monotonic()
    process = run.start()

    def look_on() -> bool:
        seconds = time.monotonic() - begun
        timeline.update(dict.fromkeys(sorted(run.reached() - set(timeline)), seconds))
        return False

    run.watch(process, look_on)
    look_on()
    assert ended(process) == 0
    return run, timeline


def moments(timeline: dict[str, float], count: int, seed: int) -> list[Moment]:
    """Random moments, one in each of `count` equal parts of the run, in order.

    The parts are equal in time and, every other one, in steps: else most moments would fall into
    the few long steps, such as loading torch.
    """
    rng, steps, at = random.Random(seed), ["", *timeline, ""], [0.0, *timeline.values()]
    found = []
    for part in range(count):
        share = (part + rng.random()) / count
        if part % 2:
            seconds = at[-1] * share
            last = max(i for i, reached in enumerate(at) if reached <= seconds)
            found.append((last, seconds - at[last]))
        else:
            last = int((len(at) - 1) * share)
            found.append((last, rng.random() * (at[last + 1] - at[last])))
    return [Moment(steps[last], since, steps[last + 1]) for last, since in sorted(found)]


@dataclass
class Killer:
    """Kills a run again and again, and starts the same command anew where nobody is left."""

    run: Run
    startup: float
    """Seconds a command takes to find what was reached before."""
    chance: random.Random
    kills: Counter[Whom] = field(default_factory=Counter)
    starts: list[float] = field(default_factory=list)
    """Seconds from the start of a command to its first task, of those that came so far."""
    left: set[int] = field(default_factory=set)
    """Processes that outlived their coordinator for longer than `ORPHAN_SECONDS`."""
    is_over: bool = False
    """The run was quicker than the one nobody disturbed, and has ended."""
    process: subprocess.Popen[str] | None = None
    _begun: float = 0.0
    _calm_until: int = 0
    """Finished rungs before which no other worker is killed: a task may lose only one."""

    def strike(self, moment: Moment) -> None:
        """Kill somebody at the moment; a worker in two of three cases where one may be."""
        process = self._wait(moment)
        if process.poll() is not None:
            self.is_over = True
            return
        self._note_start()
        trains = sorted(children(process.pid, "search.worker"))
        is_calm = bool(trains) and self._finished() >= self._calm_until
        whom = self.chance.choice(AMONG if is_calm else AMONG[:2])
        if whom == "worker":
            assert not zombies(process.pid)
            os.kill(self.chance.choice(trains), signal.SIGKILL)
            self._calm_until = self._finished() + 2
        else:
            self._end(process, whom)
        self.kills[whom] += 1
        self.run.look()

    def finish(self) -> None:
        """The command left alone until it ends by itself."""
        if self.process is None:
            self.run.finish()
            return
        self.run.watch(self.process, lambda: False)
        assert ended(self.process) == 0

    def _end(self, process: subprocess.Popen[str], whom: Whom) -> None:
        everybody = children(process.pid)
        with contextlib.suppress(ProcessLookupError):  # What it ended with is told below.
            os.killpg(process.pid, signal.SIGKILL) if whom == "group" else process.kill()
        until = time.monotonic() + ORPHAN_SECONDS
        while alive(everybody) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        self.left |= alive(everybody)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        assert ended(process) == -signal.SIGKILL, "it ended by itself before"
        self.process, self._calm_until = None, 0

    def _wait(self, moment: Moment) -> subprocess.Popen[str]:
        """Look on until the moment has come.

        A command that finds the step reached already has to start again first; one in five such
        commands is killed meanwhile.
        """
        known, waits, starts = self.run.reached(), moment.seconds, False
        if self.process is None:
            self._begun, starts = time.time(), moment.after in self.run.reached()
            self.process = self.run.start()
            if starts and self.chance.random() < EARLY:
                starts, waits = False, self.chance.random() * self.startup
        begun, process = time.monotonic(), self.process

        def is_now() -> bool:
            nonlocal begun, starts
            if starts:
                starts = note(self.run.folder / "ledger.db", "command").get("pid") != process.pid
                begun = time.monotonic()
                return False
            reached = self.run.reached()
            if moment.after and moment.after not in known:
                if moment.after not in reached:
                    return False
                known.add(moment.after)
                begun = time.monotonic()
            is_next = moment.before in reached and moment.before not in known
            return is_next or time.monotonic() - begun >= waits

        self.run.watch(self.process, is_now)
        return self.process

    def _note_start(self) -> None:
        first = note(self.run.folder / "ledger.db", "workers").get("first", 0.0)
        if first > self._begun and (not self.starts or first - self._begun != self.starts[-1]):
            self.starts.append(first - self._begun)

    def _finished(self) -> int:
        return sum(kind == "rung" for _, kind, _, _, _ in self.run.rows)
