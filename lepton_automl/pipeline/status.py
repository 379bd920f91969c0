"""Progress of a run, read from its ledger, also while the run works."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lepton_automl.artifact.manifest import MANIFEST
from lepton_automl.artifact.verdict import Verdict
from lepton_automl.artifact.verify import checked_verdict
from lepton_automl.core.field_types import MOST, check_finite
from lepton_automl.runs import live_status
from lepton_automl.runs.definition import Definition
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import REFERENCE, EventKind, LedgerView
from lepton_automl.runs.live_status import StatusEntry
from lepton_automl.runs.lock import is_held
from lepton_automl.search.training_key import Stage, TrainingKey

_SILENT_SECONDS = 10.0
"""A command writes a heartbeat twice a second; after this time without one it counts as silent."""
State = Literal["working", "silent", "interrupted", "ended"]


@dataclass(frozen=True)
class WorkerNow:
    """Task and progress of one worker."""

    pid: int
    task: str
    """Key of its task, such as "7-0" or "7-final-0"; empty if it is idle."""
    seconds: float
    """Time since the task was started."""
    share: float
    """Share of the task that is done, 0 to 1."""
    waits: bool
    """It waits for a latency measurement."""
    host: str = ""
    """Name of its host; empty for this machine."""


@dataclass(frozen=True)
class HostNow:
    """State of one host of `--hosts`."""

    name: str
    state: str
    """`connecting`, `ready` or `lost`."""
    jobs: int
    """Tasks at the same time."""
    busy: int
    """Tasks that run now."""
    tasks: int
    """Tasks that have ended there."""
    sent_bytes: float
    received_bytes: float
    idle_seconds: float
    """Seconds of all its workers together without a task."""
    lost_workers: int
    arithmetic: str
    """What decides the bits of its trainings beside the task."""
    reason: str
    """Why it is lost."""


@dataclass(frozen=True)
class RungNow:
    """Numbers of trials at one rung."""

    rung: int
    finished: int
    promoted: int
    """How many of them train at the next rung or have finished it."""


@dataclass(frozen=True)
class Status:
    """State of a run."""

    folder: RunFolder
    definition: Definition
    alive_seconds: float
    """Seconds that commands have worked on it."""
    events: dict[str, int]
    """Number of ledger events of each kind."""
    has_winner: bool
    verdict: Verdict | None
    """None until the artifact is complete."""
    state: State
    """`working`; `silent`: the command is stopped, or the machine overloaded; `interrupted`: the
    command was stopped or killed; `ended`: it ended by itself."""
    command: Mapping[str, Any]
    """The last command: `words` as typed, `pid`, `budget_seconds`, `trials`."""
    silent_seconds: float
    """Time since the last heartbeat of the command; 0 where none works on the run."""
    error: str
    """Error that ended the last command; empty without one."""
    progress: Mapping[str, Any]
    """`stage`, `message`, `done` and `total` of the last progress event."""
    messages: tuple[Mapping[str, Any], ...]
    """`stage`, `message` and `at` (seconds since 1970) of the last other events."""
    workers: tuple[WorkerNow, ...]
    hosts: tuple[HostNow, ...]
    """Hosts of `--hosts`; none without it."""
    rungs: tuple[RungNow, ...]
    found: Mapping[str, Any]
    """`best`, `front` (values of its trials), `trials` and `eta_seconds`, as last published by the
    search."""
    hypervolume: tuple[float, ...]
    """Hypervolume of the front after every rung."""
    store: Mapping[str, Any]
    """The copy of the run (`runs.store_copy.StoreCopy.facts`); empty without one."""

    @property
    def is_open(self) -> bool:
        """Whether a command works on it."""
        return self.state in {"working", "silent"}


def status(folder: RunFolder) -> Status:
    """Read the state of a run without changing it.

    Raises
    ------
    LeptonError
        If the folder does not hold a readable run.
    """
    is_open = is_held(folder.path)
    with folder.read_ledger() as ledger:
        entries, rungs = ledger.live_entries(), ledger.keys(EventKind.RUNG)
        counts, seconds = ledger.counts(), ledger.alive_seconds()
        volumes = _volumes(ledger)
    definition = folder.definition()
    is_complete = (folder.artifact / MANIFEST).is_file()
    verdict = checked_verdict(folder.artifact) if is_complete else None
    workers = _workers(entries) if is_open else ()
    return Status(
        folder=folder,
        definition=definition,
        alive_seconds=seconds,
        events=counts,
        has_winner=(folder.best / "weights.safetensors").is_file(),
        verdict=verdict,
        state=_state(entries, is_open=is_open, is_complete=is_complete),
        command=_value(entries, live_status.COMMAND),
        silent_seconds=_silence(entries) if is_open else 0.0,
        error=_value(entries, live_status.ENDED).get("error", ""),
        progress=_value(entries, live_status.PROGRESS) if is_open else {},
        messages=tuple(_value(entries, live_status.MESSAGES).get("last", ())),
        workers=workers,
        hosts=_hosts(entries) if is_open else (),
        rungs=_rungs(rungs, [worker.task for worker in workers]),
        found=_value(entries, live_status.FOUND),
        hypervolume=volumes,
        store=_value(entries, live_status.STORE),
    )


def _volumes(ledger: LedgerView) -> tuple[float, ...]:
    events = ledger.all(EventKind.HYPERVOLUME).items()
    values = {key: event["value"] for key, event in events if key != REFERENCE}
    for key, value in values.items():
        check_finite(value, f"hypervolume {key}")
    return tuple(values.values())


def _state(entries: Mapping[str, StatusEntry], *, is_open: bool, is_complete: bool) -> State:
    if is_open:
        return "silent" if _silence(entries) > _SILENT_SECONDS else "working"
    has_ended = live_status.ENDED in entries or (not entries and is_complete)
    return "ended" if has_ended else "interrupted"


def _silence(entries: Mapping[str, StatusEntry]) -> float:
    """Seconds since the last heartbeat; 0 before the first."""
    return (
        max(0.0, time.time() - entries[live_status.HEART].at)
        if live_status.HEART in entries
        else 0.0
    )


def _workers(entries: Mapping[str, StatusEntry]) -> tuple[WorkerNow, ...]:
    now = time.time()
    return tuple(
        WorkerNow(
            worker["pid"],
            worker["task"],
            max(0.0, now - worker["since"]) if worker["task"] else 0.0,
            worker["share"],
            worker["waits"],
            worker.get("host", ""),
        )
        for worker in _value(entries, live_status.WORKERS).get("workers", ())
    )


def _hosts(entries: Mapping[str, StatusEntry]) -> tuple[HostNow, ...]:
    hosts = _value(entries, live_status.WORKERS).get("hosts", ())
    return tuple(HostNow(**{name: host[name] for name in _HOST}) for host in hosts)


def _rungs(finished: list[str], at_work: list[str]) -> tuple[RungNow, ...]:
    """Count trials by rung, from the keys of results and running tasks."""
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
    """The keys of rungs among `texts`."""
    keys: set[TrainingKey] = set()
    for text in texts:
        with contextlib.suppress(ValueError):  # A task that trains no trial.
            keys.add(TrainingKey.parse(text))
    return {key for key in keys if key.stage is Stage.RUNG}


def _value(entries: Mapping[str, StatusEntry], name: str) -> dict[str, Any]:
    """The value of an entry; empty where there is none, or one of another form."""
    if name not in entries or not _has_form(entries[name].value, _FORMS[name]):
        return {}
    return entries[name].value


def _has_form(value: Any, form: Any) -> bool:
    """Whether a value of JSON is as `_FORMS` describes it."""
    match form:
        case dict():
            return isinstance(value, dict) and all(
                _has_form(value[key], inner) if key in value else key in _OPTIONAL
                for key, inner in form.items()
            )
        case [inner]:
            return isinstance(value, list) and all(_has_form(each, inner) for each in value)
        case tuple():
            return any(_has_form(value, each) for each in form)
        case None:
            return value is None
    if form is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and abs(value) < MOST
    return type(value) is form


_TRIAL = {
    "number": int,
    "accuracy": (float, None),
    "size_bytes": float,
    "macs": float,
    "latency_ms": (float, None),
    "epochs": int,
}
"""A trial in the live status."""
_HOST = {
    **dict.fromkeys(("name", "state", "arithmetic", "reason"), str),
    **dict.fromkeys(("jobs", "busy", "tasks", "lost_workers"), int),
    **dict.fromkeys(("sent_bytes", "received_bytes", "idle_seconds"), float),
}
"""A host in the live status."""
_FORMS: dict[str, Any] = {
    live_status.COMMAND: {
        "words": str,
        "pid": int,
        "budget_seconds": (float, None),
        "trials": (int, None),
    },
    live_status.ENDED: {"error": str},
    live_status.PROGRESS: {"stage": str, "message": str, "done": float, "total": (float, None)},
    live_status.MESSAGES: {"last": [{"stage": str, "message": str, "at": float}]},
    live_status.WORKERS: {
        "workers": [
            {
                "pid": int,
                "task": str,
                "since": float,
                "share": float,
                "waits": bool,
                "host": str,
            }
        ],
        "hosts": [_HOST],
    },
    live_status.STORE: {
        "place": str,
        "generation": int,
        "events_behind": int,
        "files_behind": int,
        "bytes_written": int,
        "bytes_read": int,
        "requests": int,
        "error": str,
    },
    live_status.FOUND: {
        "best": (_TRIAL, None),
        "front": [_TRIAL],
        "trials": int,
        "eta_seconds": (float, None),
    },
}
"""Entry of the live status -> its fields: types, alternatives, lists of one form, objects."""
_OPTIONAL = {
    *("error", "words", "pid", "budget_seconds", "trials"),
    *("best", "front", "eta_seconds"),
    *("host", "hosts"),
}
"""Fields that an entry may lack, of all entries but progress and messages."""
