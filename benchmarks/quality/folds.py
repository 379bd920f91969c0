"""What cross-validation gains in the choice among nets where data are small or groups are few.

    python benchmarks/bench.py folds train SOURCES --seeds 3
    python benchmarks/bench.py folds table

SOURCES is a folder with fashion_mnist.npz, cifar10.npz, speech.npz, motion.npz and flowers/ (see
`unseen_data.Sources`). Of the training part of each set some samples are held out, groups whole;
the others are split as a run splits them, into training and validation, and into folds. Each of
`OPTIONS`, nets and recipes that are known, is trained to the end for several folds. table: the
accuracy on held-out samples of the net that was trained on the training part with the option that
the validation part alone chooses, or all folds; against that of the option that is the best there.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import RUNS, append_row, known_good, parser, print_table, read_rows
from benchmarks.quality.pruning import sensors_as_pictures
from benchmarks.unseen_data import Sources
from lepton_automl.data.dataset import Dataset
from lepton_automl.data.folds import Folds, assign_folds, fold_files
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.tensors import load_labelled
from lepton_automl.metrics.balanced import balanced_mean
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.loop import fit, initial_model

RESULTS = RUNS / "folds.jsonl"
FOLDS = 3
EPOCHS = 12
Arrays = dict[str, NDArray[Any]]

OPTIONS: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "quick": ("quick", {}),
    "quick, strong": ("quick", {"augment": 1.0, "cutout": 0.25}),
    "quick, mixup": ("quick", {"mixup": 0.5}),
    "quick, plain": ("quick", {"augment": 0.0}),
    "half": ("half", {}),
}
"""Candidate of the space `general`, and what is changed in its recipe."""


def pictures(name: str, count: int) -> Callable[[Sources, int], tuple[Arrays, Arrays]]:
    """`count` samples for the run and others that are held out, of a large set."""

    def draw(sources: Sources, seed: int) -> tuple[Arrays, Arrays]:
        arrays = sources.arrays(name)
        order = np.random.default_rng(seed).permutation(len(arrays["y_train"]))
        chosen = order[:count], order[count : count + 2000]
        made = [{"x": arrays["x_train"][i], "y": arrays["y_train"][i]} for i in chosen]
        return made[0], made[1]

    return draw


def flowers(sources: Sources, seed: int) -> tuple[Arrays, Arrays]:
    """800 photos in 32x32 pixels, all others are held out."""
    x, y = sources.photos("train", 32)
    order = np.random.default_rng(seed).permutation(len(y))
    run, held = order[:800], order[800:]
    return {"x": x[run], "y": y[run]}, {"x": x[held], "y": y[held]}


def by_group(
    x: NDArray[Any], y: NDArray[Any], groups: NDArray[Any], held: int, seed: int
) -> tuple[Arrays, Arrays]:
    """All samples but those of `held` groups, which are held out."""
    names, numbers = np.unique(groups, return_inverse=True)
    is_held = np.isin(numbers, np.random.default_rng(seed).permutation(len(names))[:held])
    run = {"x": x[~is_held], "y": y[~is_held], "group": numbers[~is_held]}
    return run, {"x": x[is_held], "y": y[is_held]}


def speech(sources: Sources, seed: int) -> tuple[Arrays, Arrays]:
    """Spoken digits, 20 bands and 32 frames; one speaker of four is held out."""
    arrays = sources.arrays("speech")
    x = arrays["x_train"].reshape(-1, 20, 2, 32, 2).mean((2, 4)).round().astype(np.uint8)
    return by_group(x, arrays["y_train"], arrays["group_train"], 1, seed)


def motion(sources: Sources, seed: int) -> tuple[Arrays, Arrays]:
    """Windows of six sensors as rows of 64 grey levels; one of three.

    Half of the persons are held out.
    """
    arrays = sources.arrays("motion")
    rows = sensors_as_pictures(arrays["x_train"])
    labels, groups = arrays["y_train"][::3], arrays["group_train"][::3]
    return by_group(rows[::3], labels, groups, len(np.unique(groups)) // 2, seed)


SETS: Mapping[str, Callable[[Sources, int], tuple[Arrays, Arrays]]] = {
    "speech": speech,
    "motion": motion,
    "flowers": flowers,
    "cifar10": pictures("cifar10", 1000),
    "fashion": pictures("fashion_mnist", 1000),
}


def train(arguments: argparse.Namespace) -> None:
    """Train all options of the draws that have no row yet."""
    torch.set_num_threads(1)
    sources = Sources(arguments.sources)
    done = {(row["set"], row["seed"], row["option"]) for row in read_rows(arguments.out)}
    for seed in range(arguments.seeds):
        for name in arguments.sets:
            missing = [option for option in OPTIONS if (name, seed, option) not in done]
            if not missing:
                continue
            folder = arguments.out.parent / f"folds-{name}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            run, held = SETS[name](sources, seed)
            # The test part of the file is what is held out: only this script reads it.
            own = {"x_test": held["x"], "y_test": held["y"]}
            own |= {f"{key}_train": value for key, value in run.items()}
            if "group" in run:
                own["group_test"] = np.full(len(held["y"]), run["group"].max() + 1)
            np.savez(folder / "data.npz", **own)
            dataset = open_dataset(str(folder / "data.npz"), seed=seed).with_balance("auto")
            folds = assign_folds(dataset.train, dataset.validation, seed)
            for option in missing:
                row = measured(option, dataset, folds, seed, folder)
                append_row(arguments.out, {"set": name, "seed": seed, "option": option} | row)


def measured(option: str, dataset: Dataset, folds: Folds, seed: int, cache: Path) -> dict[str, Any]:
    """Answers of an option's trainings on what they are judged on, and its held-out accuracy."""
    begun = time.process_time()
    candidate, changes = OPTIONS[option]
    assert dataset.size is not None
    size, classes = dataset.size, len(dataset.class_names)
    arch, recipe = known_good("general", candidate, size, dataset.channels, classes)
    recipe = dataclasses.replace(recipe, **changes)
    held = load_labelled(dataset.decoded_files("test", size, cache))
    scaling = dataset.preprocessing(size)

    def answers(fold: int) -> tuple[list[int], float]:
        files = fold_files(dataset, folds, fold, size, cache)
        own, other = map(load_labelled, files)
        own_seed = 1000 * seed + fold
        model = fit(
            initial_model(arch, scaling, own_seed), own, recipe, epochs=EPOCHS, seed=own_seed
        )
        reached = balanced_mean(is_correct(model, held), held.strata)
        return is_correct(model, other).astype(int).tolist(), reached

    by_fold = [answers(fold) for fold in range(min(FOLDS, folds.count))]
    return {
        "held": by_fold[0][1],
        "folds": [correct for correct, _ in by_fold],
        "labels": [folds.evaluated([fold]).labels.tolist() for fold in range(len(by_fold))],
        "is_balanced": dataset.train.is_balanced,
        "macs": arch.graph.macs,
        "cpu_seconds": round(time.process_time() - begun, 1),
    }


