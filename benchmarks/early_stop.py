"""Whether it pays to keep the best epoch of a last training, by validation, not its end.

    python benchmarks/early_stop.py fashion_12k.npz digits fsdd_speaker.npz --epochs 81 --seeds 2

The validation part is halved: one half says which epoch was best, and, of a training that ends
when the last quarter of its epochs brought nothing better, where that would have been; the other
half says what such a net is worth against the one at the end. The test part is not opened.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import optuna
import torch
from numpy.typing import NDArray

from lepton_automl.cost import targets
from lepton_automl.data.dataset import LabelledTensors, open_dataset
from lepton_automl.search.space import loader
from lepton_automl.search.space.search_space import SearchSpace
from lepton_automl.training.loop import initial_model, train_loop
from lepton_automl.training.recipe import Recipe

PATIENCE = 0.25
"""Of the epochs, without a better one before a training ends early."""


def part(data, name: str) -> LabelledTensors:  # noqa: ANN001
    """A part of the data at its own resolution."""
    pixels = torch.from_numpy(np.ascontiguousarray(data.pixels(name, data.size)))
    return LabelledTensors(pixels, torch.from_numpy(data.part(name).labels))


def sampled(found: SearchSpace, data, place: int):  # noqa: ANN001, ANN201
    """A known-good candidate of the space."""
    study = optuna.create_study()
    study.enqueue_trial(dict(found.candidates[place]))
    shape = {"size": data.size, "channels": data.channels, "classes": len(data.class_names)}
    return found.sample(study.ask(), target=targets.load(), **shape)


def course(data, arch, recipe: Recipe, epochs: int, seed: int) -> NDArray[np.bool_]:  # noqa: ANN001
    """(epochs, N): which validation samples are right after each epoch."""
    train, validation = part(data, "train"), part(data, "validation")
    model = initial_model(arch, data.preprocessing(data.size), seed)
    network, seen = model.network(), []

    def tick(done: int, total: int) -> None:
        if done * epochs // total <= (done - 1) * epochs // total:
            return
        network.eval()
        with torch.inference_mode():
            chunks = torch.split(validation.pixels, 256)
            logits = torch.cat([network(model.preprocessing.apply(chunk)) for chunk in chunks])
        network.train()
        seen.append((logits.argmax(1) == validation.labels).numpy())

    train_loop(network, train, model.preprocessing, recipe, epochs=epochs, seed=seed, on_batch=tick)
    return np.array(seen)


def judged(right: NDArray[np.bool_], seed: int) -> tuple[float, float, float, float]:
    """Of the other half: accuracy at the end, of the best epoch, with patience; epochs saved."""
    order = np.random.default_rng(seed).permutation(right.shape[1])
    chooses, judges = order[: len(order) // 2], order[len(order) // 2 :]
    scores, worth = right[:, chooses].mean(1), right[:, judges].mean(1)
    best, wait = 0, round(PATIENCE * len(scores))
    for epoch, score in enumerate(scores):
        if score > scores[best]:
            best = epoch
        if epoch - best >= wait:
            break
    last = epoch + 1
    return worth[-1], worth[int(scores.argmax())], worth[best], 1 - last / len(scores)


def main() -> None:
    """A row a data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--space", default="tiny")
    parser.add_argument("--candidate", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=81)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print("| data | the end | best epoch | patience | epochs saved by it |\n|---|---|---|---|---|")
    for name in given.data:
        data = open_dataset(name)
        arch, recipe = sampled(loader.load(given.space), data, given.candidate)
        runs = [course(data, arch, recipe, given.epochs, seed) for seed in range(given.seeds)]
        # Each way to halve the same answers is one more look at them.
        rows = np.array([judged(run, split) for run in runs for split in range(20)])
        end, best, patient, saved = rows.mean(0)
        print(
            f"| {Path(name).stem} | {end:.2%} | {100 * (best - end):+.2f} | "
            f"{100 * (patient - end):+.2f} | {saved:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
