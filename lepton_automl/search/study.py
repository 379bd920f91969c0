"""The Optuna study of a search: in memory, rebuilt from the ledger, the same for every sampler."""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from lepton_automl.core import plugins
from lepton_automl.cost.cost import Cost
from lepton_automl.errors import ArchError, ConfigError
from lepton_automl.models.arch import Arch
from lepton_automl.search.objectives import Objective
from lepton_automl.search.sampler import LeptonSampler, Observation
from lepton_automl.search.sampler.candidate_pool import Estimator
from lepton_automl.search.seeds import seed_of
from lepton_automl.search.space.draw import SpaceTrial
from lepton_automl.search.space.parameters import Choice, Parameter
from lepton_automl.search.trials import RejectedProposal, RungResult, Trial
from lepton_automl.training.recipe import Recipe

LEPTON = "lepton"
"""Name of the default sampler."""
NEIGHBORS = 12
"""Neighbours of the best points among our candidates (docs/decisions.md, "Acquisition")."""
POPULATION = 20
"""Population of NSGA-II: several generations in some hundred trials."""
PAIRED = 0.5
"""Share of the sampling variance that is not common to nets evaluated on the same samples."""
RESULTS, RUNGS_LEFT = "lepton_results", "lepton_rungs_left"
"""User attributes of a trial: [rungs left, accuracy or None, samples] of each finished rung; rungs
left after the running training, or None."""
TRAINING, ARCH = "training", "arch"
"""Constraints that are violated by a failed training, and by layers that do not fit together."""

Draw = Callable[[SpaceTrial], tuple[Arch, Recipe]]
Outcome = tuple[int, float | None, int]
"""Rungs left after a rung; the accuracy, None where the training failed; validation samples."""


@dataclass(frozen=True, eq=False)
class Proposal:
    """A point of the space from the study; `arch` is None where its layers do not fit together."""

    trial: optuna.Trial
    arch: Arch | None
    recipe: Recipe | None

    @property
    def params(self) -> dict[str, Any]:
        """Values by parameter."""
        return dict(self.trial.params)

    @property
    def distributions(self) -> dict[str, str]:
        """Distribution of each parameter, as JSON; one text for all trials that have it."""
        found = self.trial.distributions
        return {k: sys.intern(distribution_to_json(d)) for k, d in found.items()}