def chosen(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Held-out accuracy of the option that each rule chooses in one draw, in points."""

    def by(scores: list[float]) -> float:
        order = sorted(range(len(rows)), key=lambda n: (-scores[n], rows[n]["macs"]))
        return 100 * float(rows[order[0]]["held"])

    def accuracy(row: dict[str, Any], answers: list[list[int]], folds: list[int]) -> float:
        labels = np.concatenate([row["labels"][fold] for fold in folds])
        return balanced_mean(np.concatenate(answers), labels if row["is_balanced"] else None)

    every = [list(range(len(row["folds"]))) for row in rows]
    pairs = list(zip(rows, every, strict=True))
    return {
        "one validation part": by([accuracy(row, row["folds"][:1], [0]) for row in rows]),
        f"{FOLDS} folds": by([accuracy(row, row["folds"], folds) for row, folds in pairs]),
        "best": by([row["held"] for row in rows]),
        "mean of all": statistics.fmean(100 * row["held"] for row in rows),
    }


def table(arguments: argparse.Namespace) -> None:
    """Print the means over draws of every set."""
    rows = read_rows(arguments.out)
    cells, every = [], list[dict[str, float]]()
    for name in SETS:
        draws = sorted({row["seed"] for row in rows if row["set"] == name})
        own = [[r for r in rows if (r["set"], r["seed"]) == (name, seed)] for seed in draws]
        found = [chosen(each) for each in own if len(each) == len(OPTIONS)]
        if not found:
            continue
        every += found
        sizes = f"{len(own[0][0]['folds'][0])}, {sum(map(len, own[0][0]['folds']))}"
        cells.append([name, len(found), sizes, *means(found)])
    print_table(["set", "draws", "validation, folds", *every[0]], cells)
    print_table(["all", *every[0]], [[len(every), *means(every)]])
    print(f"{sum(row['cpu_seconds'] for row in rows) / 60:.0f} CPU minutes")


def means(found: list[dict[str, float]]) -> list[str]:
    """Mean of each column."""
    return [f"{statistics.fmean(each[key] for each in found):.1f}" for key in found[0]]


def main(arguments: list[str]) -> int:
    """Train, or print the table."""
    options = parser(__doc__, "folds")
    commands = options.add_subparsers(required=True)
    training = commands.add_parser("train")
    training.add_argument("sources", type=Path)
    training.add_argument("--seeds", type=int, default=3)
    training.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    training.set_defaults(run=train)
    shown = commands.add_parser("table")
    shown.set_defaults(run=table)
    for command in (training, shown):
        command.add_argument("--out", type=Path, default=RESULTS)
    given = options.parse_args(arguments)
    given.run(given)
    return 0
