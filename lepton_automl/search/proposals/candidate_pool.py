"""Ideas: points of the space that could be tried next, with what they would cost, about."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lepton_automl.config import Limits
from lepton_automl.cost.cost import Cost, excess
from lepton_automl.errors import ArchError
from lepton_automl.models.arch import Arch
from lepton_automl.search.space.draw import RandomTrial, SpaceTrial, seed_of
from lepton_automl.search.space.parameters import Scalar
from lepton_automl.training.recipe import Recipe

WINDOW, STEP = 96, 4
"""Points drawn evenly that are thought about at a time, and how many of them are new each time."""
NEAR = 12
"""Points made from the best ones by changing a parameter or two."""

Make = Callable[[SpaceTrial], tuple[Arch, Recipe]]


@dataclass(frozen=True, eq=False)
class Idea:
    """A point whose layers fit together."""

    params: Mapping[str, Any]
    cost: Cost
    """Guessed."""
    beyond: float
    """How far it seems to be beyond the limits, all together; 0 within them."""


class Ideas:
    """The same ideas for the same turn and the same best points, whatever was asked before.

    Parameters
    ----------
    make : callable
        Samples an `Arch` and a `Recipe` from a trial.
    guess : callable
        Cost of an architecture, about.
    limits : Limits
        What a net may cost.
    seed : int
        Of the search.
    """

    def __init__(
        self, make: Make, guess: Callable[[Arch], Cost], limits: Limits, seed: int
    ) -> None:
        self._make, self._guess, self._limits, self._seed = make, guess, limits, seed
        self._drawn: dict[int, Idea | None] = {}

    def __call__(self, turn: int, best: Sequence[Mapping[str, Any]]) -> list[Idea]:
        """Ideas for a turn.

        Parameters
        ----------
        turn : int
            Number of the candidate that one of them may become.
        best : sequence of mapping
            Parameters of points worth changing a little.
        """
        first = turn * STEP
        window = range(first, first + WINDOW)
        self._drawn = {n: self._drawn[n] for n in window if n in self._drawn}
        points = [self._even(number) for number in window]
        if best:
            points += [self._near(turn, number, best) for number in range(NEAR)]
        return [point for point in points if point is not None]

    def _even(self, number: int) -> Idea | None:
        if number not in self._drawn:
            self._drawn[number] = self._point(Asked(seed_of(self._seed, "even", number)))
        return self._drawn[number]

    def _near(self, turn: int, number: int, best: Sequence[Mapping[str, Any]]) -> Idea | None:
        seed = seed_of(self._seed, "near", turn, number)
        chance = random.Random(seed)
        parent = best[number % len(best)]
        changed = set(chance.sample(sorted(parent), min(len(parent), chance.choice((1, 2)))))
        kept = {path: value for path, value in parent.items() if path not in changed}
        return self._point(Asked(seed, kept))

    def _point(self, asked: Asked) -> Idea | None:
        try:
            arch, _ = self._make(asked)
            arch.graph  # noqa: B018 - a cached property that raises
        except ArchError:
            return None
        cost = self._guess(arch)
        beyond = sum(excess(cost, self._limits).values())
        return Idea({path: asked.params[path] for path in asked.asked}, cost, beyond)


class Asked(RandomTrial):
    """A draw that knows which of the values given to it were asked for."""

    def __init__(self, seed: int, given: Mapping[str, Scalar] | None = None) -> None:
        super().__init__(seed, given)
        self.asked: list[str] = []

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any:
        self.asked.append(name)
        return super().suggest_categorical(name, choices)

    def suggest_int(self, name: str, low: int, high: int, /, *, step: int) -> int:
        self.asked.append(name)
        return super().suggest_int(name, low, high, step=step)

    def suggest_float(self, name: str, low: float, high: float, /, *, step: float) -> float:
        self.asked.append(name)
        return super().suggest_float(name, low, high, step=step)
