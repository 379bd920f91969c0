"""Whether a net learns better from nothing when other nets of the search teach it.

    python benchmarks/teaching.py fashion=fashion_mnist.npz cifar10=cifar10.npz --seeds 2 \
        --pictures 2000 --epochs 54 --out runs/teaching.jsonl

Settings and nets are those of `ablations.py`, but for pictures and epochs; judged on validation
data only.
Teachers are three known-good nets of the space, trained for a third of the student's epochs (what a
search has anyway) or for all of them (what last trainings leave), or the largest of them alone; the
mean of their logits counts. Every training is one line of the file, and what is there is not run
again. Seconds are those of the processor, one thread; a teacher's own training is not in them.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ablations import Bench, read
from torch import Tensor

from lepton_automl.cost import targets
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model
from lepton_automl.models.network import build_network, extract_weights
from lepton_automl.search.space import loader
from lepton_automl.search.space.draw import RandomTrial
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.loop import fit, initial_model, recalibrate_batchnorm, train_loop
from lepton_automl.training.recipe import Recipe


@dataclass(frozen=True)
class Lesson:
    """How a student is trained."""

    times: float = 1.0
    """Epochs, as a multiple of the setting's."""
    teachers: float = 0.0
    """Their epochs, likewise; 0: none."""
    only: str = ""
    """`largest`, or `own`: another net of the student's kind; empty: all of them."""
    weight: float = 0.5
    temperature: float = 2.0


LESSONS = {
    "base": Lesson(),
    "1.33 times as long": Lesson(4 / 3),
    "twice as long": Lesson(2.0),
    "three short, 0.5, 2": Lesson(teachers=1 / 3),
    "three short, 0.9, 4": Lesson(teachers=1 / 3, weight=0.9, temperature=4.0),
    "three whole, 0.5, 2": Lesson(teachers=1.0),
    "three whole, 0.9, 2": Lesson(teachers=1.0, weight=0.9),
    "three whole, 0.9, 4": Lesson(teachers=1.0, weight=0.9, temperature=4.0),
    "largest whole, 0.5, 2": Lesson(teachers=1.0, only="largest"),
    "largest whole, 0.9, 4": Lesson(teachers=1.0, only="largest", weight=0.9, temperature=4.0),
    "own whole, 0.5, 2": Lesson(teachers=1.0, only="own"),
    "own whole, 0.9, 4": Lesson(teachers=1.0, only="own", weight=0.9, temperature=4.0),
}


class School:
    """Students and teachers of one data set and seed."""

    def __init__(self, bench: Bench, seed: int, pictures: int, epochs: int) -> None:
        self._bench, self._seed, self._epochs = bench, seed, epochs
        self._data = LabelledTensors(bench.train.pixels[:pictures], bench.train.labels[:pictures])
        self.teacher = functools.cache(self._teacher)

    def learn(self, lesson: Lesson) -> dict[str, Any]:
        """One student: accuracy, processor seconds, and how good its teachers are."""
        bench, seed = self._bench, self._seed
        student = initial_model(bench.arch, bench.preprocessing, seed)
        guide, found = None, dict[str, Any]()
        if lesson.teachers:
            own = [n for n, (arch, _) in enumerate(self._nets()) if arch == bench.arch]
            numbers = {"largest": [-1 + len(self._nets())], "own": own}.get(lesson.only, [0, 1, 2])
            guide = mean_of([self.teacher(number, lesson.teachers) for number in numbers])
            found["taught_by"] = right(guide, bench)
        begun = time.process_time()
        network = build_network(student.arch, student.weights)
        train_loop(
            network,
            self._data,
            bench.preprocessing,
            bench.recipe,
            epochs=round(self._epochs * lesson.times),
            seed=seed,
            teacher=guide,
            distill_weight=lesson.weight,
            temperature=lesson.temperature,
        )
        recalibrate_batchnorm(
            network, self._data, bench.preprocessing, seed=seed, device=torch.device("cpu")
        )
        seconds = time.process_time() - begun
        model = dataclasses.replace(student, weights=extract_weights(network))
        share = float(is_correct(model, bench.validation).mean())
        return found | {"accuracy": share, "seconds": seconds}

    def _nets(self) -> list[tuple[Arch, Recipe]]:
        """The known-good nets of the space, the largest last."""
        arch, known = self._bench.arch, loader.load(self._bench.setting.space)
        drawn = [
            known.with_fixed("flip", value=False).sample(
                RandomTrial(0, params),
                size=arch.input[:2],
                channels=arch.input[2],
                classes=arch.classes,
                target=targets.load(),
            )
            for params in known.candidates[:3]
        ]
        return sorted(drawn, key=lambda each: each[0].graph.macs)

    def _teacher(self, number: int, times: float) -> Model:
        """One of them, trained with a seed of its own."""
        arch, recipe = self._nets()[number]
        seed, epochs = 1000 + 10 * self._seed + number, round(self._epochs * times)
        begun = initial_model(arch, self._bench.preprocessing, seed)
        return fit(begun, self._data, recipe, epochs=epochs, seed=seed)


def mean_of(models: Sequence[Model]) -> Callable[[Tensor], Tensor]:
    """The mean of their logits."""
    networks = [model.network() for model in models]
    return lambda x: torch.stack([network(x) for network in networks]).mean(0)


@torch.inference_mode()
def right(forward: Callable[[Tensor], Tensor], bench: Bench) -> float:
    """Share of the validation part that it gets right."""
    pixels, labels = bench.validation.pixels, bench.validation.labels
    answers = [forward(bench.preprocessing.apply(part)).argmax(1) for part in pixels.split(256)]
    return float((torch.cat(answers) == labels).float().mean())


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="*", help="NAME=PATH")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=54)
    parser.add_argument("--only", nargs="*", default=list(LESSONS), choices=list(LESSONS))
    parser.add_argument("--out", type=Path, default=Path("runs/teaching.jsonl"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    places = dict(item.split("=", 1) for item in given.data)
    benches = {n: Bench.opened(n, p, given.out.parent / "cache") for n, p in places.items()}
    for seed in range(given.seeds):
        for name, bench in benches.items():
            school = School(bench, seed, given.pictures, given.epochs)
            for variant in given.only:
                if (name, variant, seed) not in read(given.out):
                    row = {"data": name, "variant": variant, "seed": seed}
                    row |= school.learn(LESSONS[variant])
                    with given.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    show(read(given.out))


def show(known: dict[tuple[str, str, int], dict[str, Any]]) -> None:
    """Points against the base of the same seed, each seed; seconds as a ratio; the teachers."""
    names = sorted({name for name, _, _ in known})
    print(f"| variant | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for variant in LESSONS:
        cells = []
        for name in names:
            rows = [row for (n, v, _), row in sorted(known.items()) if (n, v) == (name, variant)]
            pairs = [(row, known[name, "base", row["seed"]]) for row in rows]
            if not pairs:
                cells.append("")
                continue
            gains = ", ".join(f"{100 * (r['accuracy'] - b['accuracy']):+.2f}" for r, b in pairs)
            ratio = statistics.median(r["seconds"] / b["seconds"] for r, b in pairs)
            own = ", ".join(f"{r['accuracy']:.2%}" for r, _ in pairs)
            by = ", ".join(f"{r['taught_by']:.2%}" for r in rows if "taught_by" in r)
            text = own if variant == "base" else f"{gains} ({ratio:.2f}x)"
            cells.append(text + (f", by {by}" if by else ""))
        print(f"| {variant} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
