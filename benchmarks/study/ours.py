"""The search's own guide on a recorded table: the same code, answered from the table."""

from __future__ import annotations

import random

from rules import LAST, State
from table import VALIDATION, Table

from lepton_automl.search.rungs import RungEntry, may_go_on
from lepton_automl.search.scheduler import Contender, best_of, budgets, prospects
from lepton_automl.search.surrogate import Encoding

IDEAS = 96
"""New points that are thought about at a time, as in the search."""


class Ours:
    """Names the next training: a point for longer, or a new one.

    Parameters
    ----------
    table : Table
        What it searches.
    seed : int
        Of its ideas.
    costs : bool
        Trade accuracy off against size; without, only accuracy counts.
    warm : bool
        Begin with the known-good points.
    ideas : int
        New points to choose from; with one, new points are drawn evenly.
    """

    def __init__(
        self,
        table: Table,
        seed: int,
        *,
        costs: bool = False,
        warm: bool = True,
        ideas: int = IDEAS,
    ) -> None:
        self.ideas = ideas
        self.table, self.random, self.costs = table, random.Random(seed), costs
        self.encoding = Encoding(table.all_parameters)
        self.fits = [n for n, fits in enumerate(table.feasible) if fits]
        known = [table.index.get(table.key(c)) for c in table.candidates] if warm else []
        self.first = [n for n in known if n is not None and table.feasible[n]]
        self.first = self.first or [self.random.choice(self.fits)]

    def next(self, state: State, *, closing: bool) -> tuple[int, int] | None:
        """Point and rung; None where nobody may go on and nobody new may start."""
        ideas = [] if closing else self._ideas(state)
        if ideas and (first := self._first(state)) is not None:
            return first, 0
        go = [n for rung in range(LAST) for n in self._may_go_on(state, rung, closing=not ideas)]
        number = self._best(state, go, ideas)
        return None if number is None else (number, len(state.seen.get(number, [])))

    def newcomer(self, state: State) -> int:
        """The new point that is expected to be best, whoever else might go on."""
        first = self._first(state)
        chosen = self._best(state, [], self._ideas(state)) if first is None else first
        assert chosen is not None, "there are more points than trials"
        return chosen

    def _ideas(self, state: State) -> list[int]:
        untried = [n for n in self.fits if n not in state.seen]
        return self.random.sample(untried, min(self.ideas, len(untried)))

    def _first(self, state: State) -> int | None:
        return next((n for n in self.first if n not in state.seen), None)

    def _best(self, state: State, go: list[int], ideas: list[int]) -> int | None:
        numbers = [*state.seen, *ideas]
        contenders = [self._contender(state, n) for n in numbers]
        may = [row for row, n in enumerate(numbers) if n in go or row >= len(state.seen)]
        if not may:
            return None
        budget, seed = budgets(contenders, self.random), self.random.getrandbits(31)
        prospect = prospects(self.encoding, contenders, budget, seed)
        row = best_of(prospect, may)
        return numbers[may[0] if row is None else row]

    def _may_go_on(self, state: State, rung: int, *, closing: bool) -> list[int]:
        here = state.at(rung)
        standings = [RungEntry(n, a, self._cost(n), VALIDATION) for n, a in here.items()]
        return may_go_on(standings, set(state.at(rung + 1)), rung=rung, closing=closing)

    def _contender(self, state: State, number: int) -> Contender:
        values = state.seen.get(number, [])
        results = tuple((LAST - rung, value) for rung, value in enumerate(values))
        costs = self._cost(number) if self.costs else ()
        return Contender(self.table.points[number], costs, results, VALIDATION)

    def _cost(self, number: int) -> tuple[float, ...]:
        return (self.table.costs[number]["size_bytes"],)
