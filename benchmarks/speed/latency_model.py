"""Latencies predicted from an operator table, and stated by a run, against measured ones.

    python benchmarks/bench.py latency_model table [--table FILE] [--nets 40]
    python benchmarks/bench.py latency_model stated RUN [--repeats 5]

table: random nets of three spaces; without FILE the table of `lepton bench --ops` is made first.
stated: the int8 file of a finished run, timed by a loop that uses onnxruntime alone. All latencies
are ratios to the same reference net in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.common import parser, print_table
from lepton_automl.cost.latency import REFERENCE, Stopwatch, last_reference_ms
from lepton_automl.cost.latency_model import LatencyModel, read_table
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.pipeline.bench_ops import bench_here
from lepton_automl.runs.ledger import LedgerView
from lepton_automl.search.space import draw, loader

SPACES = ("tiny", "residual", "mobile")
TARGET = 0.10
PAIRS = 2000
"""Calls of each file in a repeat, in turn; fewer where two seconds are over before."""


def compared(
    name: str, count: int, model: LatencyModel, watch: Stopwatch, quiet_ms: float
) -> tuple[list[float], list[float]]:
    """Measured and predicted milliseconds of random nets, drawn with other seeds than the table."""
    found, measured, predicted = loader.load(name), [], []
    for seed in range(count):
        arch = found.example_arch(draw.RandomTrial(seed))
        timed = watch.measure({"it": random_int8_onnx(arch, 64)}, rounds=18, seconds=0.03)["it"]
        measured.append(timed.ratio * quiet_ms)
        predicted.append(model.latency(arch.graph).milliseconds)
    return measured, predicted


def rank_correlation(first: list[float], second: list[float]) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def table(given: argparse.Namespace) -> None:
    """Print errors of the predictions."""
    with tempfile.TemporaryDirectory() as place:
        path = given.table or Path(place) / "table.json"
        if given.table is None:
            bench_here(path)
        model = read_table(path)
    watch = Stopwatch()
    quiet_ms = watch.quiet_reference_ms()
    print(f"{model.device}; reference net {1e3 * quiet_ms:.1f} us")
    rows, everything = [], []
    for name in SPACES:
        measured, predicted = compared(name, given.nets, model, watch, quiet_ms)
        quotients = [p / m for m, p in zip(measured, predicted, strict=True)]
        off = sorted(abs(quotient - 1) for quotient in quotients)
        inside = sum(1 / model.factor <= quotient <= model.factor for quotient in quotients)
        nine_tenths = off[int(0.9 * (len(off) - 1))]
        cells = f"{statistics.median(off):.1%}", f"{nine_tenths:.1%}", f"{inside / len(off):.0%}"
        rows.append((name, len(off), *cells, f"{rank_correlation(measured, predicted):.3f}"))
        everything += off
    print_table(("space", "nets", "median error", "90 %", "in interval", "rank"), rows)
    print(f"\nmedian error of all {statistics.median(everything):.1%}, target {TARGET:.0%}")


def opened(file: bytes) -> Callable[[], object]:
    """One call at batch 1 on one thread, warmed up."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    pixels = np.random.default_rng(7).integers(0, 256, [1, *given.shape[1:]], dtype=np.uint8)
    for _ in range(50):
        session.run(None, {given.name: pixels})
    return lambda: session.run(None, {given.name: pixels})


def ratio(call: Callable[[], object], reference: Callable[[], object], seconds: float) -> float:
    """Median time of a call over the reference's, the two called in turn."""
    own, unit = list[float](), list[float]()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end and len(own) < PAIRS:
        for run, times in ((reference, unit), (call, own)):
            before = time.perf_counter_ns()
            run()
            times.append(time.perf_counter_ns() - before)
    return statistics.median(own) / statistics.median(unit)


def stated_ratio(run: Path) -> float:
    """Latency that a run's verdict states of its int8 file, over its reference net's.

    Raises
    ------
    SystemExit
        If the run timed nothing.
    """
    verdict = json.loads((run / "artifact" / "verdict.json").read_text())
    with LedgerView(run / "ledger.db") as ledger:
        quiet_ms = last_reference_ms(ledger)
    if quiet_ms is None:
        raise SystemExit(f"{run} timed nothing: no limit or objective was about latency")
    return float(verdict["int8"]["latency_ms"]) / quiet_ms


def stated(given: argparse.Namespace) -> None:
    """Print the stated ratio, the measured one and their quotient."""
    there = stated_ratio(given.run)
    call = opened((given.run / "artifact" / "model.int8.onnx").read_bytes())
    reference = opened(random_int8_onnx(REFERENCE, 64))
    found = [ratio(call, reference, 2.0) for _ in range(given.repeats)]
    here = statistics.median(found)
    print(f"stated    {there:.3f} times the reference net")
    print(f"measured  {here:.3f} times (repeats {min(found):.3f} to {max(found):.3f})")
    print(f"quotient  {there / here:.3f}, target within {TARGET:.0%}")


def main(arguments: list[str]) -> None:
    """Compare a table's predictions, or what one run states."""
    options = parser(__doc__, "latency_model")
    kinds = options.add_subparsers(required=True)
    first = kinds.add_parser("table", help="predictions for random nets")
    first.add_argument("--table", type=Path, help="made by `lepton bench --ops` on this machine")
    first.add_argument("--nets", type=int, default=40, help="of each space")
    first.set_defaults(work=table)
    second = kinds.add_parser("stated", help="the winner of one run")
    second.add_argument("run", type=Path)
    second.add_argument("--repeats", type=int, default=5)
    second.set_defaults(work=stated)
    given = options.parse_args(arguments)
    given.work(given)
