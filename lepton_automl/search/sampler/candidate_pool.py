"""Pool of candidates for the next trial: uniform draws and neighbours of the best points."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from lepton_automl.search.seeds import seed_of

Params = Mapping[str, Any]
Space = Mapping[str, BaseDistribution]

MAX_DRAWS, NEW_PER_TURN = 8, 4
"""Uniform draws at most for each candidate of a pool, and how many of them a turn replaces: the
others are neither drawn nor estimated again."""
FEW_VALUES = 16
"""A numeric parameter with more values is changed by a random step, others are drawn uniformly."""
STEP_SIZES = (0.2, 0.05, 0.01)
"""Standard deviations of such a step, relative to the range; one is chosen at random."""
NEAREST = 12
"""Candidates with the smallest violations that are kept where none is feasible."""


Identity = frozenset[tuple[str, Any]]


def identity_of(params: Params) -> Identity:
    """What two points of equal parameters have in common."""
    return frozenset(params.items())


@dataclass(frozen=True, eq=False)
class CandidateEstimate:
    """Estimated costs and violation of a point."""

    params: Params
    """Parameters that a trial of the point has."""
    values: Mapping[int, float] = field(default_factory=dict)
    """Index of an objective -> value, of objectives that need no trial; in any unit, as only order
    and ratios count."""
    violation: float = 0.0
    """Sum of the amounts by which constraints are broken; 0 for a feasible point."""

    @functools.cached_property
    def identity(self) -> Identity:
        """Of its parameters."""
        return identity_of(self.params)

    @functools.cached_property
    def text(self) -> str:
        """Its parameters by name; values of other types differ, unlike in `identity`."""
        return repr(sorted(self.params.items()))


Estimator = Callable[[Params], CandidateEstimate | None]
"""From parameter values to an estimate; None for a combination that cannot be built."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A point that has no trial yet."""

    drawn: Params
    """A value for every parameter of the space."""
    estimate: CandidateEstimate

    @property
    def params(self) -> Params:
        """Parameters that a trial of it has."""
        return self.estimate.params


class CandidatePool:
    """Candidates that depend on the seed, the number of earlier points and the best points only.

    Parameters
    ----------
    seed : int
        Seed of all draws.
    even : int
        Different feasible uniform draws in a pool; fewer where few of `MAX_DRAWS` times as many
        draws are feasible.
    neighbors : int
        Points made from the best ones by changing one or two parameters.
    """

    def __init__(self, seed: int, even: int, neighbors: int) -> None:
        self._seed, self._even, self._neighbors = seed, even, neighbors
        self._space: Space = {}
        self._drawn: dict[int, Params] = {}
        """Number in the sequence of uniform draws -> draw, of those that the last turn used."""

    def __call__(
        self, space: Space, turn: int, best: Sequence[Params], estimate: Estimator
    ) -> list[Candidate]:
        """Feasible candidates of a turn; where there is none, those with the smallest violations.

        Parameters
        ----------
        space : mapping
            Distributions of all parameters.
        turn : int
            Number of points tried before.
        best : sequence of mapping
            Parameters of the points whose neighbours are included.
        estimate : callable
            Conditional parameters, costs and violation of a point.
        """
        kept = self._drawn if self._space == space else {}
        self._space, self._drawn = dict(space), {}
        feasible: dict[str, Candidate] = {}
        others: list[Candidate] = []

        def add(drawn: Params) -> None:
            if (known := estimate(drawn)) is None:
                return
            candidate = Candidate(drawn, known)
            if known.violation <= 0:
                feasible.setdefault(known.text, candidate)
            else:
                others.append(candidate)

        first = turn * NEW_PER_TURN
        for n in range(first, first + MAX_DRAWS * self._even):
            if len(feasible) == self._even:
                break
            seed = seed_of(self._seed, "even", n)
            self._drawn[n] = kept[n] if n in kept else even_draw(space, seed)
            add(self._drawn[n])
        for n in range(self._neighbors if best else 0):
            add(self._neighbor(space, seed_of(self._seed, "near", turn, n), best[n % len(best)]))
        nearest = sorted(others, key=lambda c: c.estimate.violation)[:NEAREST]
        return list(feasible.values()) or nearest

    def _neighbor(self, space: Space, seed: int, parent: Params) -> Params:
        chance = random.Random(seed)
        names = [name for name in sorted(parent) if name in space]
        changed = chance.sample(names, min(len(names), chance.choice((1, 2))))
        drawn = dict(even_draw(space, seed))
        for name in names:
            drawn[name] = parent[name]
        for name in changed:
            drawn[name] = _changed(space[name], parent[name], chance)
        return drawn


