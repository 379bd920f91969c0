"""How much training a step of the compression may take: by epochs, or by the clock; and its end."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass

from lepton_automl.compress.context import Work
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.data.sampling import subset
from lepton_automl.models.model import Model
from lepton_automl.training.loop import OnBatch, fit

ROUNDS = 4
"""Recoveries that the epochs of a whole compression are shared by."""
TIME_SHARE = 0.3
"""Of the seconds left, what one recovery may take."""
LEAST_BATCHES = 400
"""A recovery this long brought nets with 40 % of their cost cut away back to where they were, one
of 50 batches did not, whatever its learning rate."""
TRIAL_BATCHES = 8
"""Batches trained to learn the pace of a net; training shorter than this makes no sense."""
LR_SHARE = 0.5
"""Of the recipe's peak learning rate, what recovery uses: the net is nearly trained already."""


@dataclass(frozen=True)
class Effort:
    """Pictures to train on and passes over them."""

    data: LabelledTensors
    epochs: int


class OutOfTime(Exception):
    """The compression must end before a training does."""


def deadline(work: Work, kept: float = 0.0) -> OnBatch:
    """What a training is to call after every batch.

    A training that was planned to take a part of the time may take all of it on a machine that has
    become slower, but no more.

    Parameters
    ----------
    work : Work
        Knows the seconds that are left.
    kept : float
        Of these, for the steps after the training.

    Raises
    ------
    OutOfTime
        By the function that is returned, when there is no time left.
    """

    def tick(done: int, total: int) -> None:
        if done < total and work.seconds_left is not None and work.seconds_left() <= kept:
            raise OutOfTime

    return tick


def effort(model: Model, work: Work, kept: float = 0.0) -> Effort | None:
    """What one recovery of `model` may take; None where there is no time or epoch for any.

    Without a clock it is a fixed share of `work.epochs`, so that equal calls train equally. With
    one it is what fits into a share of the time left, at most `work.epochs`, and a pass too
    long for that is made over fewer pictures, of all classes. `kept` seconds of it are for later.
    """
    if work.epochs < 1:
        return None
    least = math.ceil(LEAST_BATCHES * work.recipe.batch_size / len(work.train))
    if work.seconds_left is None:
        return Effort(work.train, max(work.epochs // ROUNDS, least))
    if work.seconds_left() <= kept:
        return None
    pace = _seconds_a_picture(model, work)
    affordable = (work.seconds_left() - kept) * TIME_SHARE / pace
    if affordable >= len(work.train):
        return Effort(work.train, min(max(work.epochs, least), int(affordable / len(work.train))))
    if affordable < TRIAL_BATCHES * work.recipe.batch_size:
        return None
    return Effort(subset(work.train, int(affordable), work.seed), 1)


def _seconds_a_picture(model: Model, work: Work) -> float:
    few = subset(work.train, TRIAL_BATCHES * work.recipe.batch_size, work.seed)
    # Hardly moved, so that no net diverges here; only the time counts.
    recipe = dataclasses.replace(work.recipe, lr=1e-6)
    started = time.monotonic()
    fit(model, few, recipe, epochs=1, seed=0, device=work.device, teachers=(work.reference,))
    return (time.monotonic() - started) / len(few)


def recover(model: Model, work: Work, share: Effort, seed: int | None = None) -> Model:
    """`model` after distillation from the reference; `seed` is that of `work` if none is given."""
    recipe = dataclasses.replace(work.recipe, lr=work.recipe.lr * LR_SHARE)
    return fit(
        model,
        share.data,
        recipe,
        epochs=share.epochs,
        seed=work.seed if seed is None else seed,
        device=work.device,
        teachers=(work.reference,),
        training_slot=work.turn,
        on_batch=deadline(work, work.quantize_seconds),
    )
