"""The latency a run states of its winner, against the same file timed by other code.

    python benchmarks/stated_latency.py RUN [--repeats 5]

Both as ratios to the same reference net. Nothing of the package times here: the files are run with
onnxruntime alone, one call of each in turn, and the ratio is that of the two medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

TARGET = 0.10
PAIRS = 2000
"""Calls of each file in a repeat, in turn; fewer where they take longer than a millisecond."""


def opened(file: bytes) -> Callable[[], object]:
    """One call at batch 1 on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    shape = [1, *given.shape[1:]]
    pixels = np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)
    return lambda: session.run(None, {given.name: pixels})


def ratio(call: Callable[[], object], reference: Callable[[], object], seconds: float) -> float:
    """Median time of a call over the reference's, the two called in turn."""
    own, unit = list[float](), list[float]()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end and len(own) < PAIRS:
        for run, times in ((reference, unit), (call, own)):
            before = time.perf_counter_ns()
            run()
            times.append(time.perf_counter_ns() - before)
    return statistics.median(own) / statistics.median(unit)


def reference_file() -> bytes:
    """The fixed net that every latency is a multiple of."""
    from lepton_automl.cost.latency import REFERENCE
    from lepton_automl.models.random_weights import random_int8_onnx

    return random_int8_onnx(REFERENCE, 64)


def stated(run: Path) -> tuple[float, float]:
    """Milliseconds that the verdict states of the int8 file, and of the reference net."""
    from lepton_automl.cost.latency import last_reference_ms
    from lepton_automl.runs.ledger import LedgerView

    verdict = json.loads((run / "artifact" / "verdict.json").read_text())
    with LedgerView(run / "ledger.db") as ledger:
        quiet_ms = last_reference_ms(ledger)
    if quiet_ms is None:
        raise SystemExit(f"{run} timed nothing: no limit or objective was about latency")
    return float(verdict["int8"]["latency_ms"]), quiet_ms


def main() -> None:
    """Print what is stated, what is measured, and the quotient."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    latency_ms, quiet_ms = stated(given.run)
    call = opened((given.run / "artifact" / "model.int8.onnx").read_bytes())
    reference = opened(reference_file())
    for warm in (call, reference):
        for _ in range(50):
            warm()
    found = [ratio(call, reference, 2.0) for _ in range(given.repeats)]
    here, there = statistics.median(found), latency_ms / quiet_ms
    print(f"stated    {1e3 * latency_ms:8.1f} us, {there:.3f} times the reference net")
    print(f"measured  {here:.3f} times (repeats {min(found):.3f} to {max(found):.3f})")
    verdict = "within" if abs(there / here - 1) <= TARGET else "not within"
    print(f"quotient  {there / here:.3f}, {verdict} {TARGET:.0%}")


if __name__ == "__main__":
    main()