def even_draw(space: Space, seed: int) -> Params:
    """A value for every parameter, drawn uniformly on the scale of its distribution."""
    chance = random.Random(seed)
    return {name: even_value(distribution, chance) for name, distribution in space.items()}


def even_value(distribution: BaseDistribution, chance: random.Random) -> Any:
    """A value drawn uniformly on the scale of the distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return chance.choice(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if distribution.log:
        low, high = math.log(distribution.low), math.log(distribution.high)
        if isinstance(distribution, IntDistribution):
            low, high = math.log(distribution.low - 0.5), math.log(distribution.high + 0.5)
        return _legal(distribution, math.exp(chance.uniform(low, high)))
    if distribution.step is None:
        return _legal(distribution, chance.uniform(distribution.low, distribution.high))
    steps = chance.randrange(round((distribution.high - distribution.low) / distribution.step) + 1)
    return _legal(distribution, distribution.low + steps * distribution.step)


def _changed(distribution: BaseDistribution, value: Any, chance: random.Random) -> Any:
    """A new value, near the old one for parameters with many values."""
    if isinstance(distribution, CategoricalDistribution):
        return even_value(distribution, chance)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = float(distribution.low), float(distribution.high)
    is_fine = distribution.log or distribution.step is None
    if not is_fine and (high - low) / float(distribution.step or 1) < FEW_VALUES:
        return even_value(distribution, chance)
    size = chance.gauss(0.0, chance.choice(STEP_SIZES))
    if distribution.log:
        return _legal(distribution, float(value) * (high / low) ** size)
    return _legal(distribution, float(value) + size * (high - low))


def _legal(distribution: IntDistribution | FloatDistribution, value: float) -> float | int:
    """The nearest value that the distribution contains."""
    low, high = distribution.low, distribution.high
    if distribution.step is not None and not distribution.log:
        value = low + round((value - low) / distribution.step) * distribution.step
    value = min(max(value, low), high)
    return round(value) if isinstance(distribution, IntDistribution) else float(value)


@dataclass(frozen=True, eq=False)
class Conditions:
    """Conditional parameters, recognized from the trials of a study.

    A parameter that some trials lack depends on another one if each value of that one occurs only
    with it or only without it.
    """

    depends: Mapping[str, tuple[str, frozenset[Any]]]
    """Parameter -> the one it depends on, and the values of that one without the parameter."""

    @classmethod
    def of(cls, trials: Sequence[Params]) -> Conditions:
        """Recognize the conditions in the parameters of trials."""
        names = sorted({name for params in trials for name in params})
        values = {name: {params.get(name) for params in trials} for name in names}
        # A continuous parameter hardly repeats a value, so that every condition would fit it.
        others = [n for n in names if not any(isinstance(v, float) for v in values[n])]
        others.sort(key=lambda name: len(values[name]))
        depends = {}
        for name in names:
            having = [params for params in trials if name in params]
            lacking = [params for params in trials if name not in params]
            for other in others if lacking else []:
                without = {params.get(other) for params in lacking}
                if other != name and all(
                    other in params and params[other] not in without for params in having
                ):
                    depends[name] = (other, frozenset(without))
                    break
        return cls(depends)

    def present(self, drawn: Params) -> Params:
        """Those of the drawn parameters that a trial has."""
        return {name: value for name, value in drawn.items() if self._has(name, drawn, ())}

    def _has(self, name: str, drawn: Params, seen: tuple[str, ...]) -> bool:
        if name not in self.depends or name in seen:
            return True
        other, without = self.depends[name]
        if other not in drawn or not self._has(other, drawn, (*seen, name)):
            return False
        return drawn[other] not in without
