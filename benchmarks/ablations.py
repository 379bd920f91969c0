"""What each ingredient of a training gives, on several data sets, judged on validation data only.

    python benchmarks/ablations.py fashion=fashion_mnist.npz cifar10=cifar10.npz \
        digits=fsdd_speaker.npz flowers=flowers5/train --seeds 3 --out runs/ablations.jsonl

Every training is one line of the file; what is there is not run again, so the command may be
stopped and several may share the work with `--part 0/2` and `--part 1/2`. One thread each. Without
data only the table is printed: points of validation accuracy against the base with the same
seed, mean over seeds (and the standard error of that mean), and the seconds as a ratio.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from lepton_automl.cost import targets
from lepton_automl.data.dataset import LabelledTensors, load_labelled, open_dataset
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model, Preprocessing
from lepton_automl.search.space import loader
from lepton_automl.search.space.draw import RandomTrial
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.loop import Diverged, fit, initial_model
from lepton_automl.training.recipe import Recipe

BASE = "base"
BASE_LR = {"fashion": 0.2, "cifar10": 0.1, "digits": 0.2, "flowers": 0.05}
"""SGD was the first choice of the spaces when this table was made."""


@dataclass(frozen=True)
class Setting:
    """What of a data set is trained, and with which known-good net."""

    space: str
    candidate: str
    samples: int
    epochs: int
    teacher: str
    """Another known-good net of the space, larger or as large."""


SETTINGS = {
    "fashion": Setting("tiny", "quick", 6000, 18, "large"),
    "cifar10": Setting("residual", "half", 4000, 18, "resnet8"),
    "digits": Setting("tiny", "quick", 2400, 18, "large"),
    "flowers": Setting("mobile", "medium", 1600, 18, "medium"),
}

Change = Callable[[Recipe], Recipe]


def set_to(**fields: Any) -> Change:
    """A recipe with other fields."""
    return lambda recipe: dataclasses.replace(recipe, **fields)


def scaled(**factors: float) -> Change:
    """A recipe with some fields multiplied."""
    return lambda r: dataclasses.replace(r, **{k: getattr(r, k) * f for k, f in factors.items()})


ADAMW = {"optimizer": "adamw", "lr": 0.004, "weight_decay": 0.05}
MUON = {"optimizer": "muon", "weight_decay": 0.05}
VARIANTS: Mapping[str, Change] = {
    BASE: set_to(),
    "lr x 0.5": scaled(lr=0.5),
    "lr x 2": scaled(lr=2),
    "adamw": set_to(**ADAMW),
    "muon 0.004": set_to(**MUON, lr=0.004),
    "muon 0.01": set_to(**MUON, lr=0.01),
    "muon 0.02": set_to(**MUON, lr=0.02),
    "muon 0.04": set_to(**MUON, lr=0.04),
    "muon 0.04, trapezoid": set_to(**MUON, lr=0.04, schedule="trapezoid"),
    "muon 0.04, cutmix 0.3": set_to(**MUON, lr=0.04, cutmix=0.3),
    "ema": set_to(average="ema"),
    "lookahead": set_to(average="lookahead"),
    "cosine": set_to(schedule="cosine"),
    "trapezoid": set_to(schedule="trapezoid"),
    "decay x 0.2": scaled(weight_decay=0.2),
    "decay x 4": scaled(weight_decay=4),
    "batch 32": set_to(batch_size=32),
    "batch 128": set_to(batch_size=128),
    "smoothing 0": set_to(label_smoothing=0.0),
    "smoothing 0.1": set_to(label_smoothing=0.1),
    "augment 0": set_to(augment=0.0),
    "augment 0.5": set_to(augment=0.5),
    "augment 1": set_to(augment=1.0),
    "affine": set_to(augment_kind="affine"),
    "crop": set_to(augment_kind="crop"),
    "cutout 0": set_to(cutout=0.0),
    "cutout 0.25": set_to(cutout=0.25),
    "colour 0.5": set_to(colour=0.5),
    "mixup 0.3": set_to(mixup=0.3),
    "cutmix 0.3": set_to(cutmix=0.3),
    "flip": set_to(flip=True),
    "plain finish 0": set_to(plain_finish=0.0),
    "plain finish 0.5": set_to(plain_finish=0.5),
    "whitened stem": set_to(),
    "twice as long": set_to(),
    "taught by itself": set_to(),
    "taught by the teacher": set_to(),
}
"""Each changes the base in one way; the last four in how they are trained."""


@dataclass(frozen=True)
class Bench:
    """One data set, ready to train on."""

    setting: Setting
    arch: Arch
    recipe: Recipe
    teacher: Arch
    preprocessing: Preprocessing
    train: LabelledTensors
    validation: LabelledTensors
    kept: Path | None = None
    """Where trained nets are, a folder a seed."""

    @classmethod
    def opened(cls, name: str, path: str, cache: Path) -> Bench:
        """Read the data; the test part stays closed."""
        found = cls.of(SETTINGS[name], path, cache)
        base = set_to(optimizer="sgd", lr=BASE_LR[name], weight_decay=5e-4)
        return dataclasses.replace(found, recipe=base(found.recipe))

    @classmethod
    def of(cls, setting: Setting, path: str, cache: Path) -> Bench:
        """The same for a setting of one's own."""
        data, target = open_dataset(path), targets.load()
        known = loader.load(setting.space).with_fixed("flip", value=False)

        def drawn(candidate: str) -> tuple[Arch, Recipe]:
            place = known.candidate_names.index(candidate)
            return known.sample(
                RandomTrial(0, known.candidates[place]),
                size=data.size,
                channels=data.channels,
                classes=len(data.class_names),
                target=target,
            )

        arch, recipe = drawn(setting.candidate)
        size = arch.input[:2]
        train = load_labelled(data.decoded_files("train", size, cache))
        return cls(
            setting,
            arch,
            recipe,
            drawn(setting.teacher)[0],
            data.preprocessing(size),
            LabelledTensors(train.pixels[: setting.samples], train.labels[: setting.samples]),
            load_labelled(data.decoded_files("validation", size, cache)),
        )

    def trained(self, variant: str, seed: int) -> Model:
        """One training from nothing."""
        recipe = VARIANTS[variant](self.recipe)
        teacher, epochs = None, self.setting.epochs
        if variant.startswith("taught"):
            arch = self.arch if variant == "taught by itself" else self.teacher
            teacher = self._fitted(arch, self.recipe, epochs, seed + 1000)
        if variant == "twice as long":
            epochs *= 2
        return self._fitted(self.arch, recipe, epochs, seed, teacher, variant == "whitened stem")

    def _fitted(
        self,
        arch: Arch,
        recipe: Recipe,
        epochs: int,
        seed: int,
        teacher: Model | None = None,
        is_whitened: bool = False,
    ) -> Model:
        start = initial_model(arch, self.preprocessing, seed)
        if is_whitened:
            start = whitened(start, self.train)
        guides = () if teacher is None else (teacher,)
        return fit(start, self.train, recipe, epochs=epochs, seed=seed, teachers=guides)


