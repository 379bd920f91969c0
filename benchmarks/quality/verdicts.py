"""Whether verdicts hold and the faster file ships, judged from outside the package.

    python benchmarks/bench.py verdicts limits --runs 100
    python benchmarks/bench.py verdicts latency --runs 50

limits: compressions with random limits of nets of ours, trained briefly, and of ONNX files, on
scikit-learn's digits in parts of random size; the written files are answered again by onnxruntime
alone. Runs are kept and not made again. latency: random nets of three spaces as float32 and int8
files; with `--prefer latency` the faster one must ship. Both files are timed again by a loop that
uses onnxruntime alone, in turns; the shipped one counts as slower if the lower 95 % bound of the
median ratio lies above 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from scipy.stats import binomtest
from sklearn.datasets import load_digits

from benchmarks.common import CENTRED, RUNS, append_row, parser, read_rows
from lepton_automl.artifact.judging import choose_primary
from lepton_automl.artifact.measurements import ROUNDS, SECONDS
from lepton_automl.artifact.verdict import FileMetrics
from lepton_automl.compress.evaluation import int8_file
from lepton_automl.compress.quantization.calibration import calibrate
from lepton_automl.compress.quantization.equalization import fold_batchnorm
from lepton_automl.compress.quantization.rounding import quantize
from lepton_automl.config import Limits, RunConfig
from lepton_automl.cost.cost import static_cost
from lepton_automl.cost.latency import Stopwatch
from lepton_automl.cost.targets import load as load_target
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.data.opening import open_dataset
from lepton_automl.models.model import Model
from lepton_automl.models.onnx_export import float_onnx
from lepton_automl.pipeline.compress_net import compress_net
from lepton_automl.pipeline.compress_onnx import compress_model
from lepton_automl.pipeline.outcome import Outcome
from lepton_automl.search.space.draw import RandomTrial
from lepton_automl.search.space.loader import load
from lepton_automl.training.loop import fit, initial_model

SHAPES = {"tiny": ((28, 28), 1), "residual": ((32, 32), 3), "mobile": ((64, 64), 3)}
JUDGED, JUDGED_SECONDS, OUTSIDE = 25, 0.02, 7
"""Rounds; seconds of a file in each; ordered ratios outside the interval at each end (95.7 %)."""
COSTS = {"max_size_bytes": (8_000, 60_000), "max_macs": (50_000, 2_000_000)}


def data(draws: np.random.Generator, folder: Path) -> Path:
    """Digits, some of them twice as dark, in parts of random size."""
    digits = load_digits()
    order = draws.permutation(len(digits.target))
    pixels = (digits.images * draws.uniform(8, 15)).astype(np.uint8)[order]
    labels, test = digits.target[order], int(draws.integers(100, 700))
    arrays = {
        "x_test": pixels[:test],
        "y_test": labels[:test],
        "x_val": pixels[test : test + 250],
        "y_val": labels[test : test + 250],
        "x_train": pixels[test + 250 :],
        "y_train": labels[test + 250 :],
    }
    np.savez(folder / "digits.npz", **arrays)
    return folder / "digits.npz"


def net(draws: np.random.Generator, path: Path) -> Model:
    """A net of `tiny`, trained for an epoch or a few."""
    found, seed = open_dataset(str(path)), int(draws.integers(2**31))
    arch, recipe = load("tiny").sample(
        RandomTrial(seed), size=found.size, channels=1, classes=10, target=load_target()
    )
    pixels, labels = found.pixels("train", (8, 8)), found.part("train").labels
    train = LabelledTensors(torch.from_numpy(pixels.copy()), torch.from_numpy(labels))
    recipe = dataclasses.replace(recipe, lr=min(recipe.lr, 0.05))
    model = initial_model(arch, found.preprocessing((8, 8)), seed)
    return fit(model, train, recipe, epochs=int(draws.integers(2, 10)), seed=seed)


def limits(draws: np.random.Generator) -> Limits:
    """Each of them or not."""
    stated: dict[str, Any] = {}
    for name, (low, high) in COSTS.items():
        if draws.random() < 0.4:
            stated[name] = int(np.exp(draws.uniform(np.log(low), np.log(high))))
    if draws.random() < 0.5:
        stated["min_accuracy"] = round(float(draws.uniform(0.7, 0.99)), 3)
    if draws.random() < 0.7:
        stated["max_drop"] = float(draws.choice([0.0, 0.5, 1.0, 2.0, 5.0]))
    if draws.random() < 0.3:
        stated["max_class_drop"] = float(draws.choice([2.0, 5.0, 20.0]))
    return Limits(**stated)


def compressed(draws: np.random.Generator, folder: Path) -> tuple[Outcome, Path, Limits]:
    """One compression."""
    path, wanted = data(draws, folder), limits(draws)
    model = net(draws, path)
    if draws.random() < 0.5:
        model.save(folder / "net")
        config = RunConfig(
            str(path), folder / "out", limits=wanted, budget_seconds=20.0,
            objectives=("accuracy", "size_bytes"),
        )  # fmt: skip
        return compress_net(config, folder / "net"), path, wanted
    file = folder / "net.onnx"
    file.write_bytes(float_onnx(model, [str(n) for n in range(10)], {}))
    return compress_model(RunConfig(str(path), folder / "out", limits=wanted), file), path, wanted


def answers(file: Path, pixels: np.ndarray) -> np.ndarray:
    """Classes, by ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    given: np.ndarray = session.run(None, {"pixels": pixels})[0].argmax(1)
    return given


