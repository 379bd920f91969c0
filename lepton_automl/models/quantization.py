"""How a net reads pixels, and its quantization parameters; without torch, which is slow to load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from lepton_automl.core.field_types import check_finite
from lepton_automl.models.arch import Arch

if TYPE_CHECKING:
    from torch import Tensor


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

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Self:
        """From its fields in a file; raises a TypeError where one is missing or no number."""
        made = cls(**fields)
        check_finite(made.zero_point, "zero_point", int)
        check_finite(made.scale, "scale")
        return made

    def apply(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 pixels (N, H, W, C) to float (N, C, H, W), channels last in memory."""
        x = pixels.permute(0, 3, 1, 2).float()
        return (x - self.zero_point) * self.scale


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
