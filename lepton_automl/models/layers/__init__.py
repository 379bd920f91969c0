"""Searchable layers, one a file: frozen dataclasses that lower themselves to operations.

The fields of a layer are made by `width`, `choice` and `derived` below. Its file name is its name
in search-space files. `lower` defines what it computes; torch, ONNX, int8, cost and pruning are
derived from that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, Self

from lepton_automl.errors import ArchError
from lepton_automl.models.builder import Builder
from lepton_automl.models.graph import ACTIVATIONS, Value

__all__ = ["ACTIVATIONS", "Layer", "activation", "choice", "derived", "width"]


def width(default: int) -> Any:
    """Declare a number of channels: searched and pruned; 0 only where the layer allows it."""
    return field(default=default, metadata={"kind": "width"})


def choice(default: Any, *others: Any) -> Any:
    """Declare a choice among a few legal values, the default first."""
    return field(default=default, metadata={"kind": "choice", "choices": (default, *others)})


def activation(default: str = "relu") -> Any:
    """Declare a choice of the activation; relu and relu6 are free in int8."""
    return choice(default, *(name for name in ACTIVATIONS if name != default))


def derived(default: Any) -> Any:
    """Declare a value set by `with_input_channels` and stored, so that pruning cannot change it."""
    return field(default=default, metadata={"kind": "derived"})


@dataclass(frozen=True)
class Layer(ABC):
    """Base class of all layers.

    Raises
    ------
    ArchError
        On construction, if a field has a value that is not legal for it.
    """

    @abstractmethod
    def lower(self, builder: Builder, x: Value) -> Value:
        """Append this layer's operations after `x` and return its output."""

    def with_input_channels(self, channels: int) -> Self:
        """Copy with the fields set that depend on the number of input channels."""
        del channels
        return self

    def __post_init__(self) -> None:
        for item in fields(self):
            value, kind = getattr(self, item.name), item.metadata.get("kind")
            if kind == "choice" and value not in item.metadata["choices"]:
                raise self._illegal(item.name, value, f"one of {item.metadata['choices']}")
            if kind == "width" and (type(value) is not int or not 0 <= value <= 4096):
                raise self._illegal(item.name, value, "a whole number of channels, 1 to 4096")

    @classmethod
    def searchable_fields(cls) -> dict[str, dict[str, Any]]:
        """Field name -> its metadata, of the fields that a search space may set."""
        return {f.name: dict(f.metadata) for f in fields(cls) if f.metadata["kind"] != "derived"}

    def _illegal(self, name: str, value: object, rule: str) -> ArchError:
        return ArchError(
            f"{type(self).__name__}: {name} = {value!r}, the rule is {rule}",
            fix=f"give {name} a legal value",
        )
