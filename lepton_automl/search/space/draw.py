"""Draw layers and recipes from a search space: every trial suggests values of parameters."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from lepton_automl.cost.targets import Target
from lepton_automl.models.layers import Layer
from lepton_automl.search.space.parameters import Choice, Parameter, Scalar
from lepton_automl.search.space.tables import SpaceTable


class SpaceTrial(Protocol):
    """Interface of the trials that `SearchSpace.sample` takes: Optuna's and `RandomTrial`."""

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any: ...

    def suggest_int(self, name: str, low: int, high: int, /, *, step: int) -> int: ...

    def suggest_float(self, name: str, low: float, high: float, /, *, step: float) -> float: ...


class RandomTrial:
    """A trial with the `given` values; all others are drawn uniformly from `seed`."""

    def __init__(self, seed: int = 0, given: Mapping[str, Scalar] | None = None) -> None:
        self._random = random.Random(seed)
        self.params: dict[str, Scalar] = dict(given or {})

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any:
        return self.params.setdefault(name, self._random.choice(list(choices)))

    def suggest_int(self, name: str, low: int, high: int, /, *, step: int) -> int:
        value = low + step * self._random.randrange((high - low) // step + 1)
        return int(self.params.setdefault(name, value))

    def suggest_float(self, name: str, low: float, high: float, /, *, step: float) -> float:
        value = low + step * self._random.randrange(round((high - low) / step) + 1)
        return float(self.params.setdefault(name, value))


def suggest(trial: SpaceTrial, path: str, parameter: Parameter) -> Any:
    """The value that `trial` suggests for a parameter; a fixed one is not suggested."""
    if len(parameter.values) == 1:
        return parameter.values[0]
    if isinstance(parameter, Choice):
        return trial.suggest_categorical(path, parameter.values)
    if isinstance(parameter.low, float) or isinstance(parameter.step, float):
        return trial.suggest_float(path, parameter.low, parameter.high, step=parameter.step)
    return trial.suggest_int(path, parameter.low, int(parameter.high), step=parameter.step)


def suggest_fields(
    table: SpaceTable, trial: SpaceTrial, target: Target
) -> tuple[str, dict[str, Any]]:
    """Suggest a layer type (or optimizer) of the table and its fields."""
    name = str(suggest(trial, *table.selector))
    settings = {}
    for field, (path, parameter) in table.fields[name].items():
        if field == "activation":
            settings[field] = _suggest_activation(trial, path, parameter, target)
        else:
            settings[field] = suggest(trial, path, parameter)
    return name, settings


def suggest_layers(table: SpaceTable, trial: SpaceTrial, target: Target) -> list[Layer]:
    """Suggest the layers of a table; only the first one has its stride, the others stride 1."""
    depth = suggest(trial, f"{table.path}.depth", table.depth)
    if depth == 0:
        return []
    name, settings = suggest_fields(table, trial, target)
    first: Layer = table.layer_types[name](**settings)
    rest = with_stride(first, 1) if "stride" in first.searchable_fields() else first
    return [first, *([rest] * (depth - 1))]


def with_stride(layer: Layer, stride: int) -> Layer:
    """Copy of a layer with another stride."""
    settings: dict[str, Any] = {"stride": stride}
    return replace(layer, **settings)


def _suggest_activation(trial: SpaceTrial, path: str, parameter: Parameter, target: Target) -> Any:
    """Suggest an activation that is fast on the target, if a listed one is.

    The parameter keeps all its values, so that a study's parameters do not depend on the target.
    """
    fast: list[Any] = [value for value in parameter.values if value in target.activations]
    fast = fast or list(parameter.values)
    if len(fast) == 1:
        return fast[0]
    value = suggest(trial, path, parameter)
    return value if value in fast else fast[0]
