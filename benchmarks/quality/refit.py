"""What training the chosen net on the training and validation parts together gains on test parts.

    python benchmarks/bench.py refit SOURCES --seeds 3 --seconds 120 [--cpu-clock]

SOURCES as for `unseen_sets make`. Five small or grouped sets: 1,000 pictures of CIFAR-10 and of
Fashion-MNIST, flower photographs, spoken digits, motion sensors as pictures. Each is one `lepton
run` with `--refit on`; its reference, the float winner before cuts, has learnt the training part
only, so the paired drop from it to the shipped int8 file is the loss by cuts and int8 less the
gain. Finished cells are lines of the results file and are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import unseen_data
from benchmarks.common import RUNS, append_row, lepton, parser, print_table, read_rows
from benchmarks.quality.unseen_sets import called

SMALL, TEST = 1000, 3000
"""Training and test pictures of the subsets."""
NAMES = ("cifar10_1000", "fashion_mnist_1000", "flowers_48", "speech", "motion_spectra")


def main(arguments: list[str]) -> None:
    """Run what is missing and print the table."""
    options = parser(__doc__, "refit")
    options.add_argument("sources", type=Path)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=120.0)
    options.add_argument("--cpu-clock", action="store_true")
    options.add_argument("--out", type=Path, default=RUNS / "refit.jsonl")
    given = options.parse_args(arguments)
    for seed in range(given.seeds):
        for name in NAMES:
            if not any(row["key"] == [name, seed] for row in read_rows(given.out)):
                append_row(given.out, {"key": [name, seed]} | run(given, name, seed))
    table(read_rows(given.out))


def run(given: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Figures of the reference and the shipped file of one run."""
    data = given.out.parent / f"refit-{name}-{seed}.npz"
    if not data.exists():
        data.parent.mkdir(parents=True, exist_ok=True)
        np.savez(data, **built(unseen_data.Sources(given.sources), name))
    out = data.with_suffix("")
    words = ["--budget", f"{given.seconds:.0f}s", "--jobs", "1", "--seed", str(seed), "--json"]
    command = lepton("run", str(data), *words, "--refit", "on", "--out", str(out))
    found = json.loads(called(command, cpu_clock=given.cpu_clock)[0])
    return {
        "reference": found["reference"]["accuracy"],
        "int8": found["int8"]["accuracy"],
        "drop": found["drops"]["int8"],
        "refit": [each for each in found["decisions"] if each["name"] == "training on all samples"],
    }


def built(sources: unseen_data.Sources, name: str) -> unseen_data.Arrays:
    """Arrays of a set under the keys that lepton reads."""
    if name.endswith(f"_{SMALL}"):
        source = name.removesuffix(f"_{SMALL}")
        parts = (sources.part(source, "train", SMALL), sources.part(source, "test", TEST))
        return unseen_data.both(*parts)
    if name == "speech":
        return dict(sources.arrays(name))
    return unseen_data.FIRST[name](sources)


def table(rows: list[dict[str, Any]]) -> None:
    """Means over seeds; the gain is the negative paired drop from the reference to int8."""
    cells = []
    for name in NAMES:
        own = [row for row in rows if row["key"][0] == name]
        if own:
            before, after = (
                100 * statistics.mean(row[key] for row in own) for key in ("reference", "int8")
            )
            gains = [-row["drop"]["points"] for row in own]
            text = ", ".join(f"{gain:+.1f}" for gain in gains)
            mean = f"{statistics.mean(gains):+.2f} ({text})"
            cells.append((name, len(own), f"{before:.2f}", f"{after:.2f}", mean))
    head = (
        "set",
        "seeds",
        "reference, %",
        "shipped int8, trained on all samples, %",
        "gain, points",
    )
    print_table(head, cells)
