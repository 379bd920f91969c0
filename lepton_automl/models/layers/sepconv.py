"""Depthwise-separable convolution (Howard et al. 2017, section 3.1, arXiv:1704.04861)."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_automl.models.builder import Builder
from lepton_automl.models.graph import Value
from lepton_automl.models.layers import Layer, activation, choice, width


@dataclass(frozen=True)
class SepConv(Layer):
    """Depthwise convolution, then a 1x1 convolution."""

    out: int = width(16)
    kernel: int = choice(3, 5, 7)
    stride: int = choice(1, 2)
    activation: str = activation()

    def lower(self, builder: Builder, x: Value) -> Value:
        """Depthwise, then pointwise."""
        x = builder.depthwise(
            x, "depthwise", kernel=self.kernel, stride=self.stride, activation=self.activation
        )
        return builder.conv(x, "pointwise", "out", activation=self.activation)
