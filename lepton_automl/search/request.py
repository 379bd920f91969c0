"""What a search is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lepton_automl.artifact.provenance import FinalistResult
from lepton_automl.config import RunConfig
from lepton_automl.core.events import Emit, silent
from lepton_automl.cost.cost import Cost
from lepton_automl.cost.latency_model import LatencyModel
from lepton_automl.cost.targets import Target
from lepton_automl.data.dataset import Dataset
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import Ledger
from lepton_automl.search.space.search_space import SearchSpace
from lepton_automl.training.recipe import Recipe


def _no_further_stages(epoch_seconds: float, epochs: int) -> Mapping[str, float]:
    del epoch_seconds, epochs
    return {}


@dataclass(frozen=True, eq=False)
class SearchWork:
    """Everything a search needs."""

    config: RunConfig
    """Limits, objectives, seed, and how long to search."""
    dataset: Dataset
    space: SearchSpace
    target: Target
    latency_model: LatencyModel | None
    """Predicts latencies of another device; None: they are measured here."""
    folder: RunFolder
    """`checkpoints/`, `models/best/` and `cache/` are made in it."""
    ledger: Ledger
    device: torch.device
    emit: Emit = silent
    stage_budget: Callable[[float, int], Mapping[str, float]] = _no_further_stages
    """Seconds of the budget reserved for the stages after the search, by name; its arguments are
    the seconds of an epoch and the epochs of a complete training."""

    @property
    def jobs(self) -> int:
        """Worker processes to start with: one a core or a GPU, unless the configuration says."""
        if self.device.type == "cpu" or self.config.jobs is not None:
            return self.config.workers
        return torch.cuda.device_count() * (self.config.jobs_per_gpu or 1)

    @property
    def workers_per_gpu(self) -> int | None:
        """Workers a GPU gets at most while more are faster; None: their number is fixed."""
        if self.device.type == "cpu" or self.config.jobs or self.config.jobs_per_gpu:
            return None
        return max(1, self.config.workers // torch.cuda.device_count())

    @property
    def finals_at_once(self) -> int:
        """Final trainings at the same time."""
        return max(1, self.jobs // self.config.final_jobs)


@dataclass(frozen=True, eq=False)
class TrialRow:
    """One candidate, for tables."""

    number: int
    params: Mapping[str, Any]
    arch: Arch
    recipe: Recipe
    cost: Cost
    accuracy: float | None
    """Share of validation samples right at the last rung, of each class on average where these
    count alike; None if it never finished one."""
    interval: tuple[float, float] | None
    """95 % interval of the accuracy: Wilson's, or by draws where every class counts alike."""
    rung: int
    """Rungs finished, less one: -1 for none."""
    epochs: int
    """Epochs trained in all."""
    feasible: bool
    """Within the cost limits and trainable."""
    note: str = ""
    """Why it failed, or nothing."""


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search found."""

    best: Model
    """The winner; also in RUN/models/best."""
    number: int
    """Its trial number."""
    recipe: Recipe
    """How it was trained; `epochs` are those of the last rung."""
    reason: str
    """Why it is the winner, in words."""
    rows: tuple[TrialRow, ...]
    """All candidates, by number."""
    front: tuple[TrialRow, ...]
    """Those that no other is better than in every objective, cheapest last."""
    correct: NDArray[np.bool_]
    """(N,): which validation samples the winner gets right."""
    predictions: NDArray[np.int64]
    """(N,): the winner's class for every validation sample."""
    finalists: tuple[FinalistResult, ...] = ()
    """The few best after their last trainings; none where time was too scarce for fresh ones."""
    timing: Mapping[str, float] = field(default_factory=dict)
    """`quiet_reference_ms`, where latencies were measured."""
    hypervolume: tuple[tuple[float, float], ...] = ()
    """(seconds the run had been alive, hypervolume of the front) after every rung."""
    is_balanced: bool = False
    """Every class counts alike in all accuracies."""
