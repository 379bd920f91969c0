"""What torch.compile gains in training on a CPU, and how long the compilation takes.

    python benchmarks/compiled.py --net half --rounds 7

One thread, batch 64, random pictures, an epoch of 2,048 pictures as it is and compiled in turns. A
C++ compiler is needed; remove torch's cache of compiled code to see the whole of its time.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from packing import KNOWN, arch_of
from training import CPU, SEEN, noise

from lepton_automl.models.network import build_network
from lepton_automl.training.loop import train_loop
from lepton_automl.training.recipe import Recipe

PICTURES = 2048


def main() -> None:
    """Print seconds of compilation and the ratio of speeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", choices=[*KNOWN, "resnet8"], default="resnet8")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    arch, recipe = arch_of(given.net), Recipe(batch_size=64)
    data, networks = noise(arch, PICTURES), [build_network(arch), build_network(arch)]
    compiled = torch.compile(networks[1], dynamic=False)
    forwards = [networks[0], lambda x: compiled(x)]

    def seconds(which: int) -> float:
        start = time.perf_counter()
        more = {"epochs": 1, "seed": 0, "device": CPU, "forward": forwards[which]}
        train_loop(networks[which], data, SEEN, recipe, **more)
        return time.perf_counter() - start

    seconds(0)
    first = seconds(1)
    ratios = [seconds(0) / seconds(1) for _ in range(given.rounds)]
    middle = statistics.median(ratios)
    print(f"{given.net}: compiled in {first:.0f} s, then {middle:.2f} times as fast", end=" ")
    print(f"[{min(ratios):.2f}, {max(ratios):.2f}]")


if __name__ == "__main__":
    main()
