"""Speed of the training loop: against a textbook loop, part by part, and in several processes.

    python benchmarks/bench.py training loop
    python benchmarks/bench.py training step --net resnet8 --optimizer muon --rounds 60
    python benchmarks/bench.py training processes --processes 1 2
    python benchmarks/bench.py training processes --device cuda --net quick --processes 1 2 4 8

loop: pictures a second of our loop (batch 64) and of a textbook one (DataLoader, channels first,
AdamW, batch 128), one thread, random pictures, in turns. step: milliseconds of each part of a step,
and a floor: three passes of multiply-accumulates at the speed of a 512x512 product, or every value
written once, read once forwards and twice backwards. processes: several trainings at once, each a
process with one thread, against one alone, in the same rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import IO

import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import (
    BENCH,
    CENTRED,
    CPU,
    NETS,
    net,
    noise,
    parser,
    print_table,
    spread,
    textbook_nets,
)
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.arch import Arch
from lepton_automl.models.graph import Conv
from lepton_automl.models.network import build_network
from lepton_automl.search.workers.launch import MALLOC_SETTINGS
from lepton_automl.training.loader import Loader
from lepton_automl.training.loop import initial_model, train_loop
from lepton_automl.training.loss import Loss
from lepton_automl.training.optim import Optimizer
from lepton_automl.training.precision import autocast, matmul_dtype
from lepton_automl.training.recipe import Recipe

BATCH, PICTURES, ENDLESS = 64, 1024, 1000
PASSES = 3
"""Forwards, backwards to the inputs, backwards to the weights: as many operations each."""
WRITTEN_AND_READ = 2 + 3
"""Forwards written and read; backwards the value and its gradient read, a gradient written."""
SHOWN = 8
"""Operations of torch that `step` lists."""


def our_epoch(arch: Arch, data: LabelledTensors, recipe: Recipe) -> Callable[[], object]:
    """One epoch of the package's training loop."""
    network = build_network(arch)
    return lambda: train_loop(network, data, CENTRED, recipe, epochs=1, seed=0, device=CPU)


