"""`lepton run DATA` without options against a script with Optuna, on sets no default was chosen on.

    python benchmarks/bench.py unseen_sets make SOURCES sets
    python benchmarks/bench.py unseen_sets run sets --seconds 300 --seeds 3
    python benchmarks/bench.py unseen_sets run sets --part second --seconds 300
    python benchmarks/bench.py unseen_sets run sets --seconds 300 --only lepton --label before
    python benchmarks/bench.py unseen_sets table

`make` writes the sets of `benchmarks/unseen_data.py`: eight to develop on, eight to confirm with.
SOURCES holds fashion_mnist.npz, cifar10.npz, speech.npz and motion.npz (float windows (N, 6, 128)
with persons as groups) with the keys that lepton reads, and flowers/{train,test}/CLASS/*.jpg.

`run` gives each program SECONDS of CPU time in all, the script first (benchmarks/optuna_script.py,
of which it searches for SCRIPT_SEARCH; lepton gets what the script used in all), one set after the
other. Each finished cell is a line of the results file and is not repeated: the same command goes
on where it was stopped. With `--cpu-clock` budgets count CPU seconds, for a machine that others use
too. `--label` names the version of the code; `table` compares the labels and the script on
validation pictures, and with `--test` on the test parts.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from benchmarks import unseen_data
from benchmarks.common import RUNS, append_row, lepton, parser, print_table, read_rows, resnet8
from lepton_automl.models.onnx_file import onnx_probabilities
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.runs.folder import RunFolder

SCRIPT = Path(__file__).parents[1] / "optuna_script.py"
CPU_CLOCK = Path(__file__).parents[1] / "cpu_clock"
SCRIPT_NEEDS = ("torch_pruning", "onnxscript")
PACKAGES = "torch-pruning onnxscript sympy"
SCRIPT_SEARCH = 0.55
"""Share of its time that the script searches for; the rest is for the last trainings."""
ROUNDS, CALLS = 25, 40
Row = dict[str, Any]


def make(sources: Path, out: Path) -> None:
    """Write all sets that are missing."""
    out.mkdir(parents=True, exist_ok=True)
    known = unseen_data.Sources(sources)
    for name, build in (unseen_data.FIRST | unseen_data.SECOND).items():
        path = out / f"{name}.npz"
        if not path.exists():
            np.savez(path, **build(known))
        with np.load(path) as file:
            print(name, file["x_train"].shape, len(file["y_test"]))


def called(command: Sequence[str], *, cpu_clock: bool = False) -> tuple[str, float]:
    """What a program prints, and the CPU seconds that it and its children used.

    Raises
    ------
    SystemExit
        If it fails.
    """
    paths = [str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
    paths = [str(CPU_CLOCK), *paths] if cpu_clock else paths
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=False, env=os.environ | own
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 6):  # 6: a limit does not hold, or the budget was not enough.
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, cpu


def script(data: Path, given: argparse.Namespace, seed: int) -> Row:
    """The script: its two files, and the CPU seconds it used in all."""
    out = given.out.parent / f"unseen-{data.stem}-script-{seed}"
    search = SCRIPT_SEARCH * given.seconds
    printed, cpu = called(
        [sys.executable, str(SCRIPT), str(data), f"{search}", str(out), str(seed)]
    )
    found: Row = json.loads(printed.splitlines()[-1])
    for name in ("whole", "pruned"):
        found[name]["latency_ratio"] = latency_ratio((out / f"{name}.onnx").read_bytes())
    return found | {"cpu": cpu}


def ours(data: Path, given: argparse.Namespace, seed: int, seconds: float) -> Row:
    """A run of lepton without options but time and seed."""
    out = given.out.parent / f"unseen-{data.stem}-{given.label}-{seed}"
    words = ["--budget", f"{seconds:.0f}s", "--jobs", "1", "--seed", str(seed), "--json"]
    command = lepton("run", str(data), *words, "--out", str(out), *given.options)
    printed, cpu = called(command, cpu_clock=given.cpu_clock)
    found = json.loads(printed)
    file = (Path(found["artifact"]) / "model.int8.onnx").read_bytes()
    return {
        "int8_accuracy": test_accuracy(file, data),
        "size_bytes": found["int8"]["size_bytes"],
        "latency_ratio": latency_ratio(file),
        "validation": shipped_validation(out),
        "seconds": seconds,
        "cpu": cpu,
    }


def test_accuracy(file: bytes, data: Path) -> float:
    """Share of the test pictures that are right, also where lepton states balanced accuracy."""
    with np.load(data) as arrays:
        pixels, labels = arrays["x_test"], arrays["y_test"]
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    right = onnx_probabilities(file, torch.from_numpy(pixels)).argmax(1) == labels
    return float(right.mean())


def shipped_validation(out: Path) -> float:
    """Validation accuracy of the last accepted step of the newest compression."""
    steps = max(RunFolder(out).models.glob("compressed-*/steps.json"), key=os.path.getmtime)
    accepted = [step for step in json.loads(steps.read_text()) if step["is_accepted"]]
    return float(accepted[-1]["accuracy"])


def latency_ratio(file: bytes) -> float:
    """Latency at batch 1 on one thread as a multiple of ResNet-8's, in the same rounds."""
    calls = [call(file), call(random_int8_onnx(resnet8(), 64))]
    times = [[min(timed(each) for _ in range(CALLS)) for each in calls] for _ in range(ROUNDS)]
    return round(statistics.median(own / other for own, other in times), 4)


