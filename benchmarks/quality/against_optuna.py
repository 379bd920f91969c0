"""lepton against a script written by hand with Optuna: same data, space, size limit and time.

    python benchmarks/bench.py against_optuna cifar10_20k.npz --together --thirds
    python benchmarks/bench.py against_optuna fashion_12k.npz --space tiny --max-size-kb 30 \
        --together --thirds

The script: Optuna's TPE with MedianPruner over our space and training, the best trained once more
with the time that is left and quantized by our quantizer; one process, one thread. Both look for
accuracy within the size limit, and each uses the test part once a run. --together runs both at the
same time, each on a core of its own; --thirds also runs lepton with a third of the time. Results
are kept and not measured again; `--script-only` runs the script once and prints its JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from benchmarks.common import BENCH, RUNS, append_row, lepton, parser, print_table, read_rows
from benchmarks.common import run_json as run
from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.evaluation import int8_file
from lepton_automl.compress.quantization.quantize import quantize_model
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.cost.cost import static_cost
from lepton_automl.cost.latency import Stopwatch
from lepton_automl.data.dataset import Dataset, LabelledTensors
from lepton_automl.data.opening import open_dataset
from lepton_automl.errors import ArchError
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model
from lepton_automl.models.onnx_file import onnx_probabilities
from lepton_automl.search.rungs import cycles
from lepton_automl.search.space import loader
from lepton_automl.search.time_plan import planned_epochs
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.loop import Diverged, fit, initial_model
from lepton_automl.training.recipe import Recipe

FINAL_SHARE = 0.3
"""Of the script's time, kept for training the best once more, and for quantization."""
TARGET = targets.load()


@dataclass
class Best:
    """The best trial of the script that was trained to the end."""

    score: float
    model: Model
    recipe: Recipe
    seconds: float
    """Of its training."""


class Script:
    """A search as one writes it in an afternoon.

    Parameters
    ----------
    data : Dataset
        Pictures.
    given : Namespace
        Options.
    """

    def __init__(self, data: Dataset, given: argparse.Namespace) -> None:
        self.data, self.space, self.given = data, loader.load(given.space), given
        self.begun = time.monotonic()
        self.parts: dict[tuple[str, int, int], LabelledTensors] = {}
        self.epochs, self.drawn, self.trained_to_the_end = 0, 0, 0
        self.best: Best | None = None

    @property
    def left(self) -> float:
        """Seconds."""
        return float(self.given.seconds) - (time.monotonic() - self.begun)

    def part(self, name: str, arch: Arch) -> LabelledTensors:
        """A part of the data at the resolution of a net."""
        height, width = arch.input[:2]
        key = (name, height, width)
        if key not in self.parts:
            pixels = torch.from_numpy(self.data.pixels(name, (height, width)))
            labels = torch.from_numpy(np.asarray(self.data.part(name).labels))
            self.parts[key] = LabelledTensors(pixels, labels)
        return self.parts[key]

    def objective(self, trial: optuna.Trial) -> float:
        """Accuracy on validation after all epochs."""
        try:
            arch, recipe = self.space.sample(
                trial,
                size=self.data.size,
                channels=self.data.channels,
                classes=len(self.data.class_names),
                target=TARGET,
            )
            size = static_cost(arch, TARGET.weight_limit).size_bytes
        except ArchError as error:
            trial.set_constraint("size", 1.0)
            raise optuna.TrialPruned from error
        limit = self.given.max_size_kb * 1000
        trial.set_constraint("size", size / limit - 1)
        if size > limit:
            raise optuna.TrialPruned
        return self.trained(trial, arch, recipe)

    def trained(self, trial: optuna.Trial, arch: Arch, recipe: Recipe) -> float:
        """Train in cycles that each end annealed, as lepton does; report after each."""
        train, validation = self.part("train", arch), self.part("validation", arch)
        begun = time.monotonic()
        seed = 1000 * int(self.given.seed) + 10 * trial.number
        model = initial_model(arch, self.data.preprocessing(arch.input[:2]), seed)
        self.epochs = self.epochs or self.affordable(model, train, recipe)
        score = 0.0
        for step, epochs in enumerate(cycles(self.epochs, len(train))):
            try:
                model = fit(model, train, recipe, epochs=epochs, seed=seed + step)
            except Diverged as error:
                raise optuna.TrialPruned from error
            score = float(is_correct(model, validation).mean())
            trial.report(score, step)
            if trial.should_prune():
                raise optuna.TrialPruned
            if self.left < FINAL_SHARE * self.given.seconds:
                break
        self.trained_to_the_end += 1
        if self.best is None or score > self.best.score:
            self.best = Best(score, model, recipe, time.monotonic() - begun)
        return score

    def affordable(self, model: Model, train: LabelledTensors, recipe: Recipe) -> int:
        """Epochs under which the time gives a sensible number of trials, by lepton's own rule."""
        few = LabelledTensors(train.pixels[:2048], train.labels[:2048])
        fit(model, few, recipe, epochs=1, seed=0)
        begun = time.monotonic()
        fit(model, few, recipe, epochs=1, seed=0)
        epoch = (time.monotonic() - begun) * len(train) / len(few)
        search = (1 - FINAL_SHARE) * float(self.given.seconds)
        return planned_epochs(recipe.epochs, epoch, search, 1, len(train))

    def search(self) -> None:
        """Until the time for trials is used up."""
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=self.given.seed),
            pruner=optuna.pruners.MedianPruner(),
        )
        study.optimize(self.objective, timeout=(1 - FINAL_SHARE) * self.given.seconds)
        self.drawn = len(study.trials)

    def retrained(self) -> tuple[Model, Recipe]:
        """The best, trained afresh for as long as the time allows, if that is better."""
        assert self.best is not None, "no trial was trained in this time"
        best, arch = self.best, self.best.model.arch
        seconds = self.left - 0.05 * self.given.seconds
        epochs = int(seconds / (best.seconds / self.epochs))
        if epochs < 1:
            return best.model, best.recipe
        model = initial_model(arch, best.model.preprocessing, self.given.seed)
        model = fit(
            model, self.part("train", arch), best.recipe, epochs=epochs, seed=self.given.seed
        )
        is_better = is_correct(model, self.part("validation", arch)).mean() > best.score
        return (model if is_better else best.model), best.recipe

    def quantized(self, model: Model, recipe: Recipe) -> bytes:
        """As lepton quantizes, without training."""
        arch = model.arch
        train, validation = self.part("train", arch), self.part("validation", arch)
        seed = self.given.seed
        work = CompressionContext(train, validation, model, Limits(), TARGET, recipe, seed=seed)
        return int8_file(quantize_model(model, work).model)


