"""Objectives of a search: accuracy and the costs of a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

from lepton_automl.core import plugins
from lepton_automl.cost.cost import Cost


class Objective(ABC):
    """A value to maximize or minimize.

    Objectives on costs are known before training; one with `needs_training` changes with every
    rung.
    """

    direction: ClassVar[Literal["maximize", "minimize"]] = "minimize"
    unit: ClassVar[str] = ""
    needs_training: ClassVar[bool] = False
    needs_timing: ClassVar[bool] = False
    """Whether it needs `Cost.latency_ms`, which is measured only on demand."""

    @property
    def sign(self) -> float:
        """Factor that makes lower values better: 1 or -1."""
        return 1.0 if self.direction == "minimize" else -1.0

    @abstractmethod
    def value(self, accuracy: float | None, cost: Cost) -> float:
        """The value of a trial.

        Parameters
        ----------
        accuracy : float or None
            Share of validation samples classified correctly, 0 to 1; None before training.
        cost : Cost
            Cost of the int8 file.
        """


class Accuracy(Objective):
    """Accuracy on validation; higher is better."""

    direction = "maximize"
    unit = "share"
    needs_training = True

    def value(self, accuracy: float | None, cost: Cost) -> float:
        """The accuracy; 0 before training."""
        del cost
        return 0.0 if accuracy is None else accuracy


class LatencyMs(Objective):
    """Latency in milliseconds; lower is better, and searches are not repeatable bit for bit."""

    unit = "ms"
    needs_timing = True

    def value(self, accuracy: float | None, cost: Cost) -> float:
        """The measured latency."""
        del accuracy
        if cost.latency_ms is None:
            raise ValueError("latency_ms is an objective, but was not measured")
        return cost.latency_ms


class Macs(Objective):
    """Multiply-accumulates; lower is better."""

    unit = "MACs"

    def value(self, accuracy: float | None, cost: Cost) -> float:
        """The number of multiply-accumulates."""
        del accuracy
        return float(cost.macs)


class PeakRamBytes(Objective):
    """Peak of the feature memory in bytes; lower is better."""

    unit = "bytes"

    def value(self, accuracy: float | None, cost: Cost) -> float:
        """The peak memory."""
        del accuracy
        return float(cost.peak_ram_bytes)


class SizeBytes(Objective):
    """Size of the int8 file in bytes; lower is better."""

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
