"""Remaking: the trainings that lead to a net whose checkpoint is gone."""

from __future__ import annotations

import dataclasses

from lepton_automl.search.finals import Final, planned
from lepton_automl.search.ledger import LedgerView
from lepton_automl.search.lesson import LESSON
from lepton_automl.search.task import Task
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import FINAL, Trials, parsed


def training(final: Final, round_number: int, tasks: Tasks, trials: Trials) -> Task:
    """The training that `final` stands for."""
    candidate, label = trials.candidates[final.number], final.label(round_number)
    if final.is_fresh:
        task = tasks.fresh(candidate, final.epochs, label, final.teachers)
    else:
        done = len([s for s in trials.scores[final.number] if not s.failed])
        task = tasks.final(candidate, done, final.epochs, label)
    return dataclasses.replace(task, ranks=final.ranks)


def missing(key: str, tasks: Tasks, trials: Trials, ledger: LedgerView) -> list[Task]:
    """What is to be trained, in this order, before a net is there; nothing where it is.

    Parameters
    ----------
    key : str
        Its number and rung, such as "7-2" or "7-final-0".
    tasks, trials : Tasks, Trials
        Where checkpoints lie, and what is known of the candidates.
    ledger : LedgerView
        Knows the last trainings that were decided on.
    """
    number, rung = parsed(key)
    if tasks.is_whole(tasks.checkpoint(number, rung)):
        return []
    if not rung.startswith(FINAL):
        return [tasks.rung(trials.candidates[number], int(rung))]
    made_in = int(rung.split("-")[1])
    every = [f for kind in (FINAL, LESSON) for f in planned(ledger, f"{kind}-{made_in}")]
    final = next(f for f in every if (f.number, f.label(made_in)) == (number, rung))
    first = [t for one in final.teachers for t in missing(one, tasks, trials, ledger)]
    return [*first, training(final, made_in, tasks, trials)]
