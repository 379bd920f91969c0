"""Answers of an int8 file in other versions of ONNX Runtime, compared with the installed one.

    python benchmarks/bench.py runtimes RUN/artifact DATA.npz --versions 1.16.3 1.20.1 1.24.* today
    python benchmarks/bench.py runtimes random --nets 24 --samples 1000

Each version is installed by pip into a folder of its own, with numpy alone, and answers with
optimisations on and off, 1 and 2 threads, batches of 64 and 1. Compared with today's answers (on,
1 thread, batches of 64) are the last quantized tensor, in steps, and the class of the shipped file.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import math
import operator
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks import runtime_answers
from benchmarks.common import RUNS, parser, print_table
from benchmarks.speed.c99 import inputs, random_subjects
from lepton_automl.artifact.parity import CLEAR_MARGIN
from lepton_automl.models.integer_reference import with_last_quantized_output
from lepton_automl.models.onnx_file import input_type, open_session

TODAY, RANDOM = "today", "random"
DEFAULT = "on 1 64"
WORKER = Path(runtime_answers.__file__)
FIRST_WITH_NUMPY_2 = (1, 19)


@dataclass(frozen=True)
class Comparison:
    """Answers of one version with the optimisations on or off, beside the expected ones."""

    answers: int
    equal: int
    near: int
    """Whose last quantized tensor differs by at most one step everywhere."""
    steps: int
    same_class: int
    clear: int
    """Whose expected two top probabilities differ by more than parity asks for."""
    clear_same_class: int
    probability: float
    """Largest difference of a probability."""

    def __add__(self, other: Comparison) -> Comparison:
        """Both together."""
        largest = ("steps", "probability")
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Comparison(**{k: max(a, b) if k in largest else a + b for k, a, b in pairs})


def main(arguments: list[str]) -> None:
    """Print a line a version and state of the optimisations."""
    options = parser(__doc__, "runtimes")
    options.add_argument("model", help="artifact folder of a run, an int8 file, or `random`")
    options.add_argument("data", nargs="?", help=".npz with x_test, or `digits` (all)")
    options.add_argument("--versions", nargs="+", default=["1.16.3", "1.20.1", "1.24.*", TODAY])
    options.add_argument("--samples", type=int, default=10_000, help="at most")
    options.add_argument("--nets", type=int, default=24, help="random ones of all layer kinds")
    options.add_argument("--environments", type=Path, default=RUNS / "runtimes")
    given = options.parse_args(arguments)
    if (given.data is None) != (given.model == RANDOM):
        options.error("DATA goes with an artifact or a file; random nets have samples of their own")
    with tempfile.TemporaryDirectory() as scratch:
        folders = []
        for file, samples in subjects(given):
            folders.append(Path(scratch, str(len(folders))))
            prepare(folders[-1], file, samples)
        everything = answers(folders, None)
        print(f"today: {onnxruntime.__version__}")
        rows = []
        for version in given.versions:
            at = None if version == TODAY else environment(version, given.environments)
            found = everything if at is None else answers(folders, at)
            for level in runtime_answers.LEVELS:
                pairs = zip(found, everything, strict=True)
                total = functools.reduce(operator.add, (compare(*pair, level) for pair in pairs))
                rows.append((found[0]["version"], level, *cells(total)))
    head = ["version", "optimisations", "answers", "bit-equal", "within 1 step", "most steps"]
    print_table([*head, "same class", "of clear ones", "probability, most"], rows)


def subjects(given: argparse.Namespace) -> Iterator[tuple[bytes, np.ndarray]]:
    """int8 files with the samples to answer."""
    if given.model == RANDOM:
        for seed, made in enumerate(random_subjects(given.nets)):
            yield made.file, inputs(made.net, given.samples, seed)
        return
    path = Path(given.model)
    file = (path / "model.int8.onnx" if path.is_dir() else path).read_bytes()
    samples = read_samples(file, given.data, given.samples)
    print(f"{hashlib.sha256(file).hexdigest()[:12]}, {len(file)} bytes, {len(samples)} samples")
    yield file, samples


def prepare(folder: Path, file: bytes, samples: np.ndarray) -> None:
    """Write what `runtime_answers.py` reads."""
    folder.mkdir()
    (folder / "shipped.onnx").write_bytes(file)
    (folder / "with_last.onnx").write_bytes(with_last_quantized_output(file))
    np.save(folder / "samples.npy", samples)


def read_samples(file: bytes, name: str, count: int) -> np.ndarray:
    """At most `count` samples (n, ...) of the type and shape that the file reads."""
    session = open_session(file)
    shape, kind = session.get_inputs()[0].shape[1:], input_type(session)
    if name == "digits":
        from sklearn.datasets import load_digits

        found = np.rint(load_digits().images * (255 / 16))
    else:
        with np.load(name) as arrays:
            found = arrays["x_test"]
    return np.ascontiguousarray(found[:count].astype(kind).reshape(-1, *shape))


def environment(version: str, folder: Path) -> Path:
    """Folder with that version of ONNX Runtime and a numpy it can use; installed if missing."""
    place = folder / version.replace("*", "x")
    if not place.exists():
        numpy = "numpy" if release(version) >= FIRST_WITH_NUMPY_2 else "numpy<2"
        part = place.with_name(f"{place.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(part)]
        subprocess.run([*pip, f"onnxruntime=={version}", numpy], check=True)
        part.rename(place)
    return place


def release(version: str) -> tuple[int, int]:
    """The first two numbers of a version: (1, 24) of `1.24.*`."""
    major, minor, *_ = version.split(".")
    return int(major), int(minor)


def answers(folders: Sequence[Path], libraries: Path | None) -> list[dict[str, np.ndarray]]:
    """What `runtime_answers.py` writes, with `libraries` before what is installed here."""
    variables = os.environ | ({} if libraries is None else {"PYTHONPATH": str(libraries)})
    command = [sys.executable, "-P", str(WORKER), *map(str, folders)]
    subprocess.run(command, check=True, env=variables)
    found = []
    for folder in folders:
        with np.load(folder / "answers.npz") as arrays:
            found.append(dict(arrays))
        (folder / "answers.npz").unlink()
    return found


def compare(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], level: str
) -> Comparison:
    """Compare all settings of one state of the optimisations with today's default."""
    settings = [key.removeprefix("last ") for key in found if key.startswith(f"last {level} ")]
    last = np.stack([found[f"last {each}"] for each in settings]).astype(int)
    steps = np.abs(last - expected[f"last {DEFAULT}"])
    steps = steps.max(axis=tuple(range(2, steps.ndim)))
    made = np.stack([found[f"probabilities {each}"] for each in settings])
    real = expected[f"probabilities {DEFAULT}"]
    same = made.argmax(2) == real.argmax(1)
    lower, upper = np.sort(real, axis=1)[:, -2:].T
    clear = np.broadcast_to(upper - lower > CLEAR_MARGIN, same.shape)
    return Comparison(
        answers=same.size,
        equal=int((made == real).all(2).sum()),
        near=int((steps <= 1).sum()),
        steps=int(steps.max()),
        same_class=int(same.sum()),
        clear=int(clear.sum()),
        clear_same_class=int(same[clear].sum()),
        probability=float(np.abs(made - real).max()),
    )


def cells(total: Comparison) -> tuple[str, ...]:
    """Cells of the table; shares are rounded down."""
    equal, near, same = (
        f"{math.floor(count / total.answers * 1e5) / 1e3:.3f} %"
        for count in (total.equal, total.near, total.same_class)
    )
    clear = f"{total.clear_same_class} of {total.clear}"
    return (
        str(total.answers),
        equal,
        near,
        str(total.steps),
        same,
        clear,
        f"{total.probability:.2g}",
    )
