"""What int8 costs in accuracy: our quantizer and others on the same float nets.

    python benchmarks/bench.py int8 fashion=fashion_mnist.npz cifar10=cifar10.npz \
        speech=fsdd_speaker.npz flowers=flowers5/train digits=digits --seeds 3
    python benchmarks/bench.py int8 digits=digits --seeds 1 --nets "digits, quick"

Known-good nets are trained on a part of the training pictures and judged on validation pictures, of
which quantization sees nothing; no test part is opened. `hard` is the same net with its channels
rescaled at random (sigma 1.4), which changes no answer of the float net. Weights within +-127 for
all. onnxruntime: its quantizer on our float file, `signed` values as it is by default, `unsigned`
values and a scale a channel as is best on x86. NNCF and onnx-neural-compressor are measured where
NNCF_PYTHON or ONC_PYTHON names the Python of an environment that has them. Below each table: the
methods that ours was chosen from. Every net is a line of the file and is not trained again.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_static
from torch import Tensor

from benchmarks.common import RUNS, append_row, known_good, parser, print_table, read_rows
from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.evaluation import int8_file
from lepton_automl.compress.external.static_quantization import CalibrationPictures, silenced
from lepton_automl.compress.quantization.calibration import calibrate
from lepton_automl.compress.quantization.equalization import (
    equalization_groups,
    fold_batchnorm,
    rescale,
)
from lepton_automl.compress.quantization.quantize import quantize_model
from lepton_automl.compress.quantization.rounding import quantize
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.cost.latency import Stopwatch
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.sampling import PICTURES, balanced
from lepton_automl.data.tensors import load_labelled
from lepton_automl.metrics.paired import paired_drop
from lepton_automl.models import onnx_file
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model
from lepton_automl.models.onnx_export import float_onnx
from lepton_automl.models.quantization import Preprocessing
from lepton_automl.training.loop import fit, initial_model
from lepton_automl.training.recipe import Recipe

SIGMA = 1.4
LIMIT = 127
"""Weights of all: what a processor with VNNI adds without overflow."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Which known-good net is trained on how much of which data."""

    data: str
    space: str
    candidate: str
    samples: int
    epochs: int


