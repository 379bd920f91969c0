"""Optuna sampler with a Gaussian process over points and rungs, and batch expected improvement."""

from __future__ import annotations

import functools
import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lepton_automl.search.sampler.acquisition import SurrogateTrial, acquisition, log_feasibility
from lepton_automl.search.sampler.candidate_pool import (
    Candidate,
    CandidateEstimate,
    CandidatePool,
    Conditions,
    Estimator,
    Identity,
    Params,
    Space,
    even_draw,
    even_value,
)
from lepton_automl.search.sampler.observations import (
    Observation,
    Observe,
    combined,
    without_failures,
)
from lepton_automl.search.sampler.surrogate import Encoding, Floats
from lepton_automl.search.sampler.trial_summaries import TrialSummaries, TrialSummary
from lepton_automl.search.seeds import seed_of

PARENTS = 6
"""Best points whose neighbours are candidates."""
TASKS_PER_CHANGE = 32
"""A ranking is used again after one change of the study for each so many running trainings: beside
their missing results, a few more change little. Of fewer trainings every change counts."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """Acquisition values of trials and of candidates, in one unit."""

    trials: Mapping[int, float]
    """Trial number -> logarithm of its share of the expected improvement; empty at startup."""
    candidates: Sequence[tuple[Candidate, float]]
    """Candidates with their values, the highest first."""


class LeptonSampler(BaseSampler):
    """Proposes the candidate with the largest share of the expected improvement of a batch.

    Of several objectives, those that `estimate` gives are bounded, one at a time, by a random
    value; the others are combined by random weights (ParEGO, Knowles 2006). Constraints that
    `estimate` does not give are modelled, and the acquisition is multiplied by the probability that
    they are satisfied (Gardner et al. 2014). Running trials have their expected result
    (Ginsbourger et al. 2010, "Kriging believer").

    With `TASKS_PER_CHANGE` running trainings or more, several proposals come from one ranking: as
    the candidates share one improvement, its first ones are a batch. Only with fewer does the same
    study get the same proposals from a sampler that is made anew.

    Parameters
    ----------
    seed : int, optional
        Seed of all draws; None: a random one.
    n_startup_trials : int
        Trials with a result or a violated constraint before the model is used; at least 1.
    n_candidates, n_neighbors : int
        Feasible uniform draws and neighbours of the best points among the candidates.
    search_space : mapping, optional
        Distributions of all parameters; None: those of the study's trials.
    estimate : callable, optional
        Parameter values -> a `CandidateEstimate`, or None for a combination that cannot be built.
        Without it, conditional parameters are recognized from the trials.
    observe : callable, optional
        Trial -> observations of the objective that `estimate` does not give, higher is better. By
        default these are the final values, and the last intermediate value of a pruned trial, one
        rung before the end.
    """

    def __init__(
        self,
        seed: int | None = None,
        *,
        n_startup_trials: int = 10,
        n_candidates: int = 160,
        n_neighbors: int = 24,
        search_space: Space | None = None,
        estimate: Estimator | None = None,
        observe: Observe | None = None,
    ) -> None:
        self._seed = int.from_bytes(os.urandom(4), "little") if seed is None else seed
        self._startup = max(1, n_startup_trials)
        self._pool = CandidatePool(self._seed, n_candidates, n_neighbors)
        self._search_space, self._estimate, self._observe = search_space, estimate, observe
        self._last: tuple[object, Ranking] | None = None
        self._summaries = TrialSummaries()
        """Of the study; only with `observe`, whose studies lie in memory."""
        self._ranked_content: object = None
        """What `_last` was made from, without `observe`."""
        self._encoding: tuple[Space, Encoding] | None = None
        self._levels: dict[Identity, tuple[int, ...]] = {}
        """Encoded points of the last ranking."""

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The given distributions, or those of the study's trials, the newest of each name."""
        if self._search_space is not None:
            return dict(self._search_space)
        found: dict[str, BaseDistribution] = {}
        for other in study.get_trials(deepcopy=False):
            if other.number != trial.number and other.state != TrialState.FAIL:
                found |= other.distributions
        return {name: found[name] for name in sorted(found)}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values of all parameters; Optuna ignores those that the trial does not suggest."""
        if not search_space:
            return {}
        summaries = self._read(study, without=trial.number)
        for candidate, _ in _untried(self._ranked(study, summaries, search_space), summaries):
            return dict(candidate.drawn)
        return dict(even_draw(search_space, seed_of(self._seed, "trial", trial.number)))

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A uniform draw from a seed of the trial's number and the parameter's name."""
        del study
        seed = seed_of(self._seed, "trial", trial.number, param_name)
        return even_value(param_distribution, random.Random(seed))

    def rank(self, study: optuna.Study) -> Ranking:
        """Acquisition values of the study's trials and of the candidates for the next one.

        The first candidate is the proposal for the study's next trial.
        """
        space = self._search_space
        if space is None:
            trials = study.get_trials(deepcopy=False)
            space = {k: d for t in trials for k, d in t.distributions.items()}
        summaries = self._read(study)
        ranking = self._ranked(study, summaries, space)
        return Ranking(ranking.trials, list(_untried(ranking, summaries)))

    def _read(self, study: optuna.Study, without: int | None = None) -> TrialSummaries:
        """Summaries of the trials of the study, those that changed read again."""
        summaries = TrialSummaries() if self._observe is None else self._summaries
        # A list of ours, which is not copied: it may have thousands of trials.
        trials = cast("list[FrozenTrial | None]", study.get_trials(deepcopy=False))
        if without is not None:
            trials[without] = None
        # A study in memory replaces a trial by another object when it changes.
        summaries.update(trials, functools.partial(self._summarize, study))
        return summaries

    def _ranked(self, study: optuna.Study, summaries: TrialSummaries, space: Space) -> Ranking:
        """The ranking, cached for the same content of the study, or for nearly the same."""
        content: object = tuple(space)
        if self._observe is None:
            seen = ((n.trial.number, n.trial.state, *n.observed) for n in summaries.informative)
            content = *seen, *space
        if self._last is not None:
            is_same = self._last[0] == content and (
                self._observe is None or summaries.is_as_remembered()
            )
            if is_same or (self._observe is not None and _is_recent(summaries)):
                return self._last[1]
        ranking = self._rank(study, summaries, space)
        self._last = content, ranking
        summaries.remember()
        return ranking

    def _summarize(self, study: optuna.Study, trial: FrozenTrial) -> TrialSummary:
        """What is read from a trial."""
        is_informative = self._is_informative(trial)
        return TrialSummary(
            trial, is_informative, self._observed(study, trial) if is_informative else ()
        )

    def _is_informative(self, trial: FrozenTrial) -> bool:
        if trial.state in (TrialState.FAIL, TrialState.WAITING):
            return False
        if self._observe is not None:
            return bool(self._observe(trial))
        if trial.state == TrialState.PRUNED and not _last_value(trial):
            # Estimated constraints need no learning.
            return self._estimate is None and bool(trial.constraints)
        return True

    def _observed(self, study: optuna.Study, trial: FrozenTrial) -> tuple[Observation, ...]:
        """Observations of a trial before several objectives are combined."""
        if self._observe is not None:
            return tuple(self._observe(trial))
        if trial.state == TrialState.RUNNING:
            return (Observation(0, None),)
        if trial.state == TrialState.COMPLETE:
            return tuple(
                Observation(0, _gain(direction, value))
                for direction, value in zip(study.directions, trial.values, strict=True)
            )
        direction = study.directions[0]
        return tuple(Observation(1, _gain(direction, value)) for value in _last_value(trial))

    def _rank(self, study: optuna.Study, summaries: TrialSummaries, space: Space) -> Ranking:
        chance = random.Random(seed_of(self._seed, "turn", summaries.observations))
        kept = summaries.bounded()
        seen = [summary.trial for summary in kept]
        estimate = self._estimate or _learned_estimate(seen)
        known = self._model(study, kept, estimate, chance)
        pool = self._pool(space, summaries.count, _parents(known), estimate)
        tried = {one.estimate.identity for one in known}
        untried = {key: c for c in pool if (key := c.estimate.identity) not in tried}
        candidates = list(untried.values())
        trained = sum(one.left is not None for one in known)
        rejected = sum(one.left is None and not one.is_feasible for one in known)
        if not trained or trained + rejected < self._startup or not candidates:
            return Ranking({}, [(candidate, 0.0) for candidate in candidates])
        points = [*(one.estimate for one in known), *(c.estimate for c in candidates)]
        encoding, rows = self._encoded(space, points)
        costs = [one.costs for one in known]
        costs += [_costs(study, c.estimate) for c in candidates]
        values = acquisition(encoding, rows, known, costs, chance)
        if self._estimate is None:
            values = values + log_feasibility(encoding, rows, seen)
        new = sorted(zip(candidates, values[len(known) :], strict=True), key=lambda pair: -pair[1])
        return Ranking(
            {one.number: float(v) for one, v in zip(known, values, strict=False)},
            [(candidate, float(value)) for candidate, value in new],
        )

    def _encoded(
        self, space: Space, points: Sequence[CandidateEstimate]
    ) -> tuple[Encoding, Floats]:
        """Encoding of the space and its rows of points; most points were in the last ranking."""
        if self._encoding is None or self._encoding[0] != space:
            self._encoding, self._levels = (dict(space), Encoding(space)), {}
        encoding, known = self._encoding[1], self._levels
        self._levels = {
            key: known[key] if key in known else encoding.levels(point.params)
            for point in points
            for key in (point.identity,)
        }
        return encoding, encoding.one_hot([self._levels[point.identity] for point in points])

    def _model(
        self,
        study: optuna.Study,
        seen: Sequence[TrialSummary],
        estimate: Estimator,
        chance: random.Random,
    ) -> list[SurrogateTrial]:
        """Trials with their observations, scaled for the model."""
        both = [
            (summary, one)
            for summary in seen
            if (one := estimate(summary.trial.params)) is not None
        ]
        fixed = {index for _, one in both for index in one.values}
        learned = [n for n in range(len(study.directions)) if n not in fixed]
        observations = [summary.observed for summary, _ in both]
        if self._observe is None:
            complete = [summary.trial.state == TrialState.COMPLETE for summary, _ in both]
            observations = combined(observations, complete, learned, chance)
        observations = without_failures(observations)
        return [
            SurrogateTrial(
                summary.trial.number, one, observed, _costs(study, one), summary.is_feasible
            )
            for (summary, one), observed in zip(both, observations, strict=True)
        ]


