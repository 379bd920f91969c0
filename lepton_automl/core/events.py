"""What a stage tells while it works; only commands and reports turn it into text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """One thing that happened, or how far a stage has come."""

    stage: str
    """`intake`, `plan`, `search`, `confirm`, `compress`, `export`, `verify` or `run`."""
    message: str
    """One line for a person."""
    done: float | None = None
    """How much of `total` is done; None where there is nothing to count."""
    total: float | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    """What a table or a plot needs."""


Emit = Callable[[Event], None]


def silent(event: Event) -> None:
    """Tell nobody."""
    del event
