"""Remaking: the trainings that lead to a net whose checkpoint is gone."""

from __future__ import annotations

import dataclasses

from lepton_automl.search.finals import Final, planned
from lepton_automl.search.ledger import LedgerView
from lepton_automl.search.lesson import LESSON
from lepton_automl.search.task import Task
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import Stage, TrainingKey, Trials


def training(final: Final, round_number: int, tasks: Tasks, trials: Trials) -> Task:
    """The training that `final` stands for."""
    candidate, key = trials[final.number], final.key(round_number)
    if final.is_fresh:
        task = tasks.fresh(candidate, final.epochs, key, final.teachers)
    else:
        done = len([s for s in trials.results[final.number] if not s.failed])
        task = tasks.final(candidate, done, final.epochs, key)
    return dataclasses.replace(task, ranks=final.ranks)


def missing(key: TrainingKey, tasks: Tasks, trials: Trials, ledger: LedgerView) -> list[Task]:
    """What is to be trained, in this order, before a net is there; nothing where it is.

    Parameters
    ----------
    key : TrainingKey
        The training that ends with that net.
    tasks, trials : Tasks, Trials
        Where checkpoints lie, and what is known of the candidates.
    ledger : LedgerView
        Knows the last trainings that were decided on.
    """
    if tasks.is_whole(tasks.checkpoint(key)):
        return []
    if key.stage is Stage.RUNG:
        return [tasks.rung(trials[key.trial], key.round)]
    every = [f for kind in (Stage.FINAL, LESSON) for f in planned(ledger, f"{kind}-{key.round}")]
    final = next(f for f in every if f.key(key.round) == key)
    teachers = [TrainingKey.parse(text) for text in final.teachers]
    first = [t for one in teachers for t in missing(one, tasks, trials, ledger)]
    return [*first, training(final, key.round, tasks, trials)]
