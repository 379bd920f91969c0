"""Ways to train on classes of unequal size, judged by balanced accuracy on validation data only.

    python benchmarks/balancing.py fashion_mnist.npz --ratios 10 100 --seeds 3

Of each class fewer are kept than of the one before, evenly in the logarithm, so that the last has
one for every 10 or 100 of the first (Cui et al. 2019, arXiv:1901.05555, section 5.1). One thread.
All ways see equally many pictures. Prints a table of points against training as it is, mean over
seeds (and the standard error of that mean); another seed makes other classes rare.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from lepton_automl.cost import targets
from lepton_automl.data.dataset import LabelledTensors, load_labelled, open_dataset
from lepton_automl.metrics import balanced
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model, Preprocessing
from lepton_automl.search.space import loader
from lepton_automl.search.space.draw import RandomTrial
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.loop import Diverged, fit, initial_model
from lepton_automl.training.recipe import Recipe

LARGEST, EPOCHS = 600, 18
"""Pictures of the commonest class; passes over all."""


def as_it_is(data: LabelledTensors, seed: int) -> tuple[LabelledTensors, int]:
    """Every picture counts alike."""
    del seed
    return data, EPOCHS


def weighted(data: LabelledTensors, seed: int) -> tuple[LabelledTensors, int]:
    """Each picture's loss counts by what its class lacks."""
    del seed
    return dataclasses.replace(data, is_balanced=True), EPOCHS


def drawn(data: LabelledTensors, seed: int, power: float = 0.0) -> tuple[LabelledTensors, int]:
    """Pictures of rare classes come more often; with `power` 0 all classes equally often."""
    draws = torch.Generator().manual_seed(seed)
    counts = torch.bincount(data.labels)
    shares = counts.double() ** power / (counts.double() ** power).sum()
    index = []
    for label, share in enumerate(shares.tolist()):
        own = torch.nonzero(data.labels == label)[:, 0]
        wanted = round(EPOCHS * len(data) * share)
        times = math.ceil(wanted / len(own))
        passes = [own[torch.randperm(len(own), generator=draws)] for _ in range(times)]
        index.append(torch.cat(passes)[:wanted])
    every = torch.cat(index)
    return dataclasses.replace(data, pixels=data.pixels[every], labels=data.labels[every]), 1


WAYS: Mapping[str, Callable[[LabelledTensors, int], tuple[LabelledTensors, int]]] = {
    "as it is": as_it_is,
    "weighted loss": weighted,
    "drawn alike": drawn,
    "drawn half-way": lambda data, seed: drawn(data, seed, 0.5),
}


def thinned(data: LabelledTensors, ratio: float, seed: int) -> LabelledTensors:
    """The same classes, each smaller than the one before."""
    classes = int(data.labels.max()) + 1
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed)).tolist()
    index = []
    for place, label in enumerate(order):
        count = max(1, round(LARGEST * ratio ** (-place / (classes - 1))))
        index.append(torch.nonzero(data.labels == label)[:count, 0])
    every = torch.cat(index)
    return dataclasses.replace(data, pixels=data.pixels[every], labels=data.labels[every])


def reached(
    arch: Arch, recipe: Recipe, about: Preprocessing, data: LabelledTensors, epochs: int, seed: int
) -> Model | None:
    """Trained from nothing; None where the loss left the finite numbers."""
    try:
        return fit(initial_model(arch, about, seed), data, recipe, epochs=epochs, seed=seed)
    except Diverged:
        return None


def judged(model: Model | None, data: LabelledTensors) -> float:
    """Balanced accuracy, per cent."""
    if model is None:
        return 0.0
    return 100 * balanced.balanced_mean(is_correct(model, data), data.labels.numpy())


def row(found: Mapping[str, list[float]]) -> list[str]:
    """The first way as it is, the others against it."""
    base, *others = found.values()
    cells = [f"{statistics.mean(base):.2f} %"]
    for values in others:
        gains = [a - b for a, b in zip(values, base, strict=True)]
        error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
        cells.append(f"{statistics.mean(gains):+.2f} ± {error:.2f}")
    return cells


def main() -> None:
    """Train every way, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--ratios", type=float, nargs="*", default=[10.0, 100.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--space", default="tiny")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data, known = open_dataset(given.data), loader.load(given.space).with_fixed("flip", value=False)
    arch, recipe = known.sample(
        RandomTrial(0, known.candidates[0]),
        size=data.size,
        channels=data.channels,
        classes=len(data.class_names),
        target=targets.load(),
    )
    size, about = arch.input[:2], data.preprocessing(arch.input[:2])
    with tempfile.TemporaryDirectory() as cache:
        parts = [data.decoded_files(part, size, Path(cache)) for part in ("train", "validation")]
        train, validation = map(load_labelled, parts)
    print("| ratio | " + " | ".join(WAYS) + " | s |\n|---|" + "---|" * (len(WAYS) + 1))
    for ratio in given.ratios:
        begun, found = time.perf_counter(), {name: list[float]() for name in WAYS}
        for seed in range(given.seeds):
            few = thinned(train, ratio, seed)
            for name, way in WAYS.items():
                model = reached(arch, recipe, about, *way(few, seed), seed)
                found[name].append(judged(model, validation))
        seconds = time.perf_counter() - begun
        print(f"| {ratio:g} | {' | '.join(row(found))} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
