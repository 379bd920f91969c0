"""Size: bytes of the int8 ONNX file."""

from __future__ import annotations

from lepton_automl.cost import Cost
from lepton_automl.objectives import Objective


class SizeBytes(Objective):
    """Less is better."""

    unit = "bytes"

    def value(self, accuracy: float | None, cost: Cost) -> float:
        """The file's size."""
        del accuracy
        return float(cost.size_bytes)
