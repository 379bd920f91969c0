"""An independent integer interpreter, in numpy, of int8 ONNX files as they are written.

It reads nothing but the file and shares no code with what wrote it. A dequantized tensor keeps
its integers; an operator on such tensors works on the integers alone; only the step back to
uint8 multiplies, in float32 as integer runtimes do, rounding half to even.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from lepton_automl.errors import ArchError, first_line

Array = np.ndarray

_QUANTIZE = "QuantizeLinear"


@dataclass(frozen=True)
class QuantizedTensor:
    """A quantized tensor: real value (q - zero_point) * scale; `scale` may be per channel."""

    q: Array
    scale: Array
    zero_point: Array

    @property
    def centred(self) -> Array:
        """Integers without their zero point, int64."""
        zero_point = self.zero_point.astype(np.int64)
        if zero_point.size > 1:
            zero_point = zero_point.reshape((-1, *[1] * (self.q.ndim - 1)))
        return self.q.astype(np.int64) - zero_point


@dataclass(frozen=True)
class Accumulators:
    """Exact integer accumulators of an operator, and their scale."""

    total: Array
    scale: Array | np.float32
    """Scalar, or per channel (axis 1)."""


@dataclass(frozen=True)
class Unrounded:
    """A result that is rounded once its output scale and zero point are known."""

    stored: Callable[[np.float32, int], Array]
    """(scale, zero point) -> integers before saturation to uint8."""


Tensor = Array | QuantizedTensor | Accumulators | Unrounded


@dataclass(frozen=True)
class ReferenceOutput:
    """Results of the integer reference."""

    probabilities: Array
    """float32 (n, classes)."""
    last_quantized: Array
    """uint8, the last tensor that was quantized."""
    logits: Array = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """float32 (n, classes): accumulator * scale, rounded once; empty if the file has none."""


class IntegerReference:
    """Exact integer interpreter of one int8 ONNX file.

    Values that the file quantizes itself are quantized first, in float32 as ONNX defines it.

    Parameters
    ----------
    file : bytes
        An ONNX file of quantize/dequantize pairs.

    Raises
    ------
    ArchError
        While computing, if the file has an operator this interpreter does not know.
    """

    def __init__(self, file: bytes) -> None:
        graph = ModelProto.FromString(file).graph
        self._nodes = list(graph.node)
        self._constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self._input, self._output = graph.input[0].name, graph.output[0].name
        self.features_name: str | None = None
        """The first quantized tensor of a file that reads audio, from which the integer arithmetic
        starts: the float front end before it is compared apart; None of other files."""
        if len(graph.input[0].type.tensor_type.shape.dim) == 2:  # (n, window): audio.
            quantized = [n for n, node in enumerate(graph.node) if node.op_type == _QUANTIZE]
            start = quantized[0] if quantized else 0
            self.features_name = str(graph.node[start].output[0])
            self._nodes = self._nodes[start + 1 :]
            self._input = self.features_name

    @property
    def last_quantized_name(self) -> str:
        """Name of the last tensor that is quantized."""
        quantized = [str(n.output[0]) for n in self._nodes if n.op_type == _QUANTIZE]
        if not quantized:
            raise _unsupported("no tensor of the file is quantized")
        return quantized[-1]

    def __call__(self, pixels: Array) -> Array:
        """Probabilities (n, classes) of uint8 pixels (n, H, W, C), or what `run` takes."""
        return self.run(pixels).probabilities

    def run(self, pixels: Array) -> ReferenceOutput:
        """Probabilities and the last quantized tensor.

        Parameters
        ----------
        pixels : array
            uint8 pixels (n, H, W, C), a float32 signal (n, length, C), or the value of
            `features_name`.
        """
        values: dict[str, Tensor] = {**self._constants, self._input: pixels}
        for node in self._nodes:
            if node.op_type not in _OPERATORS:
                raise _unsupported(
                    f"the integer reference does not know the operator {node.op_type}"
                )
            try:
                values[node.output[0]] = _result(node, values)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise _unsupported(
                    f"{node.name} ({node.op_type}) has inputs that do not fit: {first_line(error)}"
                ) from error
        last = self._nodes[-1] if self._nodes else None
        logits = values[last.input[0]] if last is not None and last.op_type == "Softmax" else None
        if not isinstance(logits, Accumulators):
            logits = Accumulators(np.zeros((0, 0)), np.float32(1))  # A part of a file.
        return ReferenceOutput(
            _array(values[self._output]),
            _array(values[self.last_quantized_name]),
            np.asarray(logits.total.astype(np.float32) * logits.scale, np.float32),
        )


def _result(node: NodeProto, values: Mapping[str, Tensor]) -> Tensor:
    """Output of an operator on tensors that are known by name."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    inputs = [values[name] for name in node.input]
    is_integer = all(isinstance(x, QuantizedTensor) for x in inputs)
    if node.op_type in _ON_QUANTIZED and not is_integer:
        raise _unsupported(f"{node.name} ({node.op_type}) computes on float tensors")
    return _OPERATORS[node.op_type](inputs, attributes)


