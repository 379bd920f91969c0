"""A small fixed run in a process group of its own, watched from outside, for tests that kill it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers.processes import LONGEST_SECONDS, Row, ended, python, read_rows

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
SHORT = (
    "from lepton_automl.compress import recovery; recovery.MIN_BATCHES = 12; "
    "from lepton_automl.__main__ import main; main()"
)
"""`lepton` with short recoveries after pruning."""
TRIALS = 5
POLL_SECONDS = 0.05
MEASURED = {"verdict.json", "MODEL_CARD.md", "manifest.json", "sbom.cdx.json"}
"""Files of an artifact that hold times, or hashes of those."""
TABLE = {
    "lepton_latency_table": 1,
    "machine": {"cpu": "Tiny Core", "flags": [], "cores": 1, "system": "Linux arm"},
    "onnxruntime": "1.20.0",
    "reference_ms": 0.2,
    "error": {"median": 0.05, "most": 0.25, "nets": 10, "folds": 10},
    "nanoseconds": {"call": 1000.0, "conv.macs": 2.0},
    "nets": [],
}
"""Latencies of another device: nothing in the run is decided by a clock."""


@dataclass
class Run:
    """One run folder, the command that works on it, and all that was ever seen in it."""

    home: Path
    name: str
    epochs: int = 6
    """Of a whole training."""
    rows: list[Row] = field(default_factory=list)
    trainings: dict[str, set[int]] = field(default_factory=dict)
    """Checkpoint -> times at which its weights were written, in ns: one each time it was made."""
    _read: list[tuple[str, int, int, int]] = field(default_factory=list)
    """States of the ledger's files when it was last read."""

    @property
    def folder(self) -> Path:
        return self.home / self.name

    @property
    def arguments(self) -> list[str]:
        data, space = self.home / "few.npz", self.home / f"{self.epochs}.toml"
        table, objectives = self.home / "table.json", "accuracy,latency_ms,size_bytes"
        return [
            *("run", str(data), "--space", str(space), "--trials", str(TRIALS), "--jobs", "1"),
            *("--objective", objectives, "--latency-from", str(table), "--out", str(self.folder)),
        ]

    def start(self) -> subprocess.Popen[str]:
        """The same command every time."""
        self.prepare()
        return python("-c", SHORT, *self.arguments)

    def prepare(self) -> None:
        """Write the files that the command names, but the data."""
        space = self.home / f"{self.epochs}.toml"
        space.write_text(SPACE.replace("EPOCHS", str(self.epochs)))
        (self.home / "table.json").write_text(json.dumps(TABLE))

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
        if self._ledger_changed():
            now = read_rows(self.folder / "ledger.db")
            assert not now or now[: len(self.rows)] == self.rows, "what was recorded has changed"
            self.rows = now or self.rows
        for weights in self.folder.glob("checkpoints/*/weights.safetensors"):
            try:
                written = weights.stat().st_mtime_ns
            except FileNotFoundError:
                continue  # Deleted between the two calls.
            self.trainings.setdefault(weights.parent.name, set()).add(written)

    def _ledger_changed(self) -> bool:
        """Whether the files of the ledger were written to since they were last read.

        Clocks of file systems are coarse: a file that was read soon after a write is read again.
        """
        states, newest = [], 0.0
        for name in ("ledger.db", "ledger.db-wal"):
            with contextlib.suppress(FileNotFoundError):
                state = (self.folder / name).stat()
                states.append((name, state.st_ino, state.st_size, state.st_mtime_ns))
                newest = max(newest, state.st_mtime)
        known, self._read = self._read, (states if time.time() - newest > 0.1 else [])
        return not states or states != known

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
        """Every event in order, without the seconds it took and the workers it cost."""
        told = []
        for _, kind, key, value, _ in self.rows:
            document = json.loads(value)
            assert document.pop("micro_batches", 1) == 1, "no memory ran out"
            for passing in ("seconds", "retried"):
                document.pop(passing, None)
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
