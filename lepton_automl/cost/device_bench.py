"""Measure the nets of a folder and write a latency table; needs numpy and onnxruntime only.

`lepton bench --ops --kit FOLDER` writes this file as `bench.py` with the nets and `nets.json`
beside it. On the device, `python bench.py` times them and writes `latency_table.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# ONNX Runtime 1.32 sends usage data to its maker unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

VERSION = 1
"""Version of the table format."""
NETS_FILE, TABLE_FILE, REFERENCE = "nets.json", "latency_table.json", "reference.onnx"
ROUNDS, SECONDS = 12, 0.02
"""Interleaved rounds of each net and the reference net; seconds per net over all rounds."""
FOLDS = 10
NOTED_FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"),
    "amx_bf16",
)

Call = Callable[[], object]


def bench(folder: Path, log: Callable[[str], object] = str) -> dict[str, Any]:
    """Measure the nets in `folder` and fit the latency table of this machine."""
    listed = json.loads((folder / NETS_FILE).read_text(encoding="utf-8"))
    reference = open_call(folder / REFERENCE)
    names: list[str] = listed["features"]
    nets: list[dict[str, Any]] = []
    for number, net in enumerate(listed["nets"], 1):
        own, unit = time_pair(open_call(folder / net["file"]), reference)
        nets.append({**net, "milliseconds": 1e3 * own, "ratio": own / unit, "unit": unit})
        if number % 20 == 0:
            log(f"{number} of {len(listed['nets'])} nets measured")
    quiet = min(net.pop("unit") for net in nets)
    rows = np.array([[net["features"].get(name, 0.0) for name in names] for net in nets])
    times = np.array([1e9 * quiet * net["ratio"] for net in nets])
    prices, errors = fit_nonnegative(rows, times), cross_validated(rows, times)
    return {
        "lepton_latency_table": VERSION,
        "machine": machine(),
        "onnxruntime": onnxruntime.__version__,
        "reference_ms": 1e3 * quiet,
        "error": {
            "median": round(float(np.median(errors)), 4),
            "most": round(float(np.quantile(errors, 0.95)), 4),
            "nets": len(nets),
            "folds": FOLDS,
        },
        "nanoseconds": {n: round(float(p), 6) for n, p in zip(names, prices, strict=True)},
        "nets": nets,
    }


def open_call(path: Path) -> Call:
    """A function that runs a file once at batch 1 on one thread, after three calls for warm-up."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    (given,) = session.get_inputs()
    pixels = np.random.default_rng(0).integers(0, 256, (1, *given.shape[1:]), np.uint8)

    def call() -> None:
        session.run(None, {given.name: pixels})

    for _ in range(3):
        call()
    return call


def time_pair(call: Call, reference: Call) -> tuple[float, float]:
    """Seconds of the fastest call of a net, and of the reference net in the same rounds.

    Disturbances only add time, so the minimum is taken.
    """
    turns = [
        (fastest_call(call, SECONDS / ROUNDS), fastest_call(reference, SECONDS / ROUNDS / 2))
        for _ in range(ROUNDS)
    ]
    return min(own for own, _ in turns), min(unit for _, unit in turns)


def fastest_call(call: Call, seconds: float) -> float:
    """Shortest time of a call that is repeated for about `seconds`."""
    least, end = float("inf"), time.perf_counter() + seconds
    while True:
        before = time.perf_counter()
        call()
        after = time.perf_counter()
        least = min(least, after - before)
        if after >= end:
            return least


def fit_nonnegative(rows: np.ndarray, times: np.ndarray, rounds: int = 3000) -> np.ndarray:
    """Non-negative least squares of the relative error, by coordinate descent.

    Parameters
    ----------
    rows : ndarray
        (nets, features): amount of each feature in each net.
    times : ndarray
        (nets,): measured time; coefficients have its unit.
    rounds : int
        Passes over all features at most.

    Source: Franc, Hlavac and Navara 2005, CAIP (LNCS 3691), algorithm 1.
    """
    relative = rows / times[:, None]
    scale = np.maximum(np.sqrt((relative**2).sum(0)), 1e-300)
    relative = relative / scale
    gram, prices = relative.T @ relative, np.zeros(rows.shape[1])
    gradient, steepness = -relative.sum(0), np.maximum(np.diag(gram), 1e-12)
    for _ in range(rounds):
        before = prices.copy()
        for k in range(len(prices)):
            step = max(-prices[k], -gradient[k] / steepness[k])
            gradient += step * gram[:, k]
            prices[k] += step
        if np.abs(prices - before).max() < 1e-9:
            break
    return np.asarray(prices / scale)


def cross_validated(rows: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Relative error of each net under cross-validation, (nets,)."""
    errors = np.zeros(len(times))
    for held in folds(len(times)):
        prices = fit_nonnegative(rows[~held], times[~held])
        errors[held] = np.abs(rows[held] @ prices / times[held] - 1)
    return errors


def folds(count: int) -> Iterator[np.ndarray]:
    """Boolean masks of the held-out nets, (nets,), one per fold."""
    group = np.random.default_rng(0).permutation(count) % FOLDS
    yield from (group == fold for fold in range(FOLDS))


def machine() -> dict[str, Any]:
    """Processor and system, as far as known."""
    path, fields = Path("/proc/cpuinfo"), dict[str, str]()
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    has = set(fields.get("flags", fields.get("Features", "")).split())
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "flags": [flag for flag in NOTED_FLAGS if flag in has],
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
    }


def main() -> None:
    """Measure the nets beside this file and write the table."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Write the latency table of this machine.")
    parser.add_argument("--nets", type=Path, default=here, help="folder of nets.json")
    parser.add_argument("--out", type=Path, default=Path(TABLE_FILE), help="the table")
    given = parser.parse_args()
    table = bench(given.nets, lambda line: sys.stderr.write(f"{line}\n"))
    given.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    error = table["error"]
    sys.stdout.write(
        f"{given.out}: {error['nets']} nets on {table['machine']['cpu']}, error of an unseen "
        f"net: median {error['median']:.1%}, 95th percentile {error['most']:.1%}\n"
    )


if __name__ == "__main__":
    main()
