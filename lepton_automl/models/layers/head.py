"""Classifier head with global average pooling and a linear layer."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_automl.errors import ArchError
from lepton_automl.models.builder import Builder
from lepton_automl.models.graph import Value
from lepton_automl.models.layers import Layer, activation, derived, width


@dataclass(frozen=True)
class Head(Layer):
    """Optional 1x1 convolution to `features` channels (0: none), average pooling, linear layer."""

    features: int = width(0)
    activation: str = activation()
    classes: int = derived(default=10)

    def lower(self, builder: Builder, x: Value) -> Value:
        """Convolve, pool, classify."""
        if self.classes < 2:
            raise ArchError(
                f"Head: classes = {self.classes}, at least 2 is the rule",
                fix="classify into two classes or more",
            )
        if self.features:
            x = builder.conv(x, "features", "features", activation=self.activation)
        return builder.linear(builder.global_pool(x, "pool"), "logits", self.classes)
