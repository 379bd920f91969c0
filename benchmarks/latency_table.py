"""Latencies told from a table, against those measured on the machine that made the table.

    python benchmarks/latency_table.py [--table FILE] [--nets 40]

Without a table one is made first. The nets are drawn with other seeds than the table's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np

from lepton_automl.cost.latency import Stopwatch
from lepton_automl.cost.latency_model import LatencyModel, read_table
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.pipeline.bench import bench_here
from lepton_automl.search.space import draw, loader

SPACES = ("tiny", "residual", "mobile")
TARGET = 0.10


def errors(name: str, count: int, model: LatencyModel, watch: Stopwatch) -> list[tuple[float, ...]]:
    """Of each net: measured ratio to the reference net, what the table tells in milliseconds."""
    found, rows = loader.load(name), []
    for seed in range(count):
        arch = found.example_arch(draw.RandomTrial(seed))
        measured = watch.measure({"it": random_int8_onnx(arch, 64)}, rounds=18, seconds=0.03)["it"]
        rows.append((measured.ratio, model.latency(arch.graph).milliseconds, arch.graph.macs))
    return rows


def ranks(values: list[float]) -> np.ndarray:
    """Places of values, for Spearman's correlation."""
    return np.argsort(np.argsort(values))


def main() -> None:
    """Print the table of errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--nets", type=int, default=40)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        path = given.table or Path(place) / "table.json"
        if given.table is None:
            bench_here(path)
        model = read_table(path)
    watch = Stopwatch()
    quiet_ms = watch.quiet_reference_ms()
    print(f"{model.device}; reference net {1e3 * quiet_ms:.1f} us")
    print(f"{'space':10}{'nets':>5}{'median error':>14}{'90 %':>8}{'in interval':>13}{'rank':>7}")
    everything = []
    for name in SPACES:
        rows = errors(name, given.nets, model, watch)
        truth, told = [r[0] * quiet_ms for r in rows], [r[1] for r in rows]
        quotients = [b / a for a, b in zip(truth, told, strict=True)]
        off = sorted(abs(quotient - 1) for quotient in quotients)
        inside = sum(1 / model.factor <= quotient <= model.factor for quotient in quotients)
        rank = float(np.corrcoef(ranks(truth), ranks(told))[0, 1])
        everything += off
        print(
            f"{name:10}{len(rows):5}{statistics.median(off):14.1%}"
            f"{off[int(0.9 * (len(off) - 1))]:8.1%}{inside / len(rows):13.0%}{rank:7.3f}"
        )
    median = statistics.median(everything)
    print(f"all: {median:.1%}, target {TARGET:.0%}: {'met' if median <= TARGET else 'missed'}")


if __name__ == "__main__":
    main()
