"""The coordinator: one search from what the ledger knows to a winner."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing, contextmanager

import torch

from lepton_automl.events import Event
from lepton_automl.objectives import load as load_objective
from lepton_automl.search import outcome
from lepton_automl.search.executor import Workers
from lepton_automl.search.explorer import Explorer
from lepton_automl.search.hypervolume import Progress, series
from lepton_automl.search.ledger import EventKind
from lepton_automl.search.live import WORKERS
from lepton_automl.search.orientation import oriented
from lepton_automl.search.packing import Packing
from lepton_automl.search.quiet import Quiet
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import CLASSES, read_trials
from lepton_automl.search.winner import Winners
from lepton_automl.search.work import SearchResult, SearchWork


def search(work: SearchWork, workers: Workers | None = None) -> SearchResult:
    """The best net for the time given, inside the limits; also left in RUN/models/best.

    Everything that is decided follows from the ledger, so a search that was stopped anywhere goes
    on where it was. With one worker, `trials` instead of a budget and no measured latency, the
    resumed search is the uninterrupted one, bit for bit.

    Parameters
    ----------
    work : SearchWork
        What to search, within which limits, how long.
    workers : Workers, optional
        Processes to use; by default `work.jobs` are started and killed at the end.

    Raises
    ------
    InfeasibleError
        If no net of the space is within the limits; nothing was trained.
    ConfigError
        If none of the candidates could be trained.
    MachineError
        If the disk is full.
    KeyboardInterrupt
        Passed on after the best so far was saved.
    """
    trials = read_trials(work.ledger)
    tasks = Tasks(work, trials)
    winners = Winners(work, tasks, trials)
    choice = winners.recorded()
    _record_classes(work)
    objectives = [load_objective(name) for name in work.config.objectives]
    is_new = choice is None
    if choice is None:
        with (
            work.ledger.watched(Progress(work.ledger, objectives, trials)),
            closing(Quiet(work.folder.checkpoints)) as quiet,
            _started(work, workers) as own,
        ):
            try:
                work = dataclasses.replace(work, space=oriented(work, tasks, own))
                explorer = Explorer(work, tasks, trials, winners, own, quiet)
                explorer.explore()
                choice = winners.crown(own, explorer.clock)
            except KeyboardInterrupt:
                _leave_usable(work)
                raise
    winners.collect(choice.number)  # Also where a kill came between the winner and this.
    rows = [outcome.row_of(trials, number) for number in sorted(trials)]
    found = winners.result(choice, rows, outcome.front_of(trials, objectives))
    if is_new:
        work.emit(outcome.ended(outcome.row_of(trials, choice.number), found.front, len(rows)))
    return dataclasses.replace(found, hypervolume=tuple(series(work.ledger)))


def _record_classes(work: SearchWork) -> None:
    """Where every class counts alike, those who read the ledger alone need the samples' classes."""
    strata = work.dataset.validation.strata
    if strata is not None and work.ledger.get(EventKind.PLAN, CLASSES) is None:
        work.ledger.record(EventKind.PLAN, CLASSES, {"validation": strata.tolist()})


@contextmanager
def _started(work: SearchWork, workers: Workers | None) -> Iterator[Workers]:
    if workers is not None:
        yield workers
        return
    gpus = torch.cuda.device_count() if work.device.type == "cuda" else 0
    packing = Packing(work.workers_per_gpu) if work.workers_per_gpu else None
    locks = work.folder.checkpoints
    with Workers(work.jobs, locks, gpus, emit=work.emit, packing=packing) as own:
        work.ledger.live.ask(WORKERS, own.facts)
        try:
            yield own
        finally:
            work.ledger.live.tell(WORKERS, own.facts() | {"workers": []})


def _leave_usable(work: SearchWork) -> None:
    # By the ledger: the interruption may have come between it and what is known here.
    trials = read_trials(work.ledger)
    number = Winners(work, Tasks(work, trials), trials).save_best_so_far()
    if number is None:
        work.emit(Event("search", "stopped before the first candidate was trained"))
    else:
        where = work.folder.best
        work.emit(Event("search", f"stopped; the best so far, trial {number}, is in {where}"))