def judged(outcome: Outcome, path: Path, wanted: Limits) -> list[str]:
    """Where the verdict differs from what onnxruntime, numpy and scipy give."""
    verdict, wrong = outcome.verdict, []
    name = "model.int8.onnx" if verdict.primary == "int8" else "model.fp32.onnx"
    with np.load(path) as arrays:
        pixels, labels = arrays["x_test"][..., None], arrays["y_test"]
    file = answers(outcome.artifact / name, pixels) == labels
    reference = answers(outcome.artifact / "reference" / "model.fp32.onnx", pixels) == labels
    lost, won = int((reference & ~file).sum()), int((file & ~reference).sum())
    found = {
        "min_accuracy": float(file.mean()),
        "max_drop": 100 * (lost - won) / len(labels),
        "max_size_bytes": (outcome.artifact / name).stat().st_size,
    }
    holds = {limit.name: limit.status == "holds" for limit in verdict.limits}
    for limit in verdict.limits:
        seen = found.get(limit.name)
        if seen is not None and abs(seen - limit.measured) > 1e-9:
            wrong.append(f"{limit.name}: {limit.measured} said, {seen} found")
    if holds.get("max_size_bytes") and found["max_size_bytes"] > (wanted.max_size_bytes or 0):
        wrong.append("size")
    least, most = wanted.min_accuracy, wanted.max_drop
    if holds.get("min_accuracy") and least is not None:
        # Clopper and Pearson's exact bound is wider than the score bound, by little.
        low = binomtest(int(file.sum()), len(file)).proportion_ci(0.88, "exact").low
        wrong += [f"accuracy: at least {low:.4f}"] if low < least - 0.005 else []
    if holds.get("max_drop") and most is not None and found["max_drop"] > most:
        wrong.append("drop")
    if set(holds) != set(wanted.stated):
        wrong.append(f"judged {sorted(holds)}, stated {sorted(wanted.stated)}")
    return wrong


def random_net(number: int) -> Model:
    """A random net of one of the spaces, folded."""
    name = list(SHAPES)[number % len(SHAPES)]
    size, channels = SHAPES[name]
    draw, target = RandomTrial(number), load_target()
    arch, _ = load(name).sample(draw, size=size, channels=channels, classes=10, target=target)
    return fold_batchnorm(initial_model(arch, CENTRED, number))


