"""Feasible: only points whose written int8 graph keeps the cost limits are ever trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lepton_automl.arch import Arch
from lepton_automl.errors import InfeasibleError
from lepton_automl.pick import excess
from lepton_automl.search.cost_check import CostCheck
from lepton_automl.search.impossible import Tally, impossible
from lepton_automl.search.repair import Near, Repair, spread
from lepton_automl.search.sampler import Draw, Point, Sampler
from lepton_automl.search.trials import Rejection, Trial
from lepton_automl.space import Parameter

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
