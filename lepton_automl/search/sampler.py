"""Sampler: Optuna's ask and tell on a study in memory that is rebuilt from the ledger."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from lepton_automl.cost.cost import Cost
from lepton_automl.errors import ArchError
from lepton_automl.models.arch import Arch
from lepton_automl.search.objectives import Objective
from lepton_automl.search.space.draw import SpaceTrial, seed_of
from lepton_automl.search.trials import Rejection, Trial
from lepton_automl.training.recipe import Recipe

WISHES = 24
"""After so many refused or known points the advisor is stuck: points are drawn evenly."""

Draw = Callable[[SpaceTrial], tuple[Arch, Recipe]]


@dataclass(frozen=True, eq=False)
class Point:
    """A point of the space as drawn; `arch` is None where its layers do not fit together."""

    trial: optuna.Trial
    arch: Arch | None
    recipe: Recipe | None

    @property
    def params(self) -> dict[str, Any]:
        """Values by path."""
        return dict(self.trial.params)

    @property
    def distributions(self) -> dict[str, str]:
        """What each value was drawn from, as JSON."""
        return {k: distribution_to_json(d) for k, d in self.trial.distributions.items()}


class Wished(BaseSampler):
    """Takes the values it was given; what they leave open is drawn evenly.

    Every ask is begun with a seed of its own, so that nothing but that and the values decides.
    """

    def __init__(self) -> None:
        self.begin(0, {})

    def begin(self, seed: int, values: Mapping[str, Any]) -> None:
        """The next ask."""
        self._even, self._values = RandomSampler(seed), values

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing: every parameter is asked for by itself."""
        del study, trial
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing."""
        del study, trial, search_space
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The value given, or an even draw."""
        if param_name in self._values:
            return self._values[param_name]
        return self._even.sample_independent(study, trial, param_name, param_distribution)


class Sampler:
    """Asks Optuna's study for points: known-good ones first, then what the advisor wishes.

    Every ask is seeded by (seed, trial number, attempt) alone and the study holds only what the
    ledger holds, so a search that was interrupted draws what it would have drawn. Optuna is told
    the accuracy at the first rung, which every candidate has, and the logarithm of costs.

    Parameters
    ----------
    draw : callable
        Samples an `Arch` and a `Recipe` from a trial.
    objectives : sequence of Objective
        At least one.
    first : sequence of mapping
        Parameters of the first candidates.
    seed : int
        Of the study.
    """

    def __init__(
        self,
        draw: Draw,
        objectives: Sequence[Objective],
        first: Sequence[Mapping[str, Any]],
        *,
        seed: int,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._draw, self._objectives, self._first = draw, objectives, first
        self._seed = seed
        self._wished = Wished()
        self._study = optuna.create_study(
            directions=[o.direction for o in objectives], sampler=self._wished
        )
        self.wishes: Sequence[Mapping[str, Any]] = ()
        """Points for the next candidate, the best first; after them, points are drawn evenly."""
        self._running: dict[int, optuna.Trial] = {}

    def ask(self, number: int, attempt: int, given: Mapping[str, Any] | None = None) -> Point:
        """Draw a point for candidate `number`; end it by `accept`, `refuse` or `drop`.

        Parameters
        ----------
        number : int
            Of the candidate, from 0.
        attempt : int
            How many points were drawn for it before.
        given : mapping, optional
            Values to take instead of drawing.
        """
        if given is None and self.is_first(number, attempt):
            given = self._first[number]
        elif given is None and attempt < min(len(self.wishes), WISHES):
            given = self.wishes[attempt]
        self._wished.begin(seed_of(self._seed, "ask", number, attempt), given or {})
        trial = self._study.ask()
        try:
            arch, recipe = self._draw(trial)
            arch.graph  # noqa: B018 - a cached property that raises
        except ArchError:
            return Point(trial, None, None)
        return Point(trial, arch, recipe)

    def is_first(self, number: int, attempt: int) -> bool:
        """Whether this ask gives a point that is known to be good."""
        return attempt == 0 and number < len(self._first)

    def accept(self, number: int, point: Point) -> None:
        """The point becomes candidate `number`; its figures are told later."""
        self._running[number] = point.trial

    def refuse(self, point: Point, excess: Mapping[str, float]) -> Rejection:
        """The point breaks limits; the model learns by how much."""
        for name, value in excess.items():
            point.trial.set_constraint(name, value)
        self._study.tell(point.trial, state=TrialState.PRUNED)
        return Rejection(point.params, point.distributions, dict(excess))

    def drop(self, point: Point) -> None:
        """The point is known already; the model does not count it twice."""
        self._study.tell(point.trial, state=TrialState.FAIL)

    def tell(self, number: int, accuracy: float | None, cost: Cost) -> None:
        """Figures of a candidate after its first rung; accuracy None: it could not be trained."""
        trial = self._running.pop(number)
        if accuracy is None:
            trial.set_constraint("training", 1.0)
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, values=self._values(accuracy, cost))

    def restore(self, candidate: Trial, accuracy: float | None, *, finished: bool) -> None:
        """Tell what the ledger knows of a candidate, in the order of their numbers."""
        for refusal in candidate.rejected:
            self._add(refusal, TrialState.PRUNED, constraints=refusal.violation)
        if not finished:
            point = self.ask(candidate.number, 0, given=candidate.params)
            self.accept(candidate.number, point)
        elif accuracy is None:
            self._add(candidate, TrialState.PRUNED, constraints={"training": 1.0})
        else:
            values = self._values(accuracy, candidate.cost)
            self._add(candidate, TrialState.COMPLETE, values=values)

    def _add(self, known: Trial | Rejection, state: TrialState, **outcome: Any) -> None:
        distributions = {k: json_to_distribution(d) for k, d in known.distributions.items()}
        self._study.add_trial(
            create_trial(state=state, params=known.params, distributions=distributions, **outcome)
        )

    def _values(self, accuracy: float, cost: Cost) -> list[float]:
        return [
            value if objective.needs_training else math.log2(max(value, 1e-9))
            for objective in self._objectives
            for value in [objective.value(accuracy, cost)]
        ]
