"""What a net costs as the int8 file that would ship, known before the first epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_automl.arch import Arch
from lepton_automl.exporters.onnx import int8_model
from lepton_automl.graph import Add, Conv, Gate, GlobalPool, Graph, Linear, MaxPool, Mul, Op
from lepton_automl.model import Model, Preprocessing, QParams

_RANGE = 4.0
"""Width of the range a random value is stored in, in the units of a normalised net."""


@dataclass(frozen=True)
class Cost:
    """Cost of one file at batch 1."""

    size_bytes: int
    """The file."""
    weight_bytes: int
    """Its weights: int8 in an int8 file, float32 in a float file."""
    parameter_bytes: int
    """Weights, biases and the scales of weights and biases."""
    macs: int
    """Multiply-accumulates a sample."""
    peak_ram_bytes: int
    """Most bytes of values alive at once (see `peak_ram_bytes`)."""
    latency_ms: float | None = None
    """Milliseconds a call on one thread of a quiet machine; None where not measured."""
    latency_low_ms: float | None = None
    latency_high_ms: float | None = None


def static_cost(arch: Arch, weight_limit: int) -> Cost:
    """Everything but the latency of `arch` as an int8 file, written with random weights.

    The size is that of a file with short labels and no further metadata; the shipped one adds
    its class names and the fingerprint of the data.

    Parameters
    ----------
    arch : Arch
        Any legal architecture.
    weight_limit : int
        Largest weight, 1 to 127 (see the targets).
    """
    return file_cost(arch, random_int8(arch, weight_limit))


def file_cost(arch: Arch, file: bytes, value_bytes: int = 1) -> Cost:
    """Everything but the latency of a written `file` of `arch`; `value_bytes` 4 for float32."""
    graph = arch.graph
    weights = sum(int(np.prod(op.weight_shape)) for op in graph.weighted)
    outputs = sum(op.weight_shape[0] for op in graph.weighted)
    # An int8 channel has an int32 bias and the float32 scales of weight and bias.
    beside = 4 * outputs * (3 if value_bytes == 1 else 1)
    return Cost(
        size_bytes=len(file),
        weight_bytes=weights * value_bytes,
        parameter_bytes=weights * value_bytes + beside,
        macs=graph.macs,
        peak_ram_bytes=peak_ram_bytes(graph) * value_bytes,
    )


def peak_ram_bytes(graph: Graph) -> int:
    """Most bytes alive while the operations run in order, one byte an element.

    Alive are the inputs and the output of the running operation and every value read later. An
    addition, product or gate may write over an input of its own size that dies with it.
    """
    last = {value.name: n for n, op in enumerate(graph.ops) for value in op.inputs}
    alive = {graph.input.name: graph.input.size}
    peak = graph.input.size
    for number, op in enumerate(graph.ops):
        dying = {v.name: v.size for v in op.inputs if last[v.name] == number}
        elementwise = isinstance(op, (Add, Mul, Gate))
        in_place = elementwise and op.y.size in dying.values()
        peak = max(peak, sum(alive.values()) + (0 if in_place else op.y.size))
        alive[op.y.name] = op.y.size
        for name in dying:
            del alive[name]
    return peak


def random_int8(arch: Arch, weight_limit: int, seed: int = 0) -> bytes:
    """The int8 file of `arch` with random weights: the cost of a net does not depend on them."""
    model = Model(arch, {}, Preprocessing(128, 1 / 64), random_qparams(arch, seed, weight_limit))
    return int8_model(model, [str(number) for number in range(arch.classes)], {})


def random_qparams(arch: Arch, seed: int, weight_limit: int) -> QParams:
    """Random integers and scales under which values neither vanish nor all saturate.

    Weights are uniform in +-`weight_limit`; pixels are (128, 1/64). Scales follow the spread a
    value would have if its inputs were independent, so that the file also serves parity tests.
    """
    rng = np.random.default_rng(seed)
    qparams = QParams({"input": 1 / 64}, {"input": 128}, {}, {}, {})
    for op in arch.graph.ops:
        if isinstance(op, (Conv, Linear)):
            _draw(op, qparams, weight_limit, rng)
        if not isinstance(op, Linear):
            scale, qparams.zero_points[op.y.name] = _range(op, qparams)
            qparams.scales[op.y.name] = float(np.float32(scale))
    return qparams


def _draw(op: Conv | Linear, qparams: QParams, limit: int, rng: np.random.Generator) -> None:
    shape, channels = op.weight_shape, op.weight_shape[0]
    scale = np.float32(qparams.scales[op.x.name])
    # 60 of 255 steps is the spread of a value that uses its range; limit / sqrt(3) of a weight.
    spread = np.sqrt(np.prod(shape[1:])) * limit / np.sqrt(3) * 60
    weight_scales = _RANGE / 3 / (spread * scale) * rng.uniform(0.7, 1.3, channels)
    qparams.weights[op.name] = rng.integers(-limit, limit, shape, np.int8, endpoint=True)
    qparams.weight_scales[op.name] = weight_scales.astype(np.float32)
    qparams.biases[op.name] = (rng.normal(0, 0.5, channels) * spread).astype(np.int32)


def _range(op: Op, qparams: QParams) -> tuple[float, int]:
    x = op.inputs[0].name
    scale, zero_point = qparams.scales[x], qparams.zero_points[x]
    match op:
        case Conv() | Add():
            return _RANGE / 255, 0 if op.clamp != "none" else 128
        case MaxPool():
            return scale, zero_point
        case GlobalPool():
            return scale * 0.6, zero_point
        case Gate():
            return 1 / 255, 0
        case Mul():
            return scale * 0.7, zero_point
        case Linear():
            raise AssertionError("logits are never stored")
