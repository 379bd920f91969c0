"""Request and result of a search."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lepton_automl.artifact.provenance import CrossValidation, FinalistResult
from lepton_automl.config import RunConfig
from lepton_automl.core.events import Emit, silent
from lepton_automl.cost.cost import Cost
from lepton_automl.cost.latency import Stopwatch
from lepton_automl.cost.latency_model import LatencyModel
from lepton_automl.cost.targets import Target
from lepton_automl.data.dataset import Dataset
from lepton_automl.data.folds import Folds, assign_folds
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import Ledger
from lepton_automl.runs.time_budget import MIN_START_SECONDS, allowed_overrun, continuing_budget
from lepton_automl.search.space.search_space import SearchSpace
from lepton_automl.training.recipe import Recipe


def _no_further_stages(epoch_seconds: float, epochs: int) -> Mapping[str, float]:
    del epoch_seconds, epochs
    return {}


def _no_seconds(epoch_seconds: float) -> float:
    del epoch_seconds
    return 0.0


@dataclass(frozen=True, eq=False)
class SearchRequest:
    """Configuration, data and resources of a search."""

    config: RunConfig
    """Limits, objectives, seed, number of trials or budget."""
    dataset: Dataset
    space: SearchSpace
    target: Target
    latency_model: LatencyModel | None
    """Predicts latencies on another device; None: latencies are measured here."""
    folder: RunFolder
    """The search writes `checkpoints/`, `models/best/` and `cache/` in it."""
    ledger: Ledger
    device: torch.device
    emit: Emit = silent
    stage_budget: Callable[[float, int], Mapping[str, float]] = _no_further_stages
    """Seconds of the budget reserved for the stages after the search, by name; its arguments are
    the seconds of an epoch and the epochs of a complete training."""
    least_stage_seconds: Callable[[float], float] = _no_seconds
    """Seconds that the stages after the search need at least, given the seconds of an epoch."""
    start_seconds: float = MIN_START_SECONDS
    """Seconds a process takes to start here; a run may end so much later (`allowed_overrun`)."""
    stopwatch: Stopwatch | None = None
    """Measures latencies on a host of `--hosts`; None: this machine does."""
    worker_count: int | None = None
    """Workers on other machines, counted as the fastest of them; None: processes of this one."""

    @functools.cached_property
    def folds(self) -> Folds:
        """Folds of the samples of training and validation, for the comparison of finalists."""
        return assign_folds(self.dataset.train, self.dataset.validation, self.config.seed)

    @property
    def allowed_overrun(self) -> float:
        """Seconds that the run may take beyond its budget rather than end without a net."""
        return allowed_overrun(self.config.seconds_in_all or 0.0, self.start_seconds)

    def continuing_budget(self, epoch_seconds: float) -> str:
        """The value of `--budget` with which this run continues after its last stage.

        Parameters
        ----------
        epoch_seconds : float
            Seconds of one epoch of a typical trial, at least 0.
        """
        used = self.ledger.alive_seconds() + self.least_stage_seconds(epoch_seconds)
        return continuing_budget(max(used, self.config.seconds_in_all or 0.0))

    @property
    def jobs(self) -> int:
        """Number of workers at the start: one per core or GPU, unless configured."""
        if self.worker_count is not None:
            return self.worker_count
        if self.device.type == "cpu" or self.config.jobs is not None:
            return self.config.workers
        return torch.cuda.device_count() * (self.config.jobs_per_gpu or 1)

    @property
    def workers_per_gpu(self) -> int | None:
        """Most workers per GPU, where their number adapts; None: it is fixed."""
        if self.device.type == "cpu" or self.config.jobs or self.config.jobs_per_gpu:
            return None
        return max(1, self.config.workers // torch.cuda.device_count())

    @property
    def finals_at_once(self) -> int:
        """Number of final trainings that run at the same time."""
        return max(1, self.jobs // self.config.final_jobs)


@dataclass(frozen=True, eq=False)
class TrialRow:
    """One trial as tables show it."""

    number: int
    params: Mapping[str, Any]
    arch: Arch
    recipe: Recipe
    cost: Cost
    accuracy: float | None
    """Validation accuracy, 0 to 1, of its best training; balanced where classes have equal weight;
    None without a finished training."""
    interval: tuple[float, float] | None
    """95 % confidence interval: Wilson, or bootstrap where classes have equal weight."""
    rung: int
    """Index of the last finished rung; -1 for none."""
    epochs: int
    """Epochs of that training and those before it."""
    feasible: bool
    """False if its first training failed."""
    note: str = ""
    """Reason of a failure; empty without one."""
    cross_validation: CrossValidation | None = None
    """Its accuracy on several folds, where it was a finalist that was compared on them."""


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Result of a search."""

    best: Model
    """The winner; also in RUN/models/best."""
    number: int
    """Its trial number."""
    recipe: Recipe
    """Training settings; `epochs` are those of the last rung."""
    reason: str
    """Reason of the choice, in words."""
    rows: tuple[TrialRow, ...]
    """All trials, by number."""
    front: tuple[TrialRow, ...]
    """The Pareto front, the most accurate first."""
    correct: NDArray[np.bool_]
    """(N,): which validation samples the winner classifies correctly."""
    predictions: NDArray[np.int64]
    """(N,): class that the winner predicts for each validation sample."""
    finalists: tuple[FinalistResult, ...] = ()
    """Results of the final trainings from scratch; empty where there was no time for one."""
    timing: Mapping[str, float] = field(default_factory=dict)
    """`quiet_reference_ms`: latency of the reference net, where latencies were measured."""
    hypervolume: tuple[tuple[float, float], ...] = ()
    """(seconds of the run, hypervolume of the front) after every rung."""
    is_balanced: bool = False
    """All accuracies are balanced: the mean over classes."""
