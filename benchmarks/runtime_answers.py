"""Answers of ONNX files in this environment's ONNX Runtime, in eight settings, as .npz files.

    python runtime_answers.py FOLDER ...

Each folder has `shipped.onnx`, `with_last.onnx` (with the last quantized tensor as its second
output) and `samples.npy`, and gets `answers.npz`.
Needs numpy and onnxruntime alone, so that environments of old versions can execute it.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import numpy as np

# ONNX Runtime 1.32 sends usage data to its maker unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

LEVELS = {
    "on": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
THREADS, BATCHES = (1, 2), (64, 1)


def opened(path: str, level: str, threads: int) -> ort.InferenceSession:
    """A session on the CPU; `level` is a key of `LEVELS`."""
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def output(
    session: ort.InferenceSession, place: int, samples: np.ndarray, batch: int
) -> np.ndarray:
    """One output of all samples (n, ...), computed in batches."""
    given, made = session.get_inputs()[0].name, session.get_outputs()[place].name
    parts = [
        session.run([made], {given: samples[start : start + batch]})[0]
        for start in range(0, len(samples), batch)
    ]
    return np.concatenate(parts)


def answer(folder: Path) -> None:
    """Write `version`, and for each setting probabilities and the last quantized tensor."""
    samples = np.load(folder / "samples.npy")
    found = {"version": np.array(ort.__version__)}
    for level, threads in itertools.product(LEVELS, THREADS):
        shipped, open_ended = (
            opened(str(folder / name), level, threads)
            for name in ("shipped.onnx", "with_last.onnx")
        )
        for batch in BATCHES:
            setting = f"{level} {threads} {batch}"
            found[f"probabilities {setting}"] = output(shipped, 0, samples, batch)
            found[f"last {setting}"] = output(open_ended, 1, samples, batch)
    np.savez(folder / "answers.npz", **found)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        answer(Path(name))
