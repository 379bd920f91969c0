"""Samples a second: our training loop against a plain one, and the peak, on one thread.

Command: python benchmarks/training.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.arch import Arch, chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.model import Preprocessing
from lepton_automl.models.network import build_network
from lepton_automl.training import loop
from lepton_automl.training.recipe import Recipe

SEEN = Preprocessing(zero_point=128, scale=0.0135)
CPU = torch.device("cpu")


def nets() -> dict[str, Arch]:
    """A digits-size net, a 28x28 net and a ResNet-8."""
    small = [Stem(out=16), Conv(out=32, stride=2), Conv(out=32), Head()]
    middle = [Stem(out=16, stride=2), Conv(out=32), Conv(out=32, stride=2), Conv(out=48), Head()]
    resnet = [Stem(out=16), Residual(out=16), Residual(out=32, stride=2)]
    resnet += [Residual(out=64, stride=2), Head()]
    return {
        "digits-size, 8x8x1": chain((8, 8, 1), small, 10),
        "28x28x1, 16-48 channels": chain((28, 28, 1), middle, 10),
        "ResNet-8, 32x32x3": chain((32, 32, 3), resnet, 10),
    }


def noise(arch: Arch, samples: int) -> LabelledTensors:
    """Random pictures with random labels."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (samples, *arch.input), dtype=np.uint8)
    return LabelledTensors(torch.from_numpy(pixels), torch.from_numpy(rng.integers(0, 10, samples)))


def ours(arch: Arch, data: LabelledTensors, recipe: Recipe) -> Callable[[], object]:
    """One epoch of `train.train_loop`."""
    network = build_network(arch)
    return lambda: loop.train_loop(network, data, SEEN, recipe, epochs=1, seed=0, device=CPU)


def plain(arch: Arch, data: LabelledTensors, recipe: Recipe) -> Callable[[], object]:
    """One epoch as in textbooks: DataLoader, per-sample shift, channels first, AdamW."""
    network = build_network(arch)
    optimizer = torch.optim.AdamW(network.parameters())
    x = SEEN.apply(data.pixels).contiguous()

    class Shifted(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
            down, right = torch.randint(-1, 2, (2,)).tolist()
            return x[n].roll((down, right), (1, 2)), data.labels[n]

    loader = torch.utils.data.DataLoader(Shifted(), batch_size=recipe.batch_size, shuffle=True)

    def epoch() -> None:
        network.train()
        for pictures, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(network(pictures), labels).backward()
            optimizer.step()

    return epoch


def product() -> None:
    """20 matrix products of 512."""
    square = torch.ones(512, 512)
    for _ in range(20):
        square @ square


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=1024)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("command: python benchmarks/training.py (one thread, medians of interleaved rounds)\n")
    heads = ("MMACs", 7), ("ours/s", 9), ("no changes/s", 14), ("plain/s", 9), ("ratio", 7)
    print(f"{'net':26}" + "".join(f"{head:>{n}}" for head, n in (*heads, ("of peak", 9))))
    for name, arch in nets().items():
        data = noise(arch, options.samples)
        epochs = {
            "ours": ours(arch, data, Recipe(batch_size=64)),
            "still": ours(arch, data, Recipe(batch_size=64, augment=0.0)),
            "plain": plain(arch, data, Recipe(batch_size=128)),
            "peak": product,
        }
        taken: dict[str, list[float]] = {kind: [] for kind in epochs}
        for number in range(options.rounds + 1):
            for kind, epoch in epochs.items():
                start = time.perf_counter()
                epoch()
                if number:  # the first round warms up
                    taken[kind].append(time.perf_counter() - start)
        rate = {kind: options.samples / statistics.median(times) for kind, times in taken.items()}
        ratio = statistics.median(p / o for o, p in zip(taken["ours"], taken["plain"], strict=True))
        # Backwards is twice the work of forwards.
        share = 3 * arch.graph.macs * rate["ours"] * min(taken["peak"]) / (20 * 512**3)
        print(
            f"{name:26}{arch.graph.macs / 1e6:7.2f}{rate['ours']:9.0f}{rate['still']:14.0f}"
            f"{rate['plain']:9.0f}{ratio:7.2f}{share:9.0%}"
        )


if __name__ == "__main__":
    main()
