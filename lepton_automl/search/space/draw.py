"""Sampler: Optuna's ask and tell on a study in memory that is rebuilt from the ledger."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from lepton_automl.cost.targets import Target
from lepton_automl.models.layers import Layer
from lepton_automl.search.space.parameters import Choice, Parameter, Scalar
from lepton_automl.search.space.tables import Table


def seed_of(*parts: object) -> int:
    """A seed below 2**31 from anything that has a text, the same in every process."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


class SpaceTrial(Protocol):
    """What `sample` asks of a trial; Optuna's trials do, and `Draw`."""

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any: ...

    def suggest_int(self, name: str, low: int, high: int, /, *, step: int) -> int: ...

    def suggest_float(self, name: str, low: float, high: float, /, *, step: float) -> float: ...


class RandomTrial:
    """A trial of `given` values; what they leave open is drawn evenly from `seed`."""

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


def suggest(trial: SpaceTrial, path: str, knob: Parameter) -> Any:
    """The value that `trial` takes; what is fixed is not asked for."""
    if len(knob.values) == 1:
        return knob.values[0]
    if isinstance(knob, Choice):
        return trial.suggest_categorical(path, knob.values)
    if isinstance(knob.low, float) or isinstance(knob.step, float):
        return trial.suggest_float(path, knob.low, knob.high, step=knob.step)
    return trial.suggest_int(path, knob.low, int(knob.high), step=knob.step)


def suggest_fields(table: Table, trial: SpaceTrial, target: Target) -> tuple[str, dict[str, Any]]:
    """Which of the table's kinds, and its fields."""
    name = str(suggest(trial, *table.selector))
    settings = {}
    for field, (path, knob) in table.fields[name].items():
        take = _fast if field == "activation" else _any
        settings[field] = take(trial, path, knob, target)
    return name, settings


def suggest_layers(table: Table, trial: SpaceTrial, target: Target) -> list[Layer]:
    """The layers of one table; its stride is the first one's, the others keep the map."""
    depth = suggest(trial, f"{table.path}.depth", table.depth)
    if depth == 0:
        return []
    name, settings = suggest_fields(table, trial, target)
    first: Layer = table.kinds[name](**settings)
    rest = with_stride(first, 1) if "stride" in first.searchable_fields() else first
    return [first, *([rest] * (depth - 1))]


def with_stride(layer: Layer, stride: int) -> Layer:
    """The same layer at another stride."""
    settings: dict[str, Any] = {"stride": stride}
    return replace(layer, **settings)


def _any(trial: SpaceTrial, path: str, knob: Parameter, target: Target) -> Any:
    del target
    return suggest(trial, path, knob)


def _fast(trial: SpaceTrial, path: str, knob: Parameter, target: Target) -> Any:
    """An activation that is fast on the target, if any listed one is.

    The knob itself stays as it is, so that a study's parameters do not depend on the target.
    """
    fast: list[Any] = [value for value in knob.values if value in target.activations]
    fast = fast or list(knob.values)
    if len(fast) == 1:
        return fast[0]
    value = suggest(trial, path, knob)
    return value if value in fast else fast[0]
