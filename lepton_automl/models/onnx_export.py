"""Write a model as ONNX: float32, or int8 from its quantization parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from lepton_automl.core.version import __version__
from lepton_automl.errors import ArchError
from lepton_automl.models.arch import Arch
from lepton_automl.models.front_end import FRONT_END
from lepton_automl.models.front_end_onnx import append_front_end
from lepton_automl.models.graph import (
    Add,
    Clamp,
    Conv,
    Gate,
    GlobalPool,
    Linear,
    MaxPool,
    Mul,
    Op,
    Value,
)
from lepton_automl.models.onnx_file import INPUT_NAME, OUTPUT_NAME, SIGNAL_NAME, OnnxWriter
from lepton_automl.models.quantization import (
    INPUT_ZERO_POINT,
    InputQuantization,
    QParams,
    QuantizedNet,
)

if TYPE_CHECKING:
    from lepton_automl.models.model import Model

_ROW_VALUES = 32
"""Values of a row of pixels that is quantized at once: as fast as longer ones, few bytes."""
_NORM_EPSILON = 1e-5
"""`eps` of torch's batch normalisation."""


def float_onnx(model: Model, class_names: Sequence[str], metadata: Mapping[str, str]) -> bytes:
    """Write the float32 ONNX file of `model`, with batch normalisation folded."""
    return _write(_Float(model), model, class_names, metadata)


def int8_onnx(
    model: QuantizedNet, class_names: Sequence[str], metadata: Mapping[str, str]
) -> bytes:
    """Write the int8 ONNX file of a quantized `model`.

    Activations are uint8 with one scale and zero point each, weights int8 with one scale an
    output channel, biases int32 with scale (input scale * weight scale).

    Raises
    ------
    ArchError
        If the model has no quantization parameters, or some that contradict its clamps.
    """
    if model.qparams is None:
        raise ArchError("the model is not quantized", fix="quantize it before writing an int8 file")
    return _write(_Int8(model, model.qparams), model, class_names, metadata)


