"""A simulated search by the product's own study and scheduler, answered from a recorded table."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import record
from rules import LAST
from table import VALIDATION, Table

from lepton_automl.cost import targets
from lepton_automl.cost.cost import Cost
from lepton_automl.models.arch import Arch
from lepton_automl.search.objectives import load
from lepton_automl.search.proposals.proposer import ASKED
from lepton_automl.search.rungs import Rung, RungEntries, RungEntry
from lepton_automl.search.sampler.candidate_pool import CandidateEstimate, Params
from lepton_automl.search.scheduler import Scheduler
from lepton_automl.search.space.draw import SpaceTrial
from lepton_automl.search.study import SearchStudy
from lepton_automl.training.recipe import Recipe

Train = Callable[[int], bool]
"""Train a point to its next rung; whether the search is over."""


@dataclass
class Search:
    """One worker; points that are infeasible or known cost nothing.

    Parameters
    ----------
    table : Table
        What it searches.
    sampler : str
        As `lepton run --sampler` takes it.
    seed : int
        Of its proposals.
    costs : bool
        Trade accuracy off against size; without, only accuracy counts.
    warm : bool
        Start with the known-good points.
    """

    table: Table
    sampler: str
    seed: int
    costs: bool = False
    warm: bool = True
    scores: dict[int, list[float]] = field(default_factory=dict)
    """Trial -> accuracy at its rungs."""
    points: dict[int, int] = field(default_factory=dict)
    """Trial -> point of the table."""

    def __post_init__(self) -> None:
        names = ("accuracy", "size_bytes") if self.costs else ("accuracy",)
        self._study = SearchStudy(
            functools.partial(_net, self.table.name),
            self.table.all_parameters,
            [load(name) for name in names],
            self._estimate,
            sampler=self.sampler,
            seed=self.seed,
        )
        self._scheduler = Scheduler(self._study)
        self._random = random.Random(self.seed)
        known = [self.table.index.get(self.table.key(c)) for c in self.table.candidates]
        fitting = [n for n in known if n is not None and self.table.feasible[n]]
        self._first = fitting if self.warm else []

    def run(self, trials: int, train: Train) -> None:
        """Search until `train` says that it is over or nothing is left to do."""
        while True:
            may_propose = len(self.scores) < min(trials, int(self.table.feasible.sum()))
            number = self._next(may_propose=may_propose)
            if number is None:
                return
            rung, point = len(self.scores[number]), self.points[number]
            self._study.begin(number, LAST - rung)
            is_over = train(point)
            accuracy = float(self.table.accuracy[point, rung])
            self.scores[number].append(accuracy)
            self._study.record(number, (LAST - rung, accuracy, VALIDATION), self._cost(point))
            if is_over:
                return

    def _next(self, *, may_propose: bool) -> int | None:
        if may_propose and len(self.scores) < len(self._first):
            return self._proposed(self.table.points[self._first[len(self.scores)]])
        promotable = self._scheduler.promotable(
            [self._rung(rung) for rung in range(LAST)], closing=not may_propose
        )
        action = self._scheduler.next_action(promotable, may_propose=may_propose)
        if action is None:
            return None
        return self._proposed() if action.promote is None else action.promote

    def _rung(self, rung: int) -> Rung:
        here = {n: values[rung] for n, values in self.scores.items() if len(values) > rung}
        entries = [
            RungEntry(n, a, (self._size(n),) if self.costs else (), VALIDATION)
            for n, a in here.items()
        ]
        return Rung(RungEntries(entries), {n for n in here if len(self.scores[n]) > rung + 1})

    def _proposed(self, given: Params | None = None) -> int:
        """A new trial: as the product asks, judges and tells."""
        number, known = len(self.scores), set(self.points.values())
        for attempt in range(10_000):
            if attempt >= ASKED:
                fresh = [n for n, fits in enumerate(self.table.feasible) if fits and n not in known]
                given = self.table.points[self._random.choice(fresh)]
            asked = self._study.ask(given)
            point = self.table.index.get(self.table.key(asked.params))
            if point is None or not self.table.feasible[point]:
                size = 1.0 if point is None else self._cost(point).size_bytes / self.table.limit - 1
                self._study.reject(asked, {"max_size_bytes": size})
            elif point in known:
                self._study.drop(asked)
            else:
                self._study.accept(number, asked)
                self.scores[number], self.points[number] = [], point
                return number
        raise AssertionError("an even draw is feasible and new")

    def _estimate(self, params: Mapping[str, Any]) -> CandidateEstimate | None:
        point = self.table.index.get(self.table.key(params))
        if point is None:
            return None
        size = self.table.costs[point]["size_bytes"]
        values = {1: size} if self.costs else {}
        return CandidateEstimate(params, values, max(0.0, size / self.table.limit - 1))

    def _size(self, number: int) -> float:
        return self.table.costs[self.points[number]]["size_bytes"]

    def _cost(self, point: int) -> Cost:
        return Cost(int(self.table.costs[point]["size_bytes"]), 1, 1, 1, 1)


def _net(name: str, trial: SpaceTrial) -> tuple[Arch, Recipe]:
    side = record.SIDES[name]
    return record.loaded(name).sample(
        trial, size=(side, side), channels=1, classes=10, target=targets.load()
    )
