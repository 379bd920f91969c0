"""Whether what verdicts say holds: compressions with random limits, judged again from outside.

    python benchmarks/contract.py --runs 100 --out runs/contract.jsonl

Nets, data and limits are drawn at random: nets of ours trained briefly and rescaled ones as ONNX
files, on scikit-learn's digits and on stripes, with few or many test samples. The judge knows
onnxruntime, numpy and scipy alone. What is in the file is not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from scipy.stats import binomtest
from sklearn.datasets import load_digits

from lepton_automl.config import Limits, RunConfig
from lepton_automl.cost.targets import load as load_target
from lepton_automl.data.dataset import LabelledTensors, open_dataset
from lepton_automl.models.model import Model
from lepton_automl.models.onnx_export import float_onnx
from lepton_automl.pipeline.compress_net import compress_net
from lepton_automl.pipeline.compress_onnx import Order, compress_model
from lepton_automl.pipeline.export import Outcome
from lepton_automl.search.space.draw import RandomTrial
from lepton_automl.search.space.loader import load
from lepton_automl.training.loop import fit, initial_model

COSTS = {"max_size_bytes": (8_000, 60_000), "max_macs": (50_000, 2_000_000)}


def data(draws: np.random.Generator, folder: Path) -> Path:
    """Digits, some of them twice as dark, in parts of random size."""
    digits = load_digits()
    order = draws.permutation(len(digits.target))
    pixels = (digits.images * draws.uniform(8, 15)).astype(np.uint8)[order]
    labels, test = digits.target[order], int(draws.integers(100, 700))
    arrays = {
        "x_test": pixels[:test],
        "y_test": labels[:test],
        "x_val": pixels[test : test + 250],
        "y_val": labels[test : test + 250],
        "x_train": pixels[test + 250 :],
        "y_train": labels[test + 250 :],
    }
    np.savez(folder / "digits.npz", **arrays)
    return folder / "digits.npz"


def net(draws: np.random.Generator, path: Path) -> Model:
    """A net of `tiny`, trained for an epoch or a few."""
    found, seed = open_dataset(str(path)), int(draws.integers(2**31))
    arch, recipe = load("tiny").sample(
        RandomTrial(seed), size=found.size, channels=1, classes=10, target=load_target()
    )
    pixels, labels = found.pixels("train", (8, 8)), found.part("train").labels
    train = LabelledTensors(torch.from_numpy(pixels.copy()), torch.from_numpy(labels))
    recipe = dataclasses.replace(recipe, lr=min(recipe.lr, 0.05))
    model = initial_model(arch, found.preprocessing((8, 8)), seed)
    return fit(model, train, recipe, epochs=int(draws.integers(2, 10)), seed=seed)


def limits(draws: np.random.Generator) -> Limits:
    """Each of them or not."""
    stated: dict[str, Any] = {}
    for name, (low, high) in COSTS.items():
        if draws.random() < 0.4:
            stated[name] = int(np.exp(draws.uniform(np.log(low), np.log(high))))
    if draws.random() < 0.5:
        stated["min_accuracy"] = round(float(draws.uniform(0.7, 0.99)), 3)
    if draws.random() < 0.7:
        stated["max_drop"] = float(draws.choice([0.0, 0.5, 1.0, 2.0, 5.0]))
    if draws.random() < 0.3:
        stated["max_class_drop"] = float(draws.choice([2.0, 5.0, 20.0]))
    return Limits(**stated)


def compressed(draws: np.random.Generator, folder: Path) -> tuple[Outcome, Path, Limits]:
    """One compression."""
    path, wanted = data(draws, folder), limits(draws)
    model = net(draws, path)
    if draws.random() < 0.5:
        model.save(folder / "net")
        config = RunConfig(
            str(path), folder / "out", limits=wanted, budget_seconds=20.0,
            objectives=("accuracy", "size_bytes"),
        )  # fmt: skip
        return compress_net(config, folder / "net"), path, wanted
    file = folder / "net.onnx"
    file.write_bytes(float_onnx(model, [str(n) for n in range(10)], {}))
    return compress_model(Order(file, str(path), folder / "out", limits=wanted)), path, wanted


def answers(file: Path, pixels: np.ndarray) -> np.ndarray:
    """Classes, by ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    given: np.ndarray = session.run(None, {"pixels": pixels})[0].argmax(1)
    return given


def judged(outcome: Outcome, path: Path, wanted: Limits) -> list[str]:
    """What the verdict says otherwise than an outsider finds."""
    verdict, wrong = outcome.verdict, []
    name = "model.int8.onnx" if verdict.primary == "int8" else "model.fp32.onnx"
    with np.load(path) as arrays:
        pixels, labels = arrays["x_test"][..., None], arrays["y_test"]
    file = answers(outcome.artifact / name, pixels) == labels
    reference = answers(outcome.artifact / "reference" / "model.fp32.onnx", pixels) == labels
    lost, won = int((reference & ~file).sum()), int((file & ~reference).sum())
    found = {
        "min_accuracy": float(file.mean()),
        "max_drop": 100 * (lost - won) / len(labels),
        "max_size_bytes": (outcome.artifact / name).stat().st_size,
    }
    holds = {limit.name: limit.status == "holds" for limit in verdict.limits}
    for limit in verdict.limits:
        seen = found.get(limit.name)
        if seen is not None and abs(seen - limit.measured) > 1e-9:
            wrong.append(f"{limit.name}: {limit.measured} said, {seen} found")
    if holds.get("max_size_bytes") and found["max_size_bytes"] > (wanted.max_size_bytes or 0):
        wrong.append("size")
    least, most = wanted.min_accuracy, wanted.max_drop
    if holds.get("min_accuracy") and least is not None:
        # Clopper and Pearson's exact bound is wider than the score bound, by little.
        low = binomtest(int(file.sum()), len(file)).proportion_ci(0.88, "exact").low
        wrong += [f"accuracy: at least {low:.4f}"] if low < least - 0.005 else []
    if holds.get("max_drop") and most is not None and found["max_drop"] > most:
        wrong.append("drop")
    if set(holds) != set(wanted.stated):
        wrong.append(f"judged {sorted(holds)}, stated {sorted(wanted.stated)}")
    return wrong


def main() -> None:
    """Run what is missing, then count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/contract.jsonl"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    lines = given.out.read_text().splitlines() if given.out.exists() else []
    rows = [json.loads(line) for line in lines]
    for number in range(len(rows), given.runs):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            outcome, path, wanted = compressed(np.random.default_rng(number), Path(folder))
            rows.append(
                {
                    "run": number,
                    "status": outcome.verdict.status,
                    "limits": wanted.stated,
                    "wrong": judged(outcome, path, wanted),
                    "parity": outcome.verdict.parity is not None,
                    "seconds": round(time.monotonic() - began, 1),
                }
            )
        with given.out.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    counts = {s: sum(r["status"] == s for r in rows) for s in ("holds", "broken", "undecided")}
    wrong = [row for row in rows if row["wrong"]]
    print(f"{len(rows)} runs: {counts}; an outsider disagrees in {len(wrong)}")
    for row in wrong:
        print(row)


if __name__ == "__main__":
    main()
