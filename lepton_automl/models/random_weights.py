"""Random int8 nets, whose files have the cost of trained ones, written in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_automl.models.arch import Arch
from lepton_automl.models.graph import Add, Conv, Gate, GlobalPool, Linear, MaxPool, Mul, Op
from lepton_automl.models.onnx_export import int8_onnx
from lepton_automl.models.quantization import (
    InputQuantization,
    Preprocessing,
    QParams,
    has_input_quantization,
)

_RANGE = 4.0
"""Width of the range a random value is stored in, in the units of a normalised net."""


@dataclass(frozen=True)
class RandomNet:
    """A `QuantizedNet` with random weights."""

    arch: Arch
    preprocessing: Preprocessing
    qparams: QParams


def random_int8_onnx(arch: Arch, weight_limit: int, seed: int = 0) -> bytes:
    """Write the int8 file of `arch` with random weights, which do not affect its cost."""
    net = random_net(arch, weight_limit, seed)
    return int8_onnx(net, [str(number) for number in range(arch.classes)], {})


def random_net(arch: Arch, weight_limit: int, seed: int = 0) -> RandomNet:
    """A quantized net of `arch` with the weights of `random_qparams`."""
    preprocessing = Preprocessing(128, 1 / 64, _input_quantization(arch))
    return RandomNet(arch, preprocessing, random_qparams(arch, seed, weight_limit))


def _input_quantization(arch: Arch) -> InputQuantization | None:
    if not has_input_quantization(arch):
        return None
    steps = np.linspace(1, 2, arch.channels, dtype=np.float32)
    # Normal values of a signal, or uniform pixels from 0 to 255, neither vanish nor saturate.
    scales, offsets = (steps / 64, steps / 64 - 1) if arch.is_signal else (steps, 126 + steps)
    kind = "float32" if arch.is_signal else "uint8"
    return InputQuantization(tuple(offsets.tolist()), tuple(scales.tolist()), kind)


def random_qparams(arch: Arch, seed: int, weight_limit: int) -> QParams:
    """Random quantization parameters under which values neither vanish nor all saturate.

    Weights are uniform in +-`weight_limit`; pixels are (128, 1/64). Scales follow the spread a
    value would have if its inputs were independent, so that the file also serves parity tests.
    """
    rng = np.random.default_rng(seed)
    qparams = QParams({"input": 1 / 64}, {"input": 128}, {}, {}, {})
    for op in arch.graph.ops:
        if isinstance(op, (Conv, Linear)):
            _draw(op, qparams, weight_limit, rng)
        if not isinstance(op, Linear):
            scale, qparams.zero_points[op.y.name] = _range(op, qparams, rng)
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


def _range(op: Op, qparams: QParams, rng: np.random.Generator) -> tuple[float, int]:
    # As in a trained net no two values have the same scale or middle by construction: equal
    # ones would be stored once, and the file would seem smaller than the one that ships.
    x = op.inputs[0].name
    scale, zero_point = qparams.scales[x], qparams.zero_points[x]
    about = rng.uniform(0.9, 1.1)
    match op:
        case Conv() | Add():
            middle = 0 if op.clamp != "none" else int(rng.integers(100, 156))
            return about * _RANGE / 255, middle
        case MaxPool():
            return scale, zero_point
        case GlobalPool():
            return about * scale * 0.6, zero_point
        case Gate():
            return 1 / 255, 0
        case Mul():
            return about * scale * 0.7, zero_point
        case Linear():
            raise AssertionError("logits are never stored")
