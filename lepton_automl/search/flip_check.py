"""Orientation: whether a mirrored picture still shows what its label says, asked of the data."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.events import Event
from lepton_automl.metrics import balanced
from lepton_automl.metrics.balanced import Strata
from lepton_automl.runs.ledger import EventKind
from lepton_automl.search.request import SearchWork
from lepton_automl.search.space.draw import RandomTrial
from lepton_automl.search.space.search_space import SearchSpace
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.time_plan import work_of
from lepton_automl.search.workers.pool import Workers
from lepton_automl.search.workers.task import unpack

FLIP = "flip"
"""Key of the event, and field of a recipe."""
TOLERATED = 0.1
"""Of what a net has learnt beyond guessing, the share that mirroring may cost."""
CONFIDENCE_Z = 1.645
"""Standard errors within which a loss may be chance, and beyond which learning is not."""


def oriented(work: SearchWork, tasks: Tasks, workers: Workers) -> SearchSpace:
    """The space, without flips where validation does not favour them.

    The first known-good net is trained briefly on pictures as they are. If it recognises mirrored
    validation pictures about as well, left and right carry no label, and flips may be tried; a net
    that learns too little to tell gets none. The outcome is recorded once.
    """
    space = work.space
    if True not in {value for knob in space.train_parameters(FLIP) for value in knob.values}:
        return space
    event = work.ledger.get(EventKind.PLAN, FLIP)
    if event is None:
        event = _asked(work, tasks, workers)
        work.ledger.record(EventKind.PLAN, FLIP, event)
        work.emit(Event("plan", _told(event)))
    return space if event["is_used"] else space.with_fixed(FLIP, value=False)


def is_favoured(
    plain: NDArray[np.bool_], mirrored: NDArray[np.bool_], classes: int, strata: Strata = None
) -> bool:
    """Whether a net that never saw mirrored pictures recognises them about as well.

    Parameters
    ----------
    plain, mirrored : ndarray
        (N,): which samples it gets right as they are, and mirrored; N at least 1.
    classes : int
        How many there are.
    strata : ndarray, optional
        (N,): class of each sample where every class counts alike.
    """
    lost = balanced.influence_values(plain.astype(float) - mirrored, strata)
    right = balanced.influence_values(plain, strata)
    learnt = right.mean() - 1 / classes
    chance = CONFIDENCE_Z * right.std() / np.sqrt(len(right))
    if learnt <= chance:
        return False
    error = CONFIDENCE_Z * lost.std() / np.sqrt(len(lost))
    return bool(lost.mean() <= max(TOLERATED * learnt, error))


def _asked(work: SearchWork, tasks: Tasks, workers: Workers) -> dict[str, Any]:
    data = work.dataset
    arch, recipe = work.space.sample(
        RandomTrial(work.config.seed, next(iter(work.space.candidates), None)),
        size=data.size,
        channels=data.channels,
        classes=len(data.class_names),
        target=work.target,
    )
    task = tasks.mirror(arch, dataclasses.replace(recipe, flip=False))
    result = workers.call(task)
    if result.failed:
        return {"is_used": False, "plain": 0.0, "mirrored": 0.0, "samples": 0, "speed": 0.0}
    plain, mirrored = unpack(result.correct), unpack(result.mirrored)
    strata = data.validation.strata
    units = work_of(arch.graph.macs, task.samples, task.cycles[-1][0])
    return {
        "is_used": is_favoured(plain, mirrored, len(data.class_names), strata),
        "plain": balanced.balanced_mean(plain, strata),
        "mirrored": balanced.balanced_mean(mirrored, strata),
        "samples": len(plain),
        "speed": result.seconds[-1] / units,
    }


def _told(event: dict[str, Any]) -> str:
    if not event["samples"]:
        return "pictures are not flipped: a first net could not be trained"
    figures = f"{event['mirrored']:.1%} of {event['samples']}, {event['plain']:.1%} as they are"
    verdict = "may be flipped" if event["is_used"] else "are not flipped"
    return f"pictures {verdict}: a net that never saw mirrored ones recognises {figures}"
