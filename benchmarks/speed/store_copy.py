"""What copying a run to a store costs: bytes, requests and processor time a trial.

    python benchmarks/bench.py store_copy --trials 300 --seconds 0.5
    python benchmarks/bench.py store_copy --store s3://bucket/prefix

A ledger gets the events of a search and the folder its checkpoints, a trial every so many seconds,
with and without a store by turns. Processor time is that of this process: of the thread that copies
and of the library. `whole copies` is what a copy of the whole ledger (`VACUUM INTO`) after each
trial would take instead of the log.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import sqlite3
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.common import parser, print_table
from lepton_automl.core.events import silent
from lepton_automl.runs.definition import Definition
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import EventKind, Ledger
from lepton_automl.runs.stored_run import StoredRun

DEFINITION = (
    'format = 2\ndata = "digits"\ntest = ""\nskip_corrupt = false\ndata_fingerprint = "ab"\n'
    'space = "tiny"\nspace_digest = "cd"\nobjectives = ["accuracy"]\nseed = 3\n'
    'target = "x86-any"\nprefer = "size"\n\n[limits]\n'
)
RUNGS = 3
TRIAL_CHARACTERS, RUNG_CHARACTERS = 2500, 900
"""JSON of an event, as that of 2,000 validation samples and a net of six layers."""


def main(arguments: list[str]) -> None:
    """Measure with and without a store by turns."""
    options = parser(__doc__, "store_copy")
    options.add_argument("--trials", type=int, default=300)
    options.add_argument("--seconds", type=float, default=0.2, help="from one trial to the next")
    options.add_argument("--weights", type=int, default=60_000, help="bytes of a checkpoint")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--store", default="", help="URL; by default a folder")
    given = options.parse_args(arguments)
    without, differences, facts = [], [], {}
    for number in range(given.rounds):
        with tempfile.TemporaryDirectory() as place:
            url = f"{given.store or place + '/store'}/{number}"
            plain, _, _ = work(Path(place, "plain"), "", given)
            stored, facts, ledger = work(Path(place, "stored"), url, given)
            without.append(1000 * plain / given.trials)
            differences.append(1000 * (stored - plain) / given.trials)
            whole = whole_copies(ledger, given.trials)
    trials = given.trials
    rows = [
        ["processor time without a store, ms a trial", spread(without)],
        ["more with one, ms a trial", spread(differences)],
        ["requests a trial", f"{facts['requests'] / trials:.2f}"],
        ["kB written a trial", f"{facts['bytes_written'] / trials / 1000:.2f}"],
        ["of them checkpoints, if all were copied", f"{RUNGS * given.weights / 1000:.2f}"],
        ["whole copies of the ledger instead of its log, kB a trial", f"{whole / 1000:.2f}"],
    ]
    print_table(["what", "value"], rows)


def spread(values: list[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def work(path: Path, url: str, given: argparse.Namespace) -> tuple[float, dict[str, int], Path]:
    """Processor seconds of a made-up search, the facts of its copy, and its ledger."""
    definition, folder = Definition.from_toml(DEFINITION), RunFolder(path)
    rng = random.Random(0)
    with ExitStack() as stack:
        stored = None
        if url:
            stored = stack.enter_context(StoredRun(url, folder, takes_over=False, emit=silent))
            stored.check(definition, fresh=False)
        lock = stack.enter_context(folder.claimed(definition, fresh=False))
        if stored is not None:
            stored.take(fresh=False)
        ledger = stack.enter_context(contextlib.closing(Ledger(folder.ledger, lock=lock)))
        copy = None
        if stored is not None:
            stack.enter_context(stored.copied(ledger, silent))
            (copy,) = ledger._observers
        begun, next_trial = time.process_time(), time.monotonic()
        for number in range(given.trials):
            trial(folder, ledger, number, rng, given.weights)
            next_trial += given.seconds
            time.sleep(max(0.0, next_trial - time.monotonic()))
        if copy is not None:
            copy.close(is_whole=False)
        seconds = time.process_time() - begun
        facts = {} if copy is None else copy.facts()
    return seconds, facts, folder.ledger


def trial(folder: RunFolder, ledger: Ledger, number: int, rng: random.Random, size: int) -> None:
    """Record a trial as a search does: every third one has all rungs."""
    ledger.record(
        EventKind.TRIAL, str(number), {"number": number, "x": text(rng, TRIAL_CHARACTERS)}
    )
    for rung in range(RUNGS if number % 3 == 0 else 1):
        checkpoint = folder.checkpoints / f"{number:05d}-{rung}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "arch.json").write_text(json.dumps({"x": text(rng, 900)}))
        (checkpoint / "model.json").write_text(json.dumps({"x": text(rng, 200)}))
        (checkpoint / ".new").write_bytes(rng.randbytes(size))
        (checkpoint / ".new").rename(checkpoint / "weights.safetensors")
        key = f"{number}-{rung}"
        ledger.record(EventKind.RUNG, key, {"correct": text(rng, RUNG_CHARACTERS)})
        ledger.record(EventKind.HYPERVOLUME, key, {"value": rng.random()})
        if rung:
            shutil.rmtree(folder.checkpoints / f"{number:05d}-{rung - 1}")


def text(rng: random.Random, characters: int) -> str:
    """Text that packs as badly as base 64."""
    return rng.randbytes(characters // 2).hex()


def whole_copies(ledger: Path, trials: int) -> float:
    """Bytes a trial if the whole ledger were copied after each: half of its last size."""
    with tempfile.TemporaryDirectory() as place, contextlib.closing(sqlite3.connect(ledger)) as db:
        db.execute("VACUUM INTO ?", (f"{place}/copy.db",))
        return Path(place, "copy.db").stat().st_size * (trials + 1) / 2 / trials
