"""A recorded table: every point of a sub-space with its costs and its accuracy at every rung."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import record
from numpy.typing import NDArray

from lepton_automl.search.space import loader
from lepton_automl.search.space.parameters import Parameter

HERE = Path(__file__).parent
EPOCHS = (1, 3, 9)
"""In all after each rung."""
VALIDATION = 6000
FEASIBLE = 0.6
"""Share of the points within the size limit."""
NEAR = 0.002
"""A run has arrived when it trained a point to the end whose accuracy is so near to the best."""


@dataclass(frozen=True, eq=False)
class Table:
    """What a simulated search is answered from."""

    name: str
    all_parameters: Mapping[str, Parameter]
    points: list[dict[str, Any]]
    candidates: list[dict[str, Any]]
    """Known-good points of the sub-space, as its file names them."""
    accuracy: NDArray[np.float64]
    """(N, rungs)."""
    costs: list[dict[str, float]]

    @functools.cached_property
    def limit(self) -> float:
        """Bytes that `FEASIBLE` of the points keep."""
        return float(np.quantile([c["size_bytes"] for c in self.costs], FEASIBLE, method="lower"))

    @functools.cached_property
    def feasible(self) -> NDArray[np.bool_]:
        """(N,): which points are within the limit."""
        return np.array([c["size_bytes"] <= self.limit for c in self.costs])

    @functools.cached_property
    def target(self) -> float:
        """Accuracy at which a run has arrived."""
        return float(self.accuracy[self.feasible, -1].max() - NEAR)

    @functools.cached_property
    def index(self) -> dict[tuple[Any, ...], int]:
        """Number of a point by its values."""
        return {self.key(point): number for number, point in enumerate(self.points)}

    def key(self, point: Mapping[str, Any]) -> tuple[Any, ...]:
        """Values of a point in the order of the parameters."""
        return tuple(point[path] for path in self.all_parameters)


def read(name: str) -> Table:
    """The table of a sub-space; points that were not trained (yet) are left out."""
    shards = sorted((HERE / "tables").glob(f"{name}-[0-9][0-9].json"))
    rows = [row for shard in shards for row in json.loads(shard.read_text())]
    costs = json.loads((HERE / "tables" / f"{name}-costs.json").read_text())
    loaded = loader.load(HERE / f"{name}.toml")
    points = record.points(name)
    numbers = [row["number"] for row in rows]
    return Table(
        name,
        loaded.parameters(),
        [points[n] for n in numbers],
        [dict(c) for c in loaded.candidates],
        np.array([row["correct"] for row in rows]) / VALIDATION,
        [costs[n] for n in numbers],
    )
