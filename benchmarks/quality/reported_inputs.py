"""Inputs that users of other tools reported as failing, rebuilt and given to the command line.

    python benchmarks/bench.py reported_inputs --out runs/reported
    python benchmarks/bench.py reported_inputs --out runs/reported --code ../before --tag before

Each input is written from scikit-learn's digits (8x8 pixels), in a folder of its own; the command
is that of the package in `--code` (default: this one). A row names the report, the exit code,
the processor seconds, and whether the answer is the wanted one: an exit code and words that have to
be there. Two inputs mount small disks: they need root on Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from benchmarks.common import append_row, parser, print_table, read_rows

Pixels = NDArray[np.uint8]
_PACKAGE = Path(__file__).parents[2]
_SHORT = ["--budget", "20s", "--trials", "1", "--jobs", "1"]
_LIMIT = 900.0
"""Seconds after which a command is stopped."""


@dataclass(frozen=True)
class Report:
    """One report, and the answer that its reporter would have been helped by."""

    number: str
    """Repository and number."""
    kind: str
    what: str
    make: Callable[[Path], list[str]]
    """Writes the files into a folder; returns the arguments of the command."""
    codes: tuple[int, ...]
    """Exit codes of a good answer."""
    words: str
    """Regular expression that the output has to match."""
    environment: tuple[tuple[str, str], ...] = ()


def digits(count: int, classes: int = 4, first: int = 0) -> tuple[Pixels, NDArray[np.int64]]:
    """`count` pictures of each of some classes, from the `first` of each on."""
    data = load_digits()
    chosen = [np.flatnonzero(data.target == k)[first : first + count] for k in range(classes)]
    index = np.concatenate(chosen)
    return np.round(data.images[index] * (255 / 16)).astype(np.uint8), data.target[index]


def save_folder(root: Path, x: NDArray[np.generic], y: NDArray[np.int64], names: list[str]) -> Path:
    """One PNG a picture, in a folder a class."""
    for number, (pixels, label) in enumerate(zip(x, y, strict=True)):
        path = root / names[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


def parts(root: Path, names: tuple[str, ...], classes: int = 4) -> Path:
    """A folder a part, 60 pictures of each class in the first and 25 in the others."""
    labels, first = [f"digit{k}" for k in range(classes)], 0
    for name in names:
        count = 25 if first else 60
        save_folder(root / name, *digits(count, classes, first), labels)
        first += count
    return root


def run(data: Path, *options: str) -> list[str]:
    """Arguments of a short run on `data`."""
    return ["run", str(data), *_SHORT, "--out", str(data.parent / "run"), *options]


# Empty parts ----------------------------------------------------------------------------------


def validation_lacks_a_class(folder: Path) -> list[str]:
    """Three of four classes in `val`."""
    root = parts(folder / "data", ("train", "val", "test"))
    shutil.rmtree(root / "val" / "digit2")
    return run(root)


def test_of_one_class(folder: Path) -> list[str]:
    """One of four classes in `test`."""
    root = parts(folder / "data", ("train", "val", "test"))
    for label in (0, 1, 3):
        shutil.rmtree(root / "test" / f"digit{label}")
    return run(root)


def empty_validation(folder: Path) -> list[str]:
    """`val` has the folders of the classes and no picture."""
    root = parts(folder / "data", ("train", "val", "test"))
    for path in (root / "val").rglob("*.png"):
        path.unlink()
    return run(root)


def very_few_samples(folder: Path) -> list[str]:
    """Three pictures of each class: a tenth of them is none."""
    return run(save_folder(folder / "data", *digits(3), ["a", "b", "c", "d"]))


# Scales of pixels -----------------------------------------------------------------------------


def sixteen_bits(folder: Path) -> list[str]:
    """16-bit grey PNG that other loaders clip to white: values of 20,000 to 65,535."""
    x, y = digits(80)
    deep = (20_000 + x.astype(np.float64) / 255 * 45_535).astype(np.uint16)
    return run(save_folder(folder / "data", deep, y, ["a", "b", "c", "d"]))


def zeros_and_ones(folder: Path) -> list[str]:
    """8-bit PNG of 0 and 1, which another loader makes 0 and 0.0039."""
    x, y = digits(80)
    return run(save_folder(folder / "data", (x > 100).astype(np.uint8), y, ["a", "b", "c", "d"]))


def centred_floats(folder: Path) -> list[str]:
    """Arrays of x / 255 - 0.5."""
    x, y = digits(100)
    np.savez(folder / "data.npz", x_train=x.astype(np.float32) / 255 - 0.5, y_train=y)
    return run(folder / "data.npz")


def fourteen_bits(folder: Path) -> list[str]:
    """Sensor values of 14 bits in 16-bit TIFF."""
    x, y = digits(80)
    root, names = folder / "data", ["a", "b", "c", "d"]
    deep = (x.astype(np.float64) / 255 * 16_383).astype(np.uint16)
    for number, (pixels, label) in enumerate(zip(deep, y, strict=True)):
        path = root / names[label] / f"{number}.tiff"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return run(root)


# Names of folders -----------------------------------------------------------------------------


def notebook_checkpoints(folder: Path) -> list[str]:
    """`.ipynb_checkpoints` with copies of pictures beside the classes."""
    x, y = digits(80)
    root = save_folder(folder / "data", x, y, ["a", "b", "c", "d"])
    shutil.copytree(root / "a", root / ".ipynb_checkpoints")
    shutil.copytree(root / "b", root / "b" / ".ipynb_checkpoints")
    return run(root)


def archive_of_a_mac(folder: Path) -> list[str]:
    """A zip with `__MACOSX`, whose files `._x.png` are no pictures."""
    x, y = digits(80)
    root = save_folder(folder / "files", x, y, ["a", "b", "c", "d"])
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for path in sorted(root.rglob("*.png")):
            name = path.relative_to(root)
            archive.write(path, f"photos/{name}")
            archive.writestr(f"__MACOSX/photos/{name.parent}/._{name.name}", b"\x00\x05\x16\x07")
    return run(folder / "data.zip")


def part_called_valid(folder: Path) -> list[str]:
    """`train`, `valid` and `test`."""
    return run(parts(folder / "data", ("train", "valid", "test")))


def part_called_validation_beside_runs(folder: Path) -> list[str]:
    """`train`, `validation`, `test` and `runs` of an earlier training."""
    root = parts(folder / "data", ("train", "validation", "test"))
    (root / "runs" / "weights").mkdir(parents=True)
    (root / "runs" / "weights" / "last.pt").write_bytes(b"\x80")
    return run(root)


# Files beside a foreign model -----------------------------------------------------------------


class SmallNet(nn.Module):
    """Two convolutions and a linear layer on 8x8 pixels."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.last = nn.Linear(16 * 16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = torch.relu(self.second(torch.relu(self.first(x))))
        logits: torch.Tensor = self.last(torch.flatten(x, 1))
        return logits