def figures(name: str, interval: tuple[float, float], model: Model) -> FileMetrics:
    """What a choice between two files looks at."""
    cost = static_cost(model.arch, 64)
    return FileMetrics(
        file=name,
        sha256="",
        accuracy=0.0,
        accuracy_interval=(0.0, 1.0),
        n_samples=1,
        size_bytes=cost.size_bytes,
        weight_bytes=cost.weight_bytes,
        parameter_bytes=cost.parameter_bytes,
        macs=cost.macs,
        peak_ram_bytes=cost.peak_ram_bytes,
        latency_ms=sum(interval) / 2,
        latency_interval=interval,
        float_nodes=(),
    )


def shipped(files: dict[str, bytes], model: Model) -> str:
    """The file that ships, by lepton's own measurement and rule."""
    timed = Stopwatch().measure(files, rounds=ROUNDS, seconds=SECONDS)
    found = {k: figures(k, (t.ratio_low, t.ratio_high), model) for k, t in timed.items()}
    return choose_primary(found["int8"], found["float"], Limits(), "latency")


def ratios(files: dict[str, bytes], shape: tuple[int, ...]) -> list[float]:
    """int8 time over float time, a number a round."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    pixels = np.random.default_rng(0).integers(0, 256, (1, *shape), dtype=np.uint8)
    sessions = {k: onnxruntime.InferenceSession(f, options) for k, f in files.items()}

    def milliseconds(name: str) -> float:
        runs, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < JUDGED_SECONDS:
            sessions[name].run(None, {"pixels": pixels})
            runs += 1
        return 1000 * (time.perf_counter() - begun) / runs

    for name in files:
        milliseconds(name)
    return sorted(milliseconds("int8") / milliseconds("float") for _ in range(JUDGED))


def judge_limits(given: argparse.Namespace) -> None:
    """Compress what is missing, then count verdicts and disagreements."""
    for number in range(len(read_rows(given.out)), given.runs):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            outcome, path, wanted = compressed(np.random.default_rng(number), Path(folder))
            row = {
                "run": number,
                "status": outcome.verdict.status,
                "limits": wanted.stated,
                "wrong": judged(outcome, path, wanted),
                "seconds": round(time.monotonic() - began, 1),
            }
        append_row(given.out, row)
    rows = read_rows(given.out)
    counts = {s: sum(r["status"] == s for r in rows) for s in ("holds", "broken", "undecided")}
    wrong = [row for row in rows if row["wrong"]]
    print(f"{len(rows)} runs: {counts}; {len(wrong)} differ from the outside judge")
    for row in wrong:
        print(row)


def judge_latency(given: argparse.Namespace) -> None:
    """A line a net whose int8 file is slower, then the counts."""
    slower, unasked, floats = 0, 0, 0
    for number in range(given.runs):
        model = random_net(number)
        draws = torch.Generator().manual_seed(number)
        pixels = torch.randint(0, 256, (64, *model.arch.input), generator=draws).to(torch.uint8)
        made = quantize(model, calibrate(model, pixels), load_target().weight_limit)
        names = [str(n) for n in range(10)]
        files = {"int8": int8_file(made), "float": float_onnx(model, names, {})}
        choice = shipped(files, model)
        each = ratios(files, model.arch.input)
        low, middle = each[OUTSIDE], each[JUDGED // 2]
        is_slower = low > 1
        unasked += is_slower
        floats += choice == "float"
        slower += (is_slower and choice == "int8") or (choice == "float" and each[-1 - OUTSIDE] < 1)
        if is_slower:
            print(f"net {number}: int8 takes {middle:.2f} of float's time, {choice} ships")
    print(f"of {given.runs}: int8 slower {unasked}, float ships {floats}, shipped slower {slower}")


def main(arguments: list[str]) -> None:
    """Judge limits, or the choice by latency."""
    options = parser(__doc__, "verdicts")
    options.add_argument("what", choices=("limits", "latency"))
    options.add_argument("--runs", type=int, default=50)
    options.add_argument("--out", type=Path, default=RUNS / "verdicts.jsonl", help="of limits")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    {"limits": judge_limits, "latency": judge_latency}[given.what](given)
