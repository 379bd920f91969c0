"""Inverted bottleneck (Sandler et al. 2018, section 3.4, arXiv:1801.04381)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from lepton_automl.models.builder import Builder
from lepton_automl.models.graph import Value
from lepton_automl.models.layers import Layer, activation, choice, derived, width


@dataclass(frozen=True)
class MBConv(Layer):
    """Expand by 1x1, depthwise convolution, optional squeeze-and-excitation, project by 1x1.

    `se` is the reduction factor of squeeze-and-excitation (Hu et al. 2018, arXiv:1709.01507); 0
    leaves it out. `hidden` and `squeeze` are set from `expand` and `se` by `with_input_channels`
    and pruned independently afterwards.
    """

    out: int = width(16)
    kernel: int = choice(3, 5, 7)
    stride: int = choice(1, 2)
    expand: int = choice(4, 1, 2, 3, 6)
    se: int = choice(0, 4, 8)
    activation: str = activation()
    hidden: int = width(64)
    squeeze: int = width(8)
    residual: bool = derived(default=False)

    def with_input_channels(self, channels: int) -> Self:
        """Set the inner widths and whether there is a skip connection."""
        hidden = channels * self.expand
        return replace(
            self,
            hidden=hidden,
            squeeze=max(8, hidden // self.se) if self.se else 0,
            residual=self.stride == 1 and channels == self.out,
        )

    def lower(self, builder: Builder, x: Value) -> Value:
        """Expand, convolve depthwise, excite, project, add."""
        y = builder.conv(x, "expand", "hidden", activation=self.activation)
        y = builder.depthwise(
            y, "depthwise", kernel=self.kernel, stride=self.stride, activation=self.activation
        )
        if self.se:
            y = self._excite(builder, y)
        y = builder.conv(y, "project", "out")
        return builder.add(x, y, "add") if self.residual else y

    def _excite(self, builder: Builder, x: Value) -> Value:
        gate = builder.global_pool(x, "squeeze_pool")
        gate = builder.conv(gate, "squeeze", "squeeze", activation="relu")
        gate = builder.conv(gate, "excite", "hidden")
        return builder.mul(x, builder.gate(gate, "excite_gate", "sigmoid"), "excited")
