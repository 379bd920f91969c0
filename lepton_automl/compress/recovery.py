"""Fine-tune a cut net with distillation, and plan the budget for it in epochs or by the clock."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass

from lepton_automl.compress.context import CompressionContext
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.data.tensors import subset
from lepton_automl.models.model import Model
from lepton_automl.training.loop import OnBatch, fit

RECOVERIES_PLANNED = 4
"""Without a clock each recovery gets this fraction of the epochs of the whole compression."""
_TIME_SHARE = 0.3
"""Share of the seconds left that one recovery may take."""
MIN_BATCHES = 400
"""Fewer batches do not restore a net after a cut of 40 %, at any learning rate ("Length of a
recovery" in docs/decisions.md)."""
_TIMED_BATCHES = 8
"""Batches that are trained to time a net; a training shorter than this is not worth starting."""
RECOVERY_LR = 0.5
"""Learning rate of a recovery as a share of the recipe's: the net is nearly trained already."""


@dataclass(frozen=True)
class RecoveryBudget:
    """Data and epochs of one recovery."""

    data: LabelledTensors
    epochs: int


class OutOfTime(Exception):
    """The compression must end before a training does."""


def time_limit(context: CompressionContext, reserved_seconds: float = 0.0) -> OnBatch:
    """A callback for every batch that ends the training when the time is used up.

    The budget is planned from a measured speed; this enforces it on a machine that becomes slower.

    Parameters
    ----------
    context : CompressionContext
        Its `seconds_left`.
    reserved_seconds : float
        Part of the time that later steps need.

    Raises
    ------
    OutOfTime
        By the returned function, when no time is left.
    """

    def tick(done: int, total: int) -> None:
        left = context.seconds_left
        if done < total and left is not None and left() <= reserved_seconds:
            raise OutOfTime

    return tick


def recovery_budget(
    model: Model, context: CompressionContext, reserved_seconds: float = 0.0
) -> RecoveryBudget | None:
    """The budget of one recovery of `model`; None where neither time nor epochs are left.

    Without a clock it is a fixed share of `context.epochs`, so that equal calls train equally.
    With one it is what fits into a share of the time left less `reserved_seconds`, at most
    `context.epochs`; where one epoch does not fit, it is one epoch over fewer samples of all
    classes.
    """
    if context.epochs < 1:
        return None
    least = math.ceil(MIN_BATCHES * context.recipe.batch_size / len(context.train))
    if context.seconds_left is None:
        return RecoveryBudget(context.train, max(context.epochs // RECOVERIES_PLANNED, least))
    if context.seconds_left() <= reserved_seconds:
        return None
    seconds_per_sample = _seconds_per_sample(model, context)
    samples = (context.seconds_left() - reserved_seconds) * _TIME_SHARE / seconds_per_sample
    if samples >= len(context.train):
        epochs = int(samples / len(context.train))
        return RecoveryBudget(context.train, min(max(context.epochs, least), epochs))
    if samples < _TIMED_BATCHES * context.recipe.batch_size:
        return None
    return RecoveryBudget(subset(context.train, int(samples), context.seed), 1)


def _seconds_per_sample(model: Model, context: CompressionContext) -> float:
    few = subset(context.train, _TIMED_BATCHES * context.recipe.batch_size, context.seed)
    # A tiny learning rate: only the time counts, and no net may diverge.
    recipe = dataclasses.replace(context.recipe, lr=1e-6)
    started = time.monotonic()
    fit(
        model,
        few,
        recipe,
        epochs=1,
        seed=0,
        device=context.device,
        micro_batches=context.micro_batches(model),
        teachers=(context.reference,),
    )
    return (time.monotonic() - started) / len(few)


def recover(
    model: Model, context: CompressionContext, budget: RecoveryBudget, seed: int | None = None
) -> Model:
    """`model` fine-tuned with distillation from the reference; `seed` defaults to the context's."""
    recipe = dataclasses.replace(context.recipe, lr=context.recipe.lr * RECOVERY_LR)
    return fit(
        model,
        budget.data,
        recipe,
        epochs=budget.epochs,
        seed=context.seed if seed is None else seed,
        device=context.device,
        micro_batches=context.micro_batches(model),
        teachers=(context.reference,),
        training_slot=context.training_slot,
        on_batch=time_limit(context, context.reserved_seconds),
    )
