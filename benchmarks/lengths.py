"""How much training pictures should be changed, by how long a net is trained.

    python benchmarks/lengths.py fashion_12k.npz --epochs 9 27 81 --augment 0 0.5 1 --seeds 2

A known-good candidate of a space, one schedule from nothing, one thread. Judged on the validation
part; beside it the share of training pictures it then knows. Every training is one line of the
file, and what is there is not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import time
from pathlib import Path

import torch
from early_stop import part, sampled

from lepton_automl.data.dataset import open_dataset
from lepton_automl.data.sampling import subset
from lepton_automl.search.space import loader
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.loop import fit, initial_model

JUDGED = 2000
"""Training pictures that it is asked about."""


def main() -> None:
    """Train what is missing, then a row a length and strength."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--space", default="tiny")
    parser.add_argument("--candidate", type=int, default=0)
    parser.add_argument("--epochs", type=int, nargs="+", default=[9, 27, 81])
    parser.add_argument("--augment", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/lengths.jsonl"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    lines = given.out.read_text().splitlines() if given.out.exists() else []
    known = {tuple(row["key"]): row for row in map(json.loads, lines)}
    data = open_dataset(given.data)
    arch, recipe = sampled(loader.load(given.space), data, given.candidate)
    train, validation = part(data, "train"), part(data, "validation")
    name, asked = Path(given.data).stem, subset(train, JUDGED, 0)
    wanted = list(itertools.product(given.epochs, given.augment, range(given.seeds)))
    for epochs, augment, seed in wanted:
        key = (name, given.space, given.candidate, epochs, augment, seed)
        if key in known:
            continue
        begun, changed = time.monotonic(), dataclasses.replace(recipe, augment=augment)
        model = initial_model(arch, data.preprocessing(arch.input[:2]), seed)
        model = fit(model, train, changed, epochs=epochs, seed=seed)
        right, knows = (float(is_correct(model, each).mean()) for each in (validation, asked))
        seconds = round(time.monotonic() - begun, 1)
        known[key] = {"key": key, "accuracy": right, "training": knows, "seconds": seconds}
        with given.out.open("a") as file:
            file.write(json.dumps(known[key]) + "\n")
    print("| epochs | augment | validation | training | seconds |\n|---|---|---|---|---|")
    for epochs, augment in itertools.product(given.epochs, given.augment):
        head = (name, given.space, given.candidate, epochs, augment)
        rows = [known[(*head, seed)] for seed in range(given.seeds)]
        right, knows, seconds = (
            statistics.mean(row[field] for row in rows)
            for field in ("accuracy", "training", "seconds")
        )
        print(f"| {epochs} | {augment:g} | {right:.2%} | {knows:.2%} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
