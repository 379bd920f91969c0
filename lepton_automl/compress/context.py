"""What pruning and quantization need besides the model: data, limits, target and time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lepton_automl.config import Limits
from lepton_automl.core.events import Emit, silent
from lepton_automl.cost.latency import NetFile
from lepton_automl.cost.latency_model import Basis
from lepton_automl.cost.targets import Target
from lepton_automl.models.model import Model
from lepton_automl.training.evaluate import TrainingSlot
from lepton_automl.training.recipe import Recipe

if TYPE_CHECKING:
    from lepton_automl.data.dataset import LabelledTensors

DEFAULT_MAX_DROP = 0.5
"""Accuracy points that may be lost on validation where no `max_drop` is stated."""

CPU = torch.device("cpu")

MeasureLatency = Callable[[Mapping[str, NetFile]], Mapping[str, float]]
"""Name -> net and file, to name -> milliseconds a sample at batch 1, measured or predicted."""


@dataclass(frozen=True)
class CompressionContext:
    """Everything a compression uses besides the model it is given."""

    train: LabelledTensors
    validation: LabelledTensors
    reference: Model
    """The float model before any step; every accuracy drop is relative to it."""
    limits: Limits
    target: Target
    recipe: Recipe
    """Recipe the reference was trained with; recovery uses it at a lower learning rate."""
    seed: int = 0
    device: torch.device = CPU
    epochs: int = 0
    """Epochs of all recoveries together, where `seconds_left` is None; a recovery always gets the
    minimum number of batches it needs. 0: no training."""
    seconds_left: Callable[[], float] | None = None
    """Seconds until the compression must end; None: `epochs` is the only bound."""
    quantize_seconds: float = 0.0
    """Part of `seconds_left` reserved for quantization, the last step."""
    training_slot: TrainingSlot = contextlib.nullcontext
    emit: Emit = silent
    measure: MeasureLatency | None = None
    """None: bytes and multiply-accumulates stand for time."""
    latency_basis: Basis = "measured"
    """How `measure` obtains its latencies."""
    is_aim: bool = False
    """True: pruning continues until the cost limits hold. False: it continues while it pays."""

    @property
    def allowed_drop(self) -> float:
        """Accuracy points that may be lost on validation, 0 to 100."""
        return DEFAULT_MAX_DROP if self.limits.max_drop is None else self.limits.max_drop
