"""How much more several trainings at once get done than one: workers on cores, or on one GPU.

    python benchmarks/packing.py --processes 1 2
    python benchmarks/packing.py --device cuda --net quick --processes 1 2 4 8 16 32

Each process trains a net of its own on random pictures, one thread, batch 64. They are started once
and take turns in the same rounds: one of them alone, then two at the same time, and so on. Given is
how many pictures all together learn a second against one alone (median of rounds, least, most);
candidates an hour are in the same ratio.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO

import torch
from training import SEEN, nets, noise

from lepton_automl.cost import targets
from lepton_automl.models.arch import Arch
from lepton_automl.search.space import loader
from lepton_automl.search.space.draw import RandomTrial
from lepton_automl.search.workers.launch import KEEPS_MEMORY
from lepton_automl.training.loop import initial_model, train_loop
from lepton_automl.training.recipe import Recipe

BATCH, PICTURES, ENDLESS = 64, 1024, 1000
KNOWN = {"quick": ("tiny", (28, 28), 1), "half": ("residual", (32, 32), 3)}
"""Candidates of spaces; `resnet8` is the one of `training.py`."""


class Enough(Exception):
    """The seconds of a round are over."""


def arch_of(name: str) -> Arch:
    """The net that is trained."""
    if name not in KNOWN:
        return list(nets().values())[-1]
    found, size, channels = KNOWN[name]
    known = loader.load(found).with_fixed("flip", value=False)
    draw = RandomTrial(0, known.candidates[known.candidate_names.index(name)])
    target = targets.load()
    arch, _ = known.sample(draw, size=size, channels=channels, classes=10, target=target)
    return arch


def child(net: str, device: str) -> None:
    """Train for as many seconds as a line of stdin says, answer with the pictures learnt."""
    torch.set_num_threads(1)
    arch, recipe = arch_of(net), Recipe(batch_size=BATCH)
    data, network = noise(arch, PICTURES), initial_model(arch, SEEN, 0).network()

    def learn(seconds: float) -> int:
        until, batches = time.perf_counter() + seconds, [0]

        def tick(done: int, total: int) -> None:
            del done, total
            batches[0] += 1
            if time.perf_counter() > until:
                raise Enough

        try:
            place = torch.device(device)
            train_loop(
                network, data, SEEN, recipe, epochs=ENDLESS, seed=0, device=place, on_batch=tick
            )
        except Enough:
            pass
        return batches[0] * BATCH

    learn(2.0)
    print("ready", flush=True)
    for line in sys.stdin:
        print(learn(float(line)), flush=True)


def started(net: str, device: str) -> subprocess.Popen[str]:
    """A child that has trained once."""
    command = [sys.executable, __file__, "--net", net, "--device", device, "--child"]
    pipe = subprocess.PIPE
    more = {"env": os.environ | KEEPS_MEMORY}  # As workers have it.
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, **more)
    _line(process.stdout)
    return process


def together(children: Sequence[subprocess.Popen[str]], seconds: float) -> float:
    """Pictures a second of all."""
    for process in children:
        assert process.stdin is not None
        process.stdin.write(f"{seconds}\n")
        process.stdin.flush()
    return sum(int(_line(process.stdout)) for process in children) / seconds


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", choices=[*KNOWN, "resnet8"], default="resnet8")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.net, given.device)
        return
    children = [started(given.net, given.device) for _ in range(max(given.processes))]
    found: dict[int, list[float]] = {count: [] for count in given.processes}
    for _ in range(given.rounds):
        for count in given.processes:
            found[count].append(together(children[:count], given.seconds))
    for process in children:
        process.kill()
    alone = found[given.processes[0]]
    print(f"{given.net}, {given.device}\n\n| processes | pictures/s | times one |\n|---|---|---|")
    for count, rates in found.items():
        ratios = [rate / one for rate, one in zip(rates, alone, strict=True)]
        spread = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
        print(f"| {count} | {statistics.median(rates):.0f} | {spread} |")


if __name__ == "__main__":
    main()
