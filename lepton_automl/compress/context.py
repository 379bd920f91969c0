"""What pruning and quantization need besides the model: data, limits, target and time."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from lepton_automl.config import Limits
from lepton_automl.core.events import Emit, silent
from lepton_automl.cost.latency import NetFile
from lepton_automl.cost.latency_model import Basis
from lepton_automl.cost.targets import Target
from lepton_automl.data.tensors import selected
from lepton_automl.models.model import Model
from lepton_automl.training.evaluate import TrainingSlot
from lepton_automl.training.memory import micro_batches
from lepton_automl.training.recipe import Recipe

if TYPE_CHECKING:
    from lepton_automl.data.dataset import LabelledTensors
    from lepton_automl.data.folds import Folds

DEFAULT_MAX_DROP = 0.5
"""Accuracy points that may be lost on validation where no `max_drop` is stated."""

CPU = torch.device("cpu")

LAST_SHARE = 1 / 3
"""Share of the validation part that judges the end of a compression and nothing before it."""
MIN_PICTURES_TO_SPLIT, MIN_GROUPS_TO_SPLIT = 600, 30
"""Validation pictures, and groups where there are groups, from which such a share is kept: the
standard error of a drop on a third of 600 pictures is about 0.7 points."""

MeasureLatency = Callable[[Mapping[str, NetFile]], Mapping[str, float]]
"""Name -> net and file, to name -> milliseconds a sample at batch 1, measured or predicted."""


@dataclass(frozen=True, eq=False)
class HeldOutPictures:
    """Pictures that no training of a compression uses."""

    data: LabelledTensors
    groups: NDArray[np.int64] | None = None
    """(N,): group of each picture; None: pictures are independent."""

    def at(self, index: NDArray[np.int64]) -> HeldOutPictures:
        """The pictures of `index`."""
        groups = None if self.groups is None else self.groups[index]
        return HeldOutPictures(selected(self.data, index), groups)


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
    refit_epochs: int = 0
    """Epochs of the training on the training and validation parts together, once nothing is left
    to choose; 0: there is none."""
    least_refit_epochs: int = 1
    """Fewer epochs of it are not worth their time."""
    fits_temperature: bool = False
    """Whether a temperature of the probabilities is fitted (`compress.temperature`)."""
    refit_seconds: float = 0.0
    """Part of `seconds_left` reserved for that training."""
    memory: int | None = None
    """Bytes that a training on the CPU may take beside the program; None: no limit."""
    training_slot: TrainingSlot = contextlib.nullcontext
    emit: Emit = silent
    measure: MeasureLatency | None = None
    """None: bytes and multiply-accumulates stand for time."""
    latency_basis: Basis = "measured"
    """How `measure` obtains its latencies."""
    is_aim: bool = False
    """True: pruning continues until the cost limits hold. False: it continues while it pays."""
    validation_groups: NDArray[np.int64] | None = None
    """(N,): group of each validation picture; None: pictures are independent."""
    folds: Folds | None = None
    """Folds of the training samples followed by the validation samples, on which cuts are judged
    too (`compress.cross_fit`); None: the validation part alone judges."""
    most_folds: int = 3
    """Folds that judge a cut at most, with the validation part."""
    fold_references: Mapping[int, Model] = field(default_factory=dict)
    """Fold, from 1, to the net that was trained as `reference`, but on all samples outside it."""

    def micro_batches(self, model: Model) -> int:
        """Micro-batches into which batches of a training of `model` are split to fit."""
        if self.device.type != "cpu":
            return 1
        return micro_batches(model.arch.graph, self.recipe.batch_size, self.memory)

    @property
    def allowed_drop(self) -> float:
        """Accuracy points that may be lost on validation, 0 to 100."""
        return DEFAULT_MAX_DROP if self.limits.max_drop is None else self.limits.max_drop

    @property
    def reserved_seconds(self) -> float:
        """Part of `seconds_left` that the steps after pruning need.

        With a training on all samples nets are quantized up to three times: before it, to be
        judged, again where a cut is withdrawn, and after it.
        """
        times = 3 if self.refit_epochs else 1
        return times * self.quantize_seconds + self.refit_seconds

    @property
    def held_out(self) -> HeldOutPictures:
        """The whole validation part."""
        return HeldOutPictures(self.validation, self.validation_groups)

    @functools.cached_property
    def acceptance(self) -> HeldOutPictures:
        """Validation pictures that accept or reject steps: those that are not the `last`."""
        chosen = self._is_last
        return self.held_out.at(np.flatnonzero(~chosen)) if chosen.any() else self.held_out

    @functools.cached_property
    def last(self) -> HeldOutPictures | None:
        """Validation pictures that judge the end only; None where the part is small."""
        chosen = self._is_last
        return self.held_out.at(np.flatnonzero(chosen)) if chosen.any() else None

    @functools.cached_property
    def _is_last(self) -> NDArray[np.bool_]:
        labels = self.validation.labels.cpu().numpy()
        return last_pictures(labels, self.validation_groups, self.seed)


def last_pictures(
    labels: NDArray[np.int64], groups: NDArray[np.int64] | None, seed: int
) -> NDArray[np.bool_]:
    """Which validation pictures are kept for the end: a third of each class, whole groups.

    Parameters
    ----------
    labels : ndarray
        int64 (N,).
    groups : ndarray or None
        (N,): group of each picture.
    seed : int
        Of the draw.

    Returns
    -------
    ndarray
        bool (N,); none where there are too few pictures or groups, or where a class would be
        missing on either side.
    """
    none = np.zeros(len(labels), bool)
    units = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(units.max(initial=-1)) + 1
    if len(labels) < MIN_PICTURES_TO_SPLIT or (groups is not None and count < MIN_GROUPS_TO_SPLIT):
        return none
    classes, member = np.unique(labels, return_inverse=True)
    table = np.zeros((count, len(classes)))
    np.add.at(table, (units, member), 1)
    wanted, have = LAST_SHARE * table.sum(0), np.zeros(len(classes))
    kept = np.zeros(count, bool)
    for unit in np.random.default_rng(seed).permutation(count):
        # A unit is kept if that brings the classes closer to their wanted numbers.
        without = ((wanted - have) ** 2 / wanted).sum()
        if ((wanted - have - table[unit]) ** 2 / wanted).sum() < without:
            kept[unit] = True
            have += table[unit]
    chosen: NDArray[np.bool_] = kept[units]
    both = (have > 0) & (have < table.sum(0))
    return chosen if both.all() else none
