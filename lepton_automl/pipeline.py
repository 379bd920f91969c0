"""The stages in order: intake, search, compress, export, verify; each resumable and skippable."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lepton_automl import bundle, manifest
from lepton_automl.compress import Measure, Work
from lepton_automl.compress.ladder import Compressed
from lepton_automl.compress.ladder import compress as climb
from lepton_automl.config import RunConfig
from lepton_automl.dataset import labelled
from lepton_automl.errors import DataError
from lepton_automl.events import Emit, silent
from lepton_automl.model import Model
from lepton_automl.proof import Outcome, prove_again, write_and_prove
from lepton_automl.recipe import Recipe
from lepton_automl.search import SearchResult, SearchWork
from lepton_automl.search import search as find
from lepton_automl.session import Session, opened
from lepton_automl.timing import Timing

SEARCH_SHARE = 0.70
"""Of the whole budget, what may be used when compression begins."""
COMPRESS_SHARE = 0.92
"""Of the whole budget, what may be used when the files are written."""
RECOVERY_SHARE = 0.5
"""Epochs of recovery after pruning, as a share of the winner's own, where no budget decides."""


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
            return finished
        found = _search(session, SEARCH_SHARE)
        _compress(session, found.best, found.recipe, COMPRESS_SHARE)
        outcome = _export(session)
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
        return _search(session, 1.0)


def compress(config: RunConfig, *, emit: Emit = silent) -> Compressed:
    """Prune, recover and quantize the winner of a search.

    Raises
    ------
    DataError
        If no search has left a winner.
    """
    with opened(config, emit) as session:
        best, recipe = _winner(session)
        return _compress(session, best, recipe, None)


def export(config: RunConfig, *, emit: Emit = silent) -> Outcome:
    """Write the artifact of a compressed run and prove it.

    Raises
    ------
    DataError
        If the run was not compressed yet.
    """
    with opened(config, emit) as session:
        return _export(session)


def verify(
    artifact: Path, *, data: str | None = None, test: Path | None = None, emit: Emit = silent
) -> Outcome:
    """Prove a written artifact again, reading only; see `proof.prove_again`.

    Raises
    ------
    DataError
        If there is no finished artifact or no data to judge it on.
    """
    return prove_again(artifact, data=data, test=test, emit=emit)


def _search(session: Session, share: float) -> SearchResult:
    config = session.config
    budget = config.seconds_in_all
    work = SearchWork(
        folder=session.folder.path,
        ledger=session.ledger,
        dataset=session.dataset,
        space=session.space,
        target=session.target,
        limits=config.limits,
        objectives=config.objectives,
        prefer=config.prefer,
        seed=config.seed,
        jobs=config.workers,
        device=session.device,
        budget_seconds=None if budget is None else budget * share,
        trials=config.trials,
        cache=session.folder.cache,
        emit=session.emit,
    )
    return find(work)


def _compress(session: Session, best: Model, recipe: Recipe, share: float | None) -> Compressed:
    dataset, size = session.dataset, best.arch.input[:2]
    train, validation = (
        labelled(dataset.files(part, size, session.folder.cache))
        for part in ("train", "validation")
    )
    budget, ledger = session.config.seconds_in_all, session.ledger
    is_timed = budget is not None and share is not None
    ends = (budget or 0.0) * (share or 0.0)
    work = Work(
        train=train,
        validation=validation,
        reference=best,
        limits=session.config.limits,
        target=session.target,
        recipe=recipe,
        seed=session.config.seed,
        device=session.device,
        epochs=max(1, round(recipe.epochs * RECOVERY_SHARE)),
        seconds_left=(lambda: ends - ledger.alive_seconds()) if is_timed else None,
        emit=session.emit,
        measure=_measure(session),
    )
    return climb(best, work, _compressed_folder(session, best))


def _measure(session: Session) -> Measure | None:
    """Timings that a resumed run replays; None where nothing stated needs them."""
    return Timing(session.ledger).milliseconds if session.is_timed else None


def _export(session: Session) -> Outcome:
    best, _ = _winner(session)
    return write_and_prove(session, best, Compressed.load(_compressed_folder(session, best)))


def _winner(session: Session) -> tuple[Model, Recipe]:
    folder = session.folder.best
    if not (folder / "recipe.json").is_file():
        raise DataError(
            f"{session.folder.path} has no winner yet: {folder} is not there",
            fix="run `lepton search` into this folder first",
        )
    return Model.load(folder), Recipe.from_json((folder / "recipe.json").read_text())


def _compressed_folder(session: Session, best: Model) -> Path:
    """A folder a winner, so that a winner of a longer search does not meet another's steps."""
    return session.folder.models / f"compressed-{best.digest[:8]}"


def _finished(session: Session) -> Outcome | None:
    """The outcome that is there, unless more trials or time than it had are asked for."""
    folder, asked = session.folder.artifact, session.config
    if not manifest.is_complete(folder):
        return None
    had = list(session.ledger.all("finished").values())
    if not had or (asked.trials or 0) > (had[-1]["trials"] or 0):
        return None
    if (asked.seconds_in_all or 0.0) > (had[-1]["budget_seconds"] or 0.0):
        return None
    session.tell("run", "finished before; a larger --budget or --trials continues it")
    return Outcome(folder, bundle.read_verdict(folder))


def _finish(session: Session, outcome: Outcome) -> None:
    number = len(session.ledger.all("finished"))
    session.ledger.record(
        "finished",
        str(number),
        {
            "trials": session.config.trials,
            "budget_seconds": session.config.seconds_in_all,
            "verdict": outcome.verdict.status,
        },
    )
