"""Objectives of a search: accuracy and the costs of a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

from lepton_automl.core import plugins
from lepton_automl.cost.cost import Cost


class Objective(ABC):
    """One figure of a candidate.

    Known costs cost milliseconds, so they are known before any training; an objective that needs
    training gets the accuracy the candidate has so far.
    """

    direction: ClassVar[Literal["maximize", "minimize"]] = "minimize"
    unit: ClassVar[str] = ""
    needs_training: ClassVar[bool] = False
    needs_timing: ClassVar[bool] = False
    """Reads `Cost.latency_ms`, which is measured only where something asks for it."""

    @property
    def sign(self) -> float:
        """What a value is multiplied by so that less is better: 1 or -1."""
        return 1.0 if self.direction == "minimize" else -1.0

    @abstractmethod
    def value(self, accuracy: float | None, cost: Cost) -> float:
        """The figure.

        Parameters
        ----------
        accuracy : float or None
            Share of validation samples classified correctly, 0 to 1; None before training.
        cost : Cost
            Cost of the int8 file.
        """


class Accuracy(Objective):
    """More is better; the one objective that needs training."""

    direction = "maximize"
    unit = "share"
    needs_training = True

    def value(self, accuracy: float | None, cost: Cost) -> float:
        """The accuracy so far."""
        del cost
        return 0.0 if accuracy is None else accuracy


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


class Macs(Objective):
    """Less is better."""

    unit = "MACs"

    def value(self, accuracy: float | None, cost: Cost) -> float:
        """The count."""
        del accuracy
        return float(cost.macs)


class PeakRamBytes(Objective):
    """Less is better."""

    unit = "bytes"

    def value(self, accuracy: float | None, cost: Cost) -> float:
        """The peak."""
        del accuracy
        return float(cost.peak_ram_bytes)


class SizeBytes(Objective):
    """Less is better."""

    unit = "bytes"

    def value(self, accuracy: float | None, cost: Cost) -> float:
        """The file's size."""
        del accuracy
        return float(cost.size_bytes)


_BUILT_IN: Mapping[str, type[Objective]] = {
    "accuracy": Accuracy,
    "latency_ms": LatencyMs,
    "macs": Macs,
    "peak_ram_bytes": PeakRamBytes,
    "size_bytes": SizeBytes,
}


def names() -> list[str]:
    """Names of all objectives, built in and registered by third parties, sorted."""
    return sorted({*_BUILT_IN, *plugins.names("objectives")})


def load(name: str) -> Objective:
    """The objective `name`.

    Raises
    ------
    ConfigError
        If there is none of that name; the message gives the nearest one.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]()
    if name not in names():
        raise plugins.unknown_name(name, names(), "objective")
    return plugins.load("objectives", name, Objective)()  # type: ignore[type-abstract]