def trained(net: nn.Module, x: torch.Tensor, y: NDArray[np.int64]) -> nn.Module:
    """`net` after 200 steps on all samples."""
    torch.manual_seed(0)
    optimizer, labels = torch.optim.Adam(net.parameters(), 3e-3), torch.from_numpy(y)
    for _ in range(200):
        index = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        loss: torch.Tensor = nn.functional.cross_entropy(net(x[index]), labels[index])
        torch.autograd.backward(loss)
        optimizer.step()
    return net.eval()


def export(net: nn.Module, path: Path, shape: tuple[int, ...], *free: int) -> None:
    """Write an ONNX file whose input has the free dimensions `free`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = {"input": {k: f"d{k}" for k in free}}
    names = {"input_names": ["input"], "output_names": ["logits"]}
    torch.onnx.export(
        net, (torch.zeros(shape),), str(path), dynamo=False, dynamic_axes=axes, **names
    )


def in_planes(x: Pixels, channels: int = 1) -> torch.Tensor:
    """(N, channels, 8, 8) of 0 to 1."""
    planes = torch.from_numpy(x.astype(np.float32) / 255)[:, None]
    return planes.expand(-1, channels, -1, -1).contiguous()


def compress(folder: Path, data: Path, *options: str) -> list[str]:
    """Arguments that compress `folder/model.onnx` with `data`; `--expects` where it is known."""
    out = str(folder / "out")
    code = Path(os.environ.get("REPORTED_CODE", str(_PACKAGE)))
    if "`--expects`" not in (code / "docs" / "cli.md").read_text():
        options = ()
    return ["compress", str(folder / "model.onnx"), "--data", str(data), "--out", out, *options]


def state_preprocessing(folder: Path, channels: int = 1) -> None:
    """Say beside the model that its pixels are 0 to 1."""
    mean, std = [0.0] * channels, [1.0] * channels
    text = f"scale = {1 / 255}\nmean = {mean}\nstd = {std}\n"
    (folder / "preprocessing.toml").write_text(text)


def numbers_as_names(folder: Path) -> list[str]:
    """Classes 1 to 10 in folders; the model has them in the order of numbers, the files of text."""
    x, y = digits(100, 10)
    names = [str(k + 1) for k in range(10)]
    data = save_folder(folder / "data", x, y, names)
    export(trained(SmallNet(1, 10), in_planes(x), y), folder / "model.onnx", (1, 1, 8, 8), 0)
    state_preprocessing(folder)
    return compress(folder, data, "--expects", "0.95")


def blue_green_red(folder: Path) -> list[str]:
    """Red and blue digits; the model takes the channels the other way round, as its config says."""
    x, y = digits(100, 2)
    colour = np.zeros((2 * len(x), 8, 8, 3), np.uint8)
    colour[: len(x), :, :, 0] = x
    colour[len(x) :, :, :, 2] = x
    label = np.concatenate([y, y + 2])
    data = save_folder(folder / "data", colour, label, ["red0", "red1", "blue0", "blue1"])
    planes = torch.from_numpy(colour[..., ::-1].copy()).permute(0, 3, 1, 2).float() / 255
    names = {str(k): n for k, n in enumerate(["red0", "red1", "blue0", "blue1"])}
    export(trained(SmallNet(3, 4), planes, label), folder / "model.onnx", (1, 3, 8, 8), 0)
    wanted: dict[str, object] = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,
    }
    wanted |= {"do_flip_channel_order": True, "size": {"height": 8, "width": 8}, "do_resize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(wanted))
    (folder / "config.json").write_text(json.dumps({"id2label": names}))
    return compress(folder, data, "--expects", "0.95")


def forgotten_normalization(folder: Path) -> list[str]:
    """A model trained on standardized pixels; the file beside it says 0 to 1."""
    x, y = digits(100, 10)
    data = save_folder(folder / "data", x, y, [f"digit{k}" for k in range(10)])
    planes = (in_planes(x, 3) - 0.9) / 0.05
    export(trained(SmallNet(3, 10), planes, y), folder / "model.onnx", (1, 3, 8, 8), 0)
    state_preprocessing(folder, 3)
    return compress(folder, data, "--expects", "0.95")


# Exported models ------------------------------------------------------------------------------


class Shuffled(SmallNet):
    """With a channel shuffle between the convolutions, as ShuffleNet has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = torch.relu(self.first(x))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        logits: torch.Tensor = self.last(torch.flatten(torch.relu(self.second(x)), 1))
        return logits


