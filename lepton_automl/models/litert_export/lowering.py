"""Write a quantized net as a LiteRT file (`.tflite`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from lepton_automl.errors import ArchError
from lepton_automl.models.arch import Arch
from lepton_automl.models.front_end import LogMel
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
from lepton_automl.models.litert_export.flatbuffer import (
    DIV_OPTIONS,
    MEAN_OPTIONS,
    MUL_OPTIONS,
    SOFTMAX_OPTIONS,
    SUB_OPTIONS,
    Activation,
    Code,
    LiteRtWriter,
    Padding,
    Quantization,
    add_options,
    convolution_options,
    pool_options,
    reshape_options,
)
from lepton_automl.models.litert_export.log_mel import append_front_end
from lepton_automl.models.onnx_file import AUDIO_NAME, INPUT_NAME, OUTPUT_NAME, SIGNAL_NAME
from lepton_automl.models.quantization import INPUT_ZERO_POINT, Preprocessing, QParams, QuantizedNet

_OFFSET = 128
"""What uint8 values exceed the int8 ones of LiteRT by."""
_ACTIVATIONS: dict[Clamp, Activation] = {
    "none": Activation.NONE,
    "relu": Activation.RELU,
    "relu6": Activation.RELU6,
}


def int8_litert(
    net: QuantizedNet,
    class_names: Sequence[str],
    logit_range: tuple[float, float] | None = None,
) -> bytes:
    """Write the LiteRT file of a quantized `net`.

    It reads what the ONNX file reads, one sample a call unless its input is resized to more, and
    gives float32 probabilities (1, classes). Activations are the ONNX file's less 128, as int8;
    weights, their scales and biases are the same. What differs:

    - Logits are int16 where ONNX Runtime leaves them in float32: with int8 ones as usual in LiteRT
      more than one sample in a thousand would get another class ("LiteRT files" in
      docs/decisions.md). Their scale follows from the weights, so that none can saturate.
    - Features of sound are summed in another order; single ones may be a step apart.
    - A sigmoid has the steps of 1/256 that LiteRT demands, not 1/255.

    Parameters
    ----------
    net : QuantizedNet
        A layer whose channels all have the same scale of weights is written with that one.
    class_names : sequence of str
        Labels.
    logit_range : pair of float, optional
        Logits are int8 in this range, for accelerators that compute in int8 only.

    Raises
    ------
    ArchError
        If the net is not quantized.
    """
    if net.qparams is None:
        raise ArchError("the model is not quantized", fix="quantize it before writing an int8 file")
    if len(class_names) != net.arch.classes:
        raise ArchError(
            f"{len(class_names)} class names for a net with {net.arch.classes} classes",
            fix="give one name for each class",
        )
    lowering = _Lowering(net, net.qparams, logit_range)
    for op in net.arch.graph.ops:
        lowering.append(op)
    is_rgb = not net.arch.is_signal and net.arch.channels == 3
    return lowering.writer.file(
        lowering.given, lowering.probabilities(), class_names, is_rgb=is_rgb
    )


class _Lowering:
    """Maps values of the graph to tensors of the file, (1, height, width, channels) of int8."""

    def __init__(
        self, net: QuantizedNet, qparams: QParams, logit_range: tuple[float, float] | None
    ) -> None:
        self.writer = LiteRtWriter()
        self.qparams = qparams
        self._logit_range = logit_range
        self.graph = net.arch.graph
        about = net.preprocessing
        self._quantization = {
            self.graph.input.name: Quantization(
                (float(np.float32(about.scale)),), about.zero_point - _OFFSET
            )
        }
        self.given = 0
        self.tensors = {self.graph.input.name: self._samples(net)}

    def _samples(self, net: QuantizedNet) -> int:
        """Append what brings the input to int8; its output's number."""
        arch, about = net.arch, net.preprocessing
        quantization = about.input_quantization
        x = self.graph.input
        if arch.front_end is not None:
            return self._features(arch.front_end, about)
        if quantization is None:
            if arch.is_signal:
                raise ArchError(
                    f"a net for signals {arch.input} has no input quantization",
                    fix="quantize the inputs of a net for signals",
                )
            pixels = dataclasses.replace(self._quantization[x.name], zero_point=about.zero_point)
            self.given = self.writer.value((1, *arch.input), "uint8", pixels, INPUT_NAME)
            return self.writer.operator(Code.QUANTIZE, [self.given], self._new(x))
        values = self._float_values(arch, quantization.dtype)
        # The quotient is quantized with the scale and zero point that the first layer reads.
        offsets, scales = (
            np.array(each, np.float32) for each in (quantization.offsets, quantization.scales)
        )
        offsets = offsets + scales * np.float32(about.zero_point - INPUT_ZERO_POINT)
        scales = scales / np.float32(about.scale)
        for code, options, row in (
            (Code.SUB, SUB_OPTIONS, offsets),
            (Code.DIV, DIV_OPTIONS, scales),
        ):
            y = self.writer.value((1, *arch.input), "float32")
            values = self.writer.operator(code, [values, self.writer.constant(row)], y, options)
        if not arch.is_signal:
            return self.writer.operator(Code.QUANTIZE, [values], self._new(x))
        flat = self.writer.value((1, *arch.input), "int8", self._about(x))
        self.writer.operator(Code.QUANTIZE, [values], flat)
        y = self._new(x)
        return self.writer.operator(
            Code.RESHAPE, [flat], y, reshape_options((-1, *arch.size, arch.channels))
        )

    def _features(self, front_end: LogMel, about: Preprocessing) -> int:
        """Append the front end of a net for sound."""
        writer = self.writer
        self.given = writer.value((1, front_end.window), "int16", Quantization((1.0,)), AUDIO_NAME)
        real = writer.value((1, front_end.window), "float32")
        writer.operator(Code.DEQUANTIZE, [self.given], real, version=3)
        values = append_front_end(writer, front_end, real)
        # A step of the features is one of the first layer's input, whatever that is scaled by.
        step = np.float32(front_end.step)
        offset = np.float32(about.zero_point - front_end.zero_point) * step
        shape = (1, *front_end.feature_shape)
        for code, options, number in (
            (Code.SUB, SUB_OPTIONS, offset),
            (Code.DIV, DIV_OPTIONS, step / np.float32(about.scale)),
        ):
            y = writer.value(shape, "float32")
            inputs = [values, writer.constant(np.full(1, number, np.float32))]
            values = writer.operator(code, inputs, y, options)
        return writer.operator(Code.QUANTIZE, [values], self._new(self.graph.input))

    def _float_values(self, arch: Arch, dtype: str) -> int:
        """The input as float32."""
        shape = (1, *arch.input)
        # LiteRT for Microcontrollers converts uint8 by DEQUANTIZE only, LiteRT uint16 by CAST.
        is_quantized = dtype in ("uint8", "int16")
        about = Quantization((1.0,)) if is_quantized else None
        name = SIGNAL_NAME if arch.is_signal else INPUT_NAME
        self.given = self.writer.value(shape, dtype, about, name)
        if dtype == "float32":
            return self.given
        values = self.writer.value(shape, dtype="float32")
        if is_quantized:
            version = 3 if dtype == "int16" else 1
            return self.writer.operator(Code.DEQUANTIZE, [self.given], values, version=version)
        return self.writer.operator(Code.CAST, [self.given], values)

    def append(self, op: Op) -> None:
        """Append the operators of one operation."""
        match op:
            case Conv():
                y = self._convolution(op)
            case Linear():
                y = self._logits(op)
            case MaxPool():
                y = self._max_pool(op)
            case GlobalPool():
                y = self._mean(op)
            case Gate():
                y = self._gate(op)
            case Mul():
                y = self._product(op)
            case _:
                y = self._sum(op)
        self.tensors[op.y.name] = y

    def probabilities(self) -> int:
        """Append the softmax; the number of the probabilities (1, classes)."""
        classes = self.graph.output.channels
        logits = self.tensors[self.graph.output.name]
        shape = (1, classes)
        about = self._quantization[self.graph.output.name]
        dtype, version = ("int16", 3) if self._logit_range is None else ("int8", 2)
        flat = self.writer.value(shape, dtype, about)
        self.writer.operator(Code.RESHAPE, [logits], flat, reshape_options((-1, classes)))
        real = self.writer.operator(
            Code.DEQUANTIZE, [flat], self.writer.value(shape, "float32"), version=version
        )
        y = self.writer.value(shape, "float32", name=OUTPUT_NAME)
        return self.writer.operator(Code.SOFTMAX, [real], y, SOFTMAX_OPTIONS)

    def _new(self, value: Value, dtype: str = "int8") -> int:
        """A tensor for `value`."""
        shape = (1, value.height, value.width, value.channels)
        return self.writer.value(shape, dtype, self._about(value))

    def _about(self, value: Value) -> Quantization:
        name = value.name
        if name not in self._quantization:
            scale, zero_point = self.qparams.scales[name], self.qparams.zero_points[name]
            self._quantization[name] = Quantization(
                (float(np.float32(scale)),), int(zero_point) - _OFFSET
            )
        return self._quantization[name]

    def _convolution(self, op: Conv) -> int:
        x, padding = self._padded(op, self.tensors[op.x.name])
        weight = self.qparams.weights[op.name]
        # (out, in, height, width) -> (out, height, width, in), depthwise (1, height, width, out).
        order, axis = ((1, 2, 3, 0), 3) if op.depthwise else ((0, 2, 3, 1), 0)
        options = convolution_options(
            padding, _strides(op), _ACTIVATIONS[op.clamp], depthwise=op.depthwise
        )
        code = Code.DEPTHWISE_CONV_2D if op.depthwise else Code.CONV_2D
        parameters = self._parameters(op, weight.transpose(order), axis)
        return self.writer.operator(code, [x, *parameters], self._new(op.y), options, 3)

    def _parameters(
        self, op: Conv | Linear, weight: np.ndarray, axis: int, bias_type: str = "int32"
    ) -> tuple[int, int]:
        """Weight and bias of an operation; one scale a layer where all channels have the same."""
        scales = self.qparams.weight_scales[op.name].astype(np.float32)
        if (scales == scales[0]).all():
            scales, axis = scales[:1], 0
        bias_scales = np.float32(self._about(op.x).scales[0]) * scales
        bias = self.qparams.biases[op.name].astype(bias_type)
        return (
            self.writer.constant(weight, Quantization(tuple(scales.tolist()), 0, axis)),
            self.writer.constant(bias, Quantization(tuple(bias_scales.tolist()))),
        )

    def _logits(self, op: Linear) -> int:
        """Append a 1x1 convolution of 16-bit features to 16-bit logits.

        Features less their zero point are at most 255 in magnitude, so that these are exact. As a
        convolution it may have a scale a channel in any release of LiteRT and of LiteRT for
        Microcontrollers; a fully connected layer with them needs one from September 2024 on.
        """
        weight = self.qparams.weights[op.name][:, None, None, :]
        options = convolution_options(Padding.VALID, (1, 1), Activation.NONE, depthwise=False)
        if self._logit_range is not None:
            low, high = self._logit_range
            step = np.float32(max(high - low, 1e-4) / 255)
            zero_point = int(np.clip(np.rint(-low / step), 0, 255)) - _OFFSET
            self._quantization[op.y.name] = Quantization((float(step),), zero_point)
            inputs = [self.tensors[op.x.name], *self._parameters(op, weight, 0)]
            return self.writer.operator(Code.CONV_2D, inputs, self._new(op.y), options, 3)
        scale = self._about(op.x).scales[0]
        wide = self._widened(op.x, scale)
        bound = self._largest_logit(op)
        self._quantization[op.y.name] = Quantization((float(np.float32(bound / 32767)),))
        parameters = self._parameters(op, weight, 0, "int64")
        y = self._new(op.y, "int16")
        return self.writer.operator(Code.CONV_2D, [wide, *parameters], y, options, 4)

    def _widened(self, value: Value, scale: float) -> int:
        """A value as int16 with zero point 0."""
        shape = (1, value.height, value.width, value.channels)
        y = self.writer.value(shape, "int16", Quantization((scale,)))
        return self.writer.operator(Code.QUANTIZE, [self.tensors[value.name]], y, version=2)

    def _largest_logit(self, op: Linear) -> float:
        """Largest magnitude that a logit can have."""
        about = self._about(op.x)
        low, high = -_OFFSET - about.zero_point, 127 - about.zero_point
        weight = self.qparams.weights[op.name].astype(np.int64)
        ends = np.stack([weight * low, weight * high])
        bias = self.qparams.biases[op.name]
        scales = self.qparams.weight_scales[op.name].astype(np.float64) * about.scales[0]
        sums = [bias + pick(ends, 0).sum(1) for pick in (np.min, np.max)]
        return max(float(np.abs(np.stack(sums) * scales).max()), 1e-6)

    def _max_pool(self, op: MaxPool) -> int:
        self._quantization[op.y.name] = self._about(op.x)
        x, padding = self._padded(op, self.tensors[op.x.name])
        options = pool_options(padding, _strides(op), op.window)
        return self.writer.operator(Code.MAX_POOL_2D, [x], self._new(op.y), options, 2)

    def _padded(self, op: Conv | MaxPool, x: int) -> tuple[int, Padding]:
        """Append padding where that of the window is neither none nor what LiteRT calls the same.

        With a stride LiteRT pads less before than behind; ours is half of the window before.
        """
        if not any(op.padding):
            return x, Padding.VALID
        sizes = zip(
            (op.x.height, op.x.width),
            (op.y.height, op.y.width),
            op.window,
            _strides(op),
            op.padding,
            strict=True,
        )
        pads = []
        is_same = True
        for size, out, window, stride, before in sizes:
            missing = max((out - 1) * stride + window - size, 0)
            is_same &= missing // 2 == before
            pads.append((before, max(missing - before, 0)))
        if is_same:
            return x, Padding.SAME
        (top, bottom), (left, right) = pads
        value = dataclasses.replace(
            op.x, height=op.x.height + top + bottom, width=op.x.width + left + right
        )
        rows = np.array([(0, 0), (top, bottom), (left, right), (0, 0)], np.int32)
        inputs = [x, self.writer.constant(rows)]
        about = self._about(op.x)
        code = Code.PAD
        if isinstance(op, MaxPool) and about.zero_point != -_OFFSET:
            # PAD pads with 0, which may exceed every value of a window.
            code = Code.PADV2
            inputs.append(self.writer.constant(np.array([-_OFFSET], np.int8), about))
        return self.writer.operator(code, inputs, self._new(value), version=2), Padding.VALID

    def _mean(self, op: GlobalPool) -> int:
        axes = self.writer.constant(np.array([1, 2], np.int32))
        inputs = [self.tensors[op.x.name], axes]
        return self.writer.operator(Code.MEAN, inputs, self._new(op.y), MEAN_OPTIONS, 2)

    def _sum(self, op: Add) -> int:
        terms = [self.tensors[value.name] for value in op.inputs]
        options = add_options(_ACTIVATIONS[op.clamp])
        return self.writer.operator(Code.ADD, terms, self._new(op.y), options, 2)

    def _gate(self, op: Gate) -> int:
        x = self.tensors[op.x.name]
        if op.kind == "sigmoid":
            self._quantization[op.y.name] = Quantization((1 / 256,), -_OFFSET)
            return self.writer.operator(Code.LOGISTIC, [x], self._new(op.y), version=2)
        # There is no hard sigmoid: clip(x + 3, 0, 6), then a sixth of it. HARD_SWISH would replace
        # these and the product, but takes three times as long in LiteRT: XNNPACK lacks it.
        self._quantization[op.y.name] = Quantization((1 / 255,), -_OFFSET)
        scalar = np.ones((1, 1, 1, 1), np.int8)
        three = self.writer.constant(127 * scalar, Quantization((3 / 127,)))
        sixth = self.writer.constant(scalar, Quantization((1 / 6,)))
        shape = (1, op.y.height, op.y.width, op.y.channels)
        y = self.writer.value(shape, "int8", Quantization((6 / 255,), -_OFFSET))
        self.writer.operator(Code.ADD, [x, three], y, add_options(Activation.RELU6), 2)
        return self.writer.operator(Code.MUL, [y, sixth], self._new(op.y), MUL_OPTIONS, 3)

    def _product(self, op: Mul) -> int:
        factors, y = [self.tensors[value.name] for value in op.inputs], self._new(op.y)
        return self.writer.operator(Code.MUL, factors, y, MUL_OPTIONS, 2)


def _strides(op: Conv | MaxPool) -> tuple[int, int]:
    """Strides of height and width."""
    return op.x.window(op.stride)
