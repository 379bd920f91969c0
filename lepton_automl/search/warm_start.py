"""Copy what another run knows into the ledger of this run, before its first trial."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_automl.config import Limits
from lepton_automl.cost.cost import excess
from lepton_automl.errors import ConfigError
from lepton_automl.runs.folder import Definition, RunFolder, locate
from lepton_automl.runs.ledger import EventKind, Ledger, LedgerView
from lepton_automl.search import progress
from lepton_automl.search.objectives import load as load_objective
from lepton_automl.search.rungs import cycles
from lepton_automl.search.space.parameters import Parameter
from lepton_automl.search.space.search_space import SearchSpace
from lepton_automl.search.trials import Trial, Trials, read_trials

START = "start"
"""Key of the `EventKind.WARM_START` event with all that is used of the other run."""
MOST_FIRST = 10
"""Nets of the other run's front that are trained first; evenly along it where there are more."""
SHOWN = 3
"""Parameters that do not fit, in a message."""


@dataclass(frozen=True, eq=False)
class KnownTrial:
    """A candidate that another run has trained under the same conditions."""

    candidate: Trial
    results: tuple[tuple[int, float | None], ...]
    """(rungs left after it, share of the same validation samples right) of each of its rungs, at
    least one; None where the training failed."""
    samples: int = 1
    """Of the validation part."""

    @property
    def accuracy(self) -> float | None:
        """After its first rung."""
        return self.results[0][1]

    @property
    def best(self) -> float | None:
        """After the last rung that did not fail; None where the first did."""
        return next((a for _, a in reversed(self.results) if a is not None), None)


