"""Callbacks: send the results of a search to other tools; a plug-in per file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lepton_automl.core import plugins
from lepton_automl.errors import MachineError


@dataclass(frozen=True)
class Run:
    """The run, as callbacks see it."""

    name: str
    """Unique name of the run."""
    folder: Path
    """The run folder; files go there unless the user gives another place."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Data, space, objectives, limits, seed, target."""


@dataclass(frozen=True)
class Rung:
    """Result of a rung or of a final training of a trial."""

    step: int
    """Number of results before this one, over all trials: 0, 1, 2, ..."""
    number: int
    """Number of the trial."""
    rung: str
    """"0", "1", ..., or the label of a final training, such as "final-0"."""
    epochs: int
    """Epochs of the trial after this training."""
    accuracy: float | None
    """Accuracy on validation, 0 to 1; None where the training failed."""
    failed: str
    """Reason of a failure; empty without one."""
    params: Mapping[str, Any]
    """Parameters of the trial, by path in the search space."""
    costs: Mapping[str, float]
    """Of its int8 file: `size_bytes`, `macs`, `peak_ram_bytes`, and `latency_ms` where known."""
    hypervolume: float
    """Hypervolume of the front after this result."""
    seconds: float
    """Duration of the training."""


@dataclass(frozen=True)
class End:
    """End of a session."""

    winner: int | None = None
    """Number of the winner; None where the search was stopped before."""
    reason: str = ""
    """Reason of the choice."""


class Callback(ABC):
    """Receives the results of a search in its own thread, so it cannot slow or stop the search.

    Data leave the machine only where the user has configured the package so. After a resume only
    results that it does not have yet are passed, so that it holds each result once.
    """

    failures: ClassVar[tuple[type[Exception], ...]] = (OSError, RuntimeError, ValueError)
    """Exceptions of the package where its storage or service fails."""

    @abstractmethod
    def start(self, run: Run) -> int:
        """Start or resume a run; returns the number of results that it already has."""

    @abstractmethod
    def rung(self, rung: Rung) -> None:
        """Receive one result."""

    @abstractmethod
    def end(self, end: End) -> None:
        """End the session."""


def load(name: str) -> Callback:
    """The callback `name`.

    Raises
    ------
    ConfigError
        If there is none of that name; the message gives the nearest one.
    MachineError
        If the package it needs is not installed.
    """
    try:
        return plugins.load("callbacks", name, Callback)()  # type: ignore[type-abstract]
    except ImportError as error:
        raise MachineError(
            f"--callback {name} needs a package that is not installed: {error}",
            fix=f"pip install 'lepton-automl[{name}]'",
        ) from error
