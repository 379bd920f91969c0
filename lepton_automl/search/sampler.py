"""Sampler: Optuna's ask and tell on a study in memory that is rebuilt from the ledger."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState, create_trial

from lepton_automl.arch import Arch
from lepton_automl.cost import Cost
from lepton_automl.errors import ArchError
from lepton_automl.objectives import Objective
from lepton_automl.recipe import Recipe
from lepton_automl.search.trials import Candidate, Refusal
from lepton_automl.space import Trial

GUIDED_ATTEMPTS = 8
"""After so many refused or known points the model is stuck: points are drawn evenly."""
STARTUP_TRIALS = 10
"""Points drawn evenly before the model begins; the known-good ones count."""

Draw = Callable[[Trial], tuple[Arch, Recipe]]


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


class Repeatable(BaseSampler):
    """Optuna's samplers with nothing that an interrupted search could not know again.

    Every ask gets a new sampler with a seed of its own, so that nothing but the study and the
    seed decides what is drawn. Only the intersection of the trials' search spaces, which takes
    time and not chance, is kept from one ask to the next.

    Parameters
    ----------
    jobs : int
        Trials at work at the same time.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._shared = IntersectionSearchSpace(include_pruned=True)
        self._now: BaseSampler = RandomSampler(0)

    def begin(self, seed: int, attempt: int) -> None:
        """The next ask: guided by the model at first, later drawn evenly."""
        if attempt >= GUIDED_ATTEMPTS:
            self._now = RandomSampler(seed)
        else:
            self._now = TPESampler(
                seed=seed,
                multivariate=True,
                n_startup_trials=STARTUP_TRIALS,
                constant_liar=self._jobs > 1,
            )

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """What all trials so far have in common; drawn together."""
        del trial
        if isinstance(self._now, RandomSampler):
            return {}
        shared = self._shared.calculate(study)
        return {name: knob for name, knob in shared.items() if not knob.single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw what all trials have in common."""
        return self._now.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw what only some trials have."""
        return self._now.sample_independent(study, trial, param_name, param_distribution)


class Sampler:
    """A multivariate tree-structured Parzen estimator (Falkner et al. 2018) over all objectives.

    Every ask is seeded by (seed, trial number, attempt) alone and the study holds only what the
    ledger holds, so a search that was interrupted draws what it would have drawn. Optuna is told
    the accuracy at the first rung, which every candidate has, and the logarithm of costs: a
    doubling counts the same everywhere.

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
    jobs : int
        With more than one, candidates still at work count as bad ones, so that the workers
        spread out (constant liar, Ginsbourger et al. 2010).
    """

    def __init__(
        self,
        draw: Draw,
        objectives: Sequence[Objective],
        first: Sequence[Mapping[str, Any]],
        *,
        seed: int,
        jobs: int,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._draw, self._objectives, self._first = draw, objectives, first
        self._seed = seed
        self._repeatable = Repeatable(jobs)
        self._study = optuna.create_study(
            directions=[o.direction for o in objectives], sampler=self._repeatable
        )
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
        if given is None and attempt == 0 and number < len(self._first):
            given = self._first[number]
        if given is not None:
            self._study.enqueue_trial(dict(given))
        self._repeatable.begin(seed_of(self._seed, "ask", number, attempt), attempt)
        trial = self._study.ask()
        try:
            arch, recipe = self._draw(trial)
            arch.graph  # noqa: B018 - a cached property that raises
        except ArchError:
            return Point(trial, None, None)
        return Point(trial, arch, recipe)

    def accept(self, number: int, point: Point) -> None:
        """The point becomes candidate `number`; its figures are told later."""
        self._running[number] = point.trial

    def refuse(self, point: Point, excess: Mapping[str, float]) -> Refusal:
        """The point breaks limits; the model learns by how much."""
        for name, value in excess.items():
            point.trial.set_constraint(name, value)
        self._study.tell(point.trial, state=TrialState.PRUNED)
        return Refusal(point.params, point.distributions, dict(excess))

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

    def restore(self, candidate: Candidate, accuracy: float | None, *, finished: bool) -> None:
        """Tell what the ledger knows of a candidate, in the order of their numbers."""
        for refusal in candidate.refused:
            self._add(refusal, TrialState.PRUNED, constraints=refusal.excess)
        if not finished:
            point = self.ask(candidate.number, 0, given=candidate.params)
            self.accept(candidate.number, point)
        elif accuracy is None:
            self._add(candidate, TrialState.PRUNED, constraints={"training": 1.0})
        else:
            values = self._values(accuracy, candidate.cost)
            self._add(candidate, TrialState.COMPLETE, values=values)

    def _add(self, known: Candidate | Refusal, state: TrialState, **outcome: Any) -> None:
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


def seed_of(*parts: object) -> int:
    """A seed below 2**31 from anything that has a text, the same in every process."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1
