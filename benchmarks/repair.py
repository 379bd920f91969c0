"""Repair at work: a net whose channels differ so much that plain calibration breaks it.

    python benchmarks/repair.py fashion_12k.npz

`quick` of `tiny` is trained for 8 epochs, its channels are rescaled at random (sigma 1.4, which
changes no answer of the float net), and Quantize makes it int8. Given is what each way gives on
validation pictures and takes; no test part is opened.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from ablations import Bench, Setting
from int8 import LIMIT, rescaled

from lepton_automl.compress.context import Work
from lepton_automl.compress.evaluation import validation_accuracy
from lepton_automl.compress.quantization.equalization import fold
from lepton_automl.compress.quantization.quantize import Quantize
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.training.loop import fit, initial_model


def main() -> None:
    """Print the prices."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--target", default="x86-any")
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench.of(Setting("tiny", "quick", 6000, 8, "quick"), given.data, Path("runs/cache"))
    start = initial_model(bench.arch, bench.preprocessing, 0)
    model = rescaled(fold(fit(start, bench.train, bench.recipe, epochs=8, seed=0)), 0)
    target, limits = targets.load(given.target), Limits(max_drop=0.2)
    work = Work(bench.train, bench.validation, model, limits, target, bench.recipe)
    before = validation_accuracy(model, work)
    made = Quantize().attempt(model, work)
    print(f"float {before:.2%}; weights within +-{min(target.weight_limit, LIMIT)}\n")
    print("| way | points lost | nats from float | seconds |\n|---|---|---|---|")
    for price in made.prices:
        lost = "" if price.accuracy is None else f"{100 * (before - price.accuracy):+.2f}"
        print(f"| {price.method} | {lost} | {price.nats_from_float:.2g} | {price.seconds:.1f} |")
    print(f"\nkept: {made.method}")


if __name__ == "__main__":
    main()
