"""How much training a step of the compression may take: by epochs, or by the clock."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass

from lepton_automl.compress import Work
from lepton_automl.compress.calibrate import balanced
from lepton_automl.dataset import Labelled
from lepton_automl.model import Model
from lepton_automl.train import fit

ROUNDS = 4
"""Recoveries that the epochs of a whole compression are shared by."""
TIME_SHARE = 0.3
"""Of the seconds left, what one recovery may take."""
LEAST_BATCHES = 400
"""A recovery this long brought nets with 40 % of their cost cut away back to where they were, one
of 50 batches did not, whatever its learning rate."""
TRIAL_BATCHES = 8
"""Batches trained to learn the pace of a net; training shorter than this makes no sense."""


@dataclass(frozen=True)
class Effort:
    """Pictures to train on and passes over them."""

    data: Labelled
    epochs: int


def effort(model: Model, work: Work) -> Effort | None:
    """What one recovery of `model` may take; None where there is no time or epoch for any.

    Without a clock it is a fixed share of `work.epochs`, so that equal calls train equally. With
    one it is what fits into a share of the time left, at most `work.epochs`, and a pass too
    long for that is made over fewer pictures, of all classes.
    """
    if work.epochs < 1:
        return None
    least = math.ceil(LEAST_BATCHES * work.recipe.batch_size / len(work.train))
    if work.seconds_left is None:
        return Effort(work.train, max(work.epochs // ROUNDS, least))
    affordable = work.seconds_left() * TIME_SHARE / _seconds_a_picture(model, work)
    if affordable >= len(work.train):
        return Effort(work.train, min(max(work.epochs, least), int(affordable / len(work.train))))
    if affordable < TRIAL_BATCHES * work.recipe.batch_size:
        return None
    return Effort(subset(work.train, int(affordable), work.seed), 1)


def subset(data: Labelled, count: int, seed: int) -> Labelled:
    """At most `count` samples, from all classes in turn."""
    index = balanced(data.labels, count, seed)
    return Labelled(data.pixels[index], data.labels[index])


def _seconds_a_picture(model: Model, work: Work) -> float:
    few = subset(work.train, TRIAL_BATCHES * work.recipe.batch_size, work.seed)
    # Hardly moved, so that no net diverges here; only the time counts.
    recipe = dataclasses.replace(work.recipe, lr=1e-6)
    started = time.monotonic()
    fit(model, few, recipe, epochs=1, seed=0, device=work.device, teacher=work.reference)
    return (time.monotonic() - started) / len(few)
