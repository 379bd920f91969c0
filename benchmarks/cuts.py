"""What cuts really save when they are ranked by multiply-accumulates and by measured time.

    python benchmarks/cuts.py fashion=fashion_mnist.npz cifar10=cifar10.npz

Known-good nets are trained, then a share of their cost is cut away at the least loss of importance,
the cost being multiply-accumulates, or the time that each smaller size of each width alone was
measured to save. All int8 files are timed together. Harm is the summed importance of what was cut:
about the divergence of the answers before any recovery, in nats.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from ablations import Bench
from importances import USED
from int8 import TASKS
from torch import Tensor

from lepton_automl.compress.context import Work
from lepton_automl.compress.pruning.candidates import channel_steps, chosen
from lepton_automl.compress.pruning.importance import importance
from lepton_automl.compress.pruning.savings import Savings, savings
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.cost.latency import Stopwatch, Written
from lepton_automl.models.arch import Arch
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.training.loop import fit, initial_model

SHARES = (0.2, 0.4, 0.6, 0.8)


def timed(nets: Mapping[str, Written]) -> dict[str, float]:
    """Ratios to the reference net, in the same rounds."""
    found = Stopwatch().measure({name: net.file for name, net in nets.items()})
    return {name: latency.ratio for name, latency in found.items()}


def harm(scores: Mapping[str, Tensor], sizes: Mapping[str, int]) -> float:
    """Importance of the channels that go."""
    return sum(float(scores[k].sort().values[: len(scores[k]) - n].sum()) for k, n in sizes.items())


def main() -> None:
    """A table a net."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="*", help="NAME=PATH")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    places, target = dict(item.split("=", 1) for item in given.data), targets.load()
    for task in USED:
        data, setting = TASKS[task]
        if data not in places:
            continue
        bench = Bench.of(setting, places[data], given.cache)
        start = initial_model(bench.arch, bench.preprocessing, 0)
        model = fit(start, bench.train, bench.recipe, epochs=setting.epochs, seed=0)
        limits, steps = Limits(max_latency_ms=1.0), channel_steps(model.arch, target.channel_step)
        work = Work(
            *(bench.train, bench.validation, model, limits, target, bench.recipe), measure=timed
        )
        ways = {
            "multiply-accumulates": Savings(model.arch, 0.0, 1.0),
            "measured time": savings(model.arch, steps, work),
        }
        scores = importance(model, bench.train, 0)
        cuts = {
            (name, share): chosen(model.arch, scores, steps, share, saves)
            for name, saves in ways.items()
            for share in SHARES
        }
        nets: dict[str, Arch] = {str(k): model.arch.with_widths(v) for k, v in cuts.items()}
        nets["whole"] = model.arch
        times = timed(
            {k: Written(a, random_int8_onnx(a, target.weight_limit)) for k, a in nets.items()}
        )
        print(f"\n{task}: {', '.join(f'{w.name} {w.size}' for w in model.arch.graph.widths)}\n")
        print("| ranked by | share of it | time saved | multiply-accumulates saved | harm |")
        print("|---|---|---|---|---|")
        for (name, share), sizes in cuts.items():
            key = str((name, share))
            less, macs = 1 - times[key] / times["whole"], nets[key].graph.macs
            saved = 1 - macs / model.arch.graph.macs
            harmed = harm(scores, sizes)
            print(f"| {name} | {share:.0%} | {less:.1%} | {saved:.0%} | {harmed:.3f} |")


if __name__ == "__main__":
    main()