def call(file: bytes) -> Callable[[], object]:
    """A function that runs the file once on random pixels, warmed up."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    net = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    given = net.get_inputs()[0]
    kind = np.uint8 if given.type == "tensor(uint8)" else np.float32
    pixels = np.random.default_rng(0).integers(0, 256, (1, *given.shape[1:])).astype(kind)
    run_once = functools.partial(net.run, None, {given.name: pixels})
    for _ in range(20):
        run_once()
    return run_once


def timed(run_once: Callable[[], object]) -> float:
    """Seconds of a call."""
    begun = time.perf_counter()
    run_once()
    return time.perf_counter() - begun


def main(arguments: list[str]) -> None:
    """Make the sets, run what is missing, or print the results."""
    options = parser(__doc__, "unseen_sets")
    options.add_argument("step", choices=("make", "run", "table"))
    options.add_argument("places", nargs="*", type=Path)
    options.add_argument("--part", choices=("first", "second"), default="first")
    options.add_argument("--sets", help="some of them, with commas")
    options.add_argument("--seconds", type=float, default=300.0)
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--first-seed", type=int, default=0)
    options.add_argument("--only", choices=("lepton", "script"))
    options.add_argument("--label", default="lepton")
    options.add_argument("--cpu-clock", action="store_true")
    options.add_argument("--test", action="store_true", help="show the test parts, at the end only")
    options.add_argument("--out", type=Path, default=RUNS / "unseen_sets.jsonl")
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    given = options.parse_args(arguments[:cut])
    given.options = arguments[cut + 1 :]
    if given.step == "make":
        make(*given.places)
    elif given.step == "run":
        run(given, given.places[0])
    table(given, read_rows(given.out))


def run(given: argparse.Namespace, folder: Path) -> None:
    """Run every cell that has no row."""
    part = unseen_data.FIRST if given.part == "first" else unseen_data.SECOND
    names = given.sets.split(",") if given.sets else list(part)
    missing = [name for name in SCRIPT_NEEDS if importlib.util.find_spec(name) is None]
    if missing and given.only != "lepton":  # The script would end with an error after minutes.
        raise SystemExit(f"the script needs {', '.join(missing)}: pip install {PACKAGES}")
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        for name in names:
            data = folder / f"{name}.npz"
            if given.only != "lepton":
                record(given, [name, given.seconds, "script", seed], script, data, seed)
            if given.only != "script":
                row = known(given, [name, given.seconds, "script", seed])
                seconds = row["cpu"] if row else given.seconds
                record(given, [name, given.seconds, given.label, seed], ours, data, seed, seconds)


def known(given: argparse.Namespace, key: list[Any]) -> Row | None:
    """The row of a cell."""
    return next((row for row in read_rows(given.out) if row["key"] == key), None)


def record(given: argparse.Namespace, key: list[Any], program: Any, data: Path, *more: Any) -> None:
    """Run a cell and append its row, unless there is one."""
    if known(given, key) is None:
        append_row(given.out, {"key": key} | program(data, given, *more))
        print(*key, flush=True)


def table(given: argparse.Namespace, rows: Sequence[Row]) -> None:
    """A row a set and budget: each label, then the script's two files."""
    cells: dict[tuple[str, float], dict[str, list[Row]]] = {}
    for row in rows:
        name, seconds, program, _ = row["key"]
        cells.setdefault((name, seconds), {}).setdefault(program, []).append(row)
    labels = sorted({row["key"][2] for row in rows} - {"script"})
    heads = [*labels, "script", *(["script, pruned"] if given.test else [])]
    measure = "int8_accuracy" if given.test else "validation"
    printed = []
    for (name, seconds), own in cells.items():
        found = [text(own.get(label, []), measure) for label in labels]
        found.append(text([files(row, "whole") for row in own.get("script", [])], measure))
        if given.test:
            found.append(text([files(row, "pruned") for row in own.get("script", [])], measure))
        printed.append((name, f"{seconds:.0f}", *found))
    print_table(("set", "s", *(f"{head}: {measure}, kB, latency" for head in heads)), printed)


def files(row: Row, name: str) -> Row:
    """A file of the script, with the validation accuracy of its best trial."""
    return row[name] | {"validation": row["validation"]}


def text(rows: Sequence[Mapping[str, Any]], measure: str) -> str:
    """Means over seeds of accuracy, kilobytes and latency ratio."""
    if not rows:
        return ""
    accuracy, size, latency = (
        statistics.mean(row[key] for row in rows)
        for key in (measure, "size_bytes", "latency_ratio")
    )
    return f"{100 * accuracy:.2f} %, {size / 1000:.1f}, {latency:.2f}"
