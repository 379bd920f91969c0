"""The race: CIFAR-10 with 1,000 training pictures a class, one worker, at most 900 CPU seconds.

    python benchmarks/race.py cifar10_10k.npz --budget 15m

One `lepton run` whose one file is at both points; what it took is the processor time of all its
processes. The limits in microseconds are those of a machine on which MLPerf Tiny's ResNet-8 takes
137.7: the file and ResNet-8 are timed in the same rounds, and their ratio is what counts, because
milliseconds of a busy machine mean little.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_automl.cost.latency import Stopwatch
from lepton_automl.models.arch import Arch, chain
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.random_weights import random_int8_onnx

RESNET8_US = 137.7
CPU_SECONDS = 900.0


@dataclass(frozen=True)
class Point:
    """What a file must reach."""

    accuracy: float
    size_bytes: int
    us: float
    """On the machine of `RESNET8_US`."""


POINTS = (Point(0.753, 124_000, 138.0), Point(0.720, 92_000, 83.0))


def resnet8() -> Arch:
    """MLPerf Tiny's: width 16, 12.5 M multiply-accumulates."""
    stages = [Residual(out=16), Residual(out=32, stride=2), Residual(out=64, stride=2)]
    return chain((32, 32, 3), [Stem(out=16), *stages, Head()], 10)


def ratio(file: bytes, other: bytes) -> float:
    """Latency of `file` as a multiple of that of `other`, in the same rounds."""
    times = Stopwatch().measure({"file": file, "other": other}, rounds=25, seconds=0.5)
    return times["file"].ratio / times["other"].ratio


def run(data: str, options: list[str]) -> tuple[dict[str, Any], float]:
    """What `lepton run` says at the end, and the seconds of processor time it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "lepton_automl", "run", data, "--json", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(done.stdout)
    if "verdict" not in found:
        raise SystemExit(done.returncode)
    return found, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run, then print what was reached beside what was asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="CIFAR-10, 1,000 training and 200 test pictures a class")
    parser.add_argument("--budget", default="15m", help="more where the core is shared")
    parser.add_argument("--trials", default="1", help="1: the first net that the space names")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--out", default="runs/race")
    given = parser.parse_args()
    options = ["--space", "residual", "--jobs", "1", "--budget", given.budget]
    options += ["--trials", given.trials]
    options += ["--max-size-kb", f"{POINTS[1].size_bytes / 1000:g}", "--seed", given.seed]
    found, seconds = run(given.data, [*options, "--out", given.out])
    print(f"lepton run {given.data} {' '.join(options)}")
    int8 = found["int8"]
    file = Path(found["artifact"], "model.int8.onnx").read_bytes()
    us = RESNET8_US * ratio(file, random_int8_onnx(resnet8(), 64))
    low, high = (f"{100 * end:.2f}" for end in int8["accuracy_interval"])
    print(
        f"{100 * int8['accuracy']:.2f} % [{low}, {high}] int8 of {int8['n_samples']} test pictures"
        f" in {int8['size_bytes']} bytes, {us:.1f} us where ResNet-8 takes {RESNET8_US}"
        f" ({1e3 * int8['latency_ms']:.1f} here), {seconds:.0f} CPU s"
    )
    for number, point in enumerate(POINTS, 1):
        holds = int8["accuracy"] >= point.accuracy and int8["size_bytes"] <= point.size_bytes
        holds = holds and us <= point.us and seconds <= CPU_SECONDS
        asked = f"{point.accuracy:.1%} in {point.size_bytes} bytes, {point.us:g} us"
        print(f"point {number} ({asked}, {CPU_SECONDS:g} CPU s): {'won' if holds else 'lost'}")


if __name__ == "__main__":
    main()
