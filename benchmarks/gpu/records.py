"""CIFAR-10 to 94 and 96 % in seconds on a GPU, by the package's own training loop.

    python benchmarks/bench.py records cifar10.npz --net fast --runs 10
    python benchmarks/bench.py records cifar10.npz --net strong --runs 3

For a GPU; with `--device cpu --pictures 2000` it only shows that it works. Trained on all training
pictures, validation part included; seconds are those of active training, after one epoch whose time
does not count. Every run is judged on the test part: records are stated so, and no choice is made
by it here. What is reached is a mean of all runs.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from benchmarks.common import RUNS, parser
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.tensors import load_labelled
from lepton_automl.models.arch import Arch, chain
from lepton_automl.models.layers import Layer
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.max_pool import MaxPool
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.stem import Stem
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.loop import fit, initial_model
from lepton_automl.training.recipe import Recipe


@dataclass(frozen=True)
class Record:
    """A net, its recipe, and what is to be reached."""

    layers: tuple[Layer, ...]
    recipe: Recipe
    accuracy: float
    seconds: float

    @property
    def arch(self) -> Arch:
        """For 32x32 colour pictures of ten classes."""
        return chain((32, 32, 3), list(self.layers), 10)


MUON = Recipe(
    optimizer="muon",
    lr=0.04,
    weight_decay=0.05,
    batch_size=512,
    label_smoothing=0.2,
    augment=0.5,
    augment_kind="crop",
    flip=True,
    plain_finish=0.0,
    epochs=9,
)
RECORDS: Mapping[str, Record] = {
    "fast": Record(
        (
            *(Stem(out=64), Conv(out=128), MaxPool(), Conv(out=256), Conv(out=256), MaxPool()),
            *(Conv(out=256), Conv(out=256), MaxPool(), Head()),
        ),
        MUON,
        0.94,
        10.0,
    ),
    "strong": Record(
        (
            *(Stem(out=64), Conv(out=128), Residual(out=128), MaxPool()),
            *(Conv(out=384), Residual(out=384), MaxPool()),
            *(Conv(out=512), Residual(out=512), MaxPool(), Head()),
        ),
        dataclasses.replace(MUON, cutout=0.375, epochs=36),
        0.96,
        60.0,
    ),
}
"""After Jordan 2024 (arXiv:2404.00498); whole layers instead of its frozen whitening."""


def parts(path: str, pictures: int | None) -> tuple[LabelledTensors, LabelledTensors]:
    """Everything but the test part, and the test part."""
    data, cache = open_dataset(path), RUNS / "cache"
    train, validation, test = (
        load_labelled(data.decoded_files(part, (32, 32), cache))
        for part in ("train", "validation", "test")
    )
    pixels = torch.cat([train.pixels, validation.pixels])[:pictures]
    return LabelledTensors(pixels, torch.cat([train.labels, validation.labels])[:pictures]), test


def main(arguments: list[str]) -> None:
    """A line a run, then the means."""
    options = parser(__doc__, "records")
    options.add_argument("data")
    options.add_argument("--net", choices=RECORDS, default="fast")
    options.add_argument("--runs", type=int, default=10)
    options.add_argument("--epochs", type=int)
    options.add_argument("--pictures", type=int, help="of the training pictures, so many")
    options.add_argument("--device", default="cuda")
    given = options.parse_args(arguments)
    record, device = RECORDS[given.net], torch.device(given.device)
    train, test = parts(given.data, given.pictures)
    epochs = given.epochs or record.recipe.epochs
    preprocessing = open_dataset(given.data).preprocessing((32, 32))
    few = LabelledTensors(train.pixels[: 4 * record.recipe.batch_size], train.labels[: 4 * 512])
    fit(
        initial_model(record.arch, preprocessing, 0),
        few,
        record.recipe,
        epochs=1,
        seed=0,
        device=device,
    )
    reached, took = [], []
    for seed in range(given.runs):
        begun = time.perf_counter()
        start = initial_model(record.arch, preprocessing, seed)
        model = fit(start, train, record.recipe, epochs=epochs, seed=seed, device=device)
        took.append(time.perf_counter() - begun)
        reached.append(float(is_correct(model, test, device=device).mean()))
        print(f"seed {seed}: {reached[-1]:.2%} in {took[-1]:.2f} s", flush=True)
    error = statistics.stdev(reached) / len(reached) ** 0.5 if len(reached) > 1 else float("nan")
    print(
        f"{given.net}, {record.arch.graph.macs / 1e6:.0f} M multiply-accumulates, {epochs} epochs: "
        f"{statistics.mean(reached):.2%} ± {error:.2%} in {statistics.mean(took):.2f} s "
        f"(mean of {given.runs}; wanted: {record.accuracy:.0%} in {record.seconds:.0f} s)"
    )