class Pooled(SmallNet):
    """With a mean over the places, so that it takes pictures of any size."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        self.last = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = torch.relu(self.second(torch.relu(self.first(x))))
        logits: torch.Tensor = self.last(x.mean((2, 3)))
        return logits


class FixedShape(SmallNet):
    """Its reshape has the batch of the export as a number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = torch.relu(self.second(torch.relu(self.first(x))))
        logits: torch.Tensor = self.last(x.reshape(1, 256))
        return logits


def exported(folder: Path, net: nn.Module, *free: int) -> list[str]:
    """Train `net`, export it with the free dimensions, compress it."""
    x, y = digits(100, 10)
    data = save_folder(folder / "data", x, y, [f"digit{k}" for k in range(10)])
    _train_any(net, in_planes(x), y)
    export(net, folder / "model.onnx", (1, 1, 8, 8), *free)
    state_preprocessing(folder)
    return compress(folder, data)


def _train_any(net: nn.Module, x: torch.Tensor, y: NDArray[np.int64]) -> None:
    """Train a net, also one that takes one picture: the weights are those of a `SmallNet`."""
    if isinstance(net, FixedShape):
        plain = SmallNet(1, 10)
        trained(plain, x, y)
        net.load_state_dict(plain.state_dict())
        net.eval()
    else:
        trained(net, x, y)


