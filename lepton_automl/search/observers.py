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
from lepton_automl.core.files import real_path
from lepton_automl.errors import first_line
from lepton_automl.runs.definition import Definition
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import REFERENCE, EventKind, Ledger
from lepton_automl.search import callbacks
from lepton_automl.search.callbacks import Callback, End, Run, Rung
from lepton_automl.search.objectives import load as load_objective
from lepton_automl.search.training_key import TrainingKey
from lepton_automl.search.trials import RungResult, Trial

_CLOSE_SECONDS = 10.0
"""Time that a search waits for a slow observer at its end."""
Happened = tuple[str, str, Mapping[str, Any]]
"""Kind, key and value of a ledger event."""


class Observer(Protocol):
    """Receives ledger events; it may be slow or fail."""

    name: str
    """Name in messages."""
    failures: tuple[type[Exception], ...]
    """Exceptions of its storage or service; any other one is a bug."""

    def observe(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Receive one event."""
        ...

    def close(self) -> None:
        """End: no event follows."""
        ...


class ObserverThread:
    """Passes events to an observer in its own thread, so it cannot slow or stop the search.

    The search waits for it at the end only, for `_CLOSE_SECONDS` at most. After a
    failure it receives no more events; the next session passes the missing ones.

    Parameters
    ----------
    observer : Observer
        The observer.
    emit : callable
        Receives one event after a failure, in the thread that calls this object.
    """

    def __init__(self, observer: Observer, emit: Emit) -> None:
        self._observer, self._emit = observer, emit
        self._waiting: queue.SimpleQueue[Happened | None] = queue.SimpleQueue()
        self._failure = ""
        self._is_reported = False
        self._thread = threading.Thread(target=self._work, name=observer.name, daemon=True)
        self._thread.start()

    def __call__(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Pass one event on."""
        if not self._failure:
            self._waiting.put((kind, key, value))
        self._report_failure()

    def close(self) -> None:
        """Wait until all events are passed, at most `_CLOSE_SECONDS`."""
        self._waiting.put(None)
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            self._failure = f"is not done after {_CLOSE_SECONDS:.0f} s"
        self._report_failure()

    def _work(self) -> None:
        reason = "stopped because of a bug"  # Its traceback is shown; the search continues.
        try:
            while (happened := self._waiting.get()) is not None:
                self._observer.observe(*happened)
            self._observer.close()
            reason = ""
        except self._observer.failures as error:
            reason = f"failed: {first_line(error)}"
        finally:
            self._failure = reason

    def _report_failure(self) -> None:
        if self._failure and not self._is_reported:
            self._is_reported = True
            message = (
                f"warning: {self._observer.name} {self._failure}; the search continues without it, "
                "and the same command again completes it"
            )
            self._emit(Event("search", message))


@contextmanager
def watched(ledger: Ledger, observers: Iterable[Observer], emit: Emit) -> Iterator[None]:
    """Pass all events of a ledger, and every new one inside the block, to each observer."""
    threads = [ObserverThread(observer, emit) for observer in observers]
    past = list(ledger.events()) if threads else []
    with ExitStack() as stack:
        for thread in threads:
            stack.callback(thread.close)
            stack.enter_context(ledger.watched(thread))
            for happened in past:
                thread(*happened)
        yield


class CallbackDispatcher:
    """Passes each result to a callback that does not have it yet, in order.

    Parameters
    ----------
    name : str
        Name of the callback.
    callback : Callback
        The callback.
    run : Run
        The run.
    """

    def __init__(self, name: str, callback: Callback, run: Run) -> None:
        self.name = f"the callback {name}"
        self.failures = callback.failures
        self._callback, self._run = callback, run
        self._results_before: int | None = None
        self._step = 0
        self._trials: dict[int, Trial] = {}
        self._result_events: dict[str, Mapping[str, Any]] = {}
        self._end = End()

    def observe(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Receive one event; a result is passed once its hypervolume is known."""
        if self._results_before is None:
            self._results_before = self._callback.start(self._run)
        if kind == EventKind.TRIAL:
            trial = Trial.from_event(dict(value))
            self._trials[trial.number] = trial
        elif kind == EventKind.RUNG:
            self._result_events[key] = value
        elif kind == EventKind.HYPERVOLUME and key != REFERENCE:
            self._dispatch(key, value["value"])
        elif kind == EventKind.WINNER:
            self._end = End(value["number"], value["reason"])

    def close(self) -> None:
        """End the session of the callback."""
        if self._results_before is not None:
            self._callback.end(self._end)

    def _dispatch(self, key: str, hypervolume: float) -> None:
        step, self._step = self._step, self._step + 1
        event = self._result_events.pop(key)
        if self._results_before is None or step < self._results_before:
            return
        result = RungResult.from_event(TrainingKey.parse(key), dict(event))
        trial = self._trials[result.key.trial]
        costs = {k: v for k, v in vars(trial.cost).items() if isinstance(v, int | float)}
        self._callback.rung(
            Rung(
                step,
                result.key.trial,
                result.key.label,
                result.epochs,
                None if result.failed else result.accuracy,
                result.failed,
                trial.params,
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
    """Unique name of the run in an Optuna storage and in callbacks, with its folder's name."""
    known = ledger.get(EventKind.ECOSYSTEM, "run")
    if known is None:
        known = {"name": f"{folder}-{uuid.uuid4().hex[:6]}"}
        ledger.record(EventKind.ECOSYSTEM, "run", known)
    return str(known["name"])


def facts(known: Definition) -> dict[str, object]:
    """The definition of a run as a flat mapping without paths, for callbacks."""
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
    name = study_name(ledger, real_path(folder.path).name)
    if config.optuna_storage is not None:
        # Imported here: the database layer takes a fifth of a second.
        optuna_storage = importlib.import_module("lepton_automl.search.optuna_storage")
        storage = optuna_storage.open_storage(config.optuna_storage)
        objectives = {name: load_objective(name) for name in config.objectives}
        yield optuna_storage.StorageWriter(storage, name, objectives, config.limits)
        emit(Event("search", f"trials are copied to Optuna study {name}"))
    run = Run(name, folder.path, facts(folder.definition()))
    for callback in config.callbacks:
        yield CallbackDispatcher(callback, callbacks.load(callback), run)