class SearchStudy:
    """Study that every sampler proposes through: `ask`, then `accept`, `reject` or `drop`.

    Our sampler reads the results of all rungs, and its trials run until their last one. The trials
    of other samplers end after the first rung, which every trial has, with its accuracy and the
    logarithm of each cost. A sampler without internal state is constructed again for each trial,
    with a seed of its own, so that a rebuilt study proposes the same points as an uninterrupted
    one.

    Parameters
    ----------
    draw : callable
        Builds an `Arch` and a `Recipe` from a trial.
    parameters : mapping
        Open parameters of the space.
    objectives : sequence of Objective
        At least one.
    estimator : callable
        Estimates candidates for our sampler.
    sampler : str
        `lepton`, another name of `BUILT_IN`, or MODULE:CLASS.
    seed : int
        Of all proposals.

    Raises
    ------
    ConfigError
        If there is no such sampler.
    """

    def __init__(
        self,
        draw: Draw,
        parameters: Mapping[str, Parameter],
        objectives: Sequence[Objective],
        estimator: Estimator,
        *,
        sampler: str,
        seed: int,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._draw, self._objectives = draw, objectives
        self._sampler, self._seed = sampler, seed
        self.space = distributions(parameters)
        """Distribution of every parameter."""
        own = LeptonSampler(
            seed,
            n_startup_trials=1,
            n_neighbors=NEIGHBORS,
            search_space=self.space,
            estimate=estimator,
            observe=observations,
        )
        self._own = own if sampler == LEPTON else None
        self._study = optuna.create_study(
            directions=[o.direction for o in objectives],
            sampler=own if sampler == LEPTON else make_sampler(sampler, seed),
        )
        self._running: dict[int, optuna.Trial] = {}
        self._numbers: dict[int, int] = {}
        self._ranked: Mapping[int, float] = {}
        """Values of the last ranking, which serves several decisions, by numbers in the study."""
        self._values_of: Mapping[int, float] = {}
        """The same by numbers in the search."""

    @property
    def ranks(self) -> bool:
        """Whether the sampler has acquisition values."""
        return self._own is not None

    def rank(self) -> tuple[Mapping[int, float], float | None]:
        """Acquisition value of each trial, by its number in the search, and of the best candidate.

        No values before the first result; None without a candidate.
        """
        assert self._own is not None, "other samplers have no acquisition values"
        ranking = self._own.rank(self._study)
        if ranking.trials is not self._ranked:
            self._ranked = ranking.trials
            self._values_of = {
                self._numbers[n]: value for n, value in self._ranked.items() if n in self._numbers
            }
        return self._values_of, next((value for _, value in ranking.candidates), None)

    def ask(self, given: Mapping[str, Any] | None = None) -> Proposal:
        """The next point: the `given` values are enqueued, the sampler proposes all others."""
        if self._sampler in REPRODUCIBLE:
            count = len(self._study.get_trials(deepcopy=False))
            self._study.sampler = make_sampler(self._sampler, seed_of(self._seed, "ask", count))
        if given is not None:
            self._study.enqueue_trial(dict(given))
        trial = self._study.ask()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            try:
                arch, recipe = self._draw(trial)
                arch.graph  # noqa: B018 - a cached property that raises
            except ArchError:
                return Proposal(trial, None, None)
        return Proposal(trial, arch, recipe)

    def accept(self, number: int, proposal: Proposal) -> None:
        """The proposal becomes trial `number` of the search."""
        self._running[number] = proposal.trial
        self._numbers[proposal.trial.number] = number

    def reject(self, proposal: Proposal, violations: Mapping[str, float]) -> RejectedProposal:
        """The proposal is infeasible: its trial ends as pruned, with the violated constraints."""
        for name, value in violations.items():
            proposal.trial.set_constraint(name, value)
        self._study.tell(proposal.trial, state=TrialState.PRUNED)
        return RejectedProposal(proposal.params, proposal.distributions, dict(violations))

    def drop(self, proposal: Proposal) -> RejectedProposal:
        """The proposal repeats a trial: it ends as failed, without a result."""
        self._study.tell(proposal.trial, state=TrialState.FAIL)
        return RejectedProposal(proposal.params, proposal.distributions, {})

    def begin(self, number: int, rungs_left: int) -> None:
        """A training of trial `number` starts, after which `rungs_left` rungs are left."""
        if (trial := self._running.get(number)) is not None:
            trial.set_user_attr(RUNGS_LEFT, rungs_left)

    def record(self, number: int, outcome: Outcome, cost: Cost) -> None:
        """Result of a trial at its next rung."""
        trial = self._running.get(number)
        if trial is None:  # Trials of other samplers end after their first rung.
            return
        outcomes = [*trial.user_attrs.get(RESULTS, ()), list(outcome)]
        trial.set_user_attr(RESULTS, outcomes)
        trial.set_user_attr(RUNGS_LEFT, None)
        state, values = self._state(outcomes, cost)
        if state == TrialState.RUNNING:
            return
        del self._running[number]
        if state == TrialState.PRUNED:
            trial.set_constraint(TRAINING, 1.0)
        self._study.tell(trial, state=state, values=values)

    def restore(
        self, candidate: Trial, outcomes: Sequence[Outcome], *, is_ours: bool = True
    ) -> None:
        """Add a trial of the ledger, and the points that were rejected before it.

        Parameters
        ----------
        candidate : Trial
            Trials are added in the order of their numbers.
        outcomes : sequence of (int, float or None, int)
            Outcome of each finished rung.
        is_ours : bool
            False for a trial of another run, which does not train longer.
        """
        for rejection in candidate.rejected:
            state = TrialState.PRUNED if rejection.violation else TrialState.FAIL
            self._add(rejection, state, constraints=rejection.violation)
        state, values = self._state(outcomes, candidate.cost)
        if state == TrialState.RUNNING and not is_ours:
            good = [accuracy for _, accuracy, _ in outcomes if accuracy is not None]
            state, values = TrialState.COMPLETE, self._values(good[-1], candidate.cost)
        known = {RESULTS: [list(outcome) for outcome in outcomes]}
        constraints = {TRAINING: 1.0} if state == TrialState.PRUNED else {}
        number, trial_id = self._add(
            candidate, state, constraints=constraints, values=values, user_attrs=known
        )
        if is_ours:
            self._numbers[number] = candidate.number
            if state == TrialState.RUNNING:
                self._running[candidate.number] = optuna.Trial(self._study, trial_id)

    def _add(
        self, known: Trial | RejectedProposal, state: TrialState, **attributes: Any
    ) -> tuple[int, int]:
        """Add a trial with these attributes; its number and id in the study."""
        drawn_from = {k: json_to_distribution(d) for k, d in known.distributions.items()}
        self._study.add_trial(
            create_trial(state=state, params=known.params, distributions=drawn_from, **attributes)
        )
        added = self._study.get_trials(deepcopy=False)[-1]
        return added.number, added._trial_id

    def _state(
        self, outcomes: Sequence[Sequence[Any]], cost: Cost
    ) -> tuple[TrialState, list[float] | None]:
        """State and values of a trial with these outcomes, as the sampler reads them."""
        seen = outcomes if self.ranks else outcomes[:1]
        if not seen:
            return TrialState.RUNNING, None
        left, accuracy, _ = seen[-1]
        if accuracy is None:
            return TrialState.PRUNED, None
        if self.ranks and left > 0:
            return TrialState.RUNNING, None
        return TrialState.COMPLETE, self._values(accuracy, cost)

    def _values(self, accuracy: float, cost: Cost) -> list[float]:
        return [
            value if objective.needs_training else math.log2(max(value, 1e-9))
            for objective in self._objectives
            for value in [objective.value(accuracy, cost)]
        ]


def outcomes_of(results: Sequence[RungResult], rungs: int) -> list[Outcome]:
    """Outcomes of a trial with `rungs` rungs in all."""
    return [
        (max(0, rungs - 1 - n), None if result.failed else result.accuracy, result.samples)
        for n, result in enumerate(results)
    ]


def observations(trial: FrozenTrial) -> list[Observation]:
    """Outcomes of a trial as minus the logarithm of the error, so that ratios of errors count.

    The variance is that of the logarithm of a binomial share (delta method).
    """
    found = []
    for left, accuracy, samples in trial.user_attrs.get(RESULTS, ()):
        if accuracy is None:
            found.append(Observation(left, -math.inf))
            continue
        error = (samples * (1 - accuracy) + 0.5) / (samples + 1)
        variance = PAIRED * (1 - error) / (samples * error)
        found.append(Observation(left, -math.log(error), variance))
    running = trial.user_attrs.get(RUNGS_LEFT)
    return found if running is None else [*found, Observation(running, None)]


def distributions(parameters: Mapping[str, Parameter]) -> dict[str, BaseDistribution]:
    """Optuna's distribution of every open parameter of a space."""
    return {name: _distribution(parameter) for name, parameter in parameters.items()}


def _distribution(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.values)
    if isinstance(parameter.low, float) or isinstance(parameter.step, float):
        return FloatDistribution(parameter.low, parameter.high, step=parameter.step)
    return IntDistribution(parameter.low, int(parameter.high), step=parameter.step)


BUILT_IN: Mapping[str, Callable[..., BaseSampler]] = {
    LEPTON: LeptonSampler,
    "tpe": optuna.samplers.TPESampler,
    "nsgaii": functools.partial(optuna.samplers.NSGAIISampler, population_size=POPULATION),
    "gp": functools.partial(optuna.samplers.GPSampler, deterministic_objective=False),
    "random": optuna.samplers.RandomSampler,
}
"""Names of `--sampler`; MODULE:CLASS names any other class."""
REPRODUCIBLE = frozenset({"tpe", "gp", "random"})
"""Samplers without internal state: they are constructed again for each trial."""


def resumes_exactly(sampler: str) -> bool:
    """Whether a resumed search proposes the same points as an uninterrupted one.

    Of our sampler that holds while fewer than `sampler.TASKS_PER_CHANGE` trainings run.
    """
    return sampler == LEPTON or sampler in REPRODUCIBLE


def make_sampler(name: str, seed: int) -> BaseSampler:
    """Construct a sampler by its name, with the seed if its constructor takes one.

    Raises
    ------
    ConfigError
        If there is no such sampler, or it cannot be constructed.
    """
    made: Callable[..., BaseSampler] = BUILT_IN.get(name) or _third_party(name)
    takes_seed = "seed" in inspect.signature(made).parameters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            return made(seed=seed) if takes_seed else made()
        except (TypeError, ValueError, ImportError) as error:
            raise ConfigError(
                f"--sampler {name} cannot be constructed: {str(error).splitlines()[0]}",
                fix="name a class whose arguments all have defaults, except seed",
            ) from error


def _third_party(name: str) -> type[BaseSampler]:
    module, colon, attribute = name.partition(":")
    if not colon:
        raise plugins.unknown_name(name, [*BUILT_IN, "MODULE:CLASS"], "sampler")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"--sampler {name}: the module {module!r} cannot be imported: {error}",
            fix="install its package, or name a module on PYTHONPATH",
        ) from error
    if not (inspect.isclass(found) and issubclass(found, BaseSampler)):
        raise ConfigError(
            f"--sampler {name}: {module} has no class {attribute!r} derived from "
            "optuna.samplers.BaseSampler",
            fix="name such a class as MODULE:CLASS",
        )
    return found
