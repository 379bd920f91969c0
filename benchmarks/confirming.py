"""A last training from nothing against going on from the search's last rung, for the same epochs.

    python benchmarks/confirming.py fashion_mnist.npz --samples 3000 --epochs 18 --seeds 3

Takes a known-good candidate of the space `tiny` through the rungs of `--epochs` epochs, then on for
some times as many, and trains a fresh net for as many alone; accuracy on other training pictures,
because a rule of the search is chosen by it.
"""

from __future__ import annotations

import argparse

import numpy as np
import optuna
import torch

from lepton_automl.cost import targets
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Preprocessing
from lepton_automl.search.rungs import cycles
from lepton_automl.search.space import loader
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.loop import fit, initial_model
from lepton_automl.training.recipe import Recipe

TIMES = (0.5, 1.0, 2.0, 3.0)
"""Last trainings, as multiples of the search's epochs."""
JUDGED = 10_000
"""Pictures that accuracies are taken on."""


def main() -> None:
    """Print a row a seed and length, and the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--name", default="small", help="of a known-good candidate")
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=18, help="of the search's last rung")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, others = parts(given.data, given.samples)
    arch, recipe = known(given.name, train)
    print(f"{recipe.epochs} epochs asked for by the recipe, {given.epochs} by the search\n")
    print("| times the search's epochs | going on | from nothing | from nothing, more by |")
    print("|---|---|---|---|")
    found = np.array(
        [one(arch, recipe, train, others, given.epochs, seed) for seed in range(given.seeds)]
    )
    for times, (on, anew) in zip(TIMES, 100 * found.mean(0), strict=True):
        print(f"| {times:g} | {on:.2f} % | {anew:.2f} % | {anew - on:+.2f} points |", flush=True)


def one(
    arch: Arch,
    recipe: Recipe,
    train: LabelledTensors,
    others: LabelledTensors,
    epochs: int,
    seed: int,
) -> list[tuple[float, float]]:
    """Accuracies (going on, from nothing) for every length."""
    scaled = Preprocessing(0, 1 / 255)
    model = initial_model(arch, scaled, seed)
    for rung, count in enumerate(cycles(epochs, len(train))):
        model = fit(model, train, recipe, epochs=count, seed=100 * seed + rung)
    rows = []
    for times in TIMES:
        more = max(1, round(times * epochs))
        on = fit(model, train, recipe, epochs=more, seed=100 * seed + 50)
        anew = fit(
            initial_model(arch, scaled, seed + 1000),
            train,
            recipe,
            epochs=more,
            seed=100 * seed + 60,
        )
        rows.append(
            (
                float(is_correct(on, others).mean()),
                float(is_correct(anew, others).mean()),
            )
        )
    return rows


def known(name: str, data: LabelledTensors) -> tuple[Arch, Recipe]:
    """A known-good candidate of `tiny` for these pictures."""
    tiny = loader.load("tiny")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    study.enqueue_trial(dict(tiny.candidates[tiny.candidate_names.index(name)]))
    height, width, channels = data.pixels.shape[1:]
    return tiny.sample(
        study.ask(),
        size=(height, width),
        channels=channels,
        classes=int(data.labels.max()) + 1,
        target=targets.load(),
    )


def parts(path: str, samples: int) -> tuple[LabelledTensors, LabelledTensors]:
    """A fixed choice of training pictures, and `JUDGED` others of the same part."""
    with np.load(path) as file:
        order = np.random.default_rng(0).permutation(len(file["x_train"]))[: samples + JUDGED]
        x, y = (torch.from_numpy(file[name][order]) for name in ("x_train", "y_train"))
    if x.ndim == 3:
        x = x[..., None]
    y = y.long()
    return LabelledTensors(x[:samples], y[:samples]), LabelledTensors(x[samples:], y[samples:])


if __name__ == "__main__":
    main()
