"""What a careful user writes by hand with Optuna: TPE and MedianPruner on our space and training.

    python benchmarks/optuna_script.py cifar10.npz --seconds 900 --max-size-kb 124 --space residual

One process, one thread. It searches, trains the best to the end, quantizes it as lepton does and
prints one line of JSON; the test part is looked at once, at the end, in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass

import numpy as np
import optuna
import torch
from torch import Tensor

from lepton_automl.compress.context import Work
from lepton_automl.compress.evaluation import int8_file
from lepton_automl.compress.quantization.quantize import Quantize
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.cost.cost import static_cost
from lepton_automl.cost.latency import Stopwatch
from lepton_automl.data.dataset import Dataset, LabelledTensors, open_dataset
from lepton_automl.errors import ArchError
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model
from lepton_automl.models.onnx_file import onnx_probabilities
from lepton_automl.search.rungs import cycles
from lepton_automl.search.space import loader, search_space
from lepton_automl.search.time_plan import planned_epochs
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.loop import Diverged, fit, initial_model
from lepton_automl.training.recipe import Recipe

FINAL_SHARE = 0.3
"""Of the time, kept for training the best once more, and for quantization."""
TARGET = targets.load()


@dataclass
class Best:
    """The best trial that was trained to the end."""

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
    found : SearchSpace
        What is searched.
    given : Namespace
        Options.
    """

    def __init__(
        self, data: Dataset, found: search_space.SearchSpace, given: argparse.Namespace
    ) -> None:
        self.data, self.space, self.given = data, found, given
        self.begun = time.monotonic()
        self.parts: dict[tuple[str, int, int], LabelledTensors] = {}
        self.epochs = given.epochs
        self.trials: list[float] = []
        self.best: Best | None = None

    @property
    def left(self) -> float:
        """Seconds."""
        return float(self.given.seconds) - (time.monotonic() - self.begun)

    def part(self, name: str, arch: Arch) -> LabelledTensors:
        """A part of the data at the resolution a net wants."""
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
            arch, recipe = self.sampled(trial)
            size = static_cost(arch, TARGET.weight_limit).size_bytes
        except ArchError as error:
            trial.set_constraint("size", 1.0)
            raise optuna.TrialPruned from error
        limit = self.given.max_size_kb * 1000
        trial.set_constraint("size", size / limit - 1)
        if size > limit:
            raise optuna.TrialPruned
        return self.trained(trial, arch, recipe)

    def sampled(self, trial: optuna.Trial) -> tuple[Arch, Recipe]:
        """A point of the space."""
        return self.space.sample(
            trial,
            size=self.data.size,
            channels=self.data.channels,
            classes=len(self.data.class_names),
            target=TARGET,
        )

    def trained(self, trial: optuna.Trial, arch: Arch, recipe: Recipe) -> float:
        """Train in cycles that each end annealed, as lepton does; report after each."""
        train, validation = self.part("train", arch), self.part("validation", arch)
        begun = time.monotonic()
        model = initial_model(arch, self.data.preprocessing(arch.input[:2]), self.seed(trial))
        self.epochs = self.epochs or self.affordable(model, train, recipe)
        score = 0.0
        for step, epochs in enumerate(cycles(self.epochs, len(train))):
            try:
                model = fit(model, train, recipe, epochs=epochs, seed=self.seed(trial) + step)
            except Diverged as error:
                raise optuna.TrialPruned from error
            score = float(is_correct(model, validation).mean())
            trial.report(score, step)
            if trial.should_prune():
                raise optuna.TrialPruned
            if self.left < FINAL_SHARE * self.given.seconds:
                break
        self.trials.append(score)
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

    def seed(self, trial: optuna.Trial) -> int:
        """Of a trial."""
        return 1000 * int(self.given.seed) + 10 * trial.number

    def search(self) -> None:
        """Until the time for trials is used up."""
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=self.given.seed),
            pruner=optuna.pruners.MedianPruner(),
        )
        if self.given.warm:
            for candidate in self.space.candidates:
                study.enqueue_trial(dict(candidate))
        study.optimize(self.objective, timeout=(1 - FINAL_SHARE) * self.given.seconds)
        self.drawn = len(study.trials)

    def retrained(self) -> Model:
        """The best, trained afresh for as long as the time allows, if that is better."""
        assert self.best is not None, "no trial was trained in this time"
        best = self.best
        train, validation = (self.part(n, best.model.arch) for n in ("train", "validation"))
        seconds = self.left - 0.05 * self.given.seconds
        epochs = int(seconds / (best.seconds / self.epochs))
        if epochs < 1:
            return best.model
        model = initial_model(best.model.arch, best.model.preprocessing, self.given.seed)
        model = fit(model, train, best.recipe, epochs=epochs, seed=self.given.seed)
        better = float(is_correct(model, validation).mean()) > best.score
        return model if better else best.model

    def quantized(self, model: Model) -> Model:
        """As lepton quantizes, without training."""
        assert self.best is not None
        work = Work(
            train=self.part("train", model.arch),
            validation=self.part("validation", model.arch),
            reference=model,
            limits=Limits(),
            target=TARGET,
            recipe=self.best.recipe,
            seed=self.given.seed,
        )
        return Quantize()(model, work)


def right(file: bytes, pixels: Tensor, labels: Tensor) -> float:
    """Accuracy of a file in ONNX Runtime."""
    answers = onnx_probabilities(file, pixels).argmax(1)
    return float((answers == labels.numpy()).mean())


def main() -> None:
    """Search, train, quantize, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help=".npz as lepton reads it")
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-size-kb", type=float, default=1e9)
    parser.add_argument("--space", default="residual")
    parser.add_argument("--epochs", type=int, default=0, help="of a trial; 0: what time allows")
    parser.add_argument("--warm", action="store_true", help="try the space's known-good nets first")
    given = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    data = open_dataset(given.data, seed=given.seed)
    script = Script(data, loader.load(given.space), given)
    script.search()
    model = script.quantized(script.retrained())
    file = int8_file(model)
    test = script.part("test", model.arch)
    ratio = Stopwatch().measure({"net": file}, rounds=25, seconds=0.5)["net"].ratio
    found = {
        "int8_accuracy": right(file, test.pixels, test.labels),
        "size_bytes": len(file),
        "latency_ratio": round(ratio, 4),
        "trials": script.drawn,
        "trained_to_the_end": len(script.trials),
        "epochs": script.epochs,
        "seconds": round(time.monotonic() - script.begun, 1),
        "processor_seconds": round(time.process_time(), 1),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