def integer_reference(file: bytes) -> IntegerReference:
    """The interpreter of an int8 `file`."""
    return IntegerReference(file)


def with_last_quantized_output(file: bytes) -> bytes:
    """The file with its last quantized tensor, and the features of audio, as further outputs."""
    model = ModelProto.FromString(file)
    name = IntegerReference(file).last_quantized_name
    model.graph.output.append(helper.make_tensor_value_info(name, 2, None))
    features = IntegerReference(file).features_name
    if features not in (None, name):
        model.graph.output.append(helper.make_tensor_value_info(features, 2, None))
    return bytes(model.SerializeToString())


Operator = Callable[[list[Any], Mapping[str, Any]], Tensor]


def _dequantize(inputs: list[Any], attributes: Mapping[str, Any]) -> Tensor:
    q, scale, *rest = inputs
    if scale.size > 1 and attributes.get("axis", 1) != 0:
        raise _unsupported("scales are given for an axis that is not the first")
    return QuantizedTensor(q, scale, rest[0] if rest else np.zeros((), q.dtype))


def _quantize(inputs: list[Any], attributes: Mapping[str, Any]) -> Tensor:
    x, scale, zero_point = inputs
    if isinstance(x, np.ndarray):
        return _quantized_signal(x, scale, zero_point, attributes)
    offset = int(zero_point)
    match x:
        case Accumulators():
            factor = _by_channel((x.scale / scale).astype(np.float32), x.total.ndim)
            steps = np.rint(x.total.astype(np.float32) * factor) + offset
        case Unrounded():
            steps = x.stored(np.float32(scale), offset)
        case _:
            raise _unsupported("a tensor is quantized twice")
    return np.asarray(np.clip(steps, 0, 255), np.uint8)


def _quantized_signal(
    x: Array, scales: Array, zero_points: Array, attributes: Mapping[str, Any]
) -> Array:
    """uint8 samples of float32 values (n, channels, ...), whose channels have scales."""
    is_scalar = scales.ndim == 0
    fits = is_scalar or (x.ndim == 3 and attributes.get("axis", 1) == 1)
    if x.dtype != np.float32 or not fits:
        raise _unsupported("a float tensor is quantized that holds no samples (n, channels, ...)")
    along: tuple[int, ...] = () if is_scalar else (-1, 1)
    steps = np.rint(x / scales.reshape(along)) + zero_points.reshape(along).astype(np.float32)
    return np.asarray(np.clip(steps, 0, 255), np.uint8)


def _sub(inputs: list[Any], _: Mapping[str, Any]) -> Tensor:
    """Offsets subtracted from float32 values."""
    x, offset = inputs
    if not isinstance(x, np.ndarray) or x.dtype != np.float32:
        raise _unsupported("a difference is computed of other values than float32 inputs")
    return np.asarray(x - offset, np.float32)


def _div(inputs: list[Any], _: Mapping[str, Any]) -> Tensor:
    """Float32 inputs divided by their steps."""
    x, step = inputs
    if not isinstance(x, np.ndarray) or x.dtype != np.float32:
        raise _unsupported("a quotient is computed of other values than float32 inputs")
    return np.asarray(x / step, np.float32)


