"""Propose new trials that satisfy the cost limits and record them in the ledger."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lepton_automl.core.events import Event
from lepton_automl.cost.cost import Cost, excess
from lepton_automl.errors import ConfigError, InfeasibleError
from lepton_automl.models.arch import Arch
from lepton_automl.runs.ledger import EventKind
from lepton_automl.search.objectives import Objective
from lepton_automl.search.proposals.feasibility import CostCheck, Tally, impossible
from lepton_automl.search.proposals.repair import Near, Repair, spread
from lepton_automl.search.request import SearchWork
from lepton_automl.search.sampler import Draw, Point, Sampler
from lepton_automl.search.space.draw import SpaceTrial
from lepton_automl.search.space.parameters import Parameter
from lepton_automl.search.trials import Rejection, RungResult, Trial, Trials
from lepton_automl.search.warm_start import read_warm_start
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.training.recipe import Recipe

METADATA_BYTES = 120
"""Fingerprint of the data and version in a file, with their keys."""
WORTH_TELLING = 20
"""Refused points for one candidate from which the user is told once that limits bite."""
REFUSED = 40
"""Points beyond the limits that are looked at for one candidate before the nearest are repaired."""
DRAWN = 150
"""Points drawn for one candidate in all: those that are known already cost next to nothing."""
SHRUNK = 2 * DRAWN
"""The ask by which a known-good point is taken that was shrunk until it fits."""
STARTS = 3
"""Points that are repaired, one after the other."""
LOOKED_AT = 6
"""Points that are timed, whatever they break, to name the nearest."""


class Newcomers:
    """New candidates within the limits, written to the ledger as they come.

    Parameters
    ----------
    work : SearchWork
        Space, data, limits, ledger.
    trials : Trials
        Those of earlier sessions; new ones are added.
    objectives : sequence of Objective
        What the sampler makes good.
    lock : MeasurementLock
        Makes workers pause while a candidate is timed.
    """

    def __init__(
        self,
        work: SearchWork,
        trials: Trials,
        objectives: Sequence[Objective],
        lock: MeasurementLock,
    ) -> None:
        self._work, self._trials = work, trials
        warm = read_warm_start(work.ledger)
        self.observed = warm.within(work.config.limits)
        """Known from another run."""
        self.first = warm.begins_with(work.space.candidates)
        """Points that are tried before anything is asked."""
        self._sampler = Sampler(self.draw, objectives, self.first, seed=work.config.seed)
        self._check = check = CostCheck(
            work.config.limits,
            work.target,
            label_bytes(work.dataset.class_names),
            needs_latency=work.config.limits.max_latency_ms is not None
            or any(objective.needs_timing for objective in objectives),
            ledger=work.ledger,
            lock=lock,
            model=work.latency_model,
        )
        self._time_here(check)
        for other in self.observed:
            self._sampler.restore(other.candidate, other.accuracy, finished=True)
        for number, candidate in trials.items():
            scores = trials.results[number]
            accuracy = None if not scores or scores[0].failed else scores[0].accuracy
            self._sampler.restore(candidate, accuracy, finished=bool(scores))
        known = [*(other.candidate for other in self.observed), *trials.values()]
        knobs = work.space.parameters()
        self._proposer = Proposer(self._sampler, self.draw, knobs, check, known)
        self.exhausted = False
        """Nothing new is left in the space within the limits."""
        self._told: set[str] = set()

    def guess(self, arch: Arch) -> Cost:
        """What a net would cost, about; the same whatever was found before."""
        self._check.guess.forget()
        return self._check.guess(arch)

    def add(self, wishes: Sequence[Mapping[str, Any]] = ()) -> Trial | None:
        """The next candidate, recorded; None where the space is exhausted.

        Parameters
        ----------
        wishes : sequence of mapping
            Points to take, the best first, where they are new and within the limits.

        Raises
        ------
        InfeasibleError
            If no point within the limits is known at all.
        """
        number = len(self._trials)
        self._sampler.wishes = wishes
        candidate = self._proposer.propose(number)
        if candidate is None:
            if not number:
                raise ConfigError(
                    "all nets of the space within the limits were trained in the run that "
                    "--warm-start names",
                    fix="take what that run found (see `lepton pick`), or another --space",
                )
            self.exhausted = True
            self._tell("nothing new is left in the search space within the limits")
            return None
        self._warn(candidate)
        self._work.ledger.record(EventKind.TRIAL, str(number), candidate.to_event())
        self._trials.add(candidate)
        return candidate

    def learn(self, number: int, score: RungResult) -> None:
        """What a candidate reached at the first rung."""
        accuracy = None if score.failed else score.accuracy
        self._sampler.tell(number, accuracy, self._trials[number].cost)

    def _warn(self, candidate: Trial) -> None:
        """Say that limits bite: when one first takes long to meet, and when hardly any net does."""
        tally = self._proposer.tally
        reasons = {"many": len(candidate.rejected) >= WORTH_TELLING, "scarce": tally.is_scarce}
        new = {reason for reason, holds in reasons.items() if holds} - self._told
        if new:
            self._told |= new
            self._tell(tally.words())

    def _time_here(self, check: CostCheck) -> None:
        """On another machine than before, measure the candidates' latencies anew."""
        if check.elsewhere is None:
            return
        known = self._trials
        self._tell(
            f"this run was measured on {check.elsewhere}, which this machine is not: latencies "
            f"of {len(known)} candidates are measured anew"
        )
        for candidate in list(known.values()):
            known.replace(dataclasses.replace(candidate, cost=check.whole(candidate.arch)))

    def draw(self, trial: SpaceTrial) -> tuple[Arch, Recipe]:
        """What a trial gives for these data and this target."""
        data = self._work.dataset
        return self._work.space.sample(
            trial,
            size=data.size,
            channels=data.channels,
            classes=len(data.class_names),
            target=self._work.target,
        )

    def _tell(self, message: str) -> None:
        self._work.emit(Event("search", message))


