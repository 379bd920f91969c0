"""The stages in order: intake, search, compress, export, verify; each resumable and skippable."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lepton_automl import bundle, ecosystem, manifest, shares
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
from lepton_automl.search.trials import PLAN
from lepton_automl.session import Session, opened
from lepton_automl.timing import Timing, told_milliseconds

Later = Callable[[float, int], Mapping[str, float]]


def run(config: RunConfig, *, emit: Emit = silent) -> Outcome:
    """All stages into one folder; the same call again goes on, a finished run answers at once.

    Raises
    ------
    LeptonError
        What a user can put right.
    """
    ecosystem.check(config)
    with opened(config, emit) as session:
        finished = _finished(session)
        if finished is not None:
            with ecosystem.told(session):  # Of a finished run they may not know all.
                return finished
        found = _search(session, _later(session))
        _compress(session, found.best, found.recipe, _compression_ends(session))
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
    ecosystem.check(config)
    with opened(config, emit) as session:
        return _search(session, None)


def compress(config: RunConfig, *, emit: Emit = silent) -> Compressed:
    """Prune, recover and quantize the winner of a search.

    Raises
    ------
    DataError
        If no search has left a winner.
    """
    with opened(config, emit) as session:
        best, recipe = _winner(session)
        budget, begun = config.budget_seconds, session.ledger.alive_seconds()
        return _compress(session, best, recipe, None if budget is None else begun + budget)


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


def _search(session: Session, later: Later | None) -> SearchResult:
    config = session.config
    more: dict[str, Any] = {} if later is None else {"later": later}
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
        budget_seconds=config.seconds_in_all,
        trials=config.trials,
        cache=session.folder.cache,
        emit=session.emit,
        latency_model=session.latency_model,
        **more,
    )
    with ecosystem.told(session):
        return find(work)


def _kept(session: Session, epoch_seconds: float, epochs: int) -> shares.Later:
    """What the stages after the search need of the budget."""
    data = session.dataset
    sizes = shares.Sizes(
        len(data.train), len(data.validation), len(data.test), session.start_seconds
    )
    return shares.later(session.config.seconds_in_all or 0.0, sizes, epoch_seconds, epochs)


def _later(session: Session) -> Later:
    return lambda epoch_seconds, epochs: _kept(session, epoch_seconds, epochs).by_stage


def _kept_as_planned(session: Session) -> shares.Later:
    plan = session.ledger.get(PLAN, "search") or {}
    return _kept(session, plan.get("epoch_seconds", 0.0), plan.get("own_epochs", 0))


def _compression_ends(session: Session) -> float | None:
    """Seconds the run may have been alive when the files are written; None without a budget."""
    budget = session.config.seconds_in_all
    return None if budget is None else budget - _kept_as_planned(session).prove


def _compress(session: Session, best: Model, recipe: Recipe, ends: float | None) -> Compressed:
    """Until the run has been alive for `ends` seconds, or as long as it takes."""
    dataset, size = session.dataset, best.arch.input[:2]
    train, validation = (
        labelled(dataset.files(part, size, session.folder.cache))
        for part in ("train", "validation")
    )
    ledger = session.ledger
    work = Work(
        train=train,
        validation=validation,
        reference=best,
        limits=session.config.limits,
        target=session.target,
        recipe=recipe,
        seed=session.config.seed,
        device=session.device,
        epochs=max(1, round(recipe.epochs * shares.RECOVERY_SHARE)),
        seconds_left=None if ends is None else lambda: ends - ledger.alive_seconds(),
        quantize_seconds=_kept_as_planned(session).quantize,
        emit=session.emit,
        measure=_measure(session),
        latency_basis=session.latency_model.basis if session.latency_model else "measured",
    )
    return climb(best, work, _compressed_folder(session, best))


def _measure(session: Session) -> Measure | None:
    """Timings that a resumed run replays, or told ones; None where nothing stated needs them."""
    if session.latency_model is not None and session.config.asks_for_latency:
        return functools.partial(told_milliseconds, session.latency_model)
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
