"""MACs: multiply-accumulates of one sample."""

from __future__ import annotations

from lepton_automl.cost import Cost
from lepton_automl.objectives import Objective


class Macs(Objective):
    """Less is better."""

    unit = "MACs"

    def value(self, accuracy: float | None, cost: Cost) -> float:
        """The count."""
        del accuracy
        return float(cost.macs)
