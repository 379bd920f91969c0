"""Inverted bottleneck with a dense 3x3 (Tan & Le 2021, section 3.2, arXiv:2104.00298)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from lepton_automl.models.builder import Builder
from lepton_automl.models.graph import Value
from lepton_automl.models.layers import Layer, activation, choice, derived, width


@dataclass(frozen=True)
class FusedMBConv(Layer):
    """Expand by a dense convolution, project by 1x1; `hidden` is set from `expand`."""

    out: int = width(16)
    kernel: int = choice(3, 5)
    stride: int = choice(1, 2)
    expand: int = choice(2, 1, 3, 4)
    activation: str = activation()
    hidden: int = width(32)
    residual: bool = derived(default=False)

    def with_input_channels(self, channels: int) -> Self:
        """Set the inner width and whether there is a skip connection."""
        residual = self.stride == 1 and channels == self.out
        return replace(self, hidden=channels * self.expand, residual=residual)

    def lower(self, builder: Builder, x: Value) -> Value:
        """Expand, project, add."""
        y = builder.conv(
            x,
            "expand",
            "hidden",
            kernel=self.kernel,
            stride=self.stride,
            activation=self.activation,
        )
        y = builder.conv(y, "project", "out")
        return builder.add(x, y, "add") if self.residual else y