def label_bytes(class_names: Sequence[str]) -> int:
    """What class names (where longer than numbers) and metadata add to a file, about."""
    numbered = sum(len(str(number)) for number in range(len(class_names)))
    return sum(len(name.encode()) for name in class_names) - numbered + METADATA_BYTES


class Proposer:
    """Draws points until one keeps the limits and is new, for a bounded time.

    Parameters
    ----------
    sampler : Sampler
        Where points come from.
    draw : callable
        Samples an `Arch` and a `Recipe` from a trial.
    knobs : mapping
        The space's open parameters.
    check : CostCheck
        Costs and limits.
    known : sequence of Trial
        Those of earlier sessions.
    """

    def __init__(
        self,
        sampler: Sampler,
        draw: Draw,
        knobs: Mapping[str, Parameter],
        check: CostCheck,
        known: Sequence[Trial],
    ) -> None:
        self._sampler, self._check = sampler, check
        self._repair = Repair(draw, knobs, check)
        self._taken = {(c.arch.hash, c.recipe_json) for c in known}
        self._refused: list[Rejection] = []
        self._near: list[Near] = []
        self.tally = Tally(check.limits)
        """How many of the drawn points are within the limits, and what the others break."""

    def propose(self, number: int) -> Trial | None:
        """Trial `number`, or None where nothing new is left within the limits.

        Raises
        ------
        InfeasibleError
            If no point within the limits is known at all.
        """
        # What this candidate becomes must not depend on anything that a resumed search forgets.
        self._refused, self._near = [], []
        self._check.guess.forget()
        for attempt in range(DRAWN):
            candidate = self._judge(number, self._sampler.ask(number, attempt), counts=True)
            if candidate is None and self._near and self._sampler.is_first(number, attempt):
                candidate = self._taken_up(number, self._repair.shrink(self._near[0]), SHRUNK)
            if candidate is not None:
                return candidate
            if len(self._near) == REFUSED:
                break
        least = {} if self._taken else self._least()
        hopeless = any(limit in near.excess for limit, near in least.items())
        repaired = self._repaired(number, 1 if hopeless else STARTS)
        if repaired is None and least:
            raise self._impossible(least)
        return repaired

    def _judge(self, number: int, point: Point, *, counts: bool) -> Trial | None:
        if point.arch is None or point.recipe is None:
            self._refused.append(self._sampler.refuse(point, {"arch": 1.0}))
            return None
        cost = self._check(point.arch)
        broken = excess(cost, self._check.limits)
        if counts:
            self.tally.count(cost, broken)
        if broken:
            self._near.append(Near(point.params, point.arch, point.recipe, cost, broken))
            self._refused.append(self._sampler.refuse(point, broken))
            return None
        identity = _identity(point.arch, point.recipe.to_json())
        if identity in self._taken:
            self._sampler.drop(point)
            return None
        self._taken.add(identity)
        self._sampler.accept(number, point)
        nets = point.arch.to_json(), point.recipe.to_json()
        about = (point.params, point.distributions, *nets, cost)
        return Trial(number, *about, tuple(self._refused))

    def _repaired(self, number: int, starts: int) -> Trial | None:
        for attempt, start in enumerate(spread(self._near, starts)):
            found = self._repair.toward(start)
            self._near.append(found)
            candidate = self._taken_up(number, found, DRAWN + attempt)
            if candidate is not None:
                return candidate
        return None

    def _taken_up(self, number: int, found: Near, attempt: int) -> Trial | None:
        """What was repaired as a candidate; None where it is no use."""
        if found.excess or _identity(found.arch, found.recipe.to_json()) in self._taken:
            return None
        point = self._sampler.ask(number, attempt, given=found.params)
        return self._judge(number, point, counts=False)

    def _least(self) -> dict[str, Near]:
        """The net with the least of each limited cost; they are points to repair, too."""
        if not self._near:
            return {}
        nearest = min(self._near, key=lambda point: point.distance)
        least = {limit: self._repair.least(nearest, limit) for limit in self._check.limits.costs}
        self._near += least.values()
        return least

    def _impossible(self, least: Mapping[str, Near]) -> InfeasibleError:
        """Why there is nothing: the least there is of each cost, and the nearest point of all."""
        costs = [self._check.whole(near.arch) for near in spread(self._near, LOOKED_AT)]
        nearest = min(costs, key=lambda cost: sum(excess(cost, self._check.limits).values()))
        smallest = {limit: near.cost for limit, near in least.items()}
        return impossible(self._check.limits, smallest, nearest)


def _identity(arch: Arch, recipe: str) -> tuple[str, str]:
    return arch.hash, recipe
