"""Steps that make a model smaller: each takes a model and gives a model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lepton_automl.config import Limits
from lepton_automl.core.events import Emit, silent
from lepton_automl.cost.latency import Written
from lepton_automl.cost.latency_model import Basis
from lepton_automl.cost.targets import Target
from lepton_automl.models.model import Model
from lepton_automl.training.evaluate import TrainingSlot
from lepton_automl.training.recipe import Recipe

if TYPE_CHECKING:
    from lepton_automl.data.dataset import LabelledTensors

AIMED_DROP = 0.5
"""Accuracy points that may be lost on validation where the user states no `max_drop`."""

CPU = torch.device("cpu")

Measure = Callable[[Mapping[str, Written]], Mapping[str, float]]
"""Milliseconds a sample of each named file, timed side by side or told of its net."""


@dataclass(frozen=True)
class Work:
    """What a step may use besides the model it is given."""

    train: LabelledTensors
    validation: LabelledTensors
    reference: Model
    """The float model given to compress, before any step; every drop is counted from it."""
    limits: Limits
    target: Target
    recipe: Recipe
    """How the reference was trained; recovery follows it at a lower rate."""
    seed: int = 0
    device: torch.device = CPU
    epochs: int = 0
    """Passes over the training part that recovery may take in all, where no clock decides; a
    recovery always takes the few hundred batches it needs to work. 0: no training."""
    seconds_left: Callable[[], float] | None = None
    """Seconds until the compression must end; None: `epochs` bounds it."""
    quantize_seconds: float = 0.0
    """Of these, kept for quantization, the last step."""
    turn: TrainingSlot = contextlib.nullcontext
    emit: Emit = silent
    measure: Measure | None = None
    """Times written files; None: bytes and multiply-accumulates decide."""
    latency_basis: Basis = "measured"
    """What these times are told from."""
    is_aim: bool = False
    """Whether the limits on costs are where pruning ends, and not only what a net must keep."""

    @property
    def allowed_drop(self) -> float:
        """Accuracy points that may be lost on validation, 0 to 100."""
        return AIMED_DROP if self.limits.max_drop is None else self.limits.max_drop
