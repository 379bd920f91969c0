"""Trains every point of a sub-space at all rungs and writes down what came of it, in shards.

Command: python benchmarks/scheduler/record.py tiny fashion_mnist.npz
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lepton_automl.core import files
from lepton_automl.cost import targets
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.arch import Arch
from lepton_automl.models.quantization import Preprocessing
from lepton_automl.search.rungs import cycles
from lepton_automl.search.seeds import seed_of
from lepton_automl.search.space import draw, loader
from lepton_automl.search.space.search_space import SearchSpace
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.loop import Diverged, fit, initial_model
from lepton_automl.training.recipe import Recipe

HERE = Path(__file__).parent
TRAINING, VALIDATION = 6000, 6000
"""Pictures of the subset, all from the file's training part."""
SIDES = {"tiny": 28, "residual": 14}
EPOCHS = 9
SHARD = 32
ORDER_SEED = 20
"""Points are trained in one shuffled order, so that a part of a table is a random sample."""


def points(name: str) -> list[dict[str, Any]]:
    """All points of a sub-space, in the order they are trained."""
    parameters = loaded(name).parameters()
    found = [
        dict(zip(parameters, values, strict=True))
        for values in itertools.product(*(parameter.values for parameter in parameters.values()))
    ]
    random.Random(ORDER_SEED).shuffle(found)
    return found


@functools.cache
def loaded(name: str) -> SearchSpace:
    """The sub-space of a table."""
    return loader.load(HERE / f"{name}.toml")


def net_of(name: str, point: dict[str, Any]) -> tuple[Arch, Recipe]:
    """Architecture and recipe of a point."""
    side = SIDES[name]
    return loaded(name).sample(
        draw.RandomTrial(0, point),
        size=(side, side),
        channels=1,
        classes=10,
        target=targets.load(),
    )


def subset(path: Path, side: int) -> tuple[LabelledTensors, LabelledTensors]:
    """Training and validation pictures, fixed; 14x14 ones are means of two by two pixels."""
    with np.load(path) as file:
        pictures, labels = file["x_train"], file["y_train"]
    drawn = np.random.default_rng(ORDER_SEED).permutation(len(labels))[: TRAINING + VALIDATION]
    pictures, labels = pictures[drawn], labels[drawn].astype(np.int64)
    if side < pictures.shape[1]:
        step = pictures.shape[1] // side
        grouped = pictures.reshape(-1, side, step, side, step).astype(np.float32)
        pictures = np.rint(grouped.mean((2, 4))).astype(np.uint8)
    pixels = torch.from_numpy(pictures[..., None])
    parts = [slice(0, TRAINING), slice(TRAINING, None)]
    train, validation = (LabelledTensors(pixels[p], torch.from_numpy(labels[p])) for p in parts)
    return train, validation


def trained(
    name: str, number: int, point: dict[str, Any], data: tuple[LabelledTensors, LabelledTensors]
) -> Any:
    """Correct validation samples and seconds at every rung, as the search trains them."""
    train, validation = data
    pixels = train.pixels.float()
    preprocessing = Preprocessing(round(float(pixels.mean())), 1 / float(pixels.std()))
    arch, recipe = net_of(name, point)
    model = initial_model(arch, preprocessing, seed_of(name, number, "weights"))
    correct, seconds = [], []
    for rung, epochs in enumerate(cycles(EPOCHS, TRAINING)):
        begun = time.perf_counter()
        try:
            model = fit(model, train, recipe, epochs=epochs, seed=seed_of(name, number, rung))
        except Diverged:
            break
        seconds.append(round(time.perf_counter() - begun, 2))
        correct.append(int(is_correct(model, validation).sum()))
    correct += [0] * (3 - len(correct))
    return {"number": number, "correct": correct, "seconds": seconds}


def record(name: str, data: tuple[LabelledTensors, LabelledTensors]) -> None:
    """Train what is missing; a shard is written whole after every point."""
    everything = points(name)
    for first in range(0, len(everything), SHARD):
        path = HERE / "tables" / f"{name}-{first // SHARD:02d}.json"
        path.parent.mkdir(exist_ok=True)
        rows = json.loads(path.read_text()) if path.exists() else []
        known = {row["number"] for row in rows}
        for number in range(first, min(first + SHARD, len(everything))):
            if number not in known:
                rows.append(trained(name, number, everything[number], data))
                text = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
                files.write(path, f"[\n{text}\n]\n")


def main() -> None:
    """Record one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(SIDES))
    parser.add_argument("data", type=Path, help=".npz with x_train and y_train, 28x28")
    given = parser.parse_args()
    torch.set_num_threads(1)
    record(given.name, subset(given.data, SIDES[given.name]))


if __name__ == "__main__":
    main()
