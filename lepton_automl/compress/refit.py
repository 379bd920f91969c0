"""Train the net that ships on the training and validation parts together, after all choices.

The validation part is no longer needed when net, recipe and cuts are chosen, and more samples and
groups are worth more than further epochs on the training part ("Training on all samples" in
docs/decisions.md). scikit-learn's `GridSearchCV(refit=True)` does the same.
"""

from __future__ import annotations

import dataclasses
import math
import time

from lepton_automl.compress.context import CompressionContext
from lepton_automl.core.units import epochs_text
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.data.tensors import joined, subset
from lepton_automl.metrics.balanced import balanced_mean
from lepton_automl.models.model import Model
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.loop import Diverged, fit, initial_model
from lepton_automl.training.schedule import Schedule

SHRINKAGE = 0.4
"""Weight of the trained weights where the training starts; that of new random ones is the rest. A
net that continues from trained weights learns less from new samples than one that starts afresh
(Ash and Adams 2020, arXiv:1910.08475)."""
SAFETY, GRACE_SHARE = 1.05, 0.2
"""Factor on the estimated time of an epoch; share of the time kept for the training that it may
take longer, as it is shortened after that."""
_TIMED_BATCHES = 8
_NO_TIME = "not trained on all samples: the time is used up"


@dataclasses.dataclass(frozen=True)
class Refit:
    """The result of a training on all samples."""

    model: Model | None
    """None where the net before it ships."""
    why: str
    """What was done, or why nothing was."""
    is_out_of_time: bool = False
    """Whether the time was too short for it."""


def refit(model: Model, context: CompressionContext) -> Refit:
    """Train `model` on the training and validation parts together.

    Nothing that the net has not seen is left to judge it, so it is rejected only if it classifies
    the validation samples, which it was trained on, worse than the net before, which was not.

    Parameters
    ----------
    model : Model
        Float, not folded, trained on the training part.
    context : CompressionContext
        Both parts, the recipe, `refit_epochs` and the time.
    """
    data = everything(context)
    epochs = _epochs(model, context, data)
    if epochs < 1:
        return Refit(None, _NO_TIME, is_out_of_time=True)
    # A late end costs less than a training that is shortened.
    reserved = context.quantize_seconds - GRACE_SHARE * context.refit_seconds
    left = context.seconds_left
    schedule = Schedule(None if left is None else lambda: left() - reserved)
    try:
        trained = fit(
            shrunk(model, context.seed),
            data,
            context.recipe,
            epochs=epochs,
            seed=context.seed,
            device=context.device,
            micro_batches=context.micro_batches(model),
            training_slot=context.training_slot,
            schedule=schedule,
        )
    except Diverged as error:
        return Refit(None, f"not trained on all samples: {error.what}")
    done = schedule.share * epochs
    if done < min(epochs, context.least_refit_epochs):
        return Refit(None, _NO_TIME, is_out_of_time=True)
    before, after = (
        balanced_mean(
            is_correct(each, context.validation, device=context.device), context.validation.strata
        )
        for each in (model, trained)
    )
    counts = f"all {len(data)} training and validation samples"
    if after < before:
        why = (
            f"trained on {counts}, it classifies {after:.1%} of the validation samples correctly, "
        )
        return Refit(None, f"{why}before {before:.1%}")
    times = epochs_text(epochs)
    if schedule.share < 1:
        times = f"{max(1, round(done))} of {times}"
    why = f"trained for {times} on {counts}; validation accuracy is that of the net before"
    return Refit(dataclasses.replace(trained, parent=model.digest), why)


def shrunk(model: Model, seed: int) -> Model:
    """`model` with its weights shrunk towards new random ones, by `SHRINKAGE`.

    Scales, shifts and biases, which have one dimension, stay as they are.
    """
    new = initial_model(model.arch, model.preprocessing, seed).weights
    weights = {
        name: SHRINKAGE * weight + (1 - SHRINKAGE) * new[name] if weight.ndim > 1 else weight
        for name, weight in model.weights.items()
    }
    return dataclasses.replace(model, weights=weights)


def everything(context: CompressionContext) -> LabelledTensors:
    """The training and validation parts as one."""
    return joined([context.train, context.validation])


def _epochs(model: Model, context: CompressionContext, data: LabelledTensors) -> int:
    """`refit_epochs`, or as many of them as the time allows; 0 where these are too few."""
    wanted = context.refit_epochs
    if context.seconds_left is None:
        return wanted
    left = context.seconds_left() - context.quantize_seconds
    epoch_seconds = SAFETY * _epoch_seconds(model, context, data)
    epochs = min(wanted, math.floor(left / epoch_seconds))
    return epochs if epochs >= context.least_refit_epochs else 0


def _epoch_seconds(model: Model, context: CompressionContext, data: LabelledTensors) -> float:
    """Seconds of an epoch over `data`, from the batches after the first one."""
    ends: list[float] = []
    count = min(len(data), _TIMED_BATCHES * context.recipe.batch_size)
    few = subset(data, count, context.seed)
    # A tiny learning rate: only the time counts, and no net may diverge.
    recipe = dataclasses.replace(context.recipe, lr=1e-6)

    def on_batch(done: int, total: int) -> None:
        del done, total
        ends.append(time.monotonic())

    begun = time.monotonic()
    fit(
        model,
        few,
        recipe,
        epochs=1,
        seed=0,
        device=context.device,
        micro_batches=context.micro_batches(model),
        on_batch=on_batch,
    )
    if len(ends) < 2:
        return time.monotonic() - begun
    return (ends[-1] - ends[0]) / (len(ends) - 1) * len(data) / count * len(ends)