def half_precision(folder: Path) -> list[str]:
    """Weights, inputs and outputs of 16 bits."""
    import onnx
    from onnx import TensorProto, numpy_helper

    arguments = exported(folder, SmallNet(1, 10), 0)
    model = onnx.load(str(folder / "model.onnx"))
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, str(folder / "model.onnx"))
    return arguments


# Faults of the machine ------------------------------------------------------------------------


def full_temporary_folder(folder: Path) -> list[str]:
    """TMPDIR is a disk of 64 kB."""
    arguments = exported(folder, SmallNet(1, 10), 0)
    (folder / "tmp").mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder / "tmp")], check=True
    )
    return arguments


def missing_temporary_folder(folder: Path) -> list[str]:
    """TMPDIR names a folder that does not exist."""
    return exported(folder, SmallNet(1, 10), 0)


def full_output(folder: Path) -> list[str]:
    """The run folder is on a disk of 256 kB."""
    x, y = digits(80)
    root = save_folder(folder / "data", x, y, ["a", "b", "c", "d"])
    (folder / "small").mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder / "small")], check=True
    )
    return ["run", str(root), *_SHORT, "--out", str(folder / "small" / "run")]


# Keys, and files to classify ------------------------------------------------------------------


def positional_arrays(folder: Path) -> list[str]:
    """`np.savez(file, x, y)`: the keys are arr_0 and arr_1."""
    x, y = digits(100)
    np.savez(folder / "data.npz", x, y)
    return run(folder / "data.npz")


def own_keys(folder: Path) -> list[str]:
    """Keys that no convention has."""
    x, y = digits(100)
    np.savez(folder / "data.npz", frames=x, digit_class=y)
    return run(folder / "data.npz")


def pictures_without_labels(folder: Path) -> list[str]:
    """One array of pictures, as QuickDraw has for each class."""
    np.save(folder / "airplane.npy", digits(100)[0].reshape(-1, 64))
    return run(folder / "airplane.npy")


def one_damaged_picture(folder: Path) -> list[str]:
    """Three good pictures and a damaged one, to an artifact that classifies them."""
    x, y = digits(100)
    data = save_folder(folder / "data", x, y, ["a", "b", "c", "d"])
    code = os.environ.get("REPORTED_CODE", str(_PACKAGE))
    subprocess.run(command(run(data)), env=environment(Path(code)), check=True, capture_output=True)
    chosen = [data / "a" / "0.png", data / "b" / "100.png", data / "c" / "200.png"]
    (folder / "damaged.png").write_bytes(chosen[0].read_bytes()[:60])
    names = [str(path) for path in (chosen[0], folder / "damaged.png", *chosen[1:])]
    return ["predict", str(folder / "run"), *names]


# Many classes ---------------------------------------------------------------------------------


def many_classes(classes: int, count: int = 8) -> Callable[[Path], list[str]]:
    """A maker of noise on one pattern a class, `count` samples of each."""

    def make(folder: Path) -> list[str]:
        rng = np.random.default_rng(0)
        marks = rng.integers(0, 2, (classes, 8, 8)) * 120
        y = np.tile(np.arange(classes), count)
        x = (marks[y] + rng.integers(0, 120, (len(y), 8, 8))).astype(np.uint8)
        np.savez(folder / "data.npz", x_train=x, y_train=y)
        return run(folder / "data.npz")

    return make


EMPTY, SCALES, NAMES = "empty parts", "scales of pixels", "names of folders"
BESIDE, EXPORTS, MACHINE = "files beside a model", "exported models", "faults of the machine"
KEYS, CLASSES = "keys and files", "many classes"

