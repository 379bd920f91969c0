"""The stages in order: intake, search, compress, export, verify; each resumable and skippable."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lepton_automl.artifact import manifest, writer
from lepton_automl.compress.loop import CompressionResult
from lepton_automl.config import RunConfig
from lepton_automl.core.events import Emit, silent
from lepton_automl.pipeline import stages
from lepton_automl.pipeline.context import Session, opened
from lepton_automl.pipeline.export import Outcome, verify_again
from lepton_automl.runs.ledger import EventKind
from lepton_automl.search import observers
from lepton_automl.search.request import SearchResult


def run(config: RunConfig, *, emit: Emit = silent) -> Outcome:
    """All stages into one folder; the same call again goes on, a finished run answers at once.

    Raises
    ------
    LeptonError
        What a user can put right.
    """
    with opened(config, emit) as session:
        finished = _finished(session)
        if finished is not None:
            # Observers that missed events of a finished run receive them now.
            with observers.notified(config, session.folder, session.ledger, session.emit):
                return finished
        found = stages.found(session, stages.later(session))
        ends = stages.compression_ends(session)
        with stages.telling_what_is_there(session):
            stages.compressed(
                session, found.best, found.recipe, ends, prunes=config.goal.minds_costs
            )
            outcome = stages.exported(session)
        _finish(session, outcome)
        return dataclasses.replace(outcome, found=found)


def search(config: RunConfig, *, emit: Emit = silent) -> SearchResult:
    """Search only; leaves the winner in `models/best`.

    Raises
    ------
    LeptonError
        What a user can put right.
    """
    with opened(config, emit) as session:
        return stages.found(session, None)


def compress(config: RunConfig, *, emit: Emit = silent) -> CompressionResult:
    """Prune, recover and quantize the winner of a search.

    Raises
    ------
    DataError
        If no search has left a winner.
    """
    with opened(config, emit) as session:
        best, recipe = stages.winner(session)
        budget, begun = config.budget_seconds, session.ledger.alive_seconds()
        ends = None if budget is None else begun + budget
        return stages.compressed(session, best, recipe, ends)


def export(config: RunConfig, *, emit: Emit = silent) -> Outcome:
    """Write the artifact of a compressed run and prove it.

    Raises
    ------
    DataError
        If the run was not compressed yet.
    """
    with opened(config, emit) as session:
        return stages.exported(session)


def verify(
    artifact: Path, *, data: str | None = None, test: Path | None = None, emit: Emit = silent
) -> Outcome:
    """Prove a written artifact again, reading only; see `proof.verify_again`.

    Raises
    ------
    DataError
        If there is no finished artifact or no data to judge it on.
    """
    return verify_again(artifact, data=data, test=test, emit=emit)


def _finished(session: Session) -> Outcome | None:
    """The outcome that is there, unless more trials or time than it had are asked for."""
    folder, asked = session.folder.artifact, session.config
    if not manifest.is_complete(folder):
        return None
    had = list(session.ledger.all(EventKind.FINISHED).values())
    if not had or (asked.trials or 0) > (had[-1]["trials"] or 0):
        return None
    if (asked.seconds_in_all or 0.0) > (had[-1]["budget_seconds"] or 0.0):
        return None
    session.tell("run", "finished before; a larger --budget or --trials continues it")
    return Outcome(folder, writer.read_verdict(folder))


def _finish(session: Session, outcome: Outcome) -> None:
    number = len(session.ledger.all(EventKind.FINISHED))
    session.ledger.record(
        EventKind.FINISHED,
        str(number),
        {
            "trials": session.config.trials,
            "budget_seconds": session.config.seconds_in_all,
            "verdict": outcome.verdict.status,
        },
    )
