"""What a search is given and what it gives back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lepton_automl.arch import Arch
from lepton_automl.config import Goal, Limits, Prefer
from lepton_automl.confirmed import Confirmed
from lepton_automl.cost import Cost
from lepton_automl.dataset import Dataset
from lepton_automl.events import Emit, silent
from lepton_automl.latency_model import LatencyModel
from lepton_automl.model import Model
from lepton_automl.recipe import Recipe
from lepton_automl.search.ledger import Ledger
from lepton_automl.space import SearchSpace
from lepton_automl.targets import Target


def _endless() -> float:
    return math.inf


def _nothing(epoch_seconds: float, epochs: int) -> Mapping[str, float]:
    del epoch_seconds, epochs
    return {}


@dataclass(frozen=True, eq=False)
class SearchWork:
    """Everything a search needs."""

    folder: Path
    """The run folder; `checkpoints/` and `models/best/` are made in it."""
    dataset: Dataset
    space: SearchSpace
    limits: Limits
    objectives: tuple[str, ...]
    """Names of objectives, `accuracy` among them."""
    target: Target
    prefer: Prefer
    seed: int
    jobs: int
    """Worker processes, at least 1; where GPUs are packed, to begin with."""
    device: torch.device
    budget_seconds: float | None
    """The run may be alive so long, `later` stages included; None: `trials` ends the search."""
    trials: int | None
    """Candidates to train; None: the budget ends it."""
    ledger: Ledger
    cache: Path
    """Folder for decoded pictures."""
    emit: Emit = silent
    workers_per_gpu: int | None = None
    """As many at most while that makes the whole faster; None: `jobs` workers, whatever comes."""
    final_jobs: int = 1
    """Processes that train one net together at the end."""
    latency_model: LatencyModel | None = None
    """Tells latencies of another device; None: they are measured here."""
    deadline: Callable[[], float] = _endless
    """Seconds until the search must end for another reason."""
    later: Callable[[float, int], Mapping[str, float]] = _nothing
    """Seconds of the budget that the stages after the search need, by name, given the seconds of an
    epoch and the epochs of a whole training."""

    @property
    def finals_at_once(self) -> int:
        """Last trainings at the same time."""
        return max(1, self.jobs // self.final_jobs)

    @property
    def goal(self) -> Goal:
        """What the winner is chosen by."""
        return Goal(self.limits, self.prefer, self.objectives)


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
    confirmed: tuple[Confirmed, ...] = ()
    """The few best after their last trainings; none where time was too scarce for fresh ones."""
    timing: Mapping[str, float] = field(default_factory=dict)
    """`quiet_reference_ms`, where latencies were measured."""
    hypervolume: tuple[tuple[float, float], ...] = ()
    """(seconds the run had been alive, hypervolume of the front) after every rung."""
    is_balanced: bool = False
    """Every class counts alike in all accuracies."""
