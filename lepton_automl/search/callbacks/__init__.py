"""Callbacks: who else is told how a search goes; one a file, its file name its name."""

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
    """What is searched."""

    name: str
    """Of the run, different for any two runs."""
    folder: Path
    """The run folder; what is written without another place given goes there."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Data, space, objectives, limits, seed, target."""


@dataclass(frozen=True)
class Rung:
    """A candidate has finished a rung, or failed at it."""

    step: int
    """How many rungs of all candidates were finished before, from 0; grows by one each time."""
    number: int
    """Of the candidate."""
    rung: str
    """"0", "1", ... or another word for one of its last trainings."""
    epochs: int
    """Trained in all."""
    accuracy: float | None
    """Share of validation samples right; None where the training failed."""
    failed: str
    """Why, or nothing."""
    params: Mapping[str, Any]
    """What was chosen for it, by path in the search space."""
    costs: Mapping[str, float]
    """Of its int8 file: `size_bytes`, `macs`, `peak_ram_bytes`, and `latency_ms` where known."""
    hypervolume: float
    """Of the front after it."""
    seconds: float
    """The training took."""


@dataclass(frozen=True)
class End:
    """The search has ended for now."""

    winner: int | None = None
    """Its number; None where the search was stopped before one was named."""
    reason: str = ""
    """Why it is the winner."""


class Callback(ABC):
    """Told of a search from a thread of its own: what it takes or breaks costs the search nothing.

    Nothing leaves the machine unless the user has told the package where to. After a resume it
    is told what it does not have yet, so that it holds every rung once.
    """

    failures: ClassVar[tuple[type[Exception], ...]] = (OSError, RuntimeError, ValueError)
    """What the package raises where its storage or service fails."""

    @abstractmethod
    def start(self, run: Run) -> int:
        """Begin, or go on with, a run; how many rungs it has already been told of."""

    @abstractmethod
    def rung(self, rung: Rung) -> None:
        """One more rung."""

    @abstractmethod
    def end(self, end: End) -> None:
        """Nothing more will follow in this session."""


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
