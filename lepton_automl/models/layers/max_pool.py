"""Maximum pooling."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_automl.models.builder import Builder
from lepton_automl.models.graph import Value
from lepton_automl.models.layers import Layer, choice


@dataclass(frozen=True)
class MaxPool(Layer):
    """Maximum over a window; has no weights and no width."""

    kernel: int = choice(2, 3)
    stride: int = choice(2, 1)

    def lower(self, builder: Builder, x: Value) -> Value:
        """Pooling."""
        return builder.max_pool(x, "pool", kernel=self.kernel, stride=self.stride)
