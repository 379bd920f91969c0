"""What int8 costs in accuracy: ours and onnxruntime.quantization on the same float nets.

    python benchmarks/int8.py fashion=fashion_mnist.npz cifar10=cifar10.npz \
        speech=fsdd_speaker.npz flowers=flowers5/train digits=digits --seeds 3

Nets are trained on a part of the training pictures and judged on validation pictures, of which
quantization sees nothing; no test part is opened. Every net is one line of the file; what is there
is not trained again. `hard` are the same nets after their channels were rescaled at random
(sigma 1.4), which changes no answer of the float net. onnxruntime: its quantizer on our float file,
`signed` as it is by default, `unsigned` values and a scale a channel as is best on x86.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablations import Bench, Setting, rows
from onnxruntime.quantization import QuantType, quantize_static
from torch import Tensor

from lepton_automl.compress.context import Work
from lepton_automl.compress.evaluation import int8_file
from lepton_automl.compress.external.quantize import Pictures, unlogged
from lepton_automl.compress.quantization.calibration import calibrate
from lepton_automl.compress.quantization.equalization import fold, proportional, rescale
from lepton_automl.compress.quantization.quantize import Quantize
from lepton_automl.compress.quantization.rounding import quantize
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.cost.latency import Stopwatch
from lepton_automl.data.sampling import PICTURES, balanced
from lepton_automl.metrics.paired import paired_drop
from lepton_automl.models import onnx_file
from lepton_automl.models.model import Model
from lepton_automl.models.onnx_export import float_onnx
from lepton_automl.training.loop import fit, initial_model

TASKS = {
    "fashion, quick": ("fashion", Setting("tiny", "quick", 12000, 18, "quick")),
    "fashion, large": ("fashion", Setting("tiny", "large", 12000, 18, "large")),
    "cifar10, half": ("cifar10", Setting("residual", "half", 10000, 18, "half")),
    "cifar10, resnet8": ("cifar10", Setting("residual", "resnet8", 10000, 12, "resnet8")),
    "speech, quick": ("speech", Setting("tiny", "quick", 2400, 27, "quick")),
    "flowers, medium": ("flowers", Setting("mobile", "medium", 2400, 18, "medium")),
    "digits, quick": ("digits", Setting("tiny", "quick", 1200, 40, "quick")),
}
"""Data, and what of them is trained."""
SIGMA = 1.4
LIMIT = 127
"""Weights of all: what a processor with VNNI adds without overflow."""


More = Callable[[bytes], dict[str, Callable[[], bytes]]]
"""Of a float file: further ways to an int8 file, by name."""


def rescaled(model: Model, seed: int) -> Model:
    """The same function, channels of sizes that differ by a factor of e^1.4 (one sigma)."""
    weights, draws = dict(model.weights), torch.Generator().manual_seed(seed)
    graph = model.arch.graph
    channels = {op.y.name: op.y.channels for op in graph.ops}
    for group in proportional(graph):
        size = channels[next(iter(group))]
        factor = torch.exp(SIGMA * torch.randn(size, generator=draws))
        rescale(graph, group, weights, {name: torch.ones(size) for name in group}, factor)
    return dataclasses.replace(model, weights=weights)


def theirs(file: bytes, pixels: Tensor, **more: Any) -> bytes:
    """The quantizer of onnxruntime on our float file, calibrated on the same pictures."""
    with tempfile.TemporaryDirectory() as folder, unlogged():
        source, out = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(file)
        quantize_static(source, out, Pictures(pixels.numpy()), **more)
        return out.read_bytes()


UNSIGNED = {
    "per_channel": True,
    "activation_type": QuantType.QUInt8,
    "weight_type": QuantType.QInt8,
}


def ways(model: Model, bench: Bench, float_file: bytes) -> dict[str, Callable[[], bytes]]:
    """How each int8 file is made."""
    pixels = bench.train.pixels[balanced(bench.train.labels, PICTURES, 0)]
    target = dataclasses.replace(targets.load(), weight_limit=LIMIT)
    work = Work(bench.train, bench.validation, model, Limits(max_drop=100.0), target, bench.recipe)
    nearest = lambda: int8_file(  # noqa: E731
        quantize(model, calibrate(model, pixels), LIMIT, clip=False, correct=False)
    )
    return {
        "ours": lambda: int8_file(Quantize()(model, work)),
        "plain rounding": nearest,
        "onnxruntime, unsigned": lambda: theirs(float_file, pixels, **UNSIGNED),
        "onnxruntime, signed": lambda: theirs(float_file, pixels),
    }


def answered(file: bytes, bench: Bench) -> np.ndarray:
    """Classes of the validation pictures."""
    pixels = bench.validation.pixels.numpy()
    return onnx_file.predict_probabilities(onnx_file.open_session(file), pixels).argmax(1)


def measured(model: Model, bench: Bench, more: More | None = None) -> dict[str, Any]:
    """Of every way: points lost, agreement, bytes, latency against float, seconds to make."""
    labels, names = bench.validation.labels.numpy(), [str(n) for n in range(model.arch.classes)]
    float_file = float_onnx(model, names, {})
    wanted, files, found = answered(float_file, bench), {"float": float_file}, {}
    others = more(float_file) if more else {}
    for name, make in (ways(model, bench, float_file) | others).items():
        begun = time.perf_counter()
        files[name] = make()
        seconds, given = time.perf_counter() - begun, answered(files[name], bench)
        drop = paired_drop(wanted == labels, given == labels)
        found[name] = {
            "drop": drop.points,
            "low": drop.low,
            "high": drop.high,
            "agreement": float((given == wanted).mean()),
            "bytes": len(files[name]),
            "seconds": seconds,
        }
    latencies = Stopwatch().measure(files)
    for name, row in found.items():
        row["speed"] = latencies["float"].ratio / latencies[name].ratio
    return {"n": len(labels), "float": float((wanted == labels).mean()), "ways": found}


def each_net(
    about: str | None, out: str, tasks: Collection[str], work: Callable[[Model, Bench, int], Any]
) -> list[dict[str, Any]]:
    """Train what is missing of `tasks`, keep what `work` says of each net; all that is known.

    Parameters
    ----------
    about : str
        For `--help`.
    out : str
        Name of the file in `runs/`, a line a net.
    tasks : collection of str
        Keys of `TASKS`.
    work : callable
        Of a trained model, its data and its seed: what is to be kept, a dict.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("data", nargs="*", help="NAME=PATH")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs") / out)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    places = dict(item.split("=", 1) for item in given.data)
    for seed, task in itertools.product(range(given.seeds), tasks):
        data, setting = TASKS[task]
        if data not in places or any(row["key"] == [task, seed] for row in rows(given.out)):
            continue
        bench = Bench.of(setting, places[data], given.out.parent / "cache")
        bench = dataclasses.replace(bench, kept=given.out.parent / "nets" / task.replace(", ", "-"))
        line = {"key": [task, seed]} | work(trained(bench, seed), bench, seed)
        with given.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
    return rows(given.out)


