"""Warm start: reuse the trials of another run, or train its front first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_automl.config import Limits
from lepton_automl.core.files import real_path
from lepton_automl.cost.cost import violations
from lepton_automl.errors import ConfigError
from lepton_automl.runs.definition import Definition
from lepton_automl.runs.folder import RunFolder, locate
from lepton_automl.runs.ledger import EventKind, Ledger, LedgerView
from lepton_automl.search import progress
from lepton_automl.search.objectives import load as load_objective
from lepton_automl.search.rungs import cycles
from lepton_automl.search.space.parameters import Parameter
from lepton_automl.search.space.search_space import SearchSpace
from lepton_automl.search.trials import Trial, Trials, read_trials

START = "start"
"""Key of the `EventKind.WARM_START` event with everything that is used of the other run."""
MAX_INITIAL = 10
"""Most trials of the other run's front that are trained first, evenly spaced on it."""
_SHOWN = 3
"""Most parameters in a message."""


@dataclass(frozen=True, eq=False)
class PriorTrial:
    """A trial that another run has trained under the same conditions."""

    trial: Trial
    results: tuple[tuple[int, float | None], ...]
    """(rungs after it, accuracy on the same validation samples) of each of its rungs, at least one;
    None where the training failed."""
    samples: int = 1
    """Number of validation samples."""

    @property
    def accuracy(self) -> float | None:
        """Accuracy after the first rung."""
        return self.results[0][1]

    @property
    def best(self) -> float | None:
        """Accuracy after the last rung that did not fail; None if the first one failed."""
        return next((a for _, a in reversed(self.results) if a is not None), None)