def script(given: argparse.Namespace) -> dict[str, Any]:
    """Search, train, quantize, judge on the test part."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = Script(open_dataset(given.data, seed=given.seed), given)
    made.search()
    model, recipe = made.retrained()
    file = made.quantized(model, recipe)
    test = made.part("test", model.arch)
    right = onnx_probabilities(file, test.pixels).argmax(1) == test.labels.numpy()
    ratio = Stopwatch().measure({"net": file}, rounds=25, seconds=0.5)["net"].ratio
    return {
        "int8_accuracy": float(right.mean()),
        "size_bytes": len(file),
        "latency_ratio": round(ratio, 4),
        "trials": made.drawn,
        "trained_to_the_end": made.trained_to_the_end,
        "epochs": made.epochs,
        "seconds": round(time.monotonic() - made.begun, 1),
    }


def one(given: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """A run of lepton, of lepton with a third of the time, or of the script."""
    seconds = given.seconds / (3 if name == "third" else 1)
    words = ["--space", given.space, "--max-size-kb", str(given.max_size_kb), "--seed", str(seed)]
    begun = time.monotonic()
    if name == "script":
        words += ["--seconds", f"{seconds:.0f}", "--script-only"]
        command = [sys.executable, str(BENCH), "against_optuna", given.data, *words]
        found = run(command, 1 if given.together else None)
    else:
        place = given.out.parent / f"against-{Path(given.data).stem}-{name}-{seed}"
        words += ["--budget", f"{seconds:.0f}s", "--jobs", "1", "--objective", "accuracy"]
        command = lepton("run", given.data, *words, "--out", str(place), "--json")
        found = run(command, 0 if given.together else None)
        if "verdict" not in found:
            raise SystemExit(f"lepton ended with {found}")
        int8 = found["int8"]
        found = {"int8_accuracy": int8["accuracy"], "size_bytes": int8["size_bytes"]}
    return found | {"wall": round(time.monotonic() - begun, 1)}


def main(arguments: list[str]) -> None:
    """Run what is missing, then print a row a seed and the means."""
    options = parser(__doc__, "against_optuna")
    options.add_argument("data", help=".npz as lepton reads it")
    options.add_argument("--space", default="residual")
    options.add_argument("--max-size-kb", type=float, default=124.0)
    options.add_argument("--seconds", type=float, default=900.0)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--thirds", action="store_true")
    options.add_argument("--together", action="store_true")
    options.add_argument("--script-only", action="store_true")
    options.add_argument("--seed", type=int, default=0, help="with --script-only")
    options.add_argument("--out", type=Path, default=RUNS / "against_optuna.jsonl")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    if given.script_only:
        print(json.dumps(script(given)))
        return
    names = ["lepton", "script", *(["third"] if given.thirds else [])]

    def key(name: str, seed: int) -> list[object]:
        return [Path(given.data).stem, given.seconds, name, seed]

    def record(seed: int, own: list[str]) -> None:
        for name in own:
            if all(row["key"] != key(name, seed) for row in read_rows(given.out)):
                append_row(given.out, {"key": key(name, seed)} | one(given, name, seed))

    for seed in range(given.seeds):
        pair = [[name for name in names if name != "script"], ["script"]]
        with ThreadPoolExecutor(2 if given.together else 1) as threads:
            for done in [threads.submit(record, seed, own) for own in pair]:
                done.result()
    report([[key(name, seed) for seed in range(given.seeds)] for name in names], names, given.out)


def report(keys: list[list[list[object]]], names: list[str], path: Path) -> None:
    """A row a seed and a column a program; then the means."""
    known = {tuple(row["key"]): row for row in read_rows(path)}
    columns = [[known[tuple(key)] for key in column] for column in keys]
    rows: list[tuple[object, ...]] = []
    for seed, each in enumerate(zip(*columns, strict=True)):
        cells = (f"{r['int8_accuracy']:.2%}, {r['size_bytes']}, {r['wall']:.0f}" for r in each)
        rows.append((seed, *cells))
    means = (statistics.mean(row["int8_accuracy"] for row in column) for column in columns)
    rows.append(("mean", *(f"{mean:.2%}" for mean in means)))
    print_table(("seed", *(f"{name}: int8, bytes, s" for name in names)), rows)
