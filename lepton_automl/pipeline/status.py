"""How far a run is, read from its ledger while it may be working."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lepton_automl.artifact import writer
from lepton_automl.artifact.manifest import MANIFEST
from lepton_automl.artifact.verdict import Verdict
from lepton_automl.errors import DataError
from lepton_automl.runs import live_status
from lepton_automl.runs.folder import Definition, RunFolder
from lepton_automl.runs.ledger import EventKind, LedgerView, is_held
from lepton_automl.runs.live_status import StatusEntry
from lepton_automl.search.pareto import REFERENCE
from lepton_automl.search.training_key import Stage, TrainingKey

SILENT_SECONDS = 10.0
"""A command writes down twice a second that it lives; after so long it is stopped or starved."""
State = Literal["working", "silent", "interrupted", "ended"]


@dataclass(frozen=True)
class WorkerNow:
    """What one worker does."""

    pid: int
    task: str
    """Key of its task, such as "7-0" or "7-final-0"; empty where it has none."""
    seconds: float
    """Since it was given the task."""
    share: float
    """How much of its training is done, 0 to 1."""
    waits: bool
    """It pauses because something is measured."""


@dataclass(frozen=True)
class RungNow:
    """How many candidates have come how far."""

    rung: int
    finished: int
    promoted: int
    """Of those, how many are in the next rung or have finished it."""


@dataclass(frozen=True)
class Status:
    """A run as it is now."""

    folder: RunFolder
    definition: Definition
    alive_seconds: float
    """Seconds in which commands worked on it."""
    events: dict[str, int]
    """How many events of each kind the ledger holds."""
    has_winner: bool
    verdict: Verdict | None
    """None until the artifact is complete."""
    state: State
    """`working`; `silent`: there, but stopped or starved; `interrupted`: killed or stopped, nobody
    works on it; `ended` by itself."""
    command: Mapping[str, Any]
    """Of the last command: `words` as typed, `pid`, `budget_seconds`, `trials`."""
    silent_seconds: float
    """Since the last sign of life of the command that works on it; 0 where there is none."""
    error: str
    """What the last command ended with, where it was an error."""
    progress: Mapping[str, Any]
    """`stage`, `message`, `done` and `total` of its last event that counts something."""
    messages: tuple[Mapping[str, Any], ...]
    """`stage`, `message` and `at` (seconds since 1970) of the last events that do not."""
    workers: tuple[WorkerNow, ...]
    rungs: tuple[RungNow, ...]
    found: Mapping[str, Any]
    """`best`, `front` (the candidates' figures), `trials` and `eta_seconds`, as the search told
    them last."""
    hypervolume: tuple[float, ...]
    """Of the front, after every rung."""

    @property
    def is_open(self) -> bool:
        """Whether a command works on it."""
        return self.state in {"working", "silent"}


def status(folder: RunFolder) -> Status:
    """Read a run; nothing is changed.

    Raises
    ------
    LeptonError
        If the folder does not hold a readable run.
    """
    if not folder.ledger.is_file():
        raise DataError(
            f"{folder.path} has not begun: there is no {folder.ledger.name}",
            fix="run `lepton run` or `lepton search` into this folder",
        )
    definition, is_open = folder.definition(), is_held(folder.ledger)
    with LedgerView(folder.ledger) as ledger:
        notes, rungs = ledger.live_entries(), ledger.keys(EventKind.RUNG)
        counts, volumes = ledger.counts(), ledger.all(EventKind.HYPERVOLUME)
        seconds = ledger.alive_seconds()
    is_complete = (folder.artifact / MANIFEST).is_file()
    verdict = writer.read_verdict(folder.artifact) if is_complete else None
    workers = _workers(notes) if is_open else ()
    return Status(
        folder=folder,
        definition=definition,
        alive_seconds=seconds,
        events=counts,
        has_winner=(folder.best / "weights.safetensors").is_file(),
        verdict=verdict,
        state=_state(notes, is_open=is_open, is_complete=is_complete),
        command=_value(notes, live_status.COMMAND),
        silent_seconds=_silence(notes) if is_open else 0.0,
        error=_value(notes, live_status.ENDED).get("error", ""),
        progress=_value(notes, live_status.PROGRESS) if is_open else {},
        messages=tuple(_value(notes, live_status.MESSAGES).get("last", ())),
        workers=workers,
        rungs=_rungs(rungs, [worker.task for worker in workers]),
        found=_value(notes, live_status.FOUND),
        hypervolume=tuple(v["value"] for key, v in volumes.items() if key != REFERENCE),
    )


def _state(notes: Mapping[str, StatusEntry], *, is_open: bool, is_complete: bool) -> State:
    if is_open:
        return "silent" if _silence(notes) > SILENT_SECONDS else "working"
    has_ended = live_status.ENDED in notes or (not notes and is_complete)
    return "ended" if has_ended else "interrupted"


def _silence(notes: Mapping[str, StatusEntry]) -> float:
    """Seconds since the command said that it lives; 0 before it has said so at all."""
    return (
        max(0.0, time.time() - notes[live_status.HEART].at) if live_status.HEART in notes else 0.0
    )


def _workers(notes: Mapping[str, StatusEntry]) -> tuple[WorkerNow, ...]:
    now = time.time()
    return tuple(
        WorkerNow(
            worker["pid"],
            worker["task"],
            max(0.0, now - worker["since"]) if worker["task"] else 0.0,
            worker["share"],
            worker["waits"],
        )
        for worker in _value(notes, live_status.WORKERS).get("workers", ())
    )


def _rungs(finished: list[str], at_work: list[str]) -> tuple[RungNow, ...]:
    """Counts from the keys of rungs and tasks; last trainings are no rungs."""
    done, reached = _rung_keys(finished), _rung_keys(finished + at_work)
    last = max((key.round for key in reached), default=-1)
    return tuple(
        RungNow(
            rung,
            sum(key.round == rung for key in done),
            sum(TrainingKey(k.trial, round=rung + 1) in reached for k in done if k.round == rung),
        )
        for rung in range(last + 1)
    )


def _rung_keys(texts: list[str]) -> set[TrainingKey]:
    """Those of the keys that name a rung."""
    keys: set[TrainingKey] = set()
    for text in texts:
        with contextlib.suppress(ValueError):  # A task that trains no trial.
            keys.add(TrainingKey.parse(text))
    return {key for key in keys if key.stage is Stage.RUNG}


def _value(notes: Mapping[str, StatusEntry], name: str) -> dict[str, Any]:
    return notes[name].value if name in notes else {}