@dataclass(frozen=True, eq=False)
class WarmStart:
    """What a search begins with; nothing where no other run is used."""

    first: tuple[dict[str, Any], ...] = ()
    """Parameters of the first candidates."""
    observed: tuple[KnownTrial, ...] = ()
    """Known as if this run had trained them; never trained or chosen here."""

    def within(self, limits: Limits) -> list[KnownTrial]:
        """Those observed that this run's limits admit."""
        return [known for known in self.observed if not excess(known.candidate.cost, limits)]

    def begins_with(self, points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """What is tried first where a space names `points`: those the other run has not trained."""
        known = [observed.candidate.params for observed in self.observed]
        unseen = [point for point in points if not any(is_at(params, point) for params in known)]
        return [*self.first, *unseen]


@dataclass(frozen=True)
class Source:
    """The other run as this run's definition names it."""

    place: str = ""
    """Its folder; empty without one."""
    digest: str = ""
    """Of what it had recorded."""
    event: Mapping[str, Any] | None = None
    """What is to be copied; None where it was copied before."""

    def keep(self, ledger: Ledger) -> str:
        """Copy it, once; a line that says what will be done with it, or nothing."""
        if self.event is None or ledger.get(EventKind.WARM_START, START) is not None:
            return ""
        ledger.record(EventKind.WARM_START, START, self.event)
        if self.event["observed"]:
            count = len(self.event["observed"])
            return f"warm start: the results of {count} trials of {self.place} are reused"
        first = self.event["first"]
        told = f"warm start: the front of {self.place}, {len(first)} nets, is trained first"
        strange = self.event["strange"]
        more = f" and {len(strange) - SHOWN} more" if len(strange) > SHOWN else ""
        return (
            told
            + f"; parameters not in this search space: {', '.join(strange[:SHOWN])}{more}"
            * bool(strange)
        )


def read_warm_start(ledger: LedgerView) -> WarmStart:
    """What was copied into this ledger."""
    event = ledger.get(EventKind.WARM_START, START)
    if event is None:
        return WarmStart()
    observed = [
        KnownTrial(
            Trial.from_event(known["candidate"]),
            tuple((n, a) for n, a in known["results"]),
            known["samples"],
        )
        for known in event["observed"]
    ]
    return WarmStart(tuple(event["first"]), tuple(observed))


def source(
    other: Path | None,
    folder: RunFolder,
    wanted: Definition,
    space: SearchSpace,
    *,
    samples: int,
    budget_seconds: float | None,
    fresh: bool,
) -> Source:
    """The run in `other`, read as far as a search under `wanted` can use it.

    With the same space, data and target and as much time, its candidates count as known. Else
    its front is trained first: under other conditions its accuracies mean nothing, but which
    nets were good does. A run that was begun with it before needs it no more.

    Parameters
    ----------
    other : Path or None
        A run folder.
    folder : RunFolder
        This run's.
    wanted : Definition
        Of this run, less the warm start.
    space : SearchSpace
        Of this run.
    samples : int
        Of the training part.
    budget_seconds : float or None
        Of this search; None where the number of trials ends it.
    fresh : bool
        What lies in `folder` is moved aside.

    Raises
    ------
    DataError
        If there is no run in `other`.
    ConfigError
        If it is this run, has trained nothing, or nothing of it fits.
    """
    if other is None:
        return Source()
    place = str(other.resolve())
    digest = None if fresh else _digest_used(folder, place)
    if digest is not None:
        return Source(place, digest)
    found = locate(other)
    if found.path.resolve() == folder.path.resolve():
        raise ConfigError(
            f"{other} is this run itself", fix="leave --warm-start out to go on with it"
        )
    try:
        known = found.definition()
    except ConfigError as error:
        raise ConfigError(
            error.what, fix="give --warm-start a run of this version, or leave it out"
        ) from error
    with LedgerView(found.ledger) as ledger:
        trials = read_trials(ledger)
        if not trials.trained():
            raise ConfigError(
                f"{other} has trained nothing yet", fix="give a run that has, or no --warm-start"
            )
        is_same = _conditions(known) == _conditions(wanted)
        if is_same and _length(ledger, trials) == budget_seconds:
            event: dict[str, Any] = {"first": [], "observed": _observed(trials, wanted, samples)}
        else:
            points = _front(ledger, trials, known)
            first = _fitting(points, space, other)
            kept = {path for point in first for path in point}
            strange = sorted({path for point in points for path in point} - kept)
            event = {"first": first, "observed": [], "strange": strange}
        return Source(place, _digest(ledger), event)


def _digest_used(folder: RunFolder, place: str) -> str | None:
    """The digest of what this run took from there before; None where it took nothing."""
    if not folder.definition_file.is_file() or not folder.ledger.is_file():
        return None
    known = folder.definition()
    with LedgerView(folder.ledger) as ledger:
        is_copied = ledger.get(EventKind.WARM_START, START) is not None
    return known.warm_digest if is_copied and known.warm_start == place else None


def _digest(ledger: LedgerView) -> str:
    digest = hashlib.sha256()
    for kind, key, value in ledger.events():
        if kind in {EventKind.TRIAL, EventKind.RUNG}:
            digest.update(json.dumps([kind, key, value]).encode())
    return digest.hexdigest()[:16]


def _conditions(known: Definition) -> tuple[object, ...]:
    same = known.space_digest, known.data_fingerprint, known.target, known.latency_from
    return *same, known.balanced


def _length(ledger: LedgerView, trials: Trials) -> float | None:
    """Seconds that the other search was given; None without a budget, 0 where nobody knows."""
    if trials.plan is None or trials.plan.epochs is None:
        return None
    winners = list(ledger.all(EventKind.WINNER).values())
    return winners[-1]["budget_seconds"] if winners else 0.0


def _observed(trials: Trials, wanted: Definition, samples: int) -> list[dict[str, Any]]:
    is_timed = "latency_ms" in wanted.objectives or wanted.limits.max_latency_ms is not None
    found = []
    for number, scores in trials.results.items():
        candidate = trials[number]
        if not scores or (is_timed and candidate.cost.latency_ms is None):
            continue
        last = len(cycles(trials.epochs_of(number), samples)) - 1
        results = [
            (max(0, last - rung), None if score.failed else score.accuracy)
            for rung, score in enumerate(scores)
        ]
        # Its refused points broke limits that may not be this run's.
        event = candidate.to_event() | {"rejected": []}
        answered = max(score.samples for score in scores)
        found.append({"candidate": event, "results": results, "samples": max(1, answered)})
    return found


def _front(ledger: LedgerView, trials: Trials, known: Definition) -> list[dict[str, Any]]:
    """Parameters of the winner, then of its front from the most accurate on."""
    objectives = [load_objective(name) for name in known.objectives]
    numbers = [row.number for row in progress.front_of(trials, objectives)]
    winners = [event["number"] for event in ledger.all(EventKind.WINNER).values()][-1:]
    rest = [number for number in numbers if number not in winners]
    room = MOST_FIRST - len(winners)
    if len(rest) > room:
        rest = [rest[round(i * (len(rest) - 1) / (room - 1))] for i in range(room)]
    return [trials[number].params for number in (*winners, *rest)]


def _fitting(
    points: Sequence[Mapping[str, Any]], space: SearchSpace, other: Path
) -> list[dict[str, Any]]:
    """What of each point can be chosen in this space, every one once."""
    knobs = space.parameters()
    found: list[dict[str, Any]] = []
    for point in points:
        fits = {path: value for path, value in point.items() if _admits(knobs.get(path), value)}
        if fits and fits not in found:
            found.append(fits)
    if not found:
        differs = [
            f"{path} is {value} there, {_choices(knobs.get(path))} here"
            for path, value in list(points[0].items())[:SHOWN]
        ]
        raise ConfigError(
            f"no parameter of {other} fits the space {space.name}: {'; '.join(differs)}",
            fix="use the same --space as that run, or leave --warm-start out",
        )
    return found


def is_at(params: Mapping[str, Any], point: Mapping[str, Any]) -> bool:
    """Whether all that was asked for is as in `point`, which may hold more."""
    return all(params[path] == value for path, value in point.items() if path in params)


def _choices(knob: Parameter | None) -> str:
    return "not open" if knob is None else " or ".join(map(str, knob.values))


def _admits(knob: Parameter | None, value: Any) -> bool:
    return knob is not None and any(value == v and type(value) is type(v) for v in knob.values)
