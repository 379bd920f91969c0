"""Latency: milliseconds of one call on one thread, measured in ONNX Runtime."""

from __future__ import annotations

from lepton_automl.cost import Cost
from lepton_automl.objectives import Objective


class LatencyMs(Objective):
    """Less is better; searches that ask for it are not repeatable to the bit."""

    unit = "ms"
    needs_timing = True

    def value(self, accuracy: float | None, cost: Cost) -> float:
        """The measured latency."""
        del accuracy
        if cost.latency_ms is None:
            raise ValueError("latency_ms is an objective, but was not measured")
        return cost.latency_ms
