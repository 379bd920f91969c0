"""A net that knows another share of each part's labels, so that every accuracy names its part.

The pictures are not square, classes are in no order, groups are of unequal sizes, and no two parts
have as many samples.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from lepton_automl.config import Limits, RunConfig
from lepton_automl.core import files
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.model import Model
from lepton_automl.training.evaluate import predict_logits
from lepton_automl.training.recipe import Recipe
from tests.helpers.nets import random_model, random_pixels
from tests.helpers.runs import SPACE

NAMES = ("zebra", "ant", "mule")
SIZE = (9, 6)
SHARES = {"train": 0.95, "val": 0.75, "test": 0.6}
"""Share of the labels of a part that are the net's answers."""
COUNTS = {"train": 240, "val": 120, "test": 150}


def net() -> Model:
    """A net for grey pictures whose answers are spread over its three classes."""
    model = random_model(chain((*SIZE, 1), [Stem(16), Conv(24), Conv(16), Head()], 3), 1)
    logits = predict_logits(model, random_pixels(model.arch, 300, 9))
    bias = model.weights["3/logits.bias"] - logits.median(0).values
    return dataclasses.replace(model, weights={**model.weights, "3/logits.bias": bias})


def part(model: Model, name: str, seed: int) -> dict[str, np.ndarray]:
    """Pictures, labels and groups of a part; one label in so many is another than the answer."""
    count, share = COUNTS[name], SHARES[name]
    pixels = random_pixels(model.arch, count, seed)
    answers = predict_logits(model, pixels).argmax(1)
    is_wrong = torch.randperm(count, generator=torch.Generator().manual_seed(seed)) >= round(
        share * count
    )
    labels = torch.where(is_wrong, (answers + 1) % len(NAMES), answers)
    # Groups of 1, 2, 3 ... samples that are all right or all wrong.
    order = torch.argsort(is_wrong.int(), stable=True)
    sizes = np.repeat(np.arange(count), np.arange(count) + 1)[:count]
    groups = np.empty(count, np.int64)
    groups[order] = 2 * sizes + is_wrong[order].numpy()
    return {
        f"x_{name}": pixels[..., 0].numpy(),
        f"y_{name}": labels.numpy(),
        f"group_{name}": np.array([f"{name} {group}" for group in groups]),
    }


def arrays(model: Model, **changed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All three parts; `changed` ones instead of those of seeds 1, 2 and 3."""
    parts = {name: part(model, name, seed) for seed, name in enumerate(COUNTS, start=1)} | changed
    return {key: array for each in parts.values() for key, array in each.items()}


def write(folder: Path, model: Model, data: dict[str, np.ndarray]) -> tuple[Path, str]:
    """The net in a folder, and its data beside it."""
    model.save(folder / "net")
    recipe = Recipe(batch_size=32, epochs=2, lr=0.002, augment=0.0)
    files.write(folder / "net" / "recipe.json", recipe.to_json())
    np.savez(folder / "data.npz", **data, class_names=np.array(NAMES))
    return folder / "net", str(folder / "data.npz")


def config(folder: Path, data: str, **more) -> RunConfig:
    """Two trials' worth of recovery; every drop is allowed, so that accuracy decides nothing."""
    (folder / "quick.toml").write_text(SPACE)
    settings = {
        "space": str(folder / "quick.toml"),
        "objectives": ("accuracy", "size_bytes"),
        "limits": Limits(max_drop=100.0),
        "temperature": "off",  # It is fitted on the validation part.
        "trials": 1,
        "jobs": 1,
    }
    return RunConfig(data, folder / "run", **(settings | more))
