"""Change parameters of infeasible points until they satisfy the limits: coordinate descent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lepton_automl.config import LIMITS
from lepton_automl.cost.cost import Cost, violations
from lepton_automl.errors import ArchError
from lepton_automl.models.arch import Arch
from lepton_automl.search.proposals.feasibility import CostCheck
from lepton_automl.search.space.draw import RandomTrial, SpaceTrial
from lepton_automl.search.space.parameters import Parameter
from lepton_automl.training.recipe import Recipe

_ROUNDS = 6
"""Passes over all parameters."""
_CHECKS = 5
"""Nets whose cost is checked in one repair; the costs of all others are estimated."""
_PAIRS = 100
"""Pairs of changes that are estimated where no single change helps."""
_SHRINKS = 12
"""Changes at most of a known-good net."""
_LEAST_LOSS, _FEASIBLE_SCORE = 1e-3, 1e9
"""Least loss of capacity that a change counts with, in doublings; score of a change that leads to a
feasible point, above that of any other."""
_RECIPE = "train."
"""Prefix of parameters that change no cost."""

CostFunction = Callable[[Cost], float]


@dataclass(frozen=True, eq=False)
class CheckedPoint:
    """A point of the space with its checked cost."""

    params: dict[str, Any]
    arch: Arch
    recipe: Recipe
    cost: Cost
    violations: dict[str, float]
    """Broken limit -> cost / limit - 1."""

    @property
    def violation(self) -> float:
        """Sum of the violations; 0 for a feasible point."""
        return sum(self.violations.values())


@dataclass(frozen=True, eq=False)
class _EstimatedPoint:
    """A point with the value of the function that is minimized, from its estimated cost."""

    params: dict[str, Any]
    arch: Arch
    recipe: Recipe
    value: float


class Repair:
    """Coordinate descent on estimated costs; each result is checked, which corrects the estimates.

    Parameters
    ----------
    draw : callable
        Samples an `Arch` and a `Recipe` from a trial.
    parameters : mapping
        Open parameters of the space.
    check : CostCheck
        Costs and limits.
    """

    def __init__(
        self,
        draw: Callable[[SpaceTrial], tuple[Arch, Recipe]],
        parameters: Mapping[str, Parameter],
        check: CostCheck,
    ) -> None:
        self._draw, self._check = draw, check
        self._values = {
            name: parameter.values
            for name, parameter in parameters.items()
            if not name.startswith(_RECIPE)
        }

    def toward(self, start: CheckedPoint) -> CheckedPoint:
        """A feasible point, found from `start`, or the one with the smallest violation."""
        best, current = start, start
        for _ in range(_CHECKS):
            arrived = self._descend(current.params, self._violation)
            found = self._checked(arrived)
            if not found.violations:
                return found
            if found.violation < best.violation:
                best = found
            if arrived.arch == current.arch:
                break
            current = found
        return best

    def shrink(self, start: CheckedPoint) -> CheckedPoint:
        """Make a known-good net feasible by single changes that cost the least capacity.

        Capacity is the number of weights and of multiply-accumulates. Each change is the one that
        reduces the violation most, relative to the capacity it removes. Where no change reduces it,
        the last point is returned.
        """
        current = start
        for _ in range(_SHRINKS):
            if not current.violations:
                break
            smaller = self._smaller(current)
            if smaller is None:
                break
            current = self._checked(smaller)
        return current

    def _smaller(self, start: CheckedPoint) -> _EstimatedPoint | None:
        """`start` after one change; None where no single change reduces the violation."""
        capacity, violation = _capacity(self._check.estimator(start.arch)), start.violation
        best, best_score = None, 0.0
        for path in self._values:
            for change in self._changes(start.params, path):
                found = self._estimated(start.params | change, self._violation)
                if found is None or found.value >= violation:
                    continue
                lost = max(capacity - _capacity(self._check.estimator(found.arch)), _LEAST_LOSS)
                is_feasible = found.value == 0
                score = _FEASIBLE_SCORE - lost if is_feasible else (violation - found.value) / lost
                if score > best_score:
                    best, best_score = found, score
        return best

    def least(self, start: CheckedPoint, limit: str) -> CheckedPoint:
        """The point with the smallest cost of one limit; other limits do not count."""
        arrived = self._descend(start.params, lambda cost: LIMITS[limit].measured(cost) or 0.0)
        return self._checked(arrived)

    def _violation(self, cost: Cost) -> float:
        return sum(violations(cost, self._check.limits).values())

    def _checked(self, point: _EstimatedPoint) -> CheckedPoint:
        cost = self._check.whole(point.arch)
        broken = violations(cost, self._check.limits)
        return CheckedPoint(point.params, point.arch, point.recipe, cost, broken)

    def _descend(self, params: dict[str, Any], function: CostFunction) -> _EstimatedPoint:
        best = self._estimated(params, function)
        assert best is not None, "the start is a point of the space"
        for _ in range(_ROUNDS):
            before = best
            for path in self._values:
                best = self._best(best, self._changes(best.params, path), function)
            if best is before:
                best = self._best(best, self._pairs(best.params), function)
            if best is before or best.value <= 0:
                break
        return best

    def _best(
        self, start: _EstimatedPoint, changes: Iterator[dict[str, Any]], function: CostFunction
    ) -> _EstimatedPoint:
        found = (self._estimated(start.params | change, function) for change in changes)
        return min([start, *filter(None, found)], key=lambda point: point.value)

    def _changes(self, params: Mapping[str, Any], path: str) -> Iterator[dict[str, Any]]:
        if path in params:
            yield from ({path: v} for v in self._values[path] if v != params[path])

    def _pairs(self, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Two changes at once: a wider stage with a shallower one, for example."""
        single = [change for path in self._values for change in self._changes(params, path)]
        both = ({**a, **b} for a, b in itertools.combinations(single, 2) if a.keys() != b.keys())
        step = max(1, len(single) ** 2 // 2 // _PAIRS)
        yield from itertools.islice(both, 0, None, step)

    def _estimated(
        self, params: Mapping[str, Any], function: CostFunction
    ) -> _EstimatedPoint | None:
        point = RandomTrial(0, params)
        try:
            arch, recipe = self._draw(point)
            cost = self._check.estimator(arch)
        except ArchError:
            return None
        return _EstimatedPoint(dict(point.params), arch, recipe, function(cost))


def _capacity(cost: Cost) -> float:
    """Sum of the logarithms, to base 2, of weights and multiply-accumulates."""
    return math.log2(max(1, cost.weight_bytes)) + math.log2(max(1, cost.macs))


def spread(points: Sequence[CheckedPoint], count: int) -> list[CheckedPoint]:
    """Points to repair: the Pareto front of the violations, then the smallest of the rest.

    The point with the smallest sum of violations is not always the easiest to repair: one that
    breaks only the other limit may need fewer changes.
    """
    ordered = sorted(points, key=lambda point: point.violation)
    front = [p for n, p in enumerate(ordered) if not any(_dominates(q, p) for q in ordered[:n])]
    rest = [point for point in ordered if point not in front]
    return [*front, *rest][:count]


def _dominates(one: CheckedPoint, other: CheckedPoint) -> bool:
    """Whether `one` breaks no limit by more than `other` does."""
    return all(value <= other.violations.get(limit, 0.0) for limit, value in one.violations.items())
