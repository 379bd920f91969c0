"""Peak RAM: bytes of all int8 feature maps alive at once."""

from __future__ import annotations

from lepton_automl.cost import Cost
from lepton_automl.objectives import Objective


class PeakRamBytes(Objective):
    """Less is better."""

    unit = "bytes"

    def value(self, accuracy: float | None, cost: Cost) -> float:
        """The peak."""
        del accuracy
        return float(cost.peak_ram_bytes)