TASKS = {
    "fashion, quick": Setting("fashion", "tiny", "quick", 12000, 18),
    "fashion, large": Setting("fashion", "tiny", "large", 12000, 18),
    "cifar10, half": Setting("cifar10", "residual", "half", 10000, 18),
    "cifar10, resnet8": Setting("cifar10", "residual", "resnet8", 10000, 12),
    "speech, quick": Setting("speech", "tiny", "quick", 2400, 27),
    "flowers, medium": Setting("flowers", "mobile", "medium", 2400, 18),
    "digits, quick": Setting("digits", "tiny", "quick", 1200, 40),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """A net and its data, ready to train."""

    setting: Setting
    arch: Arch
    recipe: Recipe
    preprocessing: Preprocessing
    train: LabelledTensors
    validation: LabelledTensors

    @classmethod
    def opened(cls, setting: Setting, path: str, cache: Path) -> Task:
        """Read the data; the test part stays closed."""
        data = open_dataset(path)
        arch, recipe = known_good(
            setting.space, setting.candidate, data.size, data.channels, len(data.class_names)
        )
        size = arch.input[:2]
        train, validation = (
            load_labelled(data.decoded_files(p, size, cache)) for p in ("train", "validation")
        )
        few = LabelledTensors(train.pixels[: setting.samples], train.labels[: setting.samples])
        return cls(setting, arch, recipe, data.preprocessing(size), few, validation)

    @property
    def calibration(self) -> Tensor:
        """uint8 training pictures of all classes, (N, rows, columns, channels)."""
        return self.train.pixels[balanced(self.train.labels, PICTURES, 0)]


def trained(task: Task, seed: int, folder: Path) -> Model:
    """The float net, kept in `folder`."""
    if (folder / "weights.safetensors").is_file():
        return Model.load(folder)
    model = fit(
        initial_model(task.arch, task.preprocessing, seed),
        task.train,
        task.recipe,
        epochs=task.setting.epochs,
        seed=seed,
    )
    model.save(folder)
    return model


def rescaled(model: Model, seed: int) -> Model:
    """The same function, channels of sizes that differ by a factor of e^1.4 (one sigma)."""
    weights, draws = dict(model.weights), torch.Generator().manual_seed(seed)
    graph = model.arch.graph
    channels = {op.y.name: op.y.channels for op in graph.ops}
    for group in equalization_groups(graph):
        size = channels[next(iter(group))]
        factor = torch.exp(SIGMA * torch.randn(size, generator=draws))
        rescale(graph, group, weights, {name: torch.ones(size) for name in group}, factor)
    return dataclasses.replace(model, weights=weights)


def onnxruntime_file(file: bytes, pixels: Tensor, **more: Any) -> bytes:
    """The quantizer of onnxruntime on our float file, calibrated on the same pictures."""
    with tempfile.TemporaryDirectory() as folder, silenced():
        source, out = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(file)
        quantize_static(source, out, CalibrationPictures(pixels.numpy()), **more)
        return out.read_bytes()


UNSIGNED = {
    "per_channel": True,
    "activation_type": QuantType.QUInt8,
    "weight_type": QuantType.QInt8,
}
NNCF = """
import sys, numpy as np, onnx, nncf
source, pictures, out = sys.argv[1:]
model, x = onnx.load(source), np.load(pictures)
name = model.graph.input[0].name
data = nncf.Dataset([x[i:i + 1] for i in range(len(x))], lambda each: {name: each})
made = nncf.quantize(model, data, subset_size=len(x))
onnx.save(made, out)
"""
ONC = """
import sys, numpy as np, onnx
from onnx_neural_compressor import data_reader
from onnx_neural_compressor.quantization import config, quantize
source, pictures, out = sys.argv[1:]
x, name = np.load(pictures), onnx.load(source).graph.input[0].name

class Pictures(data_reader.CalibrationDataReader):
    def __init__(self):
        self.rewind()

    def rewind(self):
        self.rest = iter([{name: x[i:i + 32]} for i in range(0, len(x), 32)])

    def get_next(self):
        return next(self.rest, None)

quantize(source, out, config.StaticQuantConfig(Pictures(), per_channel=True))
"""
OTHERS = {"NNCF": ("NNCF_PYTHON", NNCF), "onnx-neural-compressor": ("ONC_PYTHON", ONC)}


def other_file(python: str, script: str, file: bytes, pixels: np.ndarray) -> bytes:
    """What another project makes of the float net, with our nodes for uint8 pixels before it.

    The project gets the net alone, with float input, as a model exported from torch has.
    """
    whole = onnx.load_from_string(file)
    value = next(n.input[0] for n in whole.graph.node if n.op_type == "Conv")
    count = next(n for n, node in enumerate(whole.graph.node, 1) if value in node.output)
    seen = onnx.ModelProto()
    seen.CopyFrom(whole)
    seen.graph.output.append(
        onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None)
    )
    given = {whole.graph.input[0].name: pixels}
    (floats,) = onnx_file.open_session(seen.SerializeToString()).run([value], given)
    bare = onnx.ModelProto()
    bare.CopyFrom(whole)
    del bare.graph.node[:count]
    shape = ["batch", *floats.shape[1:]]
    bare.graph.input[0].CopyFrom(
        onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, shape)
    )
    with tempfile.TemporaryDirectory() as folder:
        source, pictures, out = (Path(folder) / n for n in ("float.onnx", "x.npy", "int8.onnx"))
        onnx.save(bare, source)
        np.save(pictures, floats)
        command = [python, "-c", script, *map(str, (source, pictures, out))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        made = onnx.load(out)
    before = whole.graph.node[:count]
    read = {name for node in before for name in node.input}
    made.graph.initializer.extend(c for c in whole.graph.initializer if c.name in read)
    nodes = [*before, *made.graph.node]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    made.graph.input[0].CopyFrom(whole.graph.input[0])
    return made.SerializeToString()


def quantizers(model: Model, task: Task, float_file: bytes) -> dict[str, Callable[[], bytes]]:
    """How each int8 file but ours is made, by name."""
    pixels = task.calibration
    nearest = lambda: int8_file(  # noqa: E731
        quantize(model, calibrate(model, pixels), LIMIT, clip=False, correct=False)
    )
    found = {
        "plain rounding": nearest,
        "onnxruntime, unsigned": lambda: onnxruntime_file(float_file, pixels, **UNSIGNED),
        "onnxruntime, signed": lambda: onnxruntime_file(float_file, pixels),
    }
    for name, (key, script) in OTHERS.items():
        python = os.environ.get(key)
        if python:
            found[name] = lambda python=python, script=script: other_file(
                python, script, float_file, pixels.numpy()
            )
    return found


def measured(model: Model, task: Task) -> dict[str, Any]:
    """Of every quantizer: points lost, agreement, bytes, speed, seconds; of ours, the methods."""
    labels, names = task.validation.labels.numpy(), [str(n) for n in range(model.arch.classes)]
    float_file, pixels = float_onnx(model, names, {}), task.validation.pixels.numpy()
    target = dataclasses.replace(targets.load(), weight_limit=LIMIT)
    work = CompressionContext(
        task.train, task.validation, model, Limits(max_drop=100.0), target, task.recipe
    )
    files, found, methods = {"float": float_file}, {}, list[tuple[str, float, float]]()

    def predict_file(file: bytes) -> np.ndarray:
        return onnx_file.predict_probabilities(onnx_file.open_session(file), pixels).argmax(1)

    def ours() -> bytes:
        made = quantize_model(model, work)
        methods.extend((p.method, p.nats_from_float, p.seconds) for p in made.prices)
        return int8_file(made.model)

    wanted = predict_file(float_file)
    for name, make in ({"ours": ours} | quantizers(model, task, float_file)).items():
        begun = time.perf_counter()
        files[name] = make()
        seconds, given = time.perf_counter() - begun, predict_file(files[name])
        drop = paired_drop(wanted == labels, given == labels)
        found[name] = {
            "drop": drop.points,
            "agreement": float((given == wanted).mean()),
            "bytes": len(files[name]),
            "seconds": seconds,
        }
    latencies = Stopwatch().measure(files)
    for name, row in found.items():
        row["speed"] = latencies["float"].ratio / latencies[name].ratio
    right = float((wanted == labels).mean())
    return {"n": len(labels), "float": right, "quantizers": found, "methods": methods}


def show(name: str, kind: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Print one net's table; mean points lost by quantizer."""
    mean = statistics.mean(row["float"] for row in rows)
    print(f"\n{name}, {kind}: {len(rows)} nets, {rows[0]['n']} pictures, float {mean:.2%}")
    table, lost = [], {}
    for by in rows[0]["quantizers"]:
        each = [row["quantizers"][by] for row in rows if by in row["quantizers"]]
        drops = [e["drop"] for e in each]
        lost[by] = statistics.mean(drops)
        agreement, size, seconds = (
            statistics.mean(e[key] for e in each) for key in ("agreement", "bytes", "seconds")
        )
        # The median: a disturbance of the machine in one of the timings should not count.
        speed = statistics.median(e["speed"] for e in each)
        cells = f"{lost[by]:+.2f} [{min(drops):+.2f}, {max(drops):+.2f}]", f"{agreement:.2%}"
        table.append((by, *cells, f"{size:.0f}", f"{speed:.2f}", f"{seconds:.1f}"))
    head = ("by", "points lost [least, most]", "same class", "bytes", "times float", "seconds")
    print_table(head, table)
    methods = [
        (method, f"{divergence:.2g}", f"{seconds:.1f}")
        for method, divergence, seconds in rows[0]["methods"]
    ]
    print_table(("method, first net", "KL divergence from float", "seconds"), methods)
    return lost


def report(known: list[dict[str, Any]]) -> None:
    """A table a net, plain and hard, then the means over nets."""
    for kind in ("plain", "hard"):
        rows = {t: [row[kind] for row in known if row["key"][0] == t] for t in TASKS}
        lost = [show(task, kind, own) for task, own in rows.items() if own]
        names = sorted(set.intersection(*map(set, lost))) if lost else []
        means = [(n, f"{statistics.mean(each[n] for each in lost):+.3f}") for n in names]
        print_table((f"by, mean of {len(lost)} {kind} nets", "points lost"), means)


def main(arguments: list[str]) -> None:
    """Train and quantize what is missing, then print all that is known."""
    options = parser(__doc__, "int8")
    options.add_argument("data", nargs="*", help="NAME=PATH; names: fashion, cifar10, ...")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--nets", nargs="+", default=list(TASKS), choices=list(TASKS))
    options.add_argument("--out", type=Path, default=RUNS / "int8.jsonl")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    places = dict(item.split("=", 1) for item in given.data)
    for seed, name in itertools.product(range(given.seeds), given.nets):
        measure(name, seed, places, given)
    report(read_rows(given.out))


def measure(name: str, seed: int, places: dict[str, str], given: argparse.Namespace) -> None:
    """Record one net of one seed unless its row or its data is missing or known."""
    setting = TASKS[name]
    is_known = any(row["key"] == [name, seed] for row in read_rows(given.out))
    if is_known or setting.data not in places:
        return
    folder = given.out.parent
    task = Task.opened(setting, places[setting.data], folder / "cache")
    kept = folder / "nets" / name.replace(", ", "-") / str(seed)
    model = fold_batchnorm(trained(task, seed, kept))
    row = {"plain": measured(model, task), "hard": measured(rescaled(model, seed), task)}
    append_row(given.out, {"key": [name, seed]} | row)
