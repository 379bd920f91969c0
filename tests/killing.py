"""A small fixed run in a process group of its own, watched from outside, for tests that kill it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests import runs

SPACE = """
doc = "small nets in two rungs"
[input]
resolution = "native"
example = [8, 8, 1]
[all]
activation = "relu"
[stem]
out = [16, 24, 32]
stride = 2
[[stage]]
layer = "conv"
out = [32, 48]
depth = 1
stride = 1
[head]
features = 0
[train]
optimizer = "adamw"
lr = [0.004, 0.007, 0.01]
batch_size = 64
epochs = EPOCHS
[[candidate]]
name = "only"
stem.out = 16
stage1.out = 32
train.lr = 0.01
"""
TRIALS = 12
POLL_SECONDS = 0.02
LONGEST_SECONDS = 240.0
MEASURED = {"verdict.json", "MODEL_CARD.md", "manifest.json"}
"""Files of an artifact that hold times, or hashes of those."""

Row = tuple[int, str, str, str, float]
"""seq, kind, key, value, at: a row of the ledger as it lies on the disk."""


@dataclass
class Run:
    """One run folder, the command that works on it, and all that was ever seen in it."""

    home: Path
    name: str
    epochs: int = 16
    """Of a whole training."""
    rows: list[Row] = field(default_factory=list)
    trainings: dict[str, set[int]] = field(default_factory=dict)
    """Checkpoint -> times at which its weights were written, in ns: one each time it was made."""

    @property
    def folder(self) -> Path:
        return self.home / self.name

    @property
    def arguments(self) -> list[str]:
        data, space = self.home / "few.npz", self.home / f"{self.epochs}.toml"
        objectives = ",".join(runs.OBJECTIVES)
        return [
            *("run", str(data), "--space", str(space), "--trials", str(TRIALS), "--jobs", "1"),
            *("--objective", objectives, "--out", str(self.folder)),
        ]

    def start(self) -> subprocess.Popen[str]:
        """The same command every time."""
        space = self.home / f"{self.epochs}.toml"
        space.write_text(SPACE.replace("EPOCHS", str(self.epochs)))
        return lepton(*self.arguments)

    def finish(self) -> None:
        """The command left alone until it ends by itself."""
        process = self.start()
        self.watch(process, lambda: False)
        assert ended(process) == 0

    def watch(self, process: subprocess.Popen[str], until: Callable[[], bool]) -> None:
        """Look on until something has come about or the process has ended."""
        end = time.monotonic() + LONGEST_SECONDS
        while process.poll() is None and not until():
            assert time.monotonic() < end, f"waited too long; last event: {self.rows[-1:]}"
            self.look()
            time.sleep(POLL_SECONDS)
        self.look()

    def look(self) -> None:
        """Read the ledger and the checkpoints; what was there before must still be there."""
        now = read_rows(self.folder / "ledger.db")
        if now:
            assert now[: len(self.rows)] == self.rows, "what was recorded has changed"
            self.rows = now
        for weights in self.folder.glob("checkpoints/*/weights.safetensors"):
            try:
                written = weights.stat().st_mtime_ns
            except FileNotFoundError:
                continue  # Deleted between the two calls.
            self.trainings.setdefault(weights.parent.name, set()).add(written)

    def reached(self) -> set[str]:
        """How far the run is: events, models and parts of the artifact; nothing ever leaves."""
        files = {
            str(path.relative_to(self.folder))
            for part in ("models", "artifact")
            for path in (self.folder / part).rglob("*")
            if path.is_file() and not path.name.startswith(".")
        }
        return files | {f"{kind} {key}" for _, kind, key, _, _ in self.rows}

    def story(self) -> list[tuple[str, str, dict[str, object]]]:
        """Every event in order, without the seconds it took."""
        told = []
        for _, kind, key, value, _ in self.rows:
            document = json.loads(value)
            document.pop("seconds", None)
            told.append((kind, key, document))
        return told

    def artifact(self) -> dict[str, bytes]:
        """Every file of the artifact in which no time is written."""
        folder = self.folder / "artifact"
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in MEASURED
        }

    def leftovers(self) -> list[Path]:
        """Temporary files."""
        return [path for path in self.folder.rglob("*") if path.name.endswith(".tmp")]


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

    def note() -> bool:
        seconds = time.monotonic() - begun
        timeline.update(dict.fromkeys(sorted(run.reached() - set(timeline)), seconds))
        return False

    run.watch(process, note)
    note()
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


def kill_at(run: Run, moment: Moment, startup: float) -> None:
    """Start the command, kill its whole process group at the moment, look at what is left.

    A command that finds the step reached already has its start-up to repeat first.
    """
    process, begun = run.start(), time.monotonic()
    known = run.reached()
    waits = moment.seconds + (startup if moment.after in known else 0.0)

    def is_now() -> bool:
        nonlocal begun
        reached = run.reached()
        if moment.after and moment.after not in known:
            if moment.after not in reached:
                return False
            known.add(moment.after)
            begun = time.monotonic()
        is_next = moment.before in reached and moment.before not in known
        return is_next or time.monotonic() - begun >= waits

    run.watch(process, is_now)
    with contextlib.suppress(ProcessLookupError):  # What it ended with is told below.
        os.killpg(process.pid, signal.SIGKILL)
    assert ended(process) == -signal.SIGKILL, f"it ended by itself before {moment}"
    run.look()


def ended(process: subprocess.Popen[str]) -> int:
    """The exit code of a process that is about to end; what it said is shown if a test fails."""
    sys.stderr.write(process.communicate(timeout=LONGEST_SECONDS)[1])
    return process.returncode


def lepton(*arguments: str) -> subprocess.Popen[str]:
    """`lepton ARGUMENTS` in a process group of its own."""
    return python("-m", "lepton_automl", *arguments)


def python(*arguments: str) -> subprocess.Popen[str]:
    """Python in a process group of its own, in the root of the project."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def read_rows(ledger: Path) -> list[Row]:
    """What the ledger holds, read without lepton; nothing while there is none."""
    try:
        db = sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True)
    except sqlite3.OperationalError:
        return []
    try:
        return db.execute("SELECT seq, kind, key, value, at FROM events ORDER BY seq").fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        db.close()


def children(pid: int) -> set[int]:
    """Processes that `pid` has started."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.add(int(stat.parent.name))
    return found


def alive(pids: Iterable[int]) -> set[int]:
    """Those of `pids` that still run."""
    found = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX":
            found.add(pid)
    return found
