"""Feasible: only points whose written int8 graph keeps the cost limits are ever trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lepton_automl.arch import Arch
from lepton_automl.config import COST_LIMITS
from lepton_automl.cost import Cost
from lepton_automl.errors import ArchError
from lepton_automl.pick import excess
from lepton_automl.search.cost_check import CostCheck
from lepton_automl.search.impossible import impossible
from lepton_automl.search.sampler import Draw, Point, Sampler
from lepton_automl.search.trials import Candidate, Refusal
from lepton_automl.space import Draw as GivenPoint
from lepton_automl.space import Knob

ATTEMPTS_FIRST, ATTEMPTS = 40, 150
"""Points drawn for one candidate before the nearest one is repaired instead; fewer while none is
known to be within the limits, because then the user may wait for bad news."""
ROUNDS_OF_REPAIR = 3
"""Times every parameter is gone through."""


@dataclass(frozen=True, eq=False)
class Near:
    """A point that breaks limits, with what it costs."""

    params: dict[str, Any]
    cost: Cost
    excess: dict[str, float]

    @property
    def distance(self) -> float:
        """How far beyond all limits together."""
        return sum(self.excess.values())


class Proposer:
    """Draws points until one keeps the limits and is new.

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
    known : sequence of Candidate
        Those of earlier sessions.
    """

    def __init__(
        self,
        sampler: Sampler,
        draw: Draw,
        knobs: Mapping[str, Knob],
        check: CostCheck,
        known: Sequence[Candidate],
    ) -> None:
        self._sampler, self._draw, self._knobs, self._check = sampler, draw, knobs, check
        self._taken = {_identity(c.arch, c.recipe.to_json()) for c in known}
        self._nearest: Near | None = None
        self._least: dict[str, float] = {}

    def propose(self, number: int) -> Candidate | None:
        """Candidate `number`, or None where nothing new is left within the limits.

        Raises
        ------
        InfeasibleError
            If no point within the limits is known at all.
        """
        refused: list[Refusal] = []
        self._nearest = None
        for attempt in range(ATTEMPTS if self._taken else ATTEMPTS_FIRST):
            point = self._sampler.ask(number, attempt)
            candidate = self._judge(number, point, refused)
            if candidate is not None:
                return candidate
        repaired = self._repair()
        if repaired is not None:
            point = self._sampler.ask(number, ATTEMPTS, given=repaired)
            candidate = self._judge(number, point, refused)
            if candidate is not None:
                return candidate
        if not self._taken and self._nearest is not None:
            raise impossible(self._check.limits, self._least, self._nearest.cost)
        return None

    def _judge(self, number: int, point: Point, refused: list[Refusal]) -> Candidate | None:
        if point.arch is None or point.recipe is None:
            refused.append(self._sampler.refuse(point, {"arch": 1.0}))
            return None
        cost = self._check(point.arch)
        broken = excess(cost, self._check.limits)
        self._remember(point.params, cost, broken)
        if broken:
            refused.append(self._sampler.refuse(point, broken))
            return None
        identity = _identity(point.arch, point.recipe.to_json())
        if identity in self._taken:
            self._sampler.drop(point)
            return None
        self._taken.add(identity)
        self._sampler.accept(number, point)
        about = (point.params, point.distributions, point.arch, point.recipe, cost)
        return Candidate(number, *about, tuple(refused))

    def _remember(self, params: dict[str, Any], cost: Cost, broken: dict[str, float]) -> None:
        for name in COST_LIMITS.values():
            value = getattr(cost, name)
            if value is not None:
                self._least[name] = min(value, self._least.get(name, value))
        near = Near(params, cost, broken)
        if broken and (self._nearest is None or near.distance < self._nearest.distance):
            self._nearest = near

    def _repair(self) -> dict[str, Any] | None:
        """Parameters within the limits, found from the nearest point one parameter at a time."""
        best = self._nearest
        for _ in range(ROUNDS_OF_REPAIR):
            before = best
            for path, knob in self._knobs.items():
                best = self._least_of(best, path, knob.values)
                if best is not None and not best.excess:
                    return best.params
            if best is before:
                break
        return None

    def _least_of(self, start: Near | None, path: str, values: Sequence[Any]) -> Near | None:
        if start is None or path not in start.params:
            return start
        others = [self._near(start.params | {path: v}) for v in values if v != start.params[path]]
        found = [start, *(near for near in others if near is not None)]
        return min(found, key=lambda near: near.distance)

    def _near(self, params: dict[str, Any]) -> Near | None:
        point = GivenPoint(0, params)
        try:
            arch, _ = self._draw(point)
            cost = self._check(arch)
        except ArchError:
            return None
        near = Near(dict(point.params), cost, excess(cost, self._check.limits))
        self._remember(near.params, cost, near.excess)
        return near


def _identity(arch: Arch, recipe: str) -> tuple[str, str]:
    return arch.hash, recipe