def whitened(model: Model, data: LabelledTensors) -> Model:
    """The first convolution begins with the main patterns of patches, and with their negatives.

    As in Jordan 2024, section 3.2 (arXiv:2404.00498), but trained on.
    """
    name, weight = next((k, w) for k, w in model.weights.items() if w.ndim == 4)
    patches = F.unfold(model.preprocessing.apply(data.pixels[:1000]), tuple(weight.shape[2:]))
    values, vectors = torch.linalg.eigh(patches.transpose(0, 1).flatten(1).cov())
    count = min(len(values), len(weight) // 2)
    patterns = (vectors / (values + 1e-2).sqrt()).T.flip(0)[:count].reshape(-1, *weight.shape[1:])
    begun = weight.clone()
    begun[: 2 * count] = torch.cat([patterns, -patterns])
    begun *= weight.std() / begun.std()
    return dataclasses.replace(model, weights={**model.weights, name: begun})


def run(bench: Bench, variant: str, seed: int) -> dict[str, Any]:
    """Accuracy on validation data, and the seconds of everything it took."""
    begun = time.perf_counter()
    try:
        model = bench.trained(variant, seed)
    except Diverged:
        return {"accuracy": 0.0, "seconds": time.perf_counter() - begun}
    seconds = time.perf_counter() - begun
    return {
        "accuracy": float(is_correct(model, bench.validation).mean()),
        "seconds": seconds,
    }


def rows(path: Path) -> list[dict[str, Any]]:
    """What is known, a line each; one that was cut off counts as nothing."""
    known = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            known.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return known


def read(path: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """What is known, by data set, variant and seed."""
    return {(row["data"], row["variant"], row["seed"]): row for row in rows(path)}


def cell(known: dict[tuple[str, str, int], dict[str, Any]], name: str, variant: str) -> str:
    """A variant's gain over the base on one data set."""
    pairs = [
        (row, known[name, BASE, seed])
        for (data, kind, seed), row in known.items()
        if (data, kind) == (name, variant) and (name, BASE, seed) in known
    ]
    if not pairs:
        return ""
    if variant == BASE:
        own = [row["accuracy"] for row, _ in pairs]
        spread = statistics.stdev(own) if len(own) > 1 else math.nan
        return f"{statistics.mean(own):.2%} ± {100 * spread:.2f} ({len(own)})"
    gains = [100 * (row["accuracy"] - base["accuracy"]) for row, base in pairs]
    error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
    ratio = statistics.median(row["seconds"] / base["seconds"] for row, base in pairs)
    return f"{statistics.mean(gains):+.2f} ± {error:.2f} ({ratio:.2f}x)"


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="*", help="NAME=PATH")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations.jsonl"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    part, parts = map(int, given.part.split("/"))
    places = dict(item.split("=", 1) for item in given.data)
    benches = {n: Bench.opened(n, p, given.out.parent / "cache") for n, p in places.items()}
    jobs = [(n, v, s) for s in range(given.seeds) for v in given.only for n in benches]
    for number, (name, variant, seed) in enumerate(jobs):
        if number % parts != part or (name, variant, seed) in read(given.out):
            continue
        found = run(benches[name], variant, seed)
        row = {"data": name, "variant": variant, "seed": seed} | found
        with given.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
    known = read(given.out)
    names = sorted({name for name, _, _ in known})
    print(f"| variant | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for variant in VARIANTS:
        cells = [cell(known, name, variant) for name in names]
        if any(cells):
            print(f"| {variant} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
