"""Propose new trials that satisfy the cost limits, and record them in the ledger."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lepton_automl.config import Limits
from lepton_automl.core.events import Event
from lepton_automl.cost.cost import Cost, violations
from lepton_automl.cost.estimate import CostEstimator
from lepton_automl.data.dataset import Dataset
from lepton_automl.errors import ArchError, ConfigError, InfeasibleError
from lepton_automl.models.arch import Arch
from lepton_automl.runs.ledger import EventKind
from lepton_automl.search.objectives import Objective
from lepton_automl.search.proposals import portfolio
from lepton_automl.search.proposals.feasibility import CostCheck, RejectionStats, infeasible_error
from lepton_automl.search.proposals.repair import CheckedPoint, Repair, spread
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.rungs import RUNGS, cycles, milestones
from lepton_automl.search.sampler.candidate_pool import (
    CandidateEstimate,
    Identity,
    Params,
    even_draw,
    identity_of,
)
from lepton_automl.search.seeds import seed_of
from lepton_automl.search.space.draw import RandomTrial, SpaceTrial
from lepton_automl.search.space.parameters import Scalar
from lepton_automl.search.study import ARCH, Proposal, SearchStudy, outcomes_of, resumes_exactly
from lepton_automl.search.time_plan import work_of
from lepton_automl.search.trials import RejectedProposal, Trial, Trials
from lepton_automl.search.warm_start import read_warm_start
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.training.recipe import Recipe

_ESTIMATES = 4096
"""Estimates that are kept at most: more than the draws for a pool of candidates."""
_METADATA_BYTES = 120
"""Data fingerprint and version in a file, with their keys."""
MANY_REJECTED = 20
"""Rejected points for one trial from which on a message explains the limits, once."""
ASKED = 24
"""Points that the sampler proposes for one trial; after them, points are drawn uniformly."""
_REJECTED = 40
"""Infeasible points for one trial before those with the smallest violations are repaired."""
_LAST_PROPOSALS = 3
"""The time of the next proposal is estimated from so many before it."""
_POINTS = 150
"""Points for one trial in all, duplicates of trials included."""
_STARTS = 3
"""Points that are repaired for one trial."""
_MEASURED = 6
"""Infeasible points whose latency is measured to find the smallest violation."""


class CandidateEstimator:
    """Estimates the cost of a point from its graph; a checked cost replaces the estimate.

    Parameters
    ----------
    draw : callable
        Makes an `Arch` and a `Recipe` from a trial.
    costs : CostEstimator
        Estimates the cost of an architecture.
    limits : Limits
        Limits of the costs.
    objectives : sequence of Objective
        Of the study, in its order.
    """

    def __init__(
        self,
        draw: Callable[[SpaceTrial], tuple[Arch, Recipe]],
        costs: CostEstimator,
        limits: Limits,
        objectives: Sequence[Objective],
    ) -> None:
        self._draw, self._costs, self._limits = draw, costs, limits
        self._cost_objectives = {n: o for n, o in enumerate(objectives) if not o.needs_training}
        self._checked: dict[Identity, tuple[CandidateEstimate, int]] = {}
        """Of trials; without `most_macs`, with the multiply-accumulates."""
        self._estimates: dict[Identity, tuple[CandidateEstimate, int] | None] = {}
        self.most_macs = math.inf
        """Multiply-accumulates of the largest net that can be trained to its last rung in time."""

    def __call__(self, params: Params) -> CandidateEstimate | None:
        """The estimate; None where the layers do not fit together."""
        key = identity_of(params)
        known = self._checked.get(key)
        if known is None:
            if key not in self._estimates:
                self._forget_oldest()
                self._estimates[key] = self._estimated(params)
            known = self._estimates[key]
        if known is None:
            return None
        estimate, macs = known
        if macs <= self.most_macs:
            return estimate
        excess = (macs - self.most_macs) / max(1.0, self.most_macs)
        return dataclasses.replace(estimate, violation=estimate.violation + excess)

    def learn(self, params: Params, cost: Cost) -> None:
        """Store the checked cost of a point."""
        key = identity_of(params)
        self._checked[key] = self._judged(dict(params), cost)
        self._estimates.pop(key, None)

    def _forget_oldest(self) -> None:
        """Keep the newest estimates; those that are needed again are the same again."""
        if len(self._estimates) >= _ESTIMATES:
            for key in list(self._estimates)[: _ESTIMATES // 2]:
                del self._estimates[key]

    def _judged(self, used: Params, cost: Cost) -> tuple[CandidateEstimate, int]:
        violation = sum(violations(cost, self._limits).values())
        values = {n: objective.value(None, cost) for n, objective in self._cost_objectives.items()}
        return CandidateEstimate(used, values, violation), cost.macs

    def _estimated(self, params: Params) -> tuple[CandidateEstimate, int] | None:
        trial = _UsedParams(0, params)
        try:
            arch, _ = self._draw(trial)
            arch.graph  # noqa: B018 - a cached property that raises
        except ArchError:
            return None
        self._costs.reset()  # Estimates must not depend on the nets checked before.
        return self._judged({name: trial.params[name] for name in trial.used}, self._costs(arch))


class _UsedParams(RandomTrial):
    """A draw that lists which of the given values were used."""

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
    """New trials that satisfy the limits, recorded in the ledger.

    Known-good points are enqueued first; then the sampler proposes. The int8 file of every point is
    written and its cost is checked before any training; an infeasible point is rejected with its
    constraints. After many rejections those with the smallest violations are repaired and enqueued.

    Parameters
    ----------
    work : SearchRequest
        Space, data, limits, ledger.
    trials : Trials
        Trials of earlier sessions; new ones are added.
    objectives : sequence of Objective
        Of the search.
    lock : MeasurementLock
        Workers pause while it is held to measure a latency.

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
        self.first = portfolio.distinct(
            warm.begins_with(work.space.candidates_for(work.dataset.size)), self.draw
        )
        """Points that are enqueued before the sampler proposes any."""
        self._check = CostCheck(
            config.limits,
            work.target,
            label_bytes(work.dataset.class_names) + input_bytes(work.dataset),
            needs_latency=config.limits.max_latency_ms is not None
            or any(objective.needs_timing for objective in objectives),
            ledger=work.ledger,
            lock=lock,
            model=work.latency_model,
            stopwatch=work.stopwatch,
        )
        self._measure_again()
        parameters = work.space.parameters()
        self.estimator = CandidateEstimator(
            self.draw, self._check.estimator, config.limits, objectives
        )
        self.study = SearchStudy(
            self.draw,
            parameters,
            objectives,
            self.estimator,
            sampler=config.sampler,
            seed=config.seed,
        )
        self._repair = Repair(self.draw, parameters, self._check)
        self._taken: set[tuple[str, str]] = set()
        self._rejected: list[RejectedProposal] = []
        self._infeasible: list[CheckedPoint] = []
        self._rejection_stats = RejectionStats(config.limits)
        self.exhausted = False
        """Whether no new point that satisfies the limits was found."""
        self._warned: set[str] = set()
        self._seconds: deque[float] = deque(maxlen=_LAST_PROPOSALS)
        self._restore()
        if not resumes_exactly(config.sampler):
            self._emit(
                f"--sampler {config.sampler} has an internal state that is not stored: an "
                "interrupted and resumed run may propose other trials than an uninterrupted one"
            )

    def draw(self, trial: SpaceTrial) -> tuple[Arch, Recipe]:
        """Architecture and recipe of a trial for these data and this target."""
        data = self._work.dataset
        return self._work.space.sample(
            trial,
            size=data.size,
            channels=data.channels,
            classes=len(data.class_names),
            target=self._work.target,
        )

    def add(self, deadline: float = math.inf) -> Trial | None:
        """Propose the next trial and record it; None where the space is exhausted or time is over.

        Parameters
        ----------
        deadline : float
            `time.monotonic()` after which no proposal becomes a trial.

        Raises
        ------
        InfeasibleError
            If no point of the space satisfies the limits.
        """
        number, begun = len(self._trials), time.monotonic()
        trial = self._propose(number, deadline)
        self._seconds.append(time.monotonic() - begun)
        if trial is None and time.monotonic() > deadline:
            return None
        if trial is None:
            if not number:
                raise ConfigError(
                    "the --warm-start run has trained every net that satisfies the limits",
                    fix="use the result of that run (`lepton pick`), or another --space",
                )
            self.exhausted = True
            self._emit("no untried net within the limits is left in the search space")
            return None
        self._warn(trial)
        self._work.ledger.record(EventKind.TRIAL, str(number), trial.to_event())
        self._trials.add(trial)
        return trial

    def known_nets(self) -> list[portfolio.KnownNet]:
        """Size of one epoch of the net that is trained for each of `first`.

        Where a point breaks a limit, that is what it is shrunk to. Empty where the layers of one of
        them do not fit together.
        """
        found = []
        self._check.estimator.reset()
        for point in self.first:
            given = RandomTrial(0, dict(point))
            try:
                arch, recipe = self.draw(given)
                macs = self._trained_macs(given.params, arch, recipe)
            except ArchError:
                return []
            work = work_of(macs, len(self._work.dataset.train), 1)
            found.append(portfolio.KnownNet(work, recipe.epochs))
        return found

    def _trained_macs(self, params: dict[str, Any], arch: Arch, recipe: Recipe) -> int:
        """Multiply-accumulates of the net that is trained for a known-good point.

        Of one that cannot be shrunk to the limits, the sampler proposes another in its place: the
        first trial says how large such nets are.
        """
        if not self._check.limits.costs:
            return arch.graph.macs
        cost = self._check(arch)
        point = CheckedPoint(params, arch, recipe, cost, violations(cost, self._check.limits))
        if point.violations:
            point = self._repair.shrink(point)
        if point.violations and self._trials:
            return min(cost.macs, self._trials[0].cost.macs)
        return point.cost.macs

    @property
    def has_known_good(self) -> bool:
        """Whether the next trial is one of the points that are enqueued first."""
        return len(self._trials) - self._first_trial < len(self.first)

    @property
    def seconds(self) -> float:
        """Seconds of a proposal, the longest of the last ones; 0 before the first."""
        return max(self._seconds, default=0.0)

    def begin(self, number: int) -> None:
        """Pass the start of the trial's next rung to the study."""
        done = len(self._trials.results[number])
        self.study.begin(number, max(0, self._rungs(number) - 1 - done))

    def record(self, number: int) -> None:
        """Pass the result of the trial's last finished rung to the study."""
        results = self._trials.results[number]
        outcome = outcomes_of(results, self._rungs(number))[-1]
        self.study.record(number, outcome, self._trials[number].cost)

    def _rungs(self, number: int) -> int:
        """Rungs of a trial; of one of an earlier plan also those that it lacks to the newest."""
        samples, plan = len(self._work.dataset.train), self._trials.plan
        own = self._trials.epochs_of(number)
        if number >= self._first_trial or plan is None:
            return len(cycles(own, samples))
        longest = milestones(plan.epochs or self._trials[number].recipe.epochs, samples)
        beyond = sum(epochs > own for epochs in longest)
        return min(RUNGS, len(cycles(own, samples)) + beyond)

    @property
    def _first_trial(self) -> int:
        """Number of the first trial of the newest plan."""
        return self._trials.plan.first_trial if self._trials.plan else 0

    def _restore(self) -> None:
        """Add the trials of the ledger to the study, in their order."""
        for other in self.observed:
            outcomes = [(left, accuracy, other.samples) for left, accuracy in other.results]
            self.study.restore(other.trial, outcomes, is_ours=False)
            self._learn(other.trial)
        for number, trial in self._trials.items():
            results = self._trials.results[number]
            self.study.restore(trial, outcomes_of(results, self._rungs(number)))
            # A point that an earlier plan trained briefly may be trained again, for longer.
            self._learn(trial, is_taken=number >= self._first_trial)

    def _learn(self, trial: Trial, *, is_taken: bool = True) -> None:
        if is_taken:
            self._taken.add((trial.arch.hash, trial.recipe_json))
        self.estimator.learn(trial.params, trial.cost)

    def _propose(self, number: int, deadline: float) -> Trial | None:
        """Trial `number`; None where no new feasible point is found."""
        # The trial must not depend on anything that a resumed search lacks.
        self._rejected, self._infeasible = [], []
        self._check.estimator.reset()
        for attempt in range(_POINTS):
            given = self._given(number, attempt)
            proposal = self.study.ask(given)
            if time.monotonic() > deadline:
                self.study.drop(proposal)
                return None
            trial = self._checked(number, proposal, counts=True)
            if trial is None and attempt == 0 and given is not None and self._infeasible:
                trial = self._enqueued(number, self._repair.shrink(self._infeasible[0]))
            if trial is not None:
                return trial
            if len(self._infeasible) == _REJECTED:
                break
        least = {} if self._taken else self._least()
        is_infeasible = any(limit in point.violations for limit, point in least.items())
        repaired = self._repaired(number, 1 if is_infeasible else _STARTS)
        if repaired is None and least:
            raise self._infeasible_error(least)
        return repaired

    def _given(self, number: int, attempt: int) -> Params | None:
        """Values to enqueue: of a known-good point, or uniform ones after many proposals."""
        place = number - self._first_trial
        if attempt == 0 and place < len(self.first):
            return self.first[place]
        if attempt < ASKED:
            return None
        seed = seed_of(self._work.config.seed, "even", number, attempt)
        return even_draw(self.study.space, seed)

    def _checked(self, number: int, proposal: Proposal, *, counts: bool) -> Trial | None:
        """The proposal as a trial; None where it is infeasible or a trial already."""
        if proposal.arch is None or proposal.recipe is None:
            self._rejected.append(self.study.reject(proposal, {ARCH: 1.0}))
            return None
        cost = self._check(proposal.arch)
        broken = violations(cost, self._check.limits)
        if counts:
            self._rejection_stats.count(cost, broken)
        if broken:
            self._infeasible.append(
                CheckedPoint(proposal.params, proposal.arch, proposal.recipe, cost, broken)
            )
            self._rejected.append(self.study.reject(proposal, broken))
            return None
        if _identity(proposal.arch, proposal.recipe) in self._taken:
            self._rejected.append(self.study.drop(proposal))
            return None
        self.study.accept(number, proposal)
        nets = proposal.arch.to_json(), proposal.recipe.to_json()
        about = (proposal.params, proposal.distributions, *nets, cost)
        trial = Trial(number, *about, tuple(self._rejected))
        self._learn(trial)
        return trial

    def _repaired(self, number: int, starts: int) -> Trial | None:
        for start in spread(self._infeasible, starts):
            found = self._repair.toward(start)
            self._infeasible.append(found)
            trial = self._enqueued(number, found)
            if trial is not None:
                return trial
        return None

    def _enqueued(self, number: int, found: CheckedPoint) -> Trial | None:
        """A repaired point as a trial; None where it is infeasible or a trial already."""
        if found.violations or _identity(found.arch, found.recipe) in self._taken:
            return None
        return self._checked(number, self.study.ask(found.params), counts=False)

    def _least(self) -> dict[str, CheckedPoint]:
        """The point with the smallest of each limited cost; they are repaired as well."""
        if not self._infeasible:
            return {}
        nearest = min(self._infeasible, key=lambda point: point.violation)
        least = {limit: self._repair.least(nearest, limit) for limit in self._check.limits.costs}
        self._infeasible += least.values()
        return least

    def _infeasible_error(self, least: Mapping[str, CheckedPoint]) -> InfeasibleError:
        """The error with the smallest value of each cost and the smallest violation."""
        costs = [self._check.whole(near.arch) for near in spread(self._infeasible, _MEASURED)]
        nearest = min(costs, key=lambda cost: sum(violations(cost, self._check.limits).values()))
        smallest = {limit: near.cost for limit, near in least.items()}
        return infeasible_error(self._check.limits, smallest, nearest)

    def _warn(self, trial: Trial) -> None:
        """Explain the limits, once after many rejections and once where few points satisfy them."""
        rejected = sum(bool(one.violation) for one in trial.rejected)
        reasons = {"many": rejected >= MANY_REJECTED, "scarce": self._rejection_stats.is_scarce}
        new = {reason for reason, holds in reasons.items() if holds} - self._warned
        if new:
            self._warned |= new
            self._emit(self._rejection_stats.summary())

    def _measure_again(self) -> None:
        """Measure the latencies of all trials again where another machine measured them."""
        if self._check.other_machine is None:
            return
        known = self._trials
        self._emit(
            f"latencies were measured on another machine ({self._check.other_machine}): "
            f"{len(known)} are measured again"
        )
        for trial in list(known.values()):
            known.replace(dataclasses.replace(trial, cost=self._check.whole(trial.arch)))

    def _emit(self, message: str) -> None:
        self._work.emit(Event("search", message))


def label_bytes(class_names: Sequence[str]) -> int:
    """Bytes that class names (where longer than numbers) and metadata add to a file, about."""
    numbered = sum(len(str(number)) for number in range(len(class_names)))
    return sum(len(name.encode()) for name in class_names) - numbered + _METADATA_BYTES


def input_bytes(dataset: Dataset) -> int:
    """Bytes that the quantization of grey or RGB pixels of 16 bits adds to a file, about.

    Of other inputs the files with random weights have it too.
    """
    is_16_bit = dataset.input_type == "uint16" and dataset.channels in (1, 3)
    return (210 if dataset.channels == 1 else 430) if is_16_bit else 0


def _identity(arch: Arch, recipe: Recipe) -> tuple[str, str]:
    return arch.hash, recipe.to_json()
