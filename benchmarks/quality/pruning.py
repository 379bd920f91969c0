"""What pruning and int8 lose on pictures that the run never saw, over many splits of many sets.

    python benchmarks/bench.py pruning SOURCES --out runs/pruning --seeds 0 1
    python benchmarks/bench.py pruning SOURCES --out runs/pruning --seeds 0 1 --code ../before

SOURCES is a folder with the files of `SETS`; those that are missing are left out. Of the training
part of each file some samples become the data of a run, others its test part, which only this
script reads. The float winner of each split is trained once (one known-good candidate), its run
folder is copied and `lepton compress` is called on the copy with the package in `--code` (default:
this one), so that two versions compress the same winners. A row holds the accuracy points that the
int8 file loses against the float winner on the held-out samples, its bytes and its latency as
shares of the int8 file of the uncut winner; both files are timed in the same rounds.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import append_row, lepton, parser, print_table, read_rows
from lepton_automl.compress.evaluation import int8_file
from lepton_automl.compress.steps import CompressionResult
from lepton_automl.cost.latency import Stopwatch
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.data.opening import open_dataset
from lepton_automl.metrics import balanced
from lepton_automl.metrics.paired import paired_drop
from lepton_automl.models.onnx_file import onnx_probabilities
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.training.evaluate import is_correct

Arrays = dict[str, NDArray[Any]]
_PACKAGE = Path(__file__).parents[2]
_SPREAD = 3.0
"""Standard deviations of a sensor that the grey levels of a picture span on either side."""


@dataclass(frozen=True)
class HeldOut:
    """How a set is made from the training part of a file."""

    file: str
    """`digits` or an .npz file with x_train, y_train and, for groups, group_train."""
    samples: int | None = None
    """Samples of the run; None: all that are not held out."""
    held_out: float = 0.25
    """Share of samples, or of groups, that is held out, or their number if above 1."""
    rarest: float = 1.0
    """Samples of the rarest class over those of the most frequent one, in the run."""


SETS: Mapping[str, HeldOut] = {
    "digits": HeldOut("digits"),
    "fashion-1000": HeldOut("fashion_mnist.npz", 1000, 4000),
    "fashion-4000": HeldOut("fashion_mnist.npz", 4000, 4000),
    "fashion-uneven": HeldOut("fashion_mnist.npz", 2500, 4000, 0.1),
    "cifar-4000": HeldOut("cifar10.npz", 4000, 4000),
    "flowers": HeldOut("flowers5.npz"),
    "speech": HeldOut("fsdd_speaker.npz", None, 0.25),
    "motion": HeldOut("har.npz"),
}
"""`speech` and `motion` keep whole speakers and subjects apart; `motion` is imbalanced."""


def source(name: str, folder: Path) -> Arrays | None:
    """Pictures `x`, labels `y`, `class_names` and, where there are groups, `group`."""
    made = SETS[name]
    if made.file == "digits":
        from sklearn.datasets import load_digits

        found = load_digits()
        pixels = np.round(found.images * (255 / 16)).astype(np.uint8)
        return {"x": pixels, "y": found.target, "class_names": found.target_names.astype(str)}
    if not (folder / made.file).is_file():
        return None
    with np.load(folder / made.file) as file:
        keys = {
            "x_train": "x",
            "y_train": "y",
            "group_train": "group",
            "class_names": "class_names",
        }
        arrays = {new: file[old] for old, new in keys.items() if old in file}
    if arrays["x"].dtype != np.uint8:
        arrays["x"] = sensors_as_pictures(arrays["x"])
    return arrays


def sensors_as_pictures(x: NDArray[Any]) -> NDArray[np.uint8]:
    """Windows (N, channels, times) as grey pictures: four rows a channel, times in pairs."""
    paired = x.reshape(*x.shape[:2], -1, 2).mean(-1)
    spread = paired.std((0, 2), keepdims=True) * _SPREAD
    levels = 127.5 + 127.5 * (paired - paired.mean((0, 2), keepdims=True)) / spread
    grey = levels.round().clip(0, 255).astype(np.uint8)
    return grey.repeat(4, axis=1)


def split(name: str, arrays: Arrays, seed: int) -> Arrays:
    """The .npz content of one split: x_train, y_train, x_test, y_test, groups, class_names."""
    made, rng = SETS[name], np.random.default_rng(seed)
    labels, group = arrays["y"], arrays.get("group")
    if group is not None:
        names = rng.permutation(np.unique(group))
        test = np.isin(group, names[: max(1, round(made.held_out * len(names)))])
        chosen = {"test": rng.permutation(np.flatnonzero(test))}
        chosen["train"] = rng.permutation(np.flatnonzero(~test))
    else:
        order = by_class(labels, rng)
        count = made.held_out if made.held_out > 1 else made.held_out * len(labels)
        chosen = {"test": order[: round(count)], "train": order[round(count) :]}
        classes = len(np.unique(labels))
        shares = made.rarest ** (np.arange(classes) / max(classes - 1, 1))
        samples = made.samples or len(chosen["train"])
        counts = np.round(samples * shares / shares.sum()).astype(int)
        own = chosen["train"]
        kept = [own[labels[own] == c][:n] for c, n in zip(np.unique(labels), counts, strict=True)]
        chosen["train"] = rng.permutation(np.concatenate(kept))
    found = {"class_names": arrays["class_names"]}
    for part, index in chosen.items():
        found |= {f"{key}_{part}": arrays[key][index] for key in ("x", "y")}
        if group is not None:
            found[f"group_{part}"] = group[index]
    return found


def by_class(labels: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
    """All samples in a random order in which the classes take turns."""
    order = rng.permutation(len(labels))
    turn = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        own = labels[order] == label
        turn[own] = np.arange(own.sum())
    found: NDArray[np.int64] = order[np.argsort(turn, kind="stable")]
    return found


def called(command: list[str], code: Path = _PACKAGE) -> float:
    """Run a command of `lepton` with the package in `code`; its CPU seconds.

    Raises
    ------
    SystemExit
        If it fails.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(code.resolve())}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, check=False, cwd=code)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def winner(name: str, seed: int, given: argparse.Namespace) -> Path | None:
    """The run folder of a search on one split; it is made once. None without its source."""
    folder = given.out.resolve() / f"{name}-{seed}"
    run = folder / "searched"
    if (run / "models" / "best" / "recipe.json").is_file():
        return folder
    arrays = source(name, given.sources)
    if arrays is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data.npz"
    if not data.is_file():
        np.savez(data, **split(name, arrays, seed))
    options = ["--space", "tiny", "--trials", "1", "--jobs", "1", "--seed", str(seed)]
    called(lepton("search", str(data), *options, "--out", str(run), "--flip", "off", "--quiet"))
    return folder


