"""Accuracy: the share of validation samples classified correctly."""

from __future__ import annotations

from lepton_automl.cost import Cost
from lepton_automl.objectives import Objective


class Accuracy(Objective):
    """More is better; the one objective that needs training."""

    direction = "maximize"
    unit = "share"
    needs_training = True

    def value(self, accuracy: float | None, cost: Cost) -> float:
        """The accuracy so far."""
        del cost
        return 0.0 if accuracy is None else accuracy
