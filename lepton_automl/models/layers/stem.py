"""First convolution of a net, on the pixels."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_automl.models.builder import Builder
from lepton_automl.models.graph import Value
from lepton_automl.models.layers import Layer, activation, choice, width


@dataclass(frozen=True)
class Stem(Layer):
    """Convolution with a stride up to 4, batch normalisation, activation."""

    out: int = width(16)
    kernel: int = choice(3, 5, 7)
    stride: int = choice(1, 2, 4)
    activation: str = activation()

    def lower(self, builder: Builder, x: Value) -> Value:
        """Convolution."""
        return builder.conv(
            x, "conv", "out", kernel=self.kernel, stride=self.stride, activation=self.activation
        )