def _row_pixels(count: int, channels: int) -> int:
    """Pixels of a row of at most `_ROW_VALUES` values; they divide the pixels of a picture."""
    most = max(1, _ROW_VALUES // channels)
    return max(n for n in range(1, min(most, count) + 1) if count % n == 0)


def folded_weights(model: Model, op: Conv | Linear) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of `op`, float32, with batch normalisation folded in."""
    weight = model.weights[f"{op.name}.weight"].double().numpy()
    if f"{op.name}.norm.weight" not in model.weights:
        return weight.astype(np.float32), model.weights[f"{op.name}.bias"].float().numpy()
    gamma, beta, mean, variance = (
        model.weights[f"{op.name}.norm.{part}"].double().numpy()
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    factor = gamma / np.sqrt(variance + _NORM_EPSILON)
    weight = weight * factor[:, None, None, None]
    return weight.astype(np.float32), (beta - mean * factor).astype(np.float32)


def _write(
    lowering: _Lowering,
    model: QuantizedNet,
    class_names: Sequence[str],
    metadata: Mapping[str, str],
) -> bytes:
    arch, about = model.arch, model.preprocessing
    if len(class_names) != arch.classes:
        raise ArchError(
            f"{len(class_names)} class names for a net with {arch.classes} classes",
            fix="give one name for each class",
        )
    for op in arch.graph.ops:
        lowering.append(op)
    lowering.writer.node(
        "Softmax", lowering.names[arch.graph.output.name], output=OUTPUT_NAME, axis=1
    )
    words = {
        "labels": json.dumps(list(class_names), ensure_ascii=False, separators=(",", ":")),
        "preprocessing": json.dumps({"zero_point": about.zero_point, "scale": about.scale}),
        "lepton": __version__,
    }
    if arch.front_end is not None:
        words[FRONT_END] = arch.front_end.to_json()
    input_type = "" if arch.front_end is not None else about.input_type
    return lowering.writer.file(arch.file_input, arch.classes, words | dict(metadata), input_type)


class _Lowering:
    """Base of both lowerings to ONNX: maps values of the graph to tensors of the file."""

    def __init__(self, model: QuantizedNet) -> None:
        self.writer = OnnxWriter()
        self.axes = model.arch.graph.input.spatial_axes
        self.names = {model.arch.graph.input.name: self._pixels(model)}

    def _pixels(self, model: QuantizedNet) -> str:
        """Append what brings the input to uint8, channels first; its output's name."""
        quantization = model.preprocessing.input_quantization
        if model.arch.front_end is not None:
            return append_front_end(self.writer, model.arch.front_end)
        if quantization is None:
            if model.arch.is_signal:
                raise ArchError(
                    f"a net for signals {model.arch.input} has no input quantization",
                    fix="quantize the inputs of a net for signals",
                )
            return self.writer.node("Transpose", INPUT_NAME, perm=[0, 3, 1, 2])
        if not model.arch.is_signal:
            return self._quantized_pixels(model.arch, quantization)
        offsets, scales, zero_points = (
            self.writer.constant(np.array(each, kind))
            for each, kind in (
                (quantization.offsets, np.float32),
                (quantization.scales, np.float32),
                ([INPUT_ZERO_POINT] * model.arch.channels, np.uint8),
            )
        )
        x = SIGNAL_NAME
        if quantization.dtype != "float32":
            x = self.writer.node("Cast", x, to=TensorProto.FLOAT)
        x = self.writer.node("Sub", x, offsets)
        # Channels first: ONNX Runtime then quantizes all values of a channel at once.
        x = self.writer.node("Transpose", x, perm=[0, 2, 1])
        return self.writer.node("QuantizeLinear", x, scales, zero_points, axis=1)

    def _quantized_pixels(self, arch: Arch, quantization: InputQuantization) -> str:
        """Append the quantization of stored pixels; its output's name.

        ONNX Runtime moves the transposition behind it, where it would repeat three offsets a pixel
        at a time; so rows of pixels are computed with offsets and scales of a whole row.
        """
        node, constant = self.writer.node, self.writer.constant
        height, width, channels = arch.input
        pixels = _row_pixels(height * width, channels)
        x = node("Reshape", INPUT_NAME, constant(np.array([-1, pixels * channels], np.int64)))
        if quantization.dtype != "float32":
            x = node("Cast", x, to=TensorProto.FLOAT)
        zero_point = constant(np.uint8(INPUT_ZERO_POINT))
        offsets, scales = (
            np.array(each, np.float32) for each in (quantization.offsets, quantization.scales)
        )
        if channels == 1:
            x = node("Sub", x, constant(offsets[0]))
            x = node("QuantizeLinear", x, constant(scales[0]), zero_point)
        else:
            x = node("Sub", x, constant(np.tile(offsets, pixels)))
            x = node("Div", x, constant(np.tile(scales, pixels)))
            x = node("QuantizeLinear", x, constant(np.float32(1)), zero_point)
        x = node("Reshape", x, constant(np.array([-1, height, width, channels], np.int64)))
        return node("Transpose", x, perm=[0, 3, 1, 2])

    def append(self, op: Op) -> None:
        """Append the nodes of one operation."""
        raise NotImplementedError

    def dequantized(self, value: Value) -> str:
        """Name of the float tensor of `value`, dequantized if necessary."""
        raise NotImplementedError

    def compute(self, op: Op) -> str:
        """Append the float operator of an operation without weights; its output's name."""
        node, inputs = self.writer.node, [self.dequantized(value) for value in op.inputs]
        match op:
            case GlobalPool():
                return node("GlobalAveragePool", *inputs, name=op.name)
            case Gate(kind="sigmoid"):
                return node("Sigmoid", *inputs, name=op.name)
            case Gate():
                return node("HardSigmoid", *inputs, name=op.name, alpha=1 / 6, beta=0.5)
            case Mul():
                return node("Mul", *inputs, name=op.name)
            case Add():
                return node("Add", *inputs, name=op.name)
            case _:
                raise NotImplementedError(op)

    def convolve(self, op: Conv, weight: str, bias: str) -> str:
        """Append a convolution; its output's name."""
        more = self._window(op)
        if op.depthwise:
            more["group"] = op.x.channels
        return self.writer.node("Conv", self.dequantized(op.x), weight, bias, name=op.name, **more)

    def pool(self, op: MaxPool, x: str) -> str:
        """Append a max pooling of float or uint8; its output's name."""
        return self.writer.node("MaxPool", x, name=op.name, **self._window(op))

    def filters(self, op: Conv | Linear, weight: np.ndarray) -> np.ndarray:
        """Weights in the shape of the file: without the height of filters for signals."""
        return weight[:, :, 0] if isinstance(op, Conv) and self.axes == 1 else weight

    def _window(self, op: Conv | MaxPool) -> dict[str, Any]:
        """ONNX attributes of a convolution or pooling window, defaults left out."""
        more: dict[str, Any] = {"kernel_shape": [op.kernel] * self.axes}
        if op.stride > 1:
            more["strides"] = [op.stride] * self.axes
        if op.padding[1]:
            more["pads"] = [op.padding[1]] * 2 * self.axes
        return more


class _Float(_Lowering):
    """float32 file, whose input is dequantized as in the int8 file."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.model = model
        name, about = model.arch.graph.input.name, model.preprocessing
        self.names[name] = self.writer.node(
            "DequantizeLinear",
            self.names[name],
            self.writer.constant(np.float32(about.scale)),
            self.writer.constant(np.uint8(about.zero_point)),
        )

    def dequantized(self, value: Value) -> str:
        return self.names[value.name]

    def append(self, op: Op) -> None:
        match op:
            case Conv():
                weight, bias = self._parameters(op)
                y = self._clamped(self.convolve(op, weight, bias), op.clamp)
            case Linear():
                weight, bias = self._parameters(op)
                flat = self.writer.node("Flatten", self.dequantized(op.x))
                y = self.writer.node("Gemm", flat, weight, bias, name=op.name, transB=1)
            case MaxPool():
                y = self.pool(op, self.dequantized(op.x))
            case Add():
                y = self._clamped(self.compute(op), op.clamp)
            case _:
                y = self.compute(op)
        self.names[op.y.name] = y

    def _parameters(self, op: Conv | Linear) -> tuple[str, str]:
        weight, bias = folded_weights(self.model, op)
        return self.writer.constant(self.filters(op, weight)), self.writer.constant(bias)

    def _clamped(self, x: str, clamp: Clamp) -> str:
        if clamp == "none":
            return x
        if clamp == "relu":
            return self.writer.node("Relu", x)
        low, high = (self.writer.constant(np.float32(bound)) for bound in (0, 6))
        return self.writer.node("Clip", x, low, high)


class _Int8(_Lowering):
    """int8 file: quantize and dequantize pairs that ONNX Runtime fuses into integer kernels.

    Clamps need no operator: they are the limits of the quantized range.
    """

    def __init__(self, model: QuantizedNet, qparams: QParams) -> None:
        super().__init__(model)
        self.qparams = qparams
        about = model.preprocessing
        self._quantization = {
            model.arch.graph.input.name: (np.float32(about.scale), np.uint8(about.zero_point))
        }
        self._dequantized: dict[str, str] = {}

    def append(self, op: Op) -> None:
        match op:
            case MaxPool():
                # Quantization keeps the order, so the maximum is taken of the uint8 values.
                self._quantization[op.y.name] = self._quantization[op.x.name]
                self.names[op.y.name] = self.pool(op, self.names[op.x.name])
            case Linear():
                flat = self.writer.node("Flatten", self.names[op.x.name])
                x = self.writer.node("DequantizeLinear", flat, *self._scale(op.x.name))
                self.names[op.y.name] = self.writer.node(
                    "Gemm", x, *self._parameters(op), name=op.name, transB=1
                )
            case Conv():
                self._store(op, self.convolve(op, *self._parameters(op)))
            case Gate(kind="hard_sigmoid"):
                self._hard_sigmoid(op)
            case _:
                self._store(op, self.compute(op))

    def dequantized(self, value: Value) -> str:
        if value.name not in self._dequantized:
            self._dequantized[value.name] = self.writer.node(
                "DequantizeLinear", self.names[value.name], *self._scale(value.name)
            )
        return self._dequantized[value.name]

    def _store(self, op: Op, y: str) -> None:
        name, values = op.y.name, self.qparams
        scale, zero_point = np.float32(values.scales[name]), np.uint8(values.zero_points[name])
        _check_clamp(op, scale, zero_point)
        self._quantization[name] = scale, zero_point
        self.names[name] = self.writer.node("QuantizeLinear", y, *self._scale(name))

    def _hard_sigmoid(self, op: Gate) -> None:
        """Append clip(x + 3, 0, 6), quantized in 255 steps and read as 0 to 1.

        There is no integer kernel for a hard sigmoid, but one for an addition, and the range of
        its output clips.
        """
        three = self.writer.node(
            "DequantizeLinear",
            self.writer.constant(np.ones((1,) * (2 + self.axes), np.uint8)),
            self.writer.constant(np.float32(3)),
            self.writer.constant(np.uint8(0)),
        )
        y = self.writer.node("Add", self.dequantized(op.x), three, name=op.name)
        sixth, zero_point = np.float32(1 / 255), np.uint8(0)
        self.names[op.y.name] = self.writer.node(
            "QuantizeLinear",
            y,
            self.writer.constant(np.float32(6) * sixth),
            self.writer.constant(zero_point),
        )
        self._quantization[op.y.name] = sixth, zero_point

    def _scale(self, name: str) -> tuple[str, str]:
        scale, zero_point = self._quantization[name]
        return self.writer.constant(scale), self.writer.constant(zero_point)

    def _parameters(self, op: Conv | Linear) -> tuple[str, str]:
        values = self.qparams
        scales = values.weight_scales[op.name]
        bias_scales = self._quantization[op.x.name][0] * scales
        return (
            self._constant(self.filters(op, values.weights[op.name]), scales),
            self._constant(values.biases[op.name], bias_scales),
        )

    def _constant(self, integers: np.ndarray, scales: np.ndarray) -> str:
        parts = [integers, scales.astype(np.float32)]
        if integers.ndim == 2:
            # Without zero points for its weights ONNX Runtime leaves the product in float.
            parts.append(np.zeros(len(scales), np.int8))
        return self.writer.node("DequantizeLinear", *map(self.writer.constant, parts), axis=0)


def _check_clamp(op: Op, scale: np.float32, zero_point: np.uint8) -> None:
    clamp = op.clamp if isinstance(op, (Conv, Add)) else "none"
    top = (255 - int(zero_point)) * float(scale)
    if (clamp != "none" and zero_point != 0) or (clamp == "relu6" and top > 6.0001):
        raise ArchError(
            f"{op.name}: a {clamp} ends at zero point {zero_point} and {top:.4g}, the rule is 0"
            + (" and at most 6" if clamp == "relu6" else ""),
            fix="quantize the model with ranges that its activations can have",
        )
