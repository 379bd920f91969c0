"""What a change of a recipe gains on samples that are left out: every fold in turn, several seeds.

    python benchmarks/bench.py recipes DATA --space audio --candidate separable --epochs 45 \
        --group '_([a-z]+)_' --change cutmix=0 --change cutmix=0.3 --change cutmix=0.3,augment=0.5

Folds are those of a run: with few groups (voices, persons) each group is left out in turn. The test
part is not opened. The changes take turns, so that load on the machine hits all of them alike.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RUNS, append_row, known_good, parser, print_table, read_rows
from lepton_automl.data.folds import assign_folds, fold_files
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.tensors import load_labelled
from lepton_automl.metrics.balanced import balanced_mean
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.loop import fit, initial_model
from lepton_automl.training.recipe import Recipe

RESULTS = RUNS / "recipes.jsonl"


def changed(recipe: Recipe, text: str) -> Recipe:
    """`recipe` with the changes of `cutmix=0.3,augment=0.5`; `none` changes nothing."""
    if text == "none":
        return recipe
    values: dict[str, Any] = {}
    for pair in text.split(","):
        name, _, value = pair.partition("=")
        values[name] = type(getattr(recipe, name))(value)
    return dataclasses.replace(recipe, **values)


def train(given: argparse.Namespace) -> None:
    """Train what has no row yet."""
    torch.set_num_threads(1)
    done = {(row["change"], row["fold"], row["seed"]) for row in read_rows(given.out)}
    how_read: dict[str, Any] = {
        name: int(value) if value.isdigit() else value
        for name, value in (pair.split("=") for pair in given.open)
    }
    dataset = open_dataset(str(given.data), group=given.group, seed=0, **how_read)
    dataset = dataset.with_balance("auto")
    folds = assign_folds(dataset.train, dataset.validation, 0)
    size = given.size or dataset.size
    with tempfile.TemporaryDirectory() as cache:
        arch, recipe = known_good(
            given.space, given.candidate, size, dataset.channels, len(dataset.class_names)
        )
        for seed in range(given.seeds):
            for fold in range(folds.count):
                files = fold_files(dataset, folds, fold, size, Path(cache))
                own, other = map(load_labelled, files)
                for change in given.change:
                    if (change, fold, seed) in done:
                        continue
                    begun = time.process_time()
                    start = initial_model(arch, dataset.preprocessing(size), 100 * seed + fold)
                    how = changed(recipe, change)
                    model = fit(start, own, how, epochs=given.epochs, seed=100 * seed + fold)
                    row = {
                        "change": change,
                        "fold": fold,
                        "seed": seed,
                        "accuracy": balanced_mean(is_correct(model, other), other.strata),
                        "samples": len(other),
                        "cpu_seconds": round(time.process_time() - begun, 1),
                    }
                    append_row(given.out, row)


def table(given: argparse.Namespace) -> None:
    """Print accuracies by fold and by seed, and the difference to the first change, paired."""
    rows = read_rows(given.out)
    folds = sorted({row["fold"] for row in rows})
    found = {(row["change"], row["fold"], row["seed"]): 100 * row["accuracy"] for row in rows}
    cells, first = [], given.change[0]
    for change in given.change:
        keys = [key for key in found if key[0] == change]
        by_fold = [statistics.fmean(found[k] for k in keys if k[1] == fold) for fold in folds]
        gains = [found[k] - found[first, *k[1:]] for k in keys if (first, *k[1:]) in found]
        gain, spread = statistics.fmean(gains), statistics.stdev(gains) if len(gains) > 1 else 0.0
        error = spread / len(gains) ** 0.5
        shown = [f"{value:.1f}" for value in by_fold]
        mean = f"{statistics.fmean(by_fold):.2f}"
        cells.append([change, len(keys), *shown, mean, f"{gain:+.2f} ± {error:.2f}"])
    names = [f"fold {fold}" for fold in folds]
    print_table(["change", "trainings", *names, "mean", f"against {first}"], cells)
    print(f"{sum(row['cpu_seconds'] for row in rows) / 60:.0f} CPU minutes")


def main(arguments: list[str]) -> int:
    """Train, then print the table."""
    options = parser(__doc__, "recipes")
    options.add_argument("data", type=Path)
    options.add_argument("--space", default="general")
    options.add_argument("--candidate", required=True)
    options.add_argument("--size", type=int, nargs=2, default=None, help="rows and columns")
    options.add_argument("--group", default=None)
    options.add_argument("--open", action="append", default=[], help="NAME=VALUE of open_dataset")
    options.add_argument("--epochs", type=int, default=27)
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--change", action="append", required=True, help="NAME=VALUE,... or none")
    options.add_argument("--out", type=Path, default=RESULTS)
    given = options.parse_args(arguments)
    train(given)
    table(given)
    return 0
