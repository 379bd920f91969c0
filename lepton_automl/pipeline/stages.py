"""Stages: one at a time, each with the time it may take; the pipeline puts them in order."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lepton_automl.compress.context import CompressionContext, MeasureLatency
from lepton_automl.compress.loop import CompressionResult
from lepton_automl.compress.loop import compress as climb
from lepton_automl.cost.latency import Timing, predicted_milliseconds
from lepton_automl.data.dataset import load_labelled
from lepton_automl.errors import DataError
from lepton_automl.metrics.intervals import is_near_chance
from lepton_automl.models.model import Model
from lepton_automl.pipeline import charts, front
from lepton_automl.pipeline.context import Session
from lepton_automl.pipeline.export import Outcome, write_and_verify
from lepton_automl.runs import time_budget
from lepton_automl.runs.ledger import EventKind
from lepton_automl.search import observers
from lepton_automl.search.loop import search as find
from lepton_automl.search.request import SearchResult, SearchWork
from lepton_automl.training.recipe import Recipe

Later = Callable[[float, int], Mapping[str, float]]
"""Seconds of later stages by name, given the seconds of an epoch and a training's epochs."""


def found(session: Session, later: Later | None) -> SearchResult:
    """Search; `later` stages share the budget, None: there are none.

    Raises
    ------
    LeptonError
        What `search.coordinator.search` raises.
    """
    with observers.notified(session.config, session.folder, session.ledger, session.emit):
        result = find(search_work(session, later))
    front.draw(session.folder, session.ledger)
    return result


def search_work(session: Session, later: Later | None = None) -> SearchWork:
    """What the search of this run is given."""
    more: dict[str, Any] = {} if later is None else {"later": later}
    return SearchWork(
        config=session.config,
        dataset=session.dataset,
        space=session.space,
        target=session.target,
        latency_model=session.latency_model,
        folder=session.folder,
        ledger=session.ledger,
        device=session.device,
        emit=session.emit,
        **more,
    )


def _kept(session: Session, epoch_seconds: float, epochs: int) -> time_budget.Later:
    """What the stages after the search need of the budget."""
    data = session.dataset
    sizes = time_budget.Sizes(
        len(data.train), len(data.validation), len(data.test), session.start_seconds
    )
    kept = time_budget.later(session.config.seconds_in_all or 0.0, sizes, epoch_seconds, epochs)
    # Where no cost is minded, nothing is pruned: the time is the search's.
    minds_costs = session.config.goal.minds_costs
    return kept if minds_costs else dataclasses.replace(kept, compress=kept.quantize)


def later(session: Session) -> Later:
    """What compression, files and verdict will need, as the search's plan asks for it."""
    return lambda epoch_seconds, epochs: _kept(session, epoch_seconds, epochs).by_stage


def _kept_as_planned(session: Session) -> time_budget.Later:
    plan = session.ledger.get(EventKind.PLAN, "search") or {}
    return _kept(session, plan.get("epoch_seconds", 0.0), plan.get("whole_epochs", 0))


def compression_ends(session: Session) -> float | None:
    """Seconds the run may have been alive when the files are written; None without a budget."""
    budget = session.config.seconds_in_all
    return None if budget is None else budget - _kept_as_planned(session).prove


def compressed(
    session: Session,
    best: Model,
    recipe: Recipe,
    ends: float | None,
    *,
    step: Model | None = None,
    prunes: bool = True,
    is_aim: bool = False,
) -> CompressionResult:
    """Prune, recover and quantize.

    Parameters
    ----------
    session : Session
        Data, limits, folder.
    best : Model
        The float net that every drop is counted from.
    recipe : Recipe
        How it was trained.
    ends : float or None
        Seconds the run may have been alive at the end; None: as long as it takes.
    step : Model, optional
        A pruned net of `best`, which is only quantized.
    prunes : bool
        Whether `best` is to become cheaper before it is quantized.
    is_aim : bool
        Whether pruning ends at the limits on costs.
    """
    dataset, size, ledger = session.dataset, best.arch.input[:2], session.ledger
    train, validation = (
        load_labelled(dataset.decoded_files(part, size, session.folder.cache))
        for part in ("train", "validation")
    )
    work = CompressionContext(
        train=train,
        validation=validation,
        reference=best,
        limits=session.config.limits,
        target=session.target,
        recipe=recipe,
        seed=session.config.seed,
        device=session.device,
        epochs=_recovery(session, recipe, ends) if prunes and step is None else 0,
        seconds_left=None if ends is None else lambda: ends - ledger.alive_seconds(),
        quantize_seconds=_kept_as_planned(session).quantize,
        emit=session.emit,
        measure=measure(session),
        latency_basis=session.latency_model.basis if session.latency_model else "measured",
        is_aim=is_aim,
    )
    made = climb(step or best, work, compressed_folder(session, step or best))
    charts.write_steps(session.folder.path, made.steps)
    return made


def _recovery(session: Session, recipe: Recipe, ends: float | None) -> int:
    """Epochs of recovery at most; with a clock a net that was trained for few may get more."""
    plan = session.ledger.get(EventKind.PLAN, "search") or {}
    own = 0 if ends is None else plan.get("own_epochs", 0)
    return max(1, round(time_budget.RECOVERY_SHARE * max(recipe.epochs, own)))


@contextmanager
def telling_what_is_there(session: Session) -> Iterator[None]:
    """Say what can be used already where the user stops what the block does."""
    try:
        yield
    except KeyboardInterrupt:
        session.tell("run", f"stopped; the best float net is in {session.folder.best}")
        raise


def measure(session: Session) -> MeasureLatency | None:
    """Timings that a resumed run replays, or told ones; None where nothing stated needs them."""
    if session.latency_model is not None and session.config.asks_for_latency:
        return functools.partial(predicted_milliseconds, session.latency_model)
    return Timing(session.ledger).milliseconds if session.is_timed else None


def exported(session: Session, step: Model | None = None) -> Outcome:
    """Write the files of what was compressed, judge them, seal the folder.

    Raises
    ------
    DataError
        If nothing was searched or compressed yet.
    """
    best, _ = winner(session)
    made = CompressionResult.load(compressed_folder(session, step or best))
    return write_and_verify(session, best, made)


def winner(session: Session) -> tuple[Model, Recipe]:
    """The best net of a search and how it was trained.

    Raises
    ------
    DataError
        If there is none yet.
    """
    folder = session.folder.best
    if not (folder / "recipe.json").is_file():
        raise DataError(
            f"{session.folder.path} has no winner yet: {folder} is not there",
            fix="run `lepton search` into this folder first",
        )
    return Model.load(folder), Recipe.from_json((folder / "recipe.json").read_text())


def check_better_than_chance(name: str, share: float, classes: int, *, why: str, fix: str) -> None:
    """Refuse a net made outside of a search that hardly beats guessing on validation.

    Parameters
    ----------
    name : str
        Of the net.
    share : float
        Of the validation samples it classifies correctly, 0 to 1.
    classes : int
        Number of classes.
    why, fix : str
        What may be wrong, and the way out.

    Raises
    ------
    DataError
        If `share` is near that of guessing (`is_near_chance`).
    """
    if is_near_chance(share, classes):
        raise DataError(
            f"{name} classifies {share:.1%} of the validation pictures correctly, guessing "
            f"{1 / classes:.1%}: {why}",
            fix=fix,
        )


def compressed_folder(session: Session, best: Model) -> Path:
    """A folder a winner, so that a winner of a longer search does not meet another's steps."""
    return session.folder.models / f"compressed-{best.digest[:8]}"