def _reshape(inputs: list[Any], _: Mapping[str, Any]) -> Tensor:
    x, shape = inputs
    return np.reshape(x, shape.tolist())


def _cast(inputs: list[Any], attributes: Mapping[str, Any]) -> Tensor:
    """Integers of at most 16 bits as float32, which is exact."""
    (x,) = inputs
    is_exact = isinstance(x, np.ndarray) and x.dtype in (np.uint8, np.uint16, np.int16)
    if not is_exact or attributes.get("to") != TensorProto.FLOAT:
        raise _unsupported("values are converted that are not inputs of at most 16 bits")
    return np.asarray(x, np.float32)


def _conv(inputs: list[Any], attributes: Mapping[str, Any]) -> Tensor:
    x, weight, bias = inputs
    is_signal = weight.q.ndim == 3
    filters = weight.centred[:, :, None] if is_signal else weight.centred
    windows = _windows(x.centred, attributes, is_signal)
    # float64 holds these integers exactly (below 2^53) and multiplies quickly.
    windows, filters = windows.astype(np.float64), filters.astype(np.float64)
    if attributes.get("group", 1) == 1:
        total = np.tensordot(windows, filters, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)
    else:
        total = np.einsum("nchwij,cij->nchw", windows, filters[:, 0])
    return _product(total[:, :, 0] if is_signal else total, x, weight, bias)


def _gemm(inputs: list[Any], attributes: Mapping[str, Any]) -> Tensor:
    x, weight, bias = inputs
    if attributes.get("transB", 0) != 1:
        raise _unsupported("the weights of a product must be (out, in)")
    return _product(x.centred @ weight.centred.T, x, weight, bias)


def _product(
    total: Array, x: QuantizedTensor, weight: QuantizedTensor, bias: QuantizedTensor
) -> Accumulators:
    scale = (x.scale * weight.scale).astype(np.float32)
    if not np.array_equal(scale, bias.scale):
        raise _unsupported("a bias has a scale other than input scale times weight scale")
    exact = total.astype(np.int64) + _by_channel(bias.centred, total.ndim)
    if np.abs(exact).max(initial=0) >= 2**31:
        raise _unsupported("a sum exceeds 32 bits")
    return Accumulators(exact, scale)


def _add(inputs: list[Any], _: Mapping[str, Any]) -> Tensor:
    a, b = inputs

    def stored(scale: np.float32, zero_point: int) -> Array:
        # One offset, then b, then a, each rounded to float32 once, as ONNX Runtime's kernel for
        # AVX2 does (qladd_avx2.cpp, where the compiler fuses the offset too), so that halves
        # round the same way.
        ratio_a, ratio_b = np.float32(a.scale / scale), np.float32(b.scale / scale)
        zeros = _fused(a.zero_point, ratio_a, ratio_b * np.float32(b.zero_point))
        offset = np.float32(zero_point) - zeros
        return np.asarray(np.rint(_fused(a.q, ratio_a, _fused(b.q, ratio_b, offset))))

    return Unrounded(stored)


def _mul(inputs: list[Any], _: Mapping[str, Any]) -> Tensor:
    a, b = inputs

    def stored(scale: np.float32, zero_point: int) -> Array:
        # The zero point is added before rounding, as ONNX Runtime does (qlmul.cpp): an odd one
        # decides to which side a half goes.
        ratio = np.float32(np.float32(a.scale * b.scale) / scale)
        product = (a.centred * b.centred).astype(np.float32) * ratio
        return np.asarray(np.rint(product + np.float32(zero_point)))

    return Unrounded(stored)


def _sigmoid(inputs: list[Any], _: Mapping[str, Any]) -> Tensor:
    return _elementwise(inputs[0], lambda x: 1 / (1 + np.exp(-x)))


def _hard_sigmoid(inputs: list[Any], attributes: Mapping[str, Any]) -> Tensor:
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    return _elementwise(inputs[0], lambda x: np.clip(alpha * x + beta, 0, 1))