def trained(bench: Bench, seed: int) -> Model:
    """The net of a task; kept, because several benchmarks begin with it."""
    assert bench.kept is not None, "each_net has said where"
    folder = bench.kept / str(seed)
    if (folder / "weights.safetensors").is_file():
        return Model.load(folder)
    start = initial_model(bench.arch, bench.preprocessing, seed)
    epochs = bench.setting.epochs
    model = fit(start, bench.train, bench.recipe, epochs=epochs, seed=seed)
    model.save(folder)
    return model


def both(model: Model, bench: Bench, seed: int) -> dict[str, Any]:
    """The net as it is, and made hard."""
    model = fold(model)
    return {"plain": measured(model, bench), "hard": measured(rescaled(model, seed), bench)}


def main() -> None:
    """Train and quantize what is missing, then two tables."""
    known = each_net(__doc__, "int8.jsonl", TASKS, both)
    for kind in ("plain", "hard"):
        table(kind, known)


def table(kind: str, known: list[dict[str, Any]]) -> None:
    """Means over seeds, and over tasks."""
    names = ["ours", "plain rounding", "onnxruntime, unsigned", "onnxruntime, signed"]
    print(f"\n{kind}: points lost, agreement; bytes; times as fast as float; seconds\n")
    print(f"| task | float | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}")
    lost: dict[str, list[float]] = {name: [] for name in names}
    for task in TASKS:
        mine = [row[kind] for row in known if row["key"][0] == task]
        if not mine:
            continue
        cells = []
        for name in names:
            each = [row["ways"][name] for row in mine]
            mean = {k: statistics.mean(e[k] for e in each) for k in each[0]}
            # A hiccup of the machine in one of the timings should not count.
            mean["speed"] = statistics.median(e["speed"] for e in each)
            lost[name].append(mean["drop"])
            spread = f"{min(e['drop'] for e in each):+.2f} to {max(e['drop'] for e in each):+.2f}"
            cells.append(
                f"{mean['drop']:+.2f} ({spread}), {mean['agreement']:.2%}; {mean['bytes']:.0f}; "
                f"{mean['speed']:.2f}; {mean['seconds']:.1f}"
            )
        accuracy = statistics.mean(row["float"] for row in mine)
        print(f"| {task} ({len(mine)} x {mine[0]['n']}) | {accuracy:.2%} | {' | '.join(cells)} |")
    means = " | ".join(
        f"{statistics.mean(lost[name]):+.3f}" if lost[name] else "" for name in names
    )
    print(f"| mean of tasks | | {means} |")


if __name__ == "__main__":
    main()
