"""Progress events that stages emit; the command line prints them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """A message or the progress of a stage."""

    stage: str
    """`data`, `plan`, `search`, `confirm`, `compress`, `export`, `verify` or `run`."""
    message: str
    """One line of text for the user."""
    done: float | None = None
    """Amount of `total` that is done; None where nothing is counted."""
    total: float | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    """Values for tables and plots."""
    is_detail: bool = False
    """Shown by `--verbose` only."""


Emit = Callable[[Event], None]


def silent(event: Event) -> None:
    """Discard an event."""
    del event