REPORTS = [
    Report(
        "BatsResearch/taglets#15",
        EMPTY,
        "`val` lacks one of four classes",
        validation_lacks_a_class,
        (0, 3),
        "digit2",
    ),
    Report(
        "HealthRex/CDSS#81",
        EMPTY,
        "`test` has one of four classes",
        test_of_one_class,
        (0, 3),
        "digit0",
    ),
    Report(
        "vanvalenlab/deepcell-label#414",
        EMPTY,
        "`val` without pictures",
        empty_validation,
        (3,),
        "validation part .* is empty",
    ),
    Report(
        "JohnSnowLabs/spark-nlp#13615",
        EMPTY,
        "three pictures of each class",
        very_few_samples,
        (0, 3),
        "fewer than 10 test samples",
    ),
    Report(
        "pytorch/vision#2218",
        SCALES,
        "16-bit PNG of 20,000 to 65,535",
        sixteen_bits,
        (0,),
        "20,?000 to 65,?535",
    ),
    Report(
        "pytorch/vision#4272",
        SCALES,
        "8-bit PNG of 0 and 1",
        zeros_and_ones,
        (0,),
        "hardly more than two levels",
    ),
    Report("IBM/BAGAN#9", SCALES, "floats of -0.5 to 0.5", centred_floats, (0, 3), "-0.5"),
    Report(
        "yuanming-hu/fc4#24",
        SCALES,
        "14 bits in 16-bit TIFF",
        fourteen_bits,
        (0,),
        "0 to 16,?383",
    ),
    Report(
        "pytorch/vision#2831",
        NAMES,
        "`.ipynb_checkpoints` beside the classes",
        notebook_checkpoints,
        (0,),
        "4 classes",
    ),
    Report(
        "udacity/deep-learning-v2-pytorch#217",
        NAMES,
        "a zip with `__MACOSX`",
        archive_of_a_mac,
        (0,),
        "4 classes",
    ),
    Report(
        "roboflow/roboflow-python#153",
        NAMES,
        "the part `valid`",
        part_called_valid,
        (0,),
        "240 train, 100 validation, 100 test",
    ),
    Report(
        "ultralytics/ultralytics#4310",
        NAMES,
        "the part `validation`, and a folder `runs`",
        part_called_validation_beside_runs,
        (0, 3),
        "240 train, 100 validation, 100 test|runs",
    ),
    Report(
        "pytorch/vision#714",
        BESIDE,
        "folders 1 to 10, which text sorts 1, 10, 2",
        numbers_as_names,
        (3,),
        "order",
    ),
    Report(
        "eNeRGy164/BitmapOnnxPrediction#1",
        BESIDE,
        "channels as blue, green, red (`do_flip_channel_order`)",
        blue_green_red,
        (0,),
        "verdict: holds",
    ),
    Report(
        "onnx/onnx#1440",
        BESIDE,
        "another normalization than the file beside it says",
        forgotten_normalization,
        (3,),
        "normali|mean|preprocessing",
    ),
    Report(
        "microsoft/onnxruntime#11634",
        EXPORTS,
        "channel shuffle",
        lambda folder: exported(folder, Shuffled(1, 10), 0),
        (0,),
        "verdict: holds",
    ),
    Report(
        "microsoft/onnxruntime#12178",
        EXPORTS,
        "free batch, height and width",
        lambda folder: exported(folder, Pooled(1, 10), 0, 2, 3),
        (0, 3),
        "verdict: holds|size",
    ),
    Report(
        "OpenPPL/ppq#161",
        EXPORTS,
        "a reshape with the batch of the export",
        lambda folder: exported(folder, FixedShape(1, 10)),
        (0,),
        "verdict: holds",
    ),
    Report(
        "microsoft/onnxconverter-common#304",
        EXPORTS,
        "weights and inputs of 16 bits",
        half_precision,
        (0,),
        "verdict: holds",
    ),
    Report(
        "luanti-org/luanti#11842",
        MACHINE,
        "full TMPDIR",
        full_temporary_folder,
        (0, 7),
        "verdict: holds|[Ss]pace|TMPDIR|full",
        (("TMPDIR", "tmp"),),
    ),
    Report(
        "capreolus-ir/capreolus#154",
        MACHINE,
        "TMPDIR that does not exist",
        missing_temporary_folder,
        (0, 7),
        "verdict: holds|TMPDIR|temporary",
        (("TMPDIR", "absent"),),
    ),
    Report(
        "chidiwilliams/buzz#1159", MACHINE, "full run folder", full_output, (7,), "[Ss]pace|full"
    ),
    Report(
        "derrian-distro/LoRA_Easy_Training_Scripts#144",
        KEYS,
        "arr_0 and arr_1",
        positional_arrays,
        (0, 3),
        "arr_0",
    ),
    Report(
        "zhengdaoli/AGC-net#5",
        KEYS,
        "keys of the user's own",
        own_keys,
        (0, 3),
        "x=frames,y=digit_class",
    ),
    Report(
        "1991viet/QuickDraw#2",
        KEYS,
        "an array of pictures without labels",
        pictures_without_labels,
        (3,),
        "label",
    ),
    Report(
        "microsoft/Biodiversity#575",
        KEYS,
        "`predict` of three good pictures and a damaged one",
        one_damaged_picture,
        (3,),
        r"(?s)damaged\.png.*200\.png|200\.png.*damaged\.png",
    ),
    Report("fastai/fastai#2516", CLASSES, "400 classes", many_classes(400), (0, 6), "400 classes"),
    Report(
        "apple/turicreate#3315",
        CLASSES,
        "1,200 classes",
        many_classes(1200),
        (0, 6),
        "1200 classes",
    ),
    Report(
        "Lightning-AI/torchmetrics#3343",
        CLASSES,
        "5,000 classes",
        many_classes(5000, 4),
        (0, 4, 6),
        "verdict|give --budget",
    ),
]


