"""LiteRT's file of a run beside the ONNX file: bytes, answers, accuracy, memory and time of a call.

    python benchmarks/bench.py litert RUN/artifact DATA.npz
    python benchmarks/bench.py litert SPACE [--nets 4]

SPACE: bytes, memory and time of random nets of a search space. Needs ai-edge-litert; with
tflite-micro installed, LiteRT for Microcontrollers too.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import statistics
from pathlib import Path

import numpy as np

from benchmarks.common import parser
from lepton_automl.artifact.writer import GOLDEN_SAMPLES
from lepton_automl.core.call_times import shortest_call
from lepton_automl.cost.cost import peak_ram_bytes
from lepton_automl.models.arch import Arch
from lepton_automl.models.formats import Golden, Words, load
from lepton_automl.models.litert_export.lowering import int8_litert
from lepton_automl.models.litert_export.memory import arena_bytes
from lepton_automl.models.onnx_export import int8_onnx
from lepton_automl.models.onnx_file import open_session, predict_probabilities
from lepton_automl.models.onnx_read import read_int8
from lepton_automl.models.random_weights import random_net
from lepton_automl.search.space import draw, loader


def main(arguments: list[str]) -> None:
    """Print a line a fact."""
    options = parser(__doc__, "litert")
    options.add_argument("what", help="artifact folder of a run, or a search space")
    options.add_argument("data", nargs="?", help=".npz with x_test and y_test, or `digits` (all)")
    options.add_argument("--micro", type=int, default=1000, help="samples on a microcontroller")
    options.add_argument("--nets", type=int, default=4)
    options.add_argument("--rounds", type=int, default=11)
    given = options.parse_args(arguments)
    if given.data is None:
        _random(given.what, given.nets, given.rounds)
    else:
        _run(Path(given.what), given)


def _random(space: str, nets: int, rounds: int) -> None:
    found = loader.load(space)
    for seed in range(nets):
        arch = found.example_arch(draw.RandomTrial(seed))
        net = random_net(arch, 64, seed)
        names = tuple(map(str, range(arch.classes)))
        onnx = int8_onnx(net, names, {})
        file = int8_litert(net, names)
        _sizes(file, onnx, arch)
        sample = np.random.default_rng(0).integers(0, 256, (1, *arch.input), np.uint8)
        _times(file, open_session(onnx), sample, rounds)


def _run(folder: Path, given: argparse.Namespace) -> None:
    onnx = (folder / "model.int8.onnx").read_bytes()
    net = read_int8(onnx, Arch.from_json((folder / "arch.json").read_text()))
    labels = (folder / "labels.txt").read_text().splitlines()
    samples, wanted = _data(given.data)
    samples = samples.reshape(-1, *net.arch.input)
    session = open_session(onnx)
    expected = predict_probabilities(session, samples)
    golden = Golden(samples[:GOLDEN_SAMPLES], expected[:GOLDEN_SAMPLES])
    (file,) = load("litert").files(net, Words(tuple(labels)), golden).values()
    _sizes(file, onnx, net.arch)
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


def _sizes(file: bytes, onnx: bytes, arch: Arch) -> None:
    digest = hashlib.sha256(file).hexdigest()[:12]
    more = len(file) / len(onnx) - 1
    print(f"{len(file)} bytes ({digest}), ONNX {len(onnx)}: {more:+.1%}")
    planned, least = arena_bytes(file), peak_ram_bytes(arch.graph)
    print(f"arena of feature maps {planned} bytes; at least {least}; {arch.graph.macs} MACs")


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
            times[name].append(shortest_call(call, 0.2))
    ratios = [own / other for own, other in zip(times["litert"], times["onnx"], strict=True)]
    litert, onnx = (1e6 * statistics.median(each) for each in times.values())
    print(
        f"LiteRT {litert:.1f} us a call, ONNX Runtime {onnx:.1f}: "
        f"{statistics.median(ratios):.2f} times [{min(ratios):.2f}, {max(ratios):.2f}]"
    )
