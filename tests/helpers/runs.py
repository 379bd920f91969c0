"""One small run through all stages, made once and read by many tests."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sqlite3
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from lepton_automl.config import RunConfig
from lepton_automl.pipeline import run
from lepton_automl.runs.ledger_check import digest_of

EPOCHS = 5
SPACE = f"""
doc = "small enough for a test"
[input]
resolution = "native"
example = [8, 8, 1]
[all]
activation = "relu"
[stem]
out = [8, 16]
stride = 2
[[stage]]
layer = "conv"
out = [16, 24]
depth = 1
stride = 1
[head]
features = 0
[train]
optimizer = "adamw"
lr = 0.01
batch_size = 32
epochs = {EPOCHS}
[[candidate]]
name = "only"
stem.out = 8
stage1.out = 16
"""
OBJECTIVES = ("accuracy", "size_bytes")


def quick_data(folder: Path) -> Path:
    """900 of scikit-learn's digits as an .npz that is not split."""
    digits = load_digits()
    path = folder / "few.npz"
    x = (digits.images[:900] * 15.9375).astype(np.uint8)
    np.savez(path, x=x, y=digits.target[:900], class_names=[f"digit {n}" for n in range(10)])
    return path


def quick_config(folder: Path, **changes) -> RunConfig:
    """Two trials, one worker, nothing that is measured by the clock."""
    space = folder / "quick.toml"
    space.write_text(SPACE)
    settings = {
        "data": str(quick_data(folder)),
        "out": folder / "run",
        "space": str(space),
        "objectives": OBJECTIVES,
        "trials": 2,
        "jobs": 1,
    }
    return RunConfig(**(settings | changes))


def make(folder: Path) -> tuple[RunConfig, run.Outcome]:
    """A finished run in `folder`."""
    config = quick_config(folder)
    return config, run.run(config)


def copy(config: RunConfig, folder: Path) -> RunConfig:
    """The same run in another folder, to be changed at will."""
    shutil.copytree(config.out, folder / "run")
    return RunConfig(**(vars(config) | {"out": folder / "run"}))


@contextmanager
def changed_ledger(folder):
    """The database of a run's ledger, to be changed as if lepton had written it so."""
    with contextlib.closing(sqlite3.connect(folder / "ledger.db")) as db, db:
        yield db
        for seq, *texts in db.execute("SELECT seq, kind, key, value FROM events").fetchall():
            db.execute("UPDATE events SET digest = ? WHERE seq = ?", (digest_of(*texts), seq))
        for number, seconds in db.execute("SELECT id, seconds FROM sessions").fetchall():
            db.execute("UPDATE sessions SET digest = ? WHERE id = ?", (digest_of(seconds), number))
        db.execute("UPDATE run SET events = (SELECT COUNT(*) FROM events)")


def digests(folder):
    """sha256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