def textbook_epoch(arch: Arch, data: LabelledTensors, batch_size: int) -> Callable[[], object]:
    """One epoch with a DataLoader, a random shift of each picture, channels first and AdamW."""
    network = build_network(arch)
    optimizer = torch.optim.AdamW(network.parameters())
    x = CENTRED.apply(data.pixels).contiguous()

    class Shifted(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
            down, right = torch.randint(-1, 2, (2,)).tolist()
            return x[n].roll((down, right), (1, 2)), data.labels[n]

    loader = torch.utils.data.DataLoader(Shifted(), batch_size=batch_size, shuffle=True)

    def epoch() -> None:
        network.train()
        for pictures, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(network(pictures), labels).backward()
            optimizer.step()

    return epoch


def loop(given: argparse.Namespace) -> None:
    """Pictures a second, epochs in turns; the first round warms up."""
    rows = []
    for name, arch in textbook_nets().items():
        data = noise(arch, given.samples)
        epochs = {
            "ours": our_epoch(arch, data, Recipe(batch_size=64)),
            "plain": our_epoch(arch, data, Recipe(batch_size=64, augment=0.0)),
            "textbook": textbook_epoch(arch, data, 128),
        }
        taken: dict[str, list[float]] = {kind: [] for kind in epochs}
        for number in range(given.rounds + 1):
            for kind, epoch in epochs.items():
                start = time.perf_counter()
                epoch()
                if number:
                    taken[kind].append(time.perf_counter() - start)
        rate = {kind: f"{given.samples / statistics.median(t):.0f}" for kind, t in taken.items()}
        ratios = [t / o for o, t in zip(taken["ours"], taken["textbook"], strict=True)]
        rows.append((name, f"{arch.graph.macs / 1e6:.2f}", *rate.values(), spread(ratios)))
    head = ("net", "M MACs", "ours/s", "ours without augmentation/s", "textbook/s", "ratio")
    print_table(head, rows)


class Step:
    """The parts of one training step, each a method.

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
        self.batches = Loader(data, CENTRED, recipe, 1, 0, CPU)
        self.optimizer = Optimizer(self.network.parameters(), recipe, BATCH)
        self.loss_of, self.number = Loss(recipe, None, 0.0, 1.0, None), 0
        self.parts = {
            "batch": self.load,
            "forward": self.forward,
            "backward": self.backward,
            "optimizer": self.update,
        }

    def load(self) -> None:
        """The next batch; augmentation works on a chunk of batches at a time."""
        self.batch = self.batches.batch(self.number)
        self.number += 1

    def forward(self) -> None:
        """Logits and their loss."""
        with autocast(CPU):
            self.loss = self.loss_of(self.network(self.batch.x), self.batch)

    def backward(self) -> None:
        """Gradients."""
        torch.autograd.backward(self.loss)

    def update(self) -> None:
        """The optimizer's step."""
        self.optimizer.step(1e-3)


def best_seconds(work: Callable[[], object], repeats: int = 50) -> float:
    """The fastest of many calls."""
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def floors(arch: Arch) -> dict[str, float]:
    """Seconds a step that multiply-accumulates alone, and that memory alone would take."""
    square = torch.ones(512, 512, dtype=matmul_dtype(CPU))
    product = best_seconds(lambda: square @ square) / 512**3
    sizes = [op.y.size for op in arch.graph.ops]
    # Batch normalisation keeps its input and its output.
    sizes += [op.y.size for op in arch.graph.ops if isinstance(op, Conv)]
    source = torch.ones(max(sizes) * BATCH, dtype=matmul_dtype(CPU))
    target = torch.empty_like(source)
    copied = best_seconds(lambda: target.copy_(source)) / (2 * source.numel())
    return {
        "multiply-accumulates": PASSES * arch.graph.macs * BATCH * product,
        "memory": WRITTEN_AND_READ * BATCH * sum(sizes) * copied,
    }


def operations(step: Step, rounds: int) -> list[tuple[str, float]]:
    """Torch's operations and their seconds a step, the most expensive ones first."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(rounds):
            for part in step.parts.values():
                part()
    own = [(e.key, e.self_cpu_time_total / 1e6 / rounds) for e in seen.key_averages()]
    return sorted(own, key=lambda pair: -pair[1])[:SHOWN]


def parts_of_a_step(given: argparse.Namespace) -> None:
    """Milliseconds of each part, then of each operation."""
    arch, warm = net(given.net), given.rounds // 10
    step = Step(arch, 2 * given.rounds, given.optimizer)
    taken: dict[str, list[float]] = {part: [] for part in step.parts}
    for number in range(given.rounds):
        for part, work in step.parts.items():
            start = time.perf_counter()
            work()
            if number >= warm:
                taken[part].append(time.perf_counter() - start)
    # The mean for what is done a chunk at a time, the median for what is the same in every step.
    typical = {part: statistics.median(times) for part, times in taken.items()}
    typical["batch"] = statistics.mean(taken["batch"])
    whole = sum(typical.values())
    rows = [*typical.items(), ("together", whole)]
    rows += [(f"floor: {part} alone", seconds) for part, seconds in floors(arch).items()]
    rows += [(f"`{name}`", s) for name, s in operations(step, given.rounds // 2)]
    print(f"{given.net}, {given.optimizer}, batch {BATCH}")
    print_table(
        ("part", "ms a step", "share"), [(p, f"{1e3 * s:.2f}", f"{s / whole:.0%}") for p, s in rows]
    )


class RoundOver(Exception):
    """The seconds of a round are over."""


def child(name: str, device: str) -> None:
    """Train for the seconds that a line of stdin states, print the number of pictures trained."""
    arch, recipe = net(name), Recipe(batch_size=BATCH)
    data, network = noise(arch, PICTURES), initial_model(arch, CENTRED, 0).network()
    place = torch.device(device)

    def train(seconds: float) -> int:
        until, batches = time.perf_counter() + seconds, 0

        def tick(done: int, total: int) -> None:
            nonlocal batches
            del done, total
            batches += 1
            if time.perf_counter() > until:
                raise RoundOver

        with contextlib.suppress(RoundOver):
            train_loop(
                network, data, CENTRED, recipe, epochs=ENDLESS, seed=0, device=place, on_batch=tick
            )
        return batches * BATCH

    train(2.0)
    print("ready", flush=True)
    for line in sys.stdin:
        print(train(float(line)), flush=True)


def started(name: str, device: str) -> subprocess.Popen[str]:
    """A child that has trained for two seconds."""
    command = [sys.executable, str(BENCH), "training", "child", "--net", name, "--device", device]
    pipe, environment = subprocess.PIPE, os.environ | MALLOC_SETTINGS  # As workers have it.
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
    _line(process.stdout)
    return process


def pictures_per_second(children: Sequence[subprocess.Popen[str]], seconds: float) -> float:
    """Of all children together."""
    for process in children:
        assert process.stdin is not None
        process.stdin.write(f"{seconds}\n")
        process.stdin.flush()
    return sum(int(_line(process.stdout)) for process in children) / seconds


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def processes(given: argparse.Namespace) -> None:
    """Pictures a second of several trainings at once, in the same rounds."""
    children = [started(given.net, given.device) for _ in range(max(given.processes))]
    found: dict[int, list[float]] = {count: [] for count in given.processes}
    for _ in range(given.rounds):
        for count in given.processes:
            found[count].append(pictures_per_second(children[:count], given.seconds))
    for process in children:
        process.kill()
        process.communicate()
    alone, rows = found[given.processes[0]], []
    for count, rates in found.items():
        ratios = [rate / one for rate, one in zip(rates, alone, strict=True)]
        rows.append((count, f"{statistics.median(rates):.0f}", spread(ratios)))
    print(f"{given.net}, {given.device}")
    print_table(("processes", "pictures/s", "times the first row [least, most]"), rows)


def main(arguments: list[str]) -> None:
    """Print one of the three tables."""
    options = parser(__doc__, "training")
    options.add_argument("measure", choices=["loop", "step", "processes", "child"])
    options.add_argument("--net", choices=NETS, default="resnet8")
    options.add_argument("--optimizer", choices=["sgd", "adamw", "muon"], default="sgd")
    options.add_argument("--device", default="cpu")
    options.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    options.add_argument("--samples", type=int, default=PICTURES, help="of an epoch of `loop`")
    options.add_argument("--seconds", type=float, default=5.0, help="of a round of `processes`")
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    if given.measure == "child":
        child(given.net, given.device)
    else:
        {"loop": loop, "step": parts_of_a_step, "processes": processes}[given.measure](given)
