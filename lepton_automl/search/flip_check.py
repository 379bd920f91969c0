"""Flip check: whether mirrored pictures keep their class, measured with a briefly trained net."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.events import Event
from lepton_automl.metrics import balanced
from lepton_automl.metrics.balanced import Strata
from lepton_automl.runs.ledger import EventKind
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.space.draw import RandomTrial
from lepton_automl.search.space.search_space import SearchSpace
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.time_plan import work_of
from lepton_automl.search.workers.pool import Workers
from lepton_automl.search.workers.task import unpack

FLIP = "flip"
"""Key of the ledger event, and field of a recipe."""
_MAX_LOSS = 0.1
"""Accuracy that mirroring may cost, as a share of the accuracy above chance."""
_Z = 1.645
"""Standard errors of a one-sided 95 % bound."""


def with_flip_checked(request: SearchRequest, tasks: TaskBuilder, workers: Workers) -> SearchSpace:
    """Return the search space, without flips where the classes depend on left and right.

    The first known-good candidate is trained briefly without flips. If it classifies mirrored
    validation samples about as well, flips stay in the space; if it learns too little to decide,
    they are removed. The result is recorded once.
    """
    space = request.space
    if True not in {value for p in space.train_parameters(FLIP) for value in p.values}:
        return space
    event = request.ledger.get(EventKind.PLAN, FLIP)
    if event is None:
        event = _measure(request, tasks, workers)
        request.ledger.record(EventKind.PLAN, FLIP, event)
        request.emit(Event("plan", _message(event)))
    return space if event["is_used"] else space.with_fixed(FLIP, value=False)


def keeps_classes(
    plain: NDArray[np.bool_], mirrored: NDArray[np.bool_], classes: int, strata: Strata = None
) -> bool:
    """Whether a net trained without flips classifies mirrored samples about as well.

    Parameters
    ----------
    plain, mirrored : ndarray
        (N,): which samples are classified correctly as they are, and mirrored; N at least 1.
    classes : int
        Number of classes.
    strata : ndarray, optional
        (N,): class of each sample where classes have equal weight.
    """
    lost = balanced.influence_values(plain.astype(float) - mirrored, strata)
    right = balanced.influence_values(plain, strata)
    learnt = right.mean() - 1 / classes
    chance = _Z * right.std() / np.sqrt(len(right))
    if learnt <= chance:
        return False
    error = _Z * lost.std() / np.sqrt(len(lost))
    return bool(lost.mean() <= max(_MAX_LOSS * learnt, error))


def _measure(request: SearchRequest, tasks: TaskBuilder, workers: Workers) -> dict[str, Any]:
    data = request.dataset
    arch, recipe = request.space.sample(
        RandomTrial(request.config.seed, next(iter(request.space.candidates), None)),
        size=data.size,
        channels=data.channels,
        classes=len(data.class_names),
        target=request.target,
    )
    task = tasks.flip_check(arch, dataclasses.replace(recipe, flip=False))
    result = workers.call(task)
    if result.failed:
        return {"is_used": False, "plain": 0.0, "mirrored": 0.0, "samples": 0, "speed": 0.0}
    plain, mirrored = unpack(result.correct), unpack(result.mirrored)
    strata = data.validation.strata
    units = work_of(arch.graph.macs, task.samples, task.cycles[-1][0])
    return {
        "is_used": keeps_classes(plain, mirrored, len(data.class_names), strata),
        "plain": balanced.balanced_mean(plain, strata),
        "mirrored": balanced.balanced_mean(mirrored, strata),
        "samples": len(plain),
        "speed": result.seconds[-1] / units,
    }


def _message(event: dict[str, Any]) -> str:
    if not event["samples"]:
        return "no random flips: the net of the flip check could not be trained"
    verdict = "random flips may be used" if event["is_used"] else "no random flips"
    return (
        f"{verdict}: a net trained without them classifies {event['mirrored']:.1%} of "
        f"{event['samples']} mirrored validation samples correctly, {event['plain']:.1%} of the "
        "same samples as they are"
    )