@dataclass(frozen=True, eq=False)
class WarmStart:
    """What a search takes from another run; empty without one."""

    first: tuple[dict[str, Any], ...] = ()
    """Parameters of the first trials."""
    observed: tuple[PriorTrial, ...] = ()
    """Trials whose results are used for the proposals; they are not trained or selected here."""

    def within(self, limits: Limits) -> list[PriorTrial]:
        """The observed trials within `limits`."""
        return [known for known in self.observed if not violations(known.trial.cost, limits)]

    def begins_with(self, points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Parameters of the first trials, then the `points` that the other run has not trained."""
        known = [observed.trial.params for observed in self.observed]
        unseen = [point for point in points if not any(is_at(params, point) for params in known)]
        return [*self.first, *unseen]


@dataclass(frozen=True)
class WarmStartSource:
    """The other run, as the definition of this run names it."""

    place: str = ""
    """Its folder; empty without another run."""
    digest: str = ""
    """Digest of its trials and results."""
    event: Mapping[str, Any] | None = None
    """What is copied; None where it was copied before."""

    def keep(self, ledger: Ledger) -> str:
        """Copy the event once; returns a message for the user, empty if nothing is copied."""
        if self.event is None or ledger.get(EventKind.WARM_START, START) is not None:
            return ""
        ledger.record(EventKind.WARM_START, START, self.event)
        if self.event["observed"]:
            count = len(self.event["observed"])
            return f"warm start: the results of {count} trials of {self.place} are reused"
        first = self.event["first"]
        message = f"warm start: the front of {self.place}, {len(first)} nets, is trained first"
        unknown = self.event["unknown"]
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        return (
            message
            + f"; parameters not in this search space: {', '.join(unknown[:_SHOWN])}{more}"
            * bool(unknown)
        )


def read_warm_start(ledger: LedgerView) -> WarmStart:
    """Read what was copied into this ledger."""
    event = ledger.get(EventKind.WARM_START, START)
    if event is None:
        return WarmStart()
    observed = [
        PriorTrial(
            Trial.from_event(known["trial"]),
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
) -> WarmStartSource:
    """Read what a search with the definition `wanted` can use of the run in `other`.

    With the same space, data, target and time its results are reused. Otherwise, or where latency
    counts here and was not measured there, its front is trained first: accuracies under other
    conditions are not comparable, but good nets stay good.
    A run that has copied it before does not read it again.

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
        Whether an old run in `folder` is moved aside.

    Raises
    ------
    DataError
        If there is no run in `other`.
    ConfigError
        If it is this run, has trained nothing, or nothing of it fits.
    """
    if other is None:
        return WarmStartSource()
    place = str(real_path(other))
    digest = None if fresh else _digest_used(folder, place)
    if digest is not None:
        return WarmStartSource(place, digest)
    found = locate(other)
    if real_path(found.path) == real_path(folder.path):
        raise ConfigError(
            f"{other} is this run itself", fix="leave --warm-start out to continue it"
        )
    try:
        known = found.definition()
    except ConfigError as error:
        raise ConfigError(
            error.what, fix="give --warm-start a run of this version, or leave it out"
        ) from error
    with found.read_ledger() as ledger:
        trials = read_trials(ledger)
        if not trials.trained():
            raise ConfigError(
                f"{other} has trained nothing yet", fix="give a run that has, or no --warm-start"
            )
        is_same = _conditions(known) == _conditions(wanted)
        is_same = is_same and _length(ledger, trials) == budget_seconds
        observed = _observed(trials, wanted, samples) if is_same else []
        if observed:
            event: dict[str, Any] = {"first": [], "observed": observed}
        else:
            points = _front(ledger, trials, known)
            first = _fitting(points, space, other)
            kept = {path for point in first for path in point}
            unknown = sorted({path for point in points for path in point} - kept)
            event = {"first": first, "observed": [], "unknown": unknown}
        return WarmStartSource(place, _digest(ledger), event)


def _digest_used(folder: RunFolder, place: str) -> str | None:
    """Digest of what this run copied from `place` before; None where it copied nothing."""
    if not folder.definition_file.is_file() or not folder.ledger.is_file():
        return None
    known = folder.definition()
    with folder.read_ledger() as ledger:
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
    return *same, known.balanced, known.flip, known.channels


def _length(ledger: LedgerView, trials: Trials) -> float | None:
    """Budget of the other search in seconds; None without one, 0 where it is not known."""
    if trials.plan is None or trials.plan.epochs is None:
        return None
    winners = list(ledger.all(EventKind.WINNER).values())
    return winners[-1]["budget_seconds"] if winners else 0.0


def _observed(trials: Trials, wanted: Definition, samples: int) -> list[dict[str, Any]]:
    is_timed = "latency_ms" in wanted.objectives or wanted.limits.max_latency_ms is not None
    found = []
    for number, results in trials.results.items():
        trial = trials[number]
        if not results or (is_timed and trial.cost.latency_ms is None):
            continue
        last = len(cycles(trials.epochs_of(number), samples)) - 1
        accuracies = [
            (max(0, last - rung), None if result.failed else result.accuracy)
            for rung, result in enumerate(results)
        ]
        # Its rejected points violate limits of the other run.
        event = trial.to_event() | {"rejected": []}
        count = max(result.samples for result in results)
        found.append({"trial": event, "results": accuracies, "samples": max(1, count)})
    return found


def _front(ledger: LedgerView, trials: Trials, known: Definition) -> list[dict[str, Any]]:
    """Parameters of the winner, then of its front from the most accurate on."""
    objectives = [load_objective(name) for name in known.objectives]
    numbers = [row.number for row in progress.front_of(trials, objectives)]
    winners = [event["number"] for event in ledger.all(EventKind.WINNER).values()][-1:]
    rest = [number for number in numbers if number not in winners]
    places = MAX_INITIAL - len(winners)
    if len(rest) > places:
        rest = [rest[round(i * (len(rest) - 1) / (places - 1))] for i in range(places)]
    return [trials[number].params for number in (*winners, *rest)]


def _fitting(
    points: Sequence[Mapping[str, Any]], space: SearchSpace, other: Path
) -> list[dict[str, Any]]:
    """The parameters of each point that this space has too, without duplicates."""
    parameters = space.parameters()
    found: list[dict[str, Any]] = []
    for point in points:
        fits = {
            path: value for path, value in point.items() if _has_value(parameters.get(path), value)
        }
        if fits and fits not in found:
            found.append(fits)
    if not found:
        differs = [
            f"{path} is {value} there, {_choices(parameters.get(path))} here"
            for path, value in list(points[0].items())[:_SHOWN]
        ]
        raise ConfigError(
            f"no parameter of {other} fits the space {space.name}: {'; '.join(differs)}",
            fix="use the same --space as that run, or leave --warm-start out",
        )
    return found


def is_at(params: Mapping[str, Any], point: Mapping[str, Any]) -> bool:
    """Whether all `params` have the values in `point`, which may have more parameters."""
    return all(params[path] == value for path, value in point.items() if path in params)


def _choices(parameter: Parameter | None) -> str:
    return "not open" if parameter is None else " or ".join(map(str, parameter.values))


def _has_value(parameter: Parameter | None, value: Any) -> bool:
    return parameter is not None and any(
        value == v and type(value) is type(v) for v in parameter.values
    )