def command(arguments: list[str]) -> list[str]:
    """The command line of `lepton` with these arguments."""
    return [sys.executable, "-m", "lepton_automl", *arguments]


def environment(code: Path) -> dict[str, str]:
    """Of a command of the package in `code`: one thread, a wide terminal."""
    return os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "COLUMNS": "400"}


def answered(report: Report, folder: Path, code: Path) -> dict[str, object]:
    """Write the input, run the command, and judge the answer."""
    os.environ["REPORTED_CODE"] = str(code)
    arguments = report.make(folder)
    own = {key: str(folder / name) for key, name in report.environment}
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run(
            command(arguments),
            env=environment(code) | own,
            cwd=folder,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_LIMIT,
        )
        exit_code, text = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        exit_code, text = -1, (error.stdout or b"").decode(errors="replace")
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime
    (folder / "output.txt").write_text(text)
    good = exit_code in report.codes and re.search(report.words, text) is not None
    return {
        "number": report.number,
        "kind": report.kind,
        "what": report.what,
        "exit": exit_code,
        "traceback": "Traceback" in text,
        "good": good and "Traceback" not in text,
        "seconds": round(seconds, 1),
    }


def main(arguments: list[str]) -> None:
    """Give each input to the command once; print a row a report."""
    options = parser(__doc__, "reported_inputs")
    options.add_argument("--out", type=Path, default=Path("runs/reported"))
    options.add_argument("--code", type=Path, default=_PACKAGE, help="folder of lepton_automl")
    options.add_argument("--tag", default="now", help="name of these rows")
    options.add_argument("--only", default="", help="numbers that contain this text")
    given: argparse.Namespace = options.parse_args(arguments)
    torch.set_num_threads(1)
    path = given.out / f"{given.tag}.jsonl"
    known = {row["number"] for row in read_rows(path)}
    for report in REPORTS:
        if report.number in known or given.only not in report.number:
            continue
        folder = (given.out / given.tag / report.number.replace("/", "-")).resolve()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            row = answered(report, folder, given.code.resolve())
        finally:
            for name in ("tmp", "small"):
                if (folder / name).is_mount():
                    subprocess.run(["umount", str(folder / name)], check=False)
        append_row(path, row)
    table(read_rows(path))


def table(rows: list[dict[str, object]]) -> None:
    """A row a report."""
    lines = []
    for row in rows:
        answer = "traceback" if row["traceback"] else "wanted" if row["good"] else "not wanted"
        cells = (row["number"], row["kind"], row["what"], row["exit"], answer, row["seconds"])
        lines.append(tuple(str(cell) for cell in cells))
    print_table(("report", "kind", "input", "exit code", "answer", "CPU s"), lines)
