"""Samplers: where the points of a simulated search come from."""

from __future__ import annotations

import math
import random
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState
from rules import LAST
from table import Table

from lepton_automl.search.space.draw import suggest

STUCK = 3
"""Known or infeasible points in a row after which one is drawn evenly."""


class Sampler(ABC):
    """Draws points that are feasible and new; neither the others nor repeats cost anything."""

    def __init__(self, table: Table, seed: int) -> None:
        self.table, self.random = table, random.Random(seed)
        self.left = [n for n, fits in enumerate(table.feasible) if fits]
        self.random.shuffle(self.left)

    @abstractmethod
    def ask(self) -> int:
        """The next point."""

    def see(self, number: int, values: list[float]) -> None:  # noqa: B027 - not all want it
        """What a point reached at its rungs so far."""

    def end(self, number: int, values: list[float]) -> None:  # noqa: B027 - not all want it
        """The point is not trained any further."""

    def take(self, number: int) -> int:
        """Hand a point out, once."""
        self.left.remove(number)
        return number


class Evenly(Sampler):
    """Random search."""

    def ask(self) -> int:
        return self.take(self.left[-1])


class Evolution(Sampler):
    """Regularised evolution (Real et al. 2019): the fittest of a few of the youngest, mutated."""

    population, sample, startup = 20, 5, 10

    def __init__(self, table: Table, seed: int) -> None:
        super().__init__(table, seed)
        self.told: dict[int, float] = {}

    def see(self, number: int, values: list[float]) -> None:
        self.told[number] = values[-1]

    def ask(self) -> int:
        if len(self.told) < self.startup:
            return self.take(self.left[-1])
        for _ in range(STUCK):
            young = list(self.told)[-self.population :]
            few = self.random.sample(young, min(self.sample, len(young)))
            point = dict(self.table.points[max(few, key=lambda n: self.told[n])])
            path = self.random.choice(list(self.table.all_parameters))
            point[path] = self.random.choice(self.table.all_parameters[path].values)
            child = self.table.index.get(self.table.key(point))
            if child in self.left:
                return self.take(child)
        return self.take(self.left[-1])


class Optuna(Sampler):
    """One of Optuna's samplers in its own study, with constraints and intermediate values."""

    def __init__(
        self,
        table: Table,
        seed: int,
        make: Callable[[int], BaseSampler],
        *,
        tells_first: bool,
        warm: bool = False,
        costs: bool = False,
    ) -> None:
        super().__init__(table, seed)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore")
        directions = ["maximize", "minimize"] if costs else ["maximize"]
        self.study = optuna.create_study(directions=directions, sampler=make(seed))
        self.costs = costs
        self.tells_first = tells_first
        self.trials: dict[int, optuna.Trial] = {}
        self.ended: dict[int, list[float]] = {}
        for candidate in table.candidates if warm else ():
            self.study.enqueue_trial(candidate)

    def ask(self) -> int:
        for _ in range(STUCK):
            number = self._drawn(self.study.ask())
            if number is not None:
                return number
        params = self.table.points[self.left[-1]]
        self.study.enqueue_trial(params)
        number = self._drawn(self.study.ask())
        assert number is not None
        return number

    def _drawn(self, trial: optuna.Trial) -> int | None:
        point = {
            path: suggest(trial, path, parameter)
            for path, parameter in self.table.all_parameters.items()
        }
        number = self.table.index.get(self.table.key(point))
        if number is None:
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        trial.set_constraint("size", self.table.costs[number]["size_bytes"] / self.table.limit - 1)
        if not self.table.feasible[number]:
            self.study.tell(trial, state=TrialState.PRUNED)
        elif number in self.ended:
            self._tell(trial, number, self.ended[number])
        elif number in self.trials:
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.trials[number] = trial
            return self.take(number)
        return None

    def see(self, number: int, values: list[float]) -> None:
        if self.tells_first and len(values) == 1:
            self.end(number, values)

    def end(self, number: int, values: list[float]) -> None:
        if number not in self.ended:
            self.ended[number] = list(values)
            self._tell(self.trials[number], number, values)

    def _tell(self, trial: optuna.Trial, number: int, values: list[float]) -> None:
        if self.costs:
            size = math.log2(self.table.costs[number]["size_bytes"])
            self.study.tell(trial, [values[0], size])
            return
        for step, value in enumerate(values):
            trial.report(value, step)
        if self.tells_first or len(values) > LAST:
            self.study.tell(trial, values[-1])
        else:
            self.study.tell(trial, state=TrialState.PRUNED)


def tpe(seed: int) -> BaseSampler:
    """Optuna's default."""
    return optuna.samplers.TPESampler(seed=seed)


def joint(seed: int) -> BaseSampler:
    """TPE over all parameters together."""
    return optuna.samplers.TPESampler(seed=seed, multivariate=True)


def genetic(seed: int) -> BaseSampler:
    """NSGA-II with a population that 100 trials can use."""
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=20)


def process(seed: int) -> BaseSampler:
    """Optuna's Gaussian process."""
    return optuna.samplers.GPSampler(seed=seed, deterministic_objective=False)