def judged(folder: Path, made: CompressionResult) -> dict[str, Any]:
    """Held-out loss, bytes and latency of a finished compression."""
    dataset = open_dataset(folder / "data.npz").with_balance("auto")
    pixels = torch.from_numpy(dataset.pixels("test", made.reference.arch.input[:2]))
    y, strata = dataset.test.labels, dataset.test.strata
    data = LabelledTensors(pixels, torch.from_numpy(y))
    file_int8 = int8_file(made.int8)
    before = is_correct(made.reference, data)
    after = onnx_probabilities(file_int8, pixels).argmax(1) == y
    drop = paired_drop(before, after, None, strata)
    uncut = random_int8_onnx(made.reference.arch, 64)
    ratios = []
    for _ in range(5):
        now = Stopwatch().measure({"uncut": uncut, "shipped": file_int8})
        ratios.append(now["shipped"].ratio / now["uncut"].ratio)
    return {
        "float": 100 * balanced.balanced_mean(before, strata),
        "lost": [drop.points, drop.low, drop.high],
        "n": len(y),
        "bytes": [len(uncut), len(file_int8)],
        "time": statistics.median(ratios),
        "cuts": [[s.name, s.is_accepted, s.why] for s in made.steps[1:]],
    }


def compressed(folder: Path, code: Path, tag: str) -> dict[str, Any]:
    """Compress a copy of the searched run with the package in `code`."""
    copy = folder / tag
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder / "searched", copy)
    cpu = called(lepton("compress", str(copy), "--quiet"), code)
    (made,) = (copy / "models").glob("compressed-*")
    return judged(folder, CompressionResult.load(made)) | {"cpu": cpu}


def main(arguments: list[str]) -> None:
    """Compress what is missing, then print a row a split."""
    options = parser(__doc__, "pruning")
    options.add_argument("sources", type=Path)
    options.add_argument("--out", type=Path, default=Path("runs/pruning"))
    options.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options.add_argument("--code", type=Path, default=_PACKAGE, help="folder of lepton_automl")
    options.add_argument("--tag", default="now", help="name of these rows")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    path = given.out / f"{given.tag}.jsonl"
    known = {(row["set"], row["seed"]) for row in read_rows(path)}
    for seed in given.seeds:
        for name in given.sets:
            if (name, seed) in known:
                continue
            folder = winner(name, seed, given)
            if folder is not None:
                row = {"set": name, "seed": seed} | compressed(folder, given.code, given.tag)
                append_row(path, row)
    table(read_rows(path))


def table(rows: list[dict[str, Any]]) -> None:
    """A row a split, then the means."""
    lines = []
    for row in rows:
        lost, size = row["lost"], row["bytes"]
        points = f"{lost[0]:+.2f} [{lost[1]:+.2f}, {lost[2]:+.2f}]"
        kept = sum(accepted for name, accepted, _ in row["cuts"] if name != "quantized")
        lines.append(
            (
                f"{row['set']} {row['seed']}",
                f"{row['float']:.2f} of {row['n']}",
                points,
                f"{size[1] / size[0]:.2f}",
                f"{row['time']:.2f}",
                f"{kept} of {len(row['cuts']) - 1}",
                f"{row['cpu']:.0f}",
            )
        )
    head = ("split", "float", "points lost [95 %]", "bytes", "latency", "cuts accepted", "CPU s")
    print_table(head, lines)
    if not rows:
        return
    lost = [row["lost"][0] for row in rows]
    sizes = [row["bytes"][1] / row["bytes"][0] for row in rows]
    times = [row["time"] for row in rows]
    print(
        f"\n{len(rows)} splits: mean {statistics.mean(lost):+.2f} points lost, "
        f"{sum(x > 1 for x in lost)} above 1.0 (at worst {max(lost):+.2f}); "
        f"bytes saved {1 - statistics.mean(sizes):.1%}, latency {1 - statistics.mean(times):.1%}"
    )
