"""Residual basic block (He et al. 2016, section 3.3, arXiv:1512.03385)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from lepton_automl.models.builder import Builder
from lepton_automl.models.graph import Value
from lepton_automl.models.layers import Layer, activation, choice, derived, width


@dataclass(frozen=True)
class Residual(Layer):
    """Two convolutions and a skip connection; a 1x1 projection where shapes differ.

    `hidden` is the width between the two convolutions, set to `out` by `with_input_channels`
    and pruned independently afterwards.
    """

    out: int = width(16)
    kernel: int = choice(3, 5)
    stride: int = choice(1, 2)
    activation: str = activation()
    hidden: int = width(16)
    projection: bool = derived(default=True)

    def with_input_channels(self, channels: int) -> Self:
        """Set the inner width and whether the skip connection needs a projection."""
        projection = self.stride != 1 or channels != self.out
        return replace(self, hidden=self.out, projection=projection)

    def lower(self, builder: Builder, x: Value) -> Value:
        """Two convolutions, plus the skip connection."""
        y = builder.conv(
            x,
            "first",
            "hidden",
            kernel=self.kernel,
            stride=self.stride,
            activation=self.activation,
        )
        y = builder.conv(y, "second", "out", kernel=self.kernel)
        if self.projection:
            x = builder.conv(x, "shortcut", "out", stride=self.stride)
        return builder.add(y, x, "add", activation=self.activation)
