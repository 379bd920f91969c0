"""A ResNet-20 made twice as fast: what it loses, on the file that ships.

    python benchmarks/halved.py cifar10_20k.npz --seeds 3 --epochs 16 --minutes 20

Trained here from nothing, then `lepton compress` with half of the float file's latency and 0.2
points as its limits; with `--of int8 --times 1.5 --drop 1` that part of the latency of its own int8
file as it was before any cut. The test part is opened once a seed, by the verdict. Latencies of
that file and of the shipped one are taken in the same rounds, on one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path

import torch
from ablations import rows

from lepton_automl.config import Limits, RunConfig
from lepton_automl.core import files as durable
from lepton_automl.cost import targets
from lepton_automl.cost.latency import Stopwatch
from lepton_automl.data.dataset import load_labelled, open_dataset
from lepton_automl.models.arch import Arch, chain
from lepton_automl.models.layers import Layer
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.model import Model
from lepton_automl.models.onnx_export import float_onnx
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.pipeline.compress_net import RECIPE, compress_net
from lepton_automl.training.loop import fit, initial_model
from lepton_automl.training.recipe import Recipe

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
"""Of the time that is wanted, what is asked for: quiet times differ from one moment to the next."""


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
    durable.write(folder / RECIPE, recipe.to_json() + "\n")
    return model


@dataclasses.dataclass(frozen=True)
class Aim:
    """What is asked for."""

    of: str
    """`float` or `int8`: which file of the net before any cut."""
    times: float
    """As fast as that."""
    points: float
    """Of the float net's accuracy that may be lost."""
    seconds: float
    """For the compression."""


def halved(model: Model, path: str, aim: Aim, folder: Path) -> dict[str, object]:
    """Compress, judge once, time again."""
    names = [str(number) for number in range(model.arch.classes)]
    made = {
        "float": float_onnx(model, names, {}),
        "int8": random_int8_onnx(model.arch, targets.load().weight_limit),
    }
    watch = Stopwatch()
    before = watch.measure(made, rounds=27)[aim.of]
    # As limits are judged: the ratio to the reference net times its quiet time, which must be the
    # run's own one; on a busy machine two of them differ by a fifth.
    quiet_ms = watch.quiet_reference_ms()
    Stopwatch.quiet_reference_ms = lambda *_, **__: quiet_ms
    most = ROOM * before.ratio * quiet_ms / aim.times
    limits = Limits(max_latency_ms=most, max_drop=aim.points)
    config = RunConfig(
        path, folder / "out", limits=limits, budget_seconds=aim.seconds, jobs=1, prefer="latency"
    )
    outcome = compress_net(config, folder / "net")
    verdict = outcome.verdict
    shipped = outcome.artifact / f"model.{'int8' if verdict.primary == 'int8' else 'fp32'}.onnx"
    files = made | {"shipped": shipped.read_bytes()}
    ratios = []
    for _ in range(9):
        now = Stopwatch().measure(files)
        ratios.append(now[aim.of].ratio / now["shipped"].ratio)
    drop = verdict.drops["int8" if verdict.primary == "int8" else "float"]
    assert verdict.reference is not None, "the reference was measured"
    return {
        "verdict": verdict.status,
        "float": verdict.reference.accuracy,
        "lost": [drop.points, drop.low, drop.high],
        "times": [statistics.median(ratios), min(ratios), max(ratios)],
        "bytes": [len(files[aim.of]), len(files["shipped"])],
        "n": verdict.reference.n_samples,
    }


def main() -> None:
    """Train and compress what is missing, then a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--blocks", type=int, default=3, help="a stage; 3: ResNet-20, 9: ResNet-56")
    parser.add_argument("--minutes", type=float, default=20.0, help="for each compression")
    parser.add_argument("--of", choices=("float", "int8"), default="float", help="as fast as that")
    parser.add_argument("--times", type=float, default=2.0)
    parser.add_argument("--drop", type=float, default=0.2, help="points that may be lost")
    parser.add_argument("--out", type=Path, default=Path("runs/halved.jsonl"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    known = rows(given.out)
    for seed in range(len(known), given.seeds):
        folder, begun = given.out.parent / f"halved-{given.blocks}-{seed}", time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        model = trained(given.data, given.blocks, given.epochs, seed, folder / "net")
        seconds = time.monotonic() - begun
        aim = Aim(given.of, given.times, given.drop, 60 * given.minutes)
        found = halved(model, given.data, aim, folder)
        with given.out.open("a") as file:
            file.write(json.dumps(found | {"seconds to train": round(seconds)}) + "\n")
    print("| seed | float | points lost [95 %] | times as fast [least, most] | bytes | verdict |")
    print("|---|---|---|---|---|---|")
    known = rows(given.out)
    for seed, row in enumerate(known):
        lost, times, size = row["lost"], row["times"], row["bytes"]
        print(
            f"| {seed} | {row['float']:.2%} of {row['n']} | {lost[0]:+.2f} [{lost[1]:+.2f}, "
            f"{lost[2]:+.2f}] | {times[0]:.2f} [{times[1]:.2f}, {times[2]:.2f}] "
            f"| {size[0]} -> {size[1]} | {row['verdict']} |"
        )
    means = [statistics.mean(row[k][0] for row in known) for k in ("lost", "times")]
    print(f"\nmean of {len(known)}: {means[0]:+.2f} points, {means[1]:.2f} times")


if __name__ == "__main__":
    main()
