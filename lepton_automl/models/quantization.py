"""How a net reads pixels, and its quantization parameters; without torch, which is slow to load."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.field_types import check_finite
from lepton_automl.models.arch import Arch

if TYPE_CHECKING:
    from torch import Tensor

INPUT_ZERO_POINT = 128
"""Sample that the offset of a channel becomes."""
INPUT_TYPES = ("uint8", "uint16", "int16", "float32")
"""Types of the values that a file may read: what sensors and cameras give."""


def check_zero_point(value: object, what: str) -> None:
    """Check that a value from a file is a whole number from 0 to 255.

    Raises
    ------
    TypeError, ValueError
        Naming the value by `what`.
    """
    check_finite(value, what, int)
    if not 0 <= cast("int", value) <= 255:
        raise ValueError(f"{what} is {value}, the rule is 0 to 255")


def check_scale(value: object, what: str) -> None:
    """Check that a value from a file is a number above 0.

    Raises
    ------
    TypeError, ValueError
        Naming the value by `what`.
    """
    check_finite(value, what)
    if not cast("float", value) > 0:
        raise ValueError(f"{what} is {value}, the rule is above 0")


def has_input_quantization(arch: Arch) -> bool:
    """Whether a net quantizes its inputs channel by channel: signals, and pictures of no colour.

    Channels of grey and RGB pictures are of one scale; those of other pictures may differ in level
    by any factor, with which nets do not train ("Channels of pictures" in docs/decisions.md).
    """
    return arch.is_signal or arch.channels not in (1, 3)


@dataclass(frozen=True)
class InputQuantization:
    """Quantization of measured values to the uint8 samples that nets see, channel by channel.

    q = round half to even((value - offset) / scale) + 128, clipped to 0 to 255: what Sub and
    QuantizeLinear of ONNX compute, so that training and the written file see the same samples.
    Integers become float32 first, which holds those of 16 bits exactly.
    """

    offsets: tuple[float, ...]
    """Value of each channel that becomes 128; float32."""
    scales: tuple[float, ...]
    """Step of each channel, above 0; float32."""
    dtype: str = "float32"
    """Type of the values, one of `INPUT_TYPES`: of the input of a written file."""

    def __post_init__(self) -> None:
        if self.dtype not in INPUT_TYPES:
            raise ValueError(f"an input is {self.dtype}, the rule is {', '.join(INPUT_TYPES)}")
        if len(self.offsets) != len(self.scales) or not self.scales:
            raise ValueError("an input has one offset and one scale a channel")
        for offset, scale in zip(self.offsets, self.scales, strict=True):
            check_finite(offset, "offset")
            check_scale(scale, "scale of an input")

    def quantize(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """The uint8 samples of measured values (..., channels)."""
        offsets, scales = self._arrays()
        reals = values.astype(np.float32, copy=False)
        steps = np.rint((reals - offsets) / scales) + np.float32(INPUT_ZERO_POINT)
        found: NDArray[np.uint8] = np.clip(steps, 0, 255).astype(np.uint8)
        return found

    def dequantize(self, samples: NDArray[np.uint8]) -> NDArray[Any]:
        """Values (..., channels) of type `dtype` that `quantize` maps to these samples.

        Of integers this holds for samples of integers; any other gets the nearest one.
        """
        offsets, scales = self._arrays()
        steps = samples.astype(np.float32) - np.float32(INPUT_ZERO_POINT)
        values: NDArray[Any] = steps * scales + offsets
        if self.dtype == "float32":
            return values
        kind = np.iinfo(self.dtype)
        low = np.clip(np.floor(values), kind.min, kind.max)
        high = np.clip(low + 1, kind.min, kind.max)
        is_low = self.quantize(low) == samples
        is_low |= (self.quantize(high) != samples) & (values - low <= high - values)
        whole: NDArray[Any] = np.where(is_low, low, high).astype(self.dtype)
        return whole

    def _arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.array(self.offsets, np.float32), np.array(self.scales, np.float32)


@dataclass(frozen=True)
class Preprocessing:
    """Normalisation of uint8 pixels: x = (pixel - zero_point) * scale.

    One pair for all channels, so that the pixels are already the quantized input: the float and
    the int8 net get exactly the same numbers, and zero padding is a grey of `zero_point`.
    """

    zero_point: int
    """Pixel value that becomes 0, 0 to 255: the rounded mean of the training pixels."""
    scale: float
    """Inverse standard deviation of the training pixels; a float32."""
    input_quantization: InputQuantization | None = None
    """How the values that a file reads become the pixels; None where they are the pixels."""

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Self:
        """From its fields in a file.

        Raises
        ------
        KeyError, TypeError, ValueError
            If one is missing, unknown or of another type.
        """
        fields = dict(fields)
        stored = fields.pop("input_quantization", fields.pop("signal", None))  # Its older name.
        found = None
        if stored is not None:
            if not isinstance(stored, dict):
                raise TypeError(f"input_quantization is {stored!r:.60}, not an object")
            kind = str(stored.get("dtype", "float32"))
            found = InputQuantization(tuple(stored["offsets"]), tuple(stored["scales"]), kind)
        made = cls(**fields, input_quantization=found)
        check_zero_point(made.zero_point, "zero_point")
        check_scale(made.scale, "scale")
        return made

    def apply(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 pixels (N, H, W, C) to float (N, C, H, W), channels last in memory."""
        x = pixels.permute(0, 3, 1, 2).float()
        return (x - self.zero_point) * self.scale

    def file_input(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """What a written file reads for pixels (N, H, W, C).

        Returns
        -------
        ndarray
            (N, H, W, C): the pixels, or values that become them.
        """
        return (
            pixels
            if self.input_quantization is None
            else self.input_quantization.dequantize(pixels)
        )

    @property
    def input_type(self) -> str:
        """Type of the values that a written file reads."""
        return "uint8" if self.input_quantization is None else self.input_quantization.dtype


@dataclass(frozen=True)
class QParams:
    """Quantization parameters of a folded model: v = (q - zero_point) * scale with uint8 q.

    Weights are int8 with one scale an output channel and no zero point; the bias is int32 with
    scale (input scale * weight scale), computed in float32.
    """

    scales: dict[str, float]
    """Value name -> scale (float32); every value of the graph but the logits."""
    zero_points: dict[str, int]
    """Value name -> zero point, 0 to 255."""
    weights: dict[str, np.ndarray]
    """Operation name -> int8 weights, shaped as the operation's `weight_shape`."""
    weight_scales: dict[str, np.ndarray]
    """Operation name -> float32 (out channels,)."""
    biases: dict[str, np.ndarray]
    """Operation name -> int32 (out channels,)."""


class QuantizedNet(Protocol):
    """What an int8 file is written from: a quantized `Model`, or random numbers in its place."""

    @property
    def arch(self) -> Arch:
        """The architecture."""

    @property
    def preprocessing(self) -> Preprocessing:
        """Normalisation of pixels."""

    @property
    def qparams(self) -> QParams | None:
        """Quantization parameters; None of a float model."""


@dataclass(frozen=True)
class _Behind:
    arch: Arch
    preprocessing: Preprocessing
    qparams: QParams | None


def behind_front_end(net: QuantizedNet) -> QuantizedNet:
    """The net of sound that reads features."""
    arch = dataclasses.replace(net.arch, front_end=None)
    return _Behind(arch, net.preprocessing, net.qparams)
