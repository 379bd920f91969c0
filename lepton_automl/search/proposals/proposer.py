"""Propose new trials that satisfy the cost limits, and record them in the ledger."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lepton_automl.config import Limits
from lepton_automl.core.events import Event
from lepton_automl.cost.cost import Cost, excess
from lepton_automl.cost.estimate import CostEstimator
from lepton_automl.errors import ArchError, ConfigError, InfeasibleError
from lepton_automl.models.arch import Arch
from lepton_automl.runs.ledger import EventKind
from lepton_automl.search.candidate_pool import CandidateEstimate, Params, even_draw
from lepton_automl.search.objectives import Objective
from lepton_automl.search.proposals.feasibility import CostCheck, Tally, impossible
from lepton_automl.search.proposals.repair import Near, Repair, spread
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.rungs import cycles
from lepton_automl.search.space.draw import RandomTrial, SpaceTrial, seed_of
from lepton_automl.search.space.parameters import Scalar
from lepton_automl.search.study import ARCH, Point, SearchStudy, outcomes_of, resumes_exactly
from lepton_automl.search.trials import Rejection, Trial, Trials
from lepton_automl.search.warm_start import read_warm_start
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.training.recipe import Recipe

METADATA_BYTES = 120
"""Fingerprint of the data and version in a file, with their keys."""
MANY_REJECTED = 20
"""Rejected points for one trial from which on the user is told once that limits bite."""
ASKED = 24
"""Points that the sampler proposes for one trial; after them, points are drawn evenly."""
REJECTED = 40
"""Points beyond the limits for one trial before the nearest of them are repaired."""
DRAWN = 150
"""Points for one trial in all: those that are known already cost next to nothing."""
STARTS = 3
"""Points that are repaired, one after the other."""
TIMED = 6
"""Points that are timed, whatever they break, to name the nearest."""


class CandidateEstimator:
    """Estimates what a point costs, from its graph alone or as it was checked.

    Parameters
    ----------
    draw : callable
        Makes an `Arch` and a `Recipe` from a trial.
    estimate : CostEstimator
        Estimates the cost of an architecture.
    limits : Limits
        What a net may cost.
    objectives : sequence of Objective
        Of the study, in its order.
    """

    def __init__(
        self, draw: Any, estimate: CostEstimator, limits: Limits, objectives: Sequence[Objective]
    ) -> None:
        self._draw, self._estimate, self._limits = draw, estimate, limits
        self._costs = {n: o for n, o in enumerate(objectives) if not o.needs_training}
        self._known: dict[frozenset[tuple[str, Any]], tuple[Params, Cost] | None] = {}
        self.most_macs = math.inf
        """A net with more could not be trained to the end in the time that is left."""

    def __call__(self, params: Params) -> CandidateEstimate | None:
        """The estimate; None where the layers do not fit together."""
        key = frozenset(params.items())
        if key not in self._known:
            self._known[key] = self._estimated(params)
        known = self._known[key]
        if known is None:
            return None
        used, cost = known
        violation = sum(excess(cost, self._limits).values())
        if cost.macs > self.most_macs:
            violation += (cost.macs - self.most_macs) / max(1.0, self.most_macs)
        values = {n: objective.value(None, cost) for n, objective in self._costs.items()}
        return CandidateEstimate(used, values, violation)

    def learn(self, params: Params, cost: Cost) -> None:
        """The cost of a point, as it was checked."""
        self._known[frozenset(params.items())] = dict(params), cost

    def _estimated(self, params: Params) -> tuple[Params, Cost] | None:
        trial = _UsedParams(0, params)
        try:
            arch, _ = self._draw(trial)
            arch.graph  # noqa: B018 - a cached property that raises
        except ArchError:
            return None
        self._estimate.reset()  # The same whatever was checked before.
        return {name: trial.params[name] for name in trial.used}, self._estimate(arch)


class _UsedParams(RandomTrial):
    """A draw that knows which of the values given to it were used."""

    def __init__(self, seed: int, given: Mapping[str, Scalar] | None = None) -> None:
        super().__init__(seed, given)
        self.used: list[str] = []

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any:
        self.used.append(name)
        return super().suggest_categorical(name, choices)

    def suggest_int(self, name: str, low: int, high: int, /, *, step: int) -> int:
        self.used.append(name)
        return super().suggest_int(name, low, high, step=step)

    def suggest_float(self, name: str, low: float, high: float, /, *, step: float) -> float:
        self.used.append(name)
        return super().suggest_float(name, low, high, step=step)


class Proposer:
    """New trials within the limits, written to the ledger as they come.

    Known-good points are enqueued first; then the sampler proposes. The int8 graph of every point
    is written and its cost checked before any training; a point beyond the limits is rejected with
    its constraints. After many of them the nearest are repaired, and the result is enqueued.

    Parameters
    ----------
    work : SearchRequest
        Space, data, limits, ledger.
    trials : Trials
        Those of earlier sessions; new ones are added.
    objectives : sequence of Objective
        Of the search.
    lock : MeasurementLock
        Makes workers pause while a candidate is timed.

    Raises
    ------
    ConfigError
        If there is no such sampler.
    """

    def __init__(
        self,
        work: SearchRequest,
        trials: Trials,
        objectives: Sequence[Objective],
        lock: MeasurementLock,
    ) -> None:
        self._work, self._trials = work, trials
        config, warm = work.config, read_warm_start(work.ledger)
        self.observed = warm.within(config.limits)
        """Trials of another run."""
        self.first = warm.begins_with(work.space.candidates)
        """Points that are enqueued before the sampler proposes any."""
        self._check = CostCheck(
            config.limits,
            work.target,
            label_bytes(work.dataset.class_names),
            needs_latency=config.limits.max_latency_ms is not None
            or any(objective.needs_timing for objective in objectives),
            ledger=work.ledger,
            lock=lock,
            model=work.latency_model,
        )
        self._measure_again()
        knobs = work.space.parameters()
        self.estimator = CandidateEstimator(
            self.draw, self._check.estimate, config.limits, objectives
        )
        self.study = SearchStudy(
            self.draw,
            knobs,
            objectives,
            self.estimator,
            sampler=config.sampler,
            seed=config.seed,
        )
        self._repair = Repair(self.draw, knobs, self._check)
        self._taken: set[tuple[str, str]] = set()
        self._rejected: list[Rejection] = []
        self._near: list[Near] = []
        self._tally = Tally(config.limits)
        self.exhausted = False
        """Nothing new is left in the space within the limits."""
        self._warned: set[str] = set()
        self._restore()
        if not resumes_exactly(config.sampler):
            self._tell(
                f"--sampler {config.sampler} keeps a state of its own: a run that is stopped and "
                "resumed may propose other trials than one that is not"
            )

    def draw(self, trial: SpaceTrial) -> tuple[Arch, Recipe]:
        """The net and recipe of a trial for these data and this target."""
        data = self._work.dataset
        return self._work.space.sample(
            trial,
            size=data.size,
            channels=data.channels,
            classes=len(data.class_names),
            target=self._work.target,
        )

    def add(self) -> Trial | None:
        """The next trial, recorded; None where the space is exhausted.

        Raises
        ------
        InfeasibleError
            If no point within the limits is known at all.
        """
        number = len(self._trials)
        candidate = self._propose(number)
        if candidate is None:
            if not number:
                raise ConfigError(
                    "all nets of the space within the limits were trained in the run that "
                    "--warm-start names",
                    fix="take what that run found (see `lepton pick`), or another --space",
                )
            self.exhausted = True
            self._tell("no untried net within the limits is left in the search space")
            return None
        self._warn(candidate)
        self._work.ledger.record(EventKind.TRIAL, str(number), candidate.to_event())
        self._trials.add(candidate)
        return candidate

    def begin(self, number: int) -> None:
        """The trial starts its next rung."""
        done = len(self._trials.results[number])
        self.study.begin(number, max(0, self._rungs(number) - 1 - done))

    def record(self, number: int) -> None:
        """The trial has finished a rung, whose result is known."""
        results = self._trials.results[number]
        outcome = outcomes_of(results, self._rungs(number))[-1]
        self.study.record(number, outcome, self._trials[number].cost)

    def _rungs(self, number: int) -> int:
        return len(cycles(self._trials.epochs_of(number), len(self._work.dataset.train)))

    def _restore(self) -> None:
        """Give the study all that the ledger knows, in the order in which it came about."""
        for other in self.observed:
            outcomes = [(left, accuracy, other.samples) for left, accuracy in other.results]
            self.study.restore(other.trial, outcomes, is_ours=False)
            self._learn(other.trial)
        for number, candidate in self._trials.items():
            results = self._trials.results[number]
            self.study.restore(candidate, outcomes_of(results, self._rungs(number)))
            self._learn(candidate)

    def _learn(self, candidate: Trial) -> None:
        self._taken.add((candidate.arch.hash, candidate.recipe_json))
        self.estimator.learn(candidate.params, candidate.cost)

    def _propose(self, number: int) -> Trial | None:
        """Trial `number`, or None where nothing new is left within the limits."""
        # What this trial becomes must not depend on anything that a resumed search lacks.
        self._rejected, self._near = [], []
        self._check.estimate.reset()
        for attempt in range(DRAWN):
            given = self._given(number, attempt)
            candidate = self._judged(number, self.study.ask(given), counts=True)
            if candidate is None and attempt == 0 and given is not None and self._near:
                candidate = self._enqueued(number, self._repair.shrink(self._near[0]))
            if candidate is not None:
                return candidate
            if len(self._near) == REJECTED:
                break
        least = {} if self._taken else self._least()
        hopeless = any(limit in near.excess for limit, near in least.items())
        repaired = self._repaired(number, 1 if hopeless else STARTS)
        if repaired is None and least:
            raise self._infeasible(least)
        return repaired

    def _given(self, number: int, attempt: int) -> Params | None:
        """A known-good point, None for the sampler's proposal, an even draw after many of them."""
        if attempt == 0 and number < len(self.first):
            return self.first[number]
        if attempt < ASKED:
            return None
        seed = seed_of(self._work.config.seed, "even", number, attempt)
        return even_draw(self.study.space, seed)

    def _judged(self, number: int, point: Point, *, counts: bool) -> Trial | None:
        """The point as a trial; None where it is rejected or known."""
        if point.arch is None or point.recipe is None:
            self._rejected.append(self.study.reject(point, {ARCH: 1.0}))
            return None
        cost = self._check(point.arch)
        broken = excess(cost, self._check.limits)
        if counts:
            self._tally.count(cost, broken)
        if broken:
            self._near.append(Near(point.params, point.arch, point.recipe, cost, broken))
            self._rejected.append(self.study.reject(point, broken))
            return None
        if _identity(point.arch, point.recipe) in self._taken:
            self._rejected.append(self.study.drop(point))
            return None
        self.study.accept(number, point)
        nets = point.arch.to_json(), point.recipe.to_json()
        about = (point.params, point.distributions, *nets, cost)
        candidate = Trial(number, *about, tuple(self._rejected))
        self._learn(candidate)
        return candidate

    def _repaired(self, number: int, starts: int) -> Trial | None:
        for start in spread(self._near, starts):
            found = self._repair.toward(start)
            self._near.append(found)
            candidate = self._enqueued(number, found)
            if candidate is not None:
                return candidate
        return None

    def _enqueued(self, number: int, found: Near) -> Trial | None:
        """What was repaired as a trial; None where it is no use."""
        if found.excess or _identity(found.arch, found.recipe) in self._taken:
            return None
        return self._judged(number, self.study.ask(found.params), counts=False)

    def _least(self) -> dict[str, Near]:
        """The net with the least of each limited cost; they are points to repair, too."""
        if not self._near:
            return {}
        nearest = min(self._near, key=lambda point: point.distance)
        least = {limit: self._repair.least(nearest, limit) for limit in self._check.limits.costs}
        self._near += least.values()
        return least

    def _infeasible(self, least: Mapping[str, Near]) -> InfeasibleError:
        """Why there is nothing: the least there is of each cost, and the nearest point of all."""
        costs = [self._check.whole(near.arch) for near in spread(self._near, TIMED)]
        nearest = min(costs, key=lambda cost: sum(excess(cost, self._check.limits).values()))
        smallest = {limit: near.cost for limit, near in least.items()}
        return impossible(self._check.limits, smallest, nearest)

    def _warn(self, candidate: Trial) -> None:
        """Say that limits bite: when one first takes long to meet, and when hardly any net does."""
        rejected = sum(bool(one.violation) for one in candidate.rejected)
        reasons = {"many": rejected >= MANY_REJECTED, "scarce": self._tally.is_scarce}
        new = {reason for reason, holds in reasons.items() if holds} - self._warned
        if new:
            self._warned |= new
            self._tell(self._tally.words())

    def _measure_again(self) -> None:
        """On another machine than before, measure the trials' latencies anew."""
        if self._check.elsewhere is None:
            return
        known = self._trials
        self._tell(
            f"latencies were measured on another machine ({self._check.elsewhere}): "
            f"{len(known)} are measured again"
        )
        for candidate in list(known.values()):
            known.replace(dataclasses.replace(candidate, cost=self._check.whole(candidate.arch)))

    def _tell(self, message: str) -> None:
        self._work.emit(Event("search", message))


def label_bytes(class_names: Sequence[str]) -> int:
    """What class names (where longer than numbers) and metadata add to a file, about."""
    numbered = sum(len(str(number)) for number in range(len(class_names)))
    return sum(len(name.encode()) for name in class_names) - numbered + METADATA_BYTES


def _identity(arch: Arch, recipe: Recipe) -> tuple[str, str]:
    return arch.hash, recipe.to_json()
