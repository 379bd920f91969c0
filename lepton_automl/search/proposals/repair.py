"""Repair: from points beyond the limits to one within them, a parameter at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lepton_automl.config import LIMITS
from lepton_automl.cost.cost import Cost, excess
from lepton_automl.errors import ArchError
from lepton_automl.models.arch import Arch
from lepton_automl.search.proposals.feasibility import CostCheck
from lepton_automl.search.space.draw import RandomTrial, SpaceTrial
from lepton_automl.search.space.parameters import Parameter
from lepton_automl.training.recipe import Recipe

ROUNDS = 6
"""Times every parameter is gone through."""
CHECKS = 5
"""Nets that are written and timed in one repair; all others are only estimated."""
PAIRS = 100
"""Pairs of changes that are estimated where no single one helps."""
SHRINKS = 12
"""Changes of a good net at most until it is within the limits."""
LEAST_LOST, BEYOND_ALL = 1e-3, 1e9
"""Doublings of capacity that any change counts for; more than any change can be worth."""
RECIPE = "train."
"""Parameters that cost nothing."""

Distance = Callable[[Cost], float]


@dataclass(frozen=True, eq=False)
class Near:
    """A point of the space, with what it costs."""

    params: dict[str, Any]
    arch: Arch
    recipe: Recipe
    cost: Cost
    excess: dict[str, float]

    @property
    def distance(self) -> float:
        """How far beyond all limits together."""
        return sum(self.excess.values())


@dataclass(frozen=True, eq=False)
class _Estimated:
    params: dict[str, Any]
    arch: Arch
    recipe: Recipe
    distance: float


class Repair:
    """Coordinate descent on estimated costs; the result is checked, which corrects the estimate.

    Parameters
    ----------
    draw : callable
        Samples an `Arch` and a `Recipe` from a trial.
    knobs : mapping
        The space's open parameters.
    check : CostCheck
        Costs and limits.
    """

    def __init__(
        self,
        draw: Callable[[SpaceTrial], tuple[Arch, Recipe]],
        knobs: Mapping[str, Parameter],
        check: CostCheck,
    ) -> None:
        self._draw, self._check = draw, check
        self._values = {k: knob.values for k, knob in knobs.items() if not k.startswith(RECIPE)}

    def toward(self, start: Near) -> Near:
        """The best point that is found from `start`: within the limits, or as near as it gets."""
        best, current = start, start
        for _ in range(CHECKS):
            arrived = self._descend(current.params, self._beyond)
            found = self._checked(arrived)
            if not found.excess:
                return found
            if found.distance < best.distance:
                best = found
            if arrived.arch == current.arch:
                break
            current = found
        return best

    def shrink(self, start: Near) -> Near:
        """The point within the limits that keeps most of a good one, a change at a time.

        Most of its weights and multiply-accumulates: each change is the one that goes furthest
        towards the limits for what it takes of these. Where none helps, the nearest point.
        """
        current = start
        for _ in range(SHRINKS):
            if not current.excess:
                break
            smaller = self._smaller(current)
            if smaller is None:
                break
            current = self._checked(smaller)
        return current

    def _smaller(self, start: Near) -> _Estimated | None:
        """`start` after one change; None where no single one leads towards the limits."""
        whole, beyond = _capacity(self._check.estimate(start.arch)), start.distance
        best, most = None, 0.0
        for path in self._values:
            for change in self._changes(start.params, path):
                found = self._estimated(start.params | change, self._beyond)
                if found is None or found.distance >= beyond:
                    continue
                lost = whole - _capacity(self._check.estimate(found.arch))
                gained = (beyond - found.distance) / max(lost, LEAST_LOST)
                # One that is within the limits is worth more than any on the way there.
                worth = gained if found.distance else BEYOND_ALL - max(lost, LEAST_LOST)
                if worth > most:
                    best, most = found, worth
        return best

    def least(self, start: Near, limit: str) -> Near:
        """The point with the smallest cost that one limit is about, whatever the others say."""
        arrived = self._descend(start.params, lambda cost: LIMITS[limit].measured(cost) or 0.0)
        return self._checked(arrived)

    def _beyond(self, cost: Cost) -> float:
        return sum(excess(cost, self._check.limits).values())

    def _checked(self, point: _Estimated) -> Near:
        cost = self._check.whole(point.arch)
        beyond = excess(cost, self._check.limits)
        return Near(point.params, point.arch, point.recipe, cost, beyond)

    def _descend(self, params: dict[str, Any], distance: Distance) -> _Estimated:
        best = self._estimated(params, distance)
        assert best is not None, "the start is a point of the space"
        for _ in range(ROUNDS):
            before = best
            for path in self._values:
                best = self._best(best, self._changes(best.params, path), distance)
            if best is before:
                best = self._best(best, self._pairs(best.params), distance)
            if best is before or best.distance <= 0:
                break
        return best

    def _best(
        self, start: _Estimated, changes: Iterator[dict[str, Any]], distance: Distance
    ) -> _Estimated:
        found = (self._estimated(start.params | change, distance) for change in changes)
        return min([start, *filter(None, found)], key=lambda point: point.distance)

    def _changes(self, params: Mapping[str, Any], path: str) -> Iterator[dict[str, Any]]:
        if path in params:
            yield from ({path: v} for v in self._values[path] if v != params[path])

    def _pairs(self, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Two changes at once: widths against depths, one stage against another."""
        single = [change for path in self._values for change in self._changes(params, path)]
        both = ({**a, **b} for a, b in itertools.combinations(single, 2) if a.keys() != b.keys())
        step = max(1, len(single) ** 2 // 2 // PAIRS)
        yield from itertools.islice(both, 0, None, step)

    def _estimated(self, params: Mapping[str, Any], distance: Distance) -> _Estimated | None:
        point = RandomTrial(0, params)
        try:
            arch, recipe = self._draw(point)
            cost = self._check.estimate(arch)
        except ArchError:
            return None
        return _Estimated(dict(point.params), arch, recipe, distance(cost))


def _capacity(cost: Cost) -> float:
    """How much a net can hold and compute, in doublings of weights and multiply-accumulates."""
    return math.log2(max(1, cost.weight_bytes)) + math.log2(max(1, cost.macs))


def spread(points: Sequence[Near], count: int) -> list[Near]:
    """The nearest points that no other is nearer than in every limit, then the nearest of the rest.

    A combination of limits is seldom kept by changing the point that is nearest to all of them
    together: one that breaks only the other limit may have less far to go.
    """
    ordered = sorted(points, key=lambda point: point.distance)
    front = [p for n, p in enumerate(ordered) if not any(_within(q, p) for q in ordered[:n])]
    rest = [point for point in ordered if point not in front]
    return [*front, *rest][:count]


def _within(one: Near, other: Near) -> bool:
    """Whether `one` is beyond no limit by more than `other` is."""
    return all(value <= other.excess.get(limit, 0.0) for limit, value in one.excess.items())
