"""Where the time of one training step goes, and what arithmetic and memory alone would take.

    python benchmarks/step.py --net resnet8 --rounds 200

One thread, batch 64, random pictures. The parts of a step are timed in turn, all in every round;
below them the operations of torch that take most of it. The floor is the larger of two times: three
passes of multiply-accumulates at the speed of a large matrix product, and every value that the net
makes written once and read once forwards and twice backwards, at the speed of a copy as large as
the net's largest value. Both speeds are measured in the same run.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile
from training import CPU, SEEN, nets, noise

from lepton_automl.models.arch import Arch
from lepton_automl.models.graph import Conv
from lepton_automl.models.network import build_network
from lepton_automl.training.loader import Loader
from lepton_automl.training.loss import Loss
from lepton_automl.training.optim import Optimizer
from lepton_automl.training.precision import PASSES, autocast, matmul_dtype, peak_macs_per_second
from lepton_automl.training.recipe import Recipe

BATCH = 64
NAMES = {"digits": 0, "28x28": 1, "resnet8": 2}
WRITTEN_AND_READ = 2 + 3
"""Forwards written and read; backwards the value and its gradient are read, a gradient written."""
SHOWN = 8


class Step:
    """The parts of a training step, each to be called in turn.

    Parameters
    ----------
    arch : Arch
        The net.
    rounds : int
        Steps at most.
    optimizer : str
        As a recipe names it.
    """

    def __init__(self, arch: Arch, rounds: int, optimizer: str) -> None:
        recipe = Recipe(optimizer=optimizer, batch_size=BATCH)
        data = noise(arch, BATCH * rounds)
        self.network = build_network(arch).train()
        self.batches = Loader(data, SEEN, recipe, 1, 0, CPU)
        self.optimizer = Optimizer(self.network.parameters(), recipe, BATCH)
        self.loss_of, self.number = Loss(recipe, None, 0.0, 1.0, None), 0

    def gather(self) -> None:
        """The next batch, changed at random a chunk of batches at a time."""
        self.batch = self.batches.batch(self.number)
        self.number += 1

    def forward(self) -> None:
        """Logits and their loss."""
        with autocast(CPU):
            self.loss = self.loss_of(self.network(self.batch.x), self.batch)

    def backward(self) -> None:
        """Gradients."""
        torch.autograd.backward(self.loss)

    def learn(self) -> None:
        """The optimizer's step."""
        self.optimizer.step(1e-3)

    @property
    def parts(self) -> dict[str, Callable[[], None]]:
        """By what the page calls them, in order."""
        return {
            "batch made": self.gather,
            "forwards": self.forward,
            "backwards": self.backward,
            "optimizer": self.learn,
        }

    def whole(self) -> None:
        """One step."""
        for part in self.parts.values():
            part()


def floors(arch: Arch) -> dict[str, float]:
    """Seconds of a step that arithmetic alone, and that memory alone would take."""
    each = torch.empty(0, dtype=matmul_dtype(CPU)).element_size()
    sizes = [op.y.size for op in arch.graph.ops]
    # Batch normalisation keeps what it is given and what it makes of it.
    sizes += [op.y.size for op in arch.graph.ops if isinstance(op, Conv)]
    moved = WRITTEN_AND_READ * each * BATCH * sum(sizes)
    largest = max(sizes) * BATCH
    return {
        "arithmetic": PASSES * arch.graph.macs * BATCH / peak_macs_per_second("cpu"),
        "memory": moved / copy_bytes_per_second(largest, each),
    }


def copy_bytes_per_second(count: int, each: int) -> float:
    """Read and written by a copy of `count` values of `each` bytes; the best of many."""
    source = torch.ones(count * each, dtype=torch.uint8)
    target, best = torch.empty_like(source), math.inf
    for _ in range(50):
        start = time.perf_counter()
        target.copy_(source)
        best = min(best, time.perf_counter() - start)
    return 2 * count * each / best


def operations(step: Step, rounds: int) -> list[tuple[str, float]]:
    """Torch's operations and the seconds of a step they take, the most expensive ones first."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(rounds):
            step.whole()
    own = [(e.key, e.self_cpu_time_total / 1e6 / rounds) for e in seen.key_averages()]
    return sorted(own, key=lambda pair: -pair[1])[:SHOWN]


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", choices=list(NAMES), default="resnet8")
    parser.add_argument("--optimizer", choices=["sgd", "adamw", "muon"], default="sgd")
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    name, arch = list(nets().items())[NAMES[given.net]]
    step = Step(arch, 2 * given.rounds, given.optimizer)
    taken: dict[str, list[float]] = {part: [] for part in step.parts}
    for number in range(given.rounds):
        for part, work in step.parts.items():
            start = time.perf_counter()
            work()
            if number >= given.rounds // 10:  # Before that it warms up.
                taken[part].append(time.perf_counter() - start)
    # The mean for what is done a chunk at a time, the median for what is the same in every step.
    typical = {p: statistics.median(t) for p, t in taken.items()}
    typical["batch made"] = statistics.mean(taken["batch made"])
    whole, floor = sum(typical.values()), floors(arch)
    mmacs = arch.graph.macs / 1e6
    print(f"{name}: {mmacs:.1f} M MACs, batch {BATCH}\n")
    print("| part | ms a step | share |\n|---|---|---|")
    for part, seconds in {**typical, "together": whole}.items():
        print(f"| {part} | {1e3 * seconds:.2f} | {seconds / whole:.0%} |")
    for part, seconds in floor.items():
        print(f"| floor: {part} alone | {1e3 * seconds:.2f} | {seconds / whole:.0%} |")
    print("\n| operation | ms a step | share |\n|---|---|---|")
    for operation, seconds in operations(step, given.rounds // 2):
        print(f"| `{operation}` | {1e3 * seconds:.2f} | {seconds / whole:.0%} |")


if __name__ == "__main__":
    main()