def _is_recent(summaries: TrialSummaries) -> bool:
    """Whether few trials have changed since the last ranking, relative to those that train."""
    most = summaries.running // TASKS_PER_CHANGE
    return most > 0 and most >= summaries.changes


def _untried(ranking: Ranking, summaries: TrialSummaries) -> Iterator[tuple[Candidate, float]]:
    """Candidates whose parameters no trial has, in any state."""
    return (
        pair for pair in ranking.candidates if not summaries.has_tried(pair[0].estimate.identity)
    )


def _learned_estimate(seen: Sequence[FrozenTrial]) -> Estimator:
    """An estimator without costs that knows the conditional parameters."""
    conditions = Conditions.of([t.params for t in seen if t.state != TrialState.RUNNING])
    return lambda drawn: CandidateEstimate(conditions.present(drawn))


def _parents(known: Sequence[SurrogateTrial]) -> list[Params]:
    """Parameters of the best points: by rungs finished, then by value."""
    ranked = []
    for one in known:
        results = [(-o.rungs_left, o.value) for o in one.observations if o.value is not None]
        if results and one.is_feasible:
            ranked.append((max(results), one.estimate.params))
    ranked.sort(key=lambda pair: pair[0], reverse=True)  # Stable: the first of equals.
    return [params for _, params in ranked[:PARENTS]]


def _costs(study: optuna.Study, estimate: CandidateEstimate) -> tuple[float, ...]:
    """Values of the objectives that are known without a trial, lower is better."""
    return tuple(-_gain(study.directions[n], estimate.values[n]) for n in sorted(estimate.values))


def _gain(direction: StudyDirection, value: float) -> float:
    """The value with the sign that makes higher better."""
    return value if direction == StudyDirection.MAXIMIZE else -value


def _last_value(trial: FrozenTrial) -> list[float]:
    """The last finite intermediate value, if there is one."""
    values = [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
    return [value for value in values if not math.isnan(value)][-1:]
