"""A ResNet made faster by `lepton compress`: what the shipped file loses.

    python benchmarks/bench.py compression cifar10_20k.npz --seeds 3 --epochs 16 --minutes 20
    python benchmarks/bench.py compression cifar10_10k.npz --seeds 3 --epochs 14 --blocks 1 \
        --of int8 --times 1.5 --drop 1 --minutes 5

Trained here from nothing, then compressed with a limit on latency (a share of the uncut float or
int8 file's) and on points lost. The test part is used once a seed, by the verdict. Latencies of the
uncut and of the shipped file are taken in the same rounds, on one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path

import torch

from benchmarks.common import RUNS, append_row, parser, print_table, read_rows
from lepton_automl.config import Limits, RunConfig
from lepton_automl.core import files
from lepton_automl.cost import targets
from lepton_automl.cost.latency import Stopwatch
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.tensors import load_labelled
from lepton_automl.models.arch import Arch, chain
from lepton_automl.models.layers import Layer
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.model import Model
from lepton_automl.models.onnx_export import float_onnx
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.pipeline.compress_net import compress_net
from lepton_automl.training.loop import fit, initial_model
from lepton_automl.training.recipe import Recipe

RECIPE = "recipe.json"
TRAINED = Recipe(
    optimizer="muon",
    lr=0.04,
    weight_decay=0.05,
    augment=1.0,
    augment_kind="crop",
    flip=True,
    label_smoothing=0.1,
)
ROOM = 0.92
"""Of the wanted latency, the stated limit: quiet times differ from one moment to the next."""


def resnet(blocks: int) -> Arch:
    """Three stages of 16, 32 and 64 channels (He et al. 2016, section 4.2): 3 blocks make 20."""
    layers: list[Layer] = [Stem(out=16)]
    for out, stride in ((16, 1), (32, 2), (64, 2)):
        layers += [Residual(out=out, stride=stride if n == 0 else 1) for n in range(blocks)]
    return chain((32, 32, 3), [*layers, Head()], 10)


def trained(path: str, blocks: int, epochs: int, seed: int, folder: Path) -> Model:
    """The float net, kept in `folder` with its recipe."""
    if (folder / RECIPE).is_file():
        return Model.load(folder)
    data = open_dataset(path)
    train = load_labelled(data.decoded_files("train", (32, 32), folder.parent / "cache"))
    model = initial_model(resnet(blocks), data.preprocessing((32, 32)), seed)
    model = fit(model, train, TRAINED, epochs=epochs, seed=seed)
    model.save(folder)
    recipe = dataclasses.replace(TRAINED, epochs=epochs)
    files.write(folder / RECIPE, recipe.to_json() + "\n")
    return model


def compressed(model: Model, given: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Compress, judge once, time again."""
    names = [str(number) for number in range(model.arch.classes)]
    made = {
        "float": float_onnx(model, names, {}),
        "int8": random_int8_onnx(model.arch, targets.load().weight_limit),
    }
    watch = Stopwatch()
    before = watch.measure(made, rounds=27)[given.of]
    # A limit is judged as a ratio to the reference net times its quiet time, which must be the same
    # here and in the run: on a busy machine two measurements of it differ by a fifth.
    quiet_ms = watch.quiet_reference_ms()
    Stopwatch.quiet_reference_ms = lambda *_, **__: quiet_ms
    most = ROOM * before.ratio * quiet_ms / given.times
    config = RunConfig(
        given.data,
        folder / "out",
        limits=Limits(max_latency_ms=most, max_drop=given.drop),
        budget_seconds=60 * given.minutes,
        jobs=1,
        prefer="latency",
    )
    outcome = compress_net(config, folder / "net")
    verdict = outcome.verdict
    is_int8 = verdict.primary == "int8"
    shipped = (outcome.artifact / f"model.{'int8' if is_int8 else 'fp32'}.onnx").read_bytes()
    ratios = []
    for _ in range(9):
        now = Stopwatch().measure(made | {"shipped": shipped})
        ratios.append(now[given.of].ratio / now["shipped"].ratio)
    drop = verdict.drops["int8" if is_int8 else "float"]
    assert verdict.reference is not None, "the reference was measured"
    return {
        "verdict": verdict.status,
        "float": verdict.reference.accuracy,
        "lost": [drop.points, drop.low, drop.high],
        "times": [statistics.median(ratios), min(ratios), max(ratios)],
        "bytes": [len(made[given.of]), len(shipped)],
        "n": verdict.reference.n_samples,
    }


def main(arguments: list[str]) -> None:
    """Train and compress what is missing, then a row a seed."""
    options = parser(__doc__, "compression")
    options.add_argument("data")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--epochs", type=int, default=16)
    options.add_argument("--blocks", type=int, default=3, help="a stage; 1: ResNet-8, 3: ResNet-20")
    options.add_argument("--minutes", type=float, default=20.0, help="for each compression")
    options.add_argument("--of", choices=("float", "int8"), default="float", help="the uncut file")
    options.add_argument("--times", type=float, default=2.0, help="as fast as the uncut file")
    options.add_argument("--drop", type=float, default=0.2, help="points that may be lost")
    options.add_argument("--out", type=Path, default=RUNS / "compression.jsonl")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    for seed in range(len(read_rows(given.out)), given.seeds):
        folder = given.out.parent / f"compression-{given.blocks}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        model = trained(given.data, given.blocks, given.epochs, seed, folder / "net")
        append_row(given.out, compressed(model, given, folder))
    rows, table = read_rows(given.out), []
    for seed, row in enumerate(rows):
        lost, times, size = row["lost"], row["times"], row["bytes"]
        points = f"{lost[0]:+.2f} [{lost[1]:+.2f}, {lost[2]:+.2f}]"
        speed = f"{times[0]:.2f} [{times[1]:.2f}, {times[2]:.2f}]"
        accuracy = f"{row['float']:.2%} of {row['n']}"
        table.append((seed, accuracy, points, speed, f"{size[0]} -> {size[1]}", row["verdict"]))
    head = ("seed", "float", "points lost [95 %]", "times as fast [least, most]", "bytes")
    print_table((*head, "verdict"), table)
    means = [statistics.mean(row[key][0] for row in rows) for key in ("lost", "times")]
    print(f"\nmean of {len(rows)}: {means[0]:+.2f} points, {means[1]:.2f} times as fast")
