"""Objectives: what a search makes good at the same time; one a file, its file name its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from lepton_automl import plugins
from lepton_automl.cost import Cost


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


def load(name: str) -> Objective:
    """The objective `name`.

    Raises
    ------
    ConfigError
        If there is none of that name; the message gives the nearest one.
    """
    return plugins.load("objectives", name, Objective)()  # type: ignore[type-abstract]