def _elementwise(x: QuantizedTensor, function: Callable[[Array], Array]) -> Tensor:
    """Elementwise function of a uint8 tensor, by a table of 256 values."""

    def stored(scale: np.float32, zero_point: int) -> Array:
        real = (np.arange(256, dtype=np.float64) - float(x.zero_point)) * float(x.scale)
        table = np.rint(function(real) / float(scale)) + zero_point
        return np.asarray(table[x.q])

    return Unrounded(stored)


def _global_average_pool(inputs: list[Any], _: Mapping[str, Any]) -> Tensor:
    x = inputs[0]
    places = tuple(range(2, x.q.ndim))
    count = math.prod(x.q.shape[2:])

    def stored(scale: np.float32, zero_point: int) -> Array:
        ratio = np.float32(x.scale / (scale * np.float32(count)))
        total = x.centred.sum(places, keepdims=True)
        return np.asarray(np.rint(total.astype(np.float32) * ratio) + zero_point)

    return Unrounded(stored)


def _max_pool(inputs: list[Any], attributes: Mapping[str, Any]) -> Tensor:
    # Zero is the least byte, so padding with it never wins.
    is_signal = inputs[0].ndim == 3
    found = np.asarray(_windows(inputs[0], attributes, is_signal).max((4, 5)))
    return found[:, :, 0] if is_signal else found


def _transpose(inputs: list[Any], attributes: Mapping[str, Any]) -> Tensor:
    return np.transpose(inputs[0], attributes["perm"])


def _unsqueeze(inputs: list[Any], _: Mapping[str, Any]) -> Tensor:
    x, axes = inputs
    return np.expand_dims(x, tuple(axes.tolist()))


def _flatten(inputs: list[Any], _: Mapping[str, Any]) -> Tensor:
    return np.reshape(inputs[0], (len(inputs[0]), -1))


def _softmax(inputs: list[Any], _: Mapping[str, Any]) -> Tensor:
    logits = inputs[0].total.astype(np.float64) * inputs[0].scale
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True), np.float32)


_OPERATORS: Mapping[str, Operator] = {
    "Add": _add,
    "Cast": _cast,
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "Div": _div,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "HardSigmoid": _hard_sigmoid,
    "MaxPool": _max_pool,
    "Mul": _mul,
    "QuantizeLinear": _quantize,
    "Reshape": _reshape,
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
    "Sub": _sub,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}


_ON_QUANTIZED = frozenset(_OPERATORS) - {
    *("DequantizeLinear", "Flatten", "MaxPool", "QuantizeLinear", "Softmax", "Sub", "Transpose"),
    "Unsqueeze",
    *("Cast", "Div", "Reshape"),
}


def _unsupported(what: str) -> ArchError:
    return ArchError(
        what, fix="give an int8 file that lepton wrote, or extend integer_reference.py"
    )


def _windows(x: Array, attributes: Mapping[str, Any], is_signal: bool) -> Array:
    """(n, c, h, w, kernel, kernel) of (n, c, H, W), with zeros around it as the node says.

    Of a signal (n, c, length) likewise, with h = 1 and windows (1, kernel).
    """
    kernel, stride = attributes["kernel_shape"][-1], attributes.get("strides", [1])[-1]
    pad = attributes.get("pads", [0])[0]
    x, rows, top = (x[:, :, None], 1, 0) if is_signal else (x, kernel, pad)
    padded = np.pad(x, ((0, 0), (0, 0), (top, top), (pad, pad)))
    return sliding_window_view(padded, (rows, kernel), (2, 3))[:, :, ::stride, ::stride]


def _fused(q: Array, ratio: np.float32, rest: Array | np.float32) -> Array:
    """`q` * ratio + rest with one rounding to float32 at the end."""
    return np.asarray(q.astype(np.float64) * float(ratio) + rest, np.float32)


def _by_channel(values: Array, ndim: int) -> Array:
    return values.reshape((-1, *[1] * (ndim - 2))) if values.size > 1 else values


def _array(value: Tensor) -> Array:
    assert isinstance(value, np.ndarray)
    return value
