"""Threads that pass ledger events to callbacks and to Optuna storage."""

from __future__ import annotations

import importlib
import queue
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from lepton_automl.config import RunConfig
from lepton_automl.core.events import Emit, Event
from lepton_automl.errors import first_line
from lepton_automl.runs.folder import Definition, RunFolder
from lepton_automl.runs.ledger import EventKind, Ledger
from lepton_automl.search import callbacks
from lepton_automl.search.callbacks import Callback, End, Run, Rung
from lepton_automl.search.objectives import load as load_objective
from lepton_automl.search.pareto import REFERENCE
from lepton_automl.search.training_key import TrainingKey
from lepton_automl.search.trials import RungResult, Trial

LAST_SECONDS = 10.0
"""A search that has ended waits so long for a slow observer."""
Happened = tuple[str, str, Mapping[str, Any]]
"""Kind, key and value of a ledger event."""


class Observer(Protocol):
    """Somebody who is told of events and may take time or fail."""

    name: str
    """For messages."""
    failures: tuple[type[Exception], ...]
    """What it raises where its own storage or service fails; anything else is a bug."""

    def observe(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Take notice of one event."""
        ...

    def close(self) -> None:
        """No event will follow."""
        ...


class ObserverThread:
    """Hands events to `observer` in a thread of its own: neither its time nor its failures count.

    The search never waits for it but at the end, and there for `LAST_SECONDS` at most. After a
    failure it is left alone; the next session completes what it missed from the ledger.

    Parameters
    ----------
    observer : Observer
        Who is told.
    emit : callable
        Told of a failure, once, from the thread that calls this object.
    """

    def __init__(self, observer: Observer, emit: Emit) -> None:
        self._observer, self._emit = observer, emit
        self._waiting: queue.SimpleQueue[Happened | None] = queue.SimpleQueue()
        self._failure = ""
        self._is_told = False
        self._thread = threading.Thread(target=self._work, name=observer.name, daemon=True)
        self._thread.start()

    def __call__(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Pass one event on."""
        if not self._failure:
            self._waiting.put((kind, key, value))
        self._tell()

    def close(self) -> None:
        """Wait for what is not passed on yet, if it does not take too long."""
        self._waiting.put(None)
        self._thread.join(LAST_SECONDS)
        if self._thread.is_alive():
            self._failure = f"is not done after {LAST_SECONDS:.0f} s"
        self._tell()

    def _work(self) -> None:
        reason = "stopped because of a bug"  # Its traceback is shown; the search goes on.
        try:
            while (happened := self._waiting.get()) is not None:
                self._observer.observe(*happened)
            self._observer.close()
            reason = ""
        except self._observer.failures as error:
            reason = f"failed: {first_line(error)}"
        finally:
            self._failure = reason

    def _tell(self) -> None:
        if self._failure and not self._is_told:
            self._is_told = True
            message = (
                f"warning: {self._observer.name} {self._failure}; the search goes on without it, "
                "and the same command again completes it"
            )
            self._emit(Event("search", message))


@contextmanager
def watched(ledger: Ledger, observers: Iterable[Observer], emit: Emit) -> Iterator[None]:
    """Tell every observer all that a ledger holds, then every new event until the block ends."""
    made = [ObserverThread(observer, emit) for observer in observers]
    past = list(ledger.events()) if made else []
    with ExitStack() as stack:
        for background in made:
            stack.callback(background.close)
            stack.enter_context(ledger.watched(background))
            for happened in past:
                background(*happened)
        yield


class CallbackDispatcher:
    """Tells a callback every rung that it has not been told of, in order.

    Parameters
    ----------
    name : str
        Of the callback.
    callback : Callback
        Who is told.
    run : Run
        What is searched.
    """

    def __init__(self, name: str, callback: Callback, run: Run) -> None:
        self.name = f"the callback {name}"
        self.failures = callback.failures
        self._callback, self._run = callback, run
        self._told: int | None = None
        self._step = 0
        self._candidates: dict[int, Trial] = {}
        self._scores: dict[str, Mapping[str, Any]] = {}
        self._end = End()

    def observe(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Take notice of one event; a rung is told of once its hypervolume is known."""
        if self._told is None:
            self._told = self._callback.start(self._run)
        if kind == EventKind.TRIAL:
            candidate = Trial.from_event(dict(value))
            self._candidates[candidate.number] = candidate
        elif kind == EventKind.RUNG:
            self._scores[key] = value
        elif kind == EventKind.HYPERVOLUME and key != REFERENCE:
            self._tell(key, value["value"])
        elif kind == EventKind.WINNER:
            self._end = End(value["number"], value["reason"])

    def close(self) -> None:
        """The session has ended."""
        if self._told is not None:
            self._callback.end(self._end)

    def _tell(self, key: str, hypervolume: float) -> None:
        step, self._step = self._step, self._step + 1
        event = self._scores.pop(key)
        if self._told is None or step < self._told:
            return
        score = RungResult.from_event(TrainingKey.parse(key), dict(event))
        candidate = self._candidates[score.key.trial]
        costs = {k: v for k, v in vars(candidate.cost).items() if isinstance(v, int | float)}
        self._callback.rung(
            Rung(
                step,
                score.key.trial,
                score.key.label,
                score.epochs,
                None if score.failed else score.accuracy,
                score.failed,
                candidate.params,
                costs,
                hypervolume,
                event["seconds"],
            )
        )


@contextmanager
def notified(config: RunConfig, folder: RunFolder, ledger: Ledger, emit: Emit) -> Iterator[None]:
    """Pass ledger events to the callbacks and the Optuna storage of `config` inside the block.

    Raises
    ------
    ConfigError, MachineError
        If the Optuna storage cannot be opened.
    """
    is_observed = config.optuna_storage is not None or bool(config.callbacks)
    observers = list(_observers(config, folder, ledger, emit)) if is_observed else []
    with watched(ledger, observers, emit):
        yield


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


def _observers(
    config: RunConfig, folder: RunFolder, ledger: Ledger, emit: Emit
) -> Iterator[Observer]:
    name = study_name(ledger, folder.path.resolve().name)
    if config.optuna_storage is not None:
        # Loaded here: the database layer takes a fifth of a second, and few mirror a search.
        mirror = importlib.import_module("lepton_automl.search.optuna_storage")
        storage = mirror.open_storage(config.optuna_storage)
        objectives = {name: load_objective(name) for name in config.objectives}
        yield mirror.Mirror(storage, name, objectives, config.limits)
        emit(Event("search", f"trials are copied to Optuna study {name}"))
    run = Run(name, folder.path, facts(folder.definition()))
    for callback in config.callbacks:
        yield CallbackDispatcher(callback, callbacks.load(callback), run)
