"""Plain convolution, the layer with the fastest int8 kernels."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_automl.models.builder import Builder
from lepton_automl.models.graph import Value
from lepton_automl.models.layers import Layer, activation, choice, width


@dataclass(frozen=True)
class Conv(Layer):
    """Convolution, batch normalisation, activation."""

    out: int = width(16)
    kernel: int = choice(3, 1, 5, 7)
    stride: int = choice(1, 2)
    activation: str = activation()

    def lower(self, builder: Builder, x: Value) -> Value:
        """Convolution."""
        return builder.conv(
            x, "conv", "out", kernel=self.kernel, stride=self.stride, activation=self.activation
        )
