"""Whether parts that are drawn keep together what belongs together, and promise what test shows.

    python benchmarks/bench.py splits groups digits flowers5/train cifar10.npz --first 6000
    python benchmarks/bench.py splits promise flowers5/train cifar10.npz --answers knn
    python benchmarks/bench.py splits promise flowers5/train --answers net --epochs 8

groups: what is grouped in the training part of a set, and the CPU seconds of the search. promise: a
set is rebuilt with known groups: each of `--bases` of its training pictures is taken `--times`
times with another crop (up to `--crop` of each side), light (gain, offset, gradient) and noise, at
`--side` pixels; nothing is said of groups. A third of the base pictures are the test part. For each
seed validation is drawn without and with the search for near duplicates, an answerer (the nearest
training picture, or one small net) is judged on validation and test. The table says in how many
splits the test accuracy lies within the 95 % interval that lepton gives for validation, in how many
its verdict would have no warning, and the share of validation pictures whose base is in training.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import parser, print_table
from lepton_automl.data.dataset import Dataset, LabelledTensors
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.sources import Pictures
from lepton_automl.data.splits import near_duplicates
from lepton_automl.metrics.paired import Evidence, unpaired_difference
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.loop import fit, initial_model
from lepton_automl.training.recipe import Recipe


def retaken(
    pixels: NDArray[np.uint8], side: int, crop: float, noise: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A picture once more: other crop, light and noise; uint8 (side, side, C)."""
    height, width = pixels.shape[:2]
    left, right = rng.uniform(0, crop, 2) * width
    top, bottom = rng.uniform(0, crop, 2) * height
    image = Image.fromarray(pixels.squeeze())
    box = (left, top, width - right, height - bottom)
    taken = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=box), float)
    taken = taken.reshape(side, side, -1)
    along = np.linspace(-0.5, 0.5, side)
    slope = rng.uniform(-0.35, 0.35, 2)
    light = 1 + slope[0] * along[:, None] + slope[1] * along[None]
    taken = taken * (light * rng.uniform(0.65, 1.35))[..., None] + rng.uniform(-20, 20)
    return np.clip(taken + rng.normal(0, noise, taken.shape), 0, 255).astype(np.uint8)


def opened(data: str, first: int) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64], Dataset]:
    """Pictures and labels of the training part, at most `first`."""
    dataset = open_dataset(data, group="none")
    part, channels = dataset.train, dataset.channels
    order = np.random.default_rng(0).permutation(len(part))[:first]
    size = dataset.size
    if size is None:
        one = [dataset_pixels(part.pictures, int(n), channels) for n in order]
    else:
        every = dataset.pixels("train", size)
        one = [every[n] for n in order]
    return one, part.labels[order], dataset


def dataset_pixels(pictures: Pictures, place: int, channels: int) -> NDArray[np.uint8]:
    """One decoded picture (H, W, C) at its own size."""
    from lepton_automl.data.pictures import decode

    return decode.decode(pictures[place], channels)


def groups(options: argparse.Namespace) -> None:
    """What is grouped in sets as they are."""
    rows = []
    for data in options.data:
        pictures, labels, _ = opened(data, options.first)
        start = time.process_time()
        thumbs = near_duplicates.thumbnails(tuple(pictures))
        found = near_duplicates.find_near_duplicates(thumbs, labels)
        seconds = time.process_time() - start
        several = found.sizes > 1
        count = len(np.unique(found.groups[several]))
        rows.append(
            (data, len(labels), int(several.sum()), count, int(found.sizes.max()), f"{seconds:.1f}")
        )
    print_table(("set", "pictures", "grouped", "groups", "largest", "CPU s"), rows)


