"""Ecosystem: who is told of a search beside the user: an Optuna storage, callbacks."""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from lepton_automl import callbacks
from lepton_automl.callbacks import Run
from lepton_automl.config import RunConfig
from lepton_automl.objectives import load as load_objective
from lepton_automl.run_folder import Definition
from lepton_automl.search.feed import Feed
from lepton_automl.search.ledger import EventKind, Ledger
from lepton_automl.search.watching import Slow, watched
from lepton_automl.session import Session


@contextmanager
def told(session: Session) -> Iterator[None]:
    """While the block lasts, tell of the search whomever the options name.

    Raises
    ------
    ConfigError, MachineError
        If the Optuna storage cannot be opened.
    """
    observers = list(_observers(session)) if _is_asked_for(session.config) else []
    with watched(session.ledger, observers, session.emit):
        yield


def check(config: RunConfig) -> None:
    """Find what is missing before anything is claimed or trained.

    Raises
    ------
    ConfigError
        If a callback has no such name.
    MachineError
        If its package is not installed.
    """
    for name in config.callbacks:
        callbacks.load(name)


def study_name(ledger: Ledger, folder: str) -> str:
    """The run's name wherever others are: its folder's, and what tells it from all others."""
    known = ledger.get(EventKind.ECOSYSTEM, "run")
    if known is None:
        known = {"name": f"{folder}-{uuid.uuid4().hex[:6]}"}
        ledger.record(EventKind.ECOSYSTEM, "run", known)
    return str(known["name"])


def facts(known: Definition) -> dict[str, object]:
    """What defines a run, flat, for tables elsewhere; no paths."""
    limits = {f"limit {name}": value for name, value in known.limits.stated.items()}
    return {
        "data": known.data_fingerprint,
        "space": known.space,
        "objectives": ", ".join(known.objectives),
        "seed": known.seed,
        "target": known.target,
        "prefer": known.prefer,
    } | limits


def _is_asked_for(config: RunConfig) -> bool:
    return config.optuna_storage is not None or bool(config.callbacks)


def _observers(session: Session) -> Iterator[Slow]:
    config, folder = session.config, session.folder
    name = study_name(session.ledger, folder.path.resolve().name)
    if config.optuna_storage is not None:
        # Loaded here: the database layer takes a fifth of a second, and few mirror a search.
        mirror = importlib.import_module("lepton_automl.search.mirror")
        storage = mirror.open_storage(config.optuna_storage)
        objectives = {name: load_objective(name) for name in config.objectives}
        yield mirror.Mirror(storage, name, objectives, config.limits, jobs=config.workers)
        session.tell("search", f"mirrored as study {name}")
    run = Run(name, folder.path, facts(folder.definition()))
    for callback in config.callbacks:
        yield Feed(callback, callbacks.load(callback), run)
