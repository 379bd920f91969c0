"""A kind of fault for each format: `python -m tests.faults --kinds mutants-npz`."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.driver import Findings, Summary

if TYPE_CHECKING:
    from tests.faults.mutants.engine import Totals

SOURCES = (
    *("table", "series", "index", "recording", "recording-npy", "labelled-rows", "npz-signals"),
    *("zip", "tar", "idx", "idx-labels", "cifar", "wav", "ucr"),
    *(("parquet",) if find_spec("pyarrow") else ()),
)
"""Names of the forms of data in `sources`, whose mutants take a thirtieth of a second each."""
SETTINGS = ("hosts", "sweep", "sweep-table", "board")
"""Names of the files that options name, in `settings`."""
BUNDLES = (
    *("c-files", "bill-of-materials"),
    "any-size",
    *(("litert",) if find_spec("ai_edge_litert") else ()),
    *(("signature",) if shutil.which("ssh-keygen") else ()),
)
"""Names of the further files of artifacts, in `bundles`."""
NAMES = (
    *("picture-predict", "picture-data", "npz", "npy", "manifest", "documents", "onnx-predict"),
    *("onnx-verify", "onnx-compress", "sidecar", "latency-table", "space", "run-folder", "ledger"),
    *("warm-start", "cache", "test-set-uses", "ledger-log", "net"),
    *("store", *SETTINGS, *BUNDLES),
    *SOURCES,
)
"""Names of the formats, without loading what makes their mutants."""


class Mutants:
    """Mutants of one format, until the time is over."""

    def __init__(self, subject: str) -> None:
        self.name, self.subject = f"mutants-{subject}", subject

    def run(self, rng: random.Random, seconds: float, findings: Findings) -> Summary:
        """Try mutants; each that shows a fault is passed to `findings`."""
        with finished_run() as (run, data):
            totals = tried(self.subject, run, data, rng, findings, seconds=seconds)
        notes: dict[str, object] = {
            "different outcomes": len(totals.outcomes),
            "inputs grown": totals.grown,
            "slowest": f"{totals.slowest:.1f} s",
        }
        return Summary(totals.mutants, notes)


def tried(
    subject: str,
    run: Path,
    data: Path,
    rng: random.Random,
    findings: Findings,
    *,
    seconds: float,
    count: int | None = None,
) -> Totals:
    """Try mutants of a format.

    Parameters
    ----------
    subject : str
        Name of the format.
    run, data : Path
        Folder of a finished run, and its data.
    rng : random.Random
        Source of every choice.
    findings : Findings
        Receives the faults.
    seconds, count : float, int
        At most so long and so many.
    """
    with prepared(run, data) as (stage, outside):
        return tried_in(stage, outside, subject, rng, findings, seconds=seconds, count=count)


@contextlib.contextmanager
def prepared(run: Path, data: Path) -> Iterator[tuple[Path, Path]]:
    """A folder with what all formats need, and one that no command may open anything in."""
    # torch, ONNX Runtime and the whole package: loaded here, once for all children.
    from tests.faults.mutants import subjects

    with _folders() as (stage, outside), _short_work():
        subjects.prepare(stage, run, data)
        (outside / "secret").write_bytes(bytes(1 << 16))
        (outside / "secret.onnx").write_bytes(b"no model")
        yield stage, outside


def tried_in(
    stage: Path,
    outside: Path,
    subject: str,
    rng: random.Random,
    findings: Findings,
    *,
    seconds: float,
    count: int | None = None,
) -> Totals:
    """As `tried`, in the folders of `prepared`."""
    from tests.faults.mutants import subjects
    from tests.faults.mutants.engine import Engine

    (chosen,) = (each for each in subjects.SUBJECTS if each.name == subject)

    def report(content: bytes, seed: object, what: str) -> bool:
        return findings.save(f"mutants-{subject}", content, seed, what)

    return Engine(chosen, stage, outside, report).run(rng, seconds=seconds, count=count)


@contextlib.contextmanager
def finished_run() -> Iterator[tuple[Path, Path]]:
    """Folder of a finished run and its data; made once for all kinds of a process."""
    from tests.helpers import runs

    if not _made:
        folder = tempfile.TemporaryDirectory(prefix="lepton-mutants-")
        runs.make(Path(folder.name))
        _made.append(folder)
    root = Path(_made[0].name)
    yield root / "run", root / "few.npz"


_made: list[tempfile.TemporaryDirectory[str]] = []


@contextlib.contextmanager
def _folders() -> Iterator[tuple[Path, Path]]:
    """A folder for the commands and one beside it that none may read; in memory where that is."""
    memory = Path("/dev/shm")
    root = memory if memory.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="lepton-mutants-", dir=root) as name:
        stage, outside = Path(name, "stage"), Path(name, "outside")
        stage.mkdir()
        outside.mkdir()
        kept = os.environ.get("LEPTON_STATE_DIR")
        os.environ["LEPTON_STATE_DIR"] = str(stage / "state")
        try:
            yield stage, outside
        finally:
            if kept is None:
                del os.environ["LEPTON_STATE_DIR"]
            else:
                os.environ["LEPTON_STATE_DIR"] = kept


@contextlib.contextmanager
def _short_work() -> Iterator[None]:
    """Children of a command are forked from it, and latencies are measured briefly."""
    import pytest
    import typer.main

    from lepton_automl.artifact import measurements
    from lepton_automl.core import limited_process
    from lepton_automl.pipeline import stores as shown_stores
    from lepton_automl.pipeline import sweep
    from lepton_automl.runs import store, store_copy, stored_run
    from tests.faults.mutants import forked, settings, stores

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limited_process, "start_child", forked.ForkedProcess)
        patch.setattr(measurements, "SECONDS", 0.02)
        patch.setattr(sweep, "_run", settings.no_run)
        patch.setattr(store_copy.StoreCopy, "start", stores.start_or_end)
        patch.setattr(store, "PATIENCE_SECONDS", 0.2)
        for module in (store, store_copy, stored_run):
            patch.setattr(module, "BEAT_SECONDS", 0.1)
        for module in (stored_run, shown_stores):
            patch.setattr(module, "START_SECONDS", 0.1)
        # Building the parser takes longer than most commands; it is the same each time.
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


KINDS = [Mutants(name) for name in NAMES]
