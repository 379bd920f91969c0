"""How a net reads pixels, and its quantization parameters; without torch, which is slow to load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.field_types import check_finite
from lepton_automl.models.arch import Arch

if TYPE_CHECKING:
    from torch import Tensor

INPUT_ZERO_POINT = 128
"""Sample that the offset of a channel of a signal becomes."""


@dataclass(frozen=True)
class InputQuantization:
    """Quantization of a signal to the uint8 samples that nets see, channel by channel.

    q = round half to even((value - offset) / scale) + 128, clipped to 0 to 255: what Sub and
    QuantizeLinear of ONNX compute, so that training and the written file see the same samples.
    """

    offsets: tuple[float, ...]
    """Value of each channel that becomes 128; float32."""
    scales: tuple[float, ...]
    """Step of each channel, above 0; float32."""

    def __post_init__(self) -> None:
        if len(self.offsets) != len(self.scales) or not self.scales:
            raise ValueError("an input has one offset and one scale a channel")
        for offset, scale in zip(self.offsets, self.scales, strict=True):
            check_finite(offset, "offset")
            check_finite(scale, "scale")
            if not scale > 0:
                raise ValueError(f"an input has the scale {scale}, the rule is above 0")

    def quantize(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The uint8 samples of measured values (..., channels)."""
        offsets, scales = self._arrays()
        steps = np.rint((values - offsets) / scales) + np.float32(INPUT_ZERO_POINT)
        found: NDArray[np.uint8] = np.clip(steps, 0, 255).astype(np.uint8)
        return found

    def dequantize(self, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Measured values (..., channels) that `quantize` maps to these samples."""
        offsets, scales = self._arrays()
        steps = samples.astype(np.float32) - np.float32(INPUT_ZERO_POINT)
        values: NDArray[np.float32] = steps * scales + offsets
        return values

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
    signal: InputQuantization | None = None
    """How measured values become the pixels; None for pictures, which are stored as pixels."""

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Self:
        """From its fields in a file; raises a TypeError where one is missing or no number."""
        fields = dict(fields)
        if (signal := fields.pop("signal", None)) is not None:
            signal = InputQuantization(tuple(signal["offsets"]), tuple(signal["scales"]))
        made = cls(**fields, signal=signal)
        check_finite(made.zero_point, "zero_point", int)
        check_finite(made.scale, "scale")
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
            The pixels; of a signal float32 values (N, length, C).
        """
        return pixels if self.signal is None else self.signal.dequantize(pixels[:, 0])


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