def rebuilt(
    options: argparse.Namespace, pictures: Sequence[NDArray[np.uint8]], labels: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Pictures (N, side, side, C), labels and base numbers (N,)."""
    rng = np.random.default_rng(1 + options.draw)
    bases = rng.permutation(len(pictures))[: options.bases]
    x = np.stack(
        [
            retaken(pictures[base], options.side, options.crop, options.noise, rng)
            for base in bases
            for _ in range(options.times)
        ]
    )
    return x, np.repeat(labels[bases], options.times), np.repeat(bases, options.times)


def answers(
    kind: str, dataset: Dataset, side: int, epochs: int, seed: int
) -> dict[str, NDArray[np.bool_]]:
    """Which validation and test pictures an answerer has right."""
    pixels = {part.name: dataset.pixels(part.name, (side, side)) for part in dataset.parts}
    if kind == "net":
        arch = chain(
            (side, side, dataset.channels),
            [Stem(16), Conv(32, stride=2), Conv(48, stride=2), Head()],
            len(dataset.class_names),
        )
        tensors = {
            part.name: LabelledTensors(
                torch.from_numpy(pixels[part.name].copy()), torch.from_numpy(part.labels)
            )
            for part in dataset.parts
        }
        model = initial_model(arch, dataset.preprocessing((side, side)), seed)
        model = fit(model, tensors["train"], Recipe(), epochs=epochs, seed=seed)
        return {name: is_correct(model, tensors[name]) for name in ("validation", "test")}
    vectors = {name: near_duplicates.vectors(thumbs(each)) for name, each in pixels.items()}
    right = {}
    for part in (dataset.validation, dataset.test):
        nearest = (vectors[part.name] @ vectors["train"].T).argmax(1)
        right[part.name] = dataset.train.labels[nearest] == part.labels
    return right


def thumbs(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey thumbnails."""
    return near_duplicates.thumbnails(pixels)


def promise(options: argparse.Namespace) -> None:
    """Validation against test on rebuilt sets, without and with the search."""
    rows = []
    for data in options.data:
        pictures, labels, _ = opened(data, options.first)
        x, y, base = rebuilt(options, pictures, labels)
        for group, name in (("none", "at random"), (None, "by near duplicates")):
            within = quiet = 0
            shares: dict[str, list[float]] = {"validation": [], "test": []}
            leaks = []
            for seed in range(options.draw, options.draw + options.splits):
                order = np.random.default_rng(seed).permutation(np.unique(base))
                is_test = np.isin(base, order[: len(order) // 3])
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder, "a.npz")
                    arrays = {"x_train": x[~is_test], "y_train": y[~is_test]}
                    np.savez(file, **arrays, x_test=x[is_test], y_test=y[is_test])
                    dataset = open_dataset(file, group=group, seed=seed)
                right = answers(options.answers, dataset, options.side, options.epochs, seed)
                evidence = {
                    part.name: Evidence(right[part.name], bases_of(part.ids, base, is_test))
                    for part in (dataset.validation, dataset.test)
                }
                known = set(bases_of(dataset.train.ids, base, is_test).tolist())
                groups_of_validation = evidence["validation"].groups
                assert groups_of_validation is not None
                leaks.append(np.mean([each in known for each in groups_of_validation.tolist()]))
                # What lepton knows of groups, as in its verdict.
                own = Evidence(right["validation"], dataset.validation.groups)
                low, high = own.interval
                within += low <= evidence["test"].accuracy <= high
                judged = Evidence(right["test"], dataset.test.groups)
                quiet += unpaired_difference(own, judged, 0.99)[1][0] <= 0
                for part, each in evidence.items():
                    shares[part].append(each.accuracy)
            rows.append(
                (
                    Path(data).stem,
                    name,
                    *(f"{100 * np.mean(each):.1f} %" for each in shares.values()),
                    f"{within} of {options.splits}",
                    f"{quiet} of {options.splits}",
                    f"{100 * np.mean(leaks):.0f} %",
                )
            )
            print(rows[-1], flush=True)
    head = ("set", "validation drawn", "validation", "test", "within", "no warning", "leaking")
    print_table(head, rows)


def bases_of(
    ids: Sequence[str], base: NDArray[np.int64], is_test: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Base picture of each sample, by its name: `x_train[17]`."""
    place = np.array([int(name.partition("[")[2].rstrip("]")) for name in ids])
    own = base[is_test] if ids[0].startswith("x_test") else base[~is_test]
    return own[place]


def main(arguments: list[str]) -> int:
    """Print one of the two tables."""
    options = parser(__doc__, "splits")
    options.add_argument("what", choices=["groups", "promise"])
    options.add_argument("data", nargs="+", help="digits, a folder or an .npz file")
    options.add_argument("--first", type=int, default=6000, help="pictures of a set at most")
    options.add_argument("--bases", type=int, default=240)
    options.add_argument("--times", type=int, default=4)
    options.add_argument("--splits", type=int, default=10)
    options.add_argument("--draw", type=int, default=0, help="first seed of pictures and splits")
    options.add_argument("--side", type=int, default=32)
    options.add_argument("--crop", type=float, default=0.1)
    options.add_argument("--noise", type=float, default=8.0)
    options.add_argument("--answers", choices=["knn", "net"], default="knn")
    options.add_argument("--epochs", type=int, default=8)
    chosen = options.parse_args(arguments)
    {"groups": groups, "promise": promise}[chosen.what](chosen)
    return 0
