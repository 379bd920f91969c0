"""LiteRT's file of a run beside the ONNX file: bytes, answers, accuracy, memory and time of a call.

Needs ai-edge-litert; with tflite-micro installed, LiteRT for Microcontrollers too.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lepton_automl.artifact.writer import GOLDEN_SAMPLES
from lepton_automl.cost.cost import peak_ram_bytes
from lepton_automl.models.arch import Arch
from lepton_automl.models.formats import Golden, Words, load
from lepton_automl.models.litert_export.memory import arena_bytes
from lepton_automl.models.onnx_file import open_session, predict_probabilities
from lepton_automl.models.onnx_read import WrittenNet, read_int8


def main(arguments: list[str]) -> None:
    """Print a line a fact."""
    parser = argparse.ArgumentParser(prog="bench.py litert", description=__doc__)
    parser.add_argument("artifact", type=Path, help="artifact folder of a run")
    parser.add_argument("data", help=".npz with x_test and y_test, or `digits` (all samples)")
    parser.add_argument("--micro", type=int, default=1000, help="samples on a microcontroller")
    parser.add_argument("--rounds", type=int, default=11)
    given = parser.parse_args(arguments)
    folder = given.artifact
    onnx = (folder / "model.int8.onnx").read_bytes()
    net = read_int8(onnx, Arch.from_json((folder / "arch.json").read_text()))
    labels = (folder / "labels.txt").read_text().splitlines()
    samples, wanted = _data(given.data)
    samples = samples.reshape(-1, *net.arch.input)
    session = open_session(onnx)
    expected = predict_probabilities(session, samples)
    golden = Golden(samples[:GOLDEN_SAMPLES], expected[:GOLDEN_SAMPLES])
    (file,) = load("litert").files(net, Words(tuple(labels)), golden).values()
    _sizes(file, onnx, net)
    _answers("ONNX Runtime", expected, expected, wanted)
    for kind in ("AUTO", "BUILTIN_REF"):
        _answers(f"LiteRT {kind}", _litert(file, samples, kind), expected, wanted)
    if importlib.util.find_spec("tflite_micro") is not None:
        few = slice(0, given.micro)
        found = _micro(file, samples[few])
        _answers("microcontroller", found, expected[few], wanted[few])
    _times(file, session, samples[:1], given.rounds)


def _data(name: str) -> tuple[np.ndarray, np.ndarray]:
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target
    with np.load(name) as arrays:
        return arrays["x_test"], arrays["y_test"]


def _sizes(file: bytes, onnx: bytes, net: WrittenNet) -> None:
    digest = hashlib.sha256(file).hexdigest()[:12]
    more = len(file) / len(onnx) - 1
    print(f"{len(file)} bytes ({digest}), ONNX {len(onnx)}: {more:+.1%}")
    planned, least = arena_bytes(file), peak_ram_bytes(net.arch.graph)
    print(f"arena of feature maps {planned} bytes; at least {least}; {net.arch.graph.macs} MACs")


def _answers(name: str, found: np.ndarray, expected: np.ndarray, wanted: np.ndarray) -> None:
    same = int((found.argmax(1) == expected.argmax(1)).sum())
    apart = np.abs(found - expected).max(1)
    accuracy = (found.argmax(1) == wanted).mean()
    print(
        f"{name}: {accuracy:.2%} of {len(found)}, class of ONNX {same}, probabilities differ by "
        f"{apart.mean():.2g}, at most {apart.max():.2g}"
    )


def _litert(file: bytes, samples: np.ndarray, kind: str) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=file, num_threads=1, experimental_op_resolver_type=OpResolverType[kind]
    )
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for sample in samples:
        interpreter.set_tensor(given["index"], sample[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(made["index"])[0])
    return np.array(found)


def _micro(file: bytes, samples: np.ndarray) -> np.ndarray:
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(file, arena_size=16 << 20)
    found = []
    for sample in samples:
        interpreter.set_input(sample[None], 0)
        interpreter.invoke()
        found.append(interpreter.get_output(0)[0])
    interpreter.print_allocations()
    return np.array(found)


def _times(file: bytes, session: object, sample: np.ndarray, rounds: int) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=file, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample)
    binding = session.io_binding()
    binding.bind_cpu_input(session.get_inputs()[0].name, sample)
    binding.bind_output(session.get_outputs()[0].name)
    calls = {"litert": interpreter.invoke, "onnx": lambda: session.run_with_iobinding(binding)}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(_shortest(call, 0.2))
    ratios = [own / other for own, other in zip(times["litert"], times["onnx"], strict=True)]
    litert, onnx = (1e6 * statistics.median(each) for each in times.values())
    print(
        f"LiteRT {litert:.1f} us a call, ONNX Runtime {onnx:.1f}: "
        f"{statistics.median(ratios):.2f} times [{min(ratios):.2f}, {max(ratios):.2f}]"
    )


def _shortest(call: Callable[[], object], seconds: float) -> float:
    least, end = float("inf"), time.perf_counter() + seconds
    while (before := time.perf_counter()) < end:
        call()
        least = min(least, time.perf_counter() - before)
    return least
