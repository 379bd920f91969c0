"""Optuna sampler with a Gaussian process over points and rungs, and batch expected improvement.

`LeptonSampler` works in any Optuna study: one or several objectives, constraints set by
`trial.set_constraint`, conditional parameters, every kind of distribution. It does not import the
rest of lepton.

While fewer than `TASKS_PER_CHANGE` trainings run, its proposals depend on its seed and the content
of the study only, so that a reloaded study continues as an uninterrupted one. With more of them, a
ranking is used for several proposals: they depend also on when it was computed, which a reloaded
study does not know, so that it may continue with other ones.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import operator
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lepton_automl.search.candidate_pool import (
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
    identity_of,
)
from lepton_automl.search.seeds import seed_of
from lepton_automl.search.surrogate import Encoding, Floats, Result, Surrogate

PARENTS = 6
"""Best points whose neighbours are candidates."""
ACCURACY_ALONE = 1 / 3
"""Share of the proposals without a bound on the known costs."""
FAVOURITES = 80
"""Points that may train longer, and completely trained ones, that the expected improvement is
computed from: of each the best by the model."""
MOST_RESULTS = 240
"""Results that the model is fitted to at most: its time grows with their cube."""
MOST_TRIALS, MOST_OF_RUNG, MOST_NEW = 500, 100, 100
"""Of more trials than the first, the acquisition has the best of each rung, at most the second, and
half the third, and the newest that train, at most the third."""
TASKS_PER_CHANGE = 32
"""A ranking is used again after one change of the study for each so many running trainings: beside
their missing results, a few more change little. Of fewer trainings every change counts."""
LEAST = -20.0
"""Logarithm of a share that counts as 0; such points are ordered by upper confidence bound."""
SPREAD = 0.3
"""Standard deviation of the scaled values, in the middle of the model's scales."""
WORST = -3.0
"""Least scaled value, in standard deviations from the median: outliers must not hide the others."""
AUGMENTATION = 0.05
"""Weight of the sum beside the maximum when several objectives become one (Knowles 2006)."""


@dataclass(frozen=True)
class Observation:
    """Value of a trial at one rung of its training."""

    rungs_left: int
    """Rungs after this one; 0 at the end of the training."""
    value: float | None
    """Higher is better; minus infinity after a failure, None while the training runs."""
    variance: float = 0.0


Observe = Callable[[FrozenTrial], Sequence[Observation]]
"""Observations of a trial, possibly none."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """Acquisition values of trials and of candidates, in one unit."""

    trials: Mapping[int, float]
    """Trial number -> logarithm of its share of the expected improvement; empty at startup."""
    candidates: Sequence[tuple[Candidate, float]]
    """Candidates with their values, the highest first."""


@dataclass(frozen=True, eq=False)
class _Known:
    """A trial as the model uses it."""

    number: int
    estimate: CandidateEstimate
    observations: tuple[Observation, ...]
    costs: tuple[float, ...]
    """Values of the objectives that are known without a trial; lower is better."""
    is_feasible: bool

    @functools.cached_property
    def left(self) -> int | None:
        """Rungs after its last result; None without a result."""
        found = [o.rungs_left for o in self.observations if o.value is not None]
        return min(found, default=None)


@dataclass(frozen=True, eq=False)
class _Noted:
    """What is read from a trial, kept until the trial changes."""

    trial: FrozenTrial
    is_informative: bool
    observed: tuple[Observation, ...]

    @functools.cached_property
    def identity(self) -> Identity:
        """Of its parameters."""
        return identity_of(self.trial.params)

    @functools.cached_property
    def is_running(self) -> bool:
        """Whether a training of it runs."""
        return any(one.value is None for one in self.observed)

    @functools.cached_property
    def is_feasible(self) -> bool:
        """Whether it satisfies all constraints that were set."""
        return all(value <= 0 for value in self.trial.constraints.values())

    @functools.cached_property
    def last(self) -> Observation | None:
        """Its last result."""
        finished = [one for one in self.observed if one.value is not None]
        return min(finished, key=lambda one: one.rungs_left, default=None)

    def is_like(self, other: _Noted | None) -> bool:
        """Whether a ranking takes the same from both."""
        if other is None or not (self.is_informative and other.is_informative):
            return not self.is_informative and (other is None or not other.is_informative)
        return (self.trial.state, self.observed) == (other.trial.state, other.observed)


class _Notes:
    """What is read from the trials of a study; of many that stay as they are, nothing is done.

    Numbers are places in the list of trials.
    """

    def __init__(self) -> None:
        self._trials: list[FrozenTrial | None] = []
        self._notes: list[_Noted | None] = []
        self._tried: Counter[Identity] = Counter()
        self._informative: list[int] = []
        """Numbers, in order."""
        self._running: set[int] = set()
        self._of_rung: dict[int, list[tuple[float, int]]] = {}
        """Rungs left -> minus the value and the number of trials whose last result that is."""
        self._numbers_of_rung: dict[int, list[int]] = {}
        self.observations = 0
        """Of all informative trials, at least one each."""
        self.changed: dict[int, _Noted | None] = {}
        """What was noted before of those that changed since `remember`; None: nothing."""

    def update(
        self, trials: Sequence[FrozenTrial | None], read: Callable[[FrozenTrial], _Noted]
    ) -> None:
        """Read the trials that are other objects than before; None counts as no trial."""
        if len(trials) < len(self._trials):
            self.update([*trials, *[None] * (len(self._trials) - len(trials))], read)
            return
        self._trials += [None] * (len(trials) - len(self._trials))
        self._notes += [None] * (len(trials) - len(self._notes))
        differ = map(operator.is_not, trials, self._trials)
        for number in list(itertools.compress(itertools.count(), differ)):
            trial = trials[number]
            self._replace(number, None if trial is None else read(trial))
            self._trials[number] = trial

    @property
    def informative(self) -> list[_Noted]:
        """Notes that the model uses, in order."""
        return [self._at(number) for number in self._informative]

    @property
    def running(self) -> int:
        """Number of trials that train."""
        return len(self._running)

    @property
    def changes(self) -> int:
        """Number of informative trials that changed since `remember`."""
        notes = (self._notes[number] for number in self.changed)
        return sum(note is not None and note.is_informative for note in notes)

    @property
    def count(self) -> int:
        """Number of informative trials."""
        return len(self._informative)

    def is_as_remembered(self) -> bool:
        """Whether a ranking would be what it was at `remember`."""
        for number, before in self.changed.items():
            now = self._notes[number]
            if not (now or _UNREAD).is_like(before):
                return False
        return True

    def remember(self) -> None:
        """Count changes from now on."""
        self.changed = {}

    def has_tried(self, identity: Identity) -> bool:
        """Whether any trial, in any state, has these parameters."""
        return self._tried[identity] > 0

    def bounded(self) -> list[_Noted]:
        """All of few informative trials, of many those that a decision depends on most."""
        if len(self._informative) <= MOST_TRIALS:
            return self.informative
        kept = set[int]()
        for rung, found in self._of_rung.items():
            kept |= {number for _, number in found[:MOST_OF_RUNG]}
            kept |= set(self._numbers_of_rung[rung][-MOST_NEW // 2 :])
        kept |= set(sorted(self._running)[-MOST_NEW:])
        return [self._at(number) for number in sorted(kept)]

    def _at(self, number: int) -> _Noted:
        note = self._notes[number]
        assert note is not None, "informative"
        return note

    def _replace(self, number: int, note: _Noted | None) -> None:
        before = self._notes[number]
        self.changed.setdefault(number, before)
        if before is not None:
            self._tried[before.identity] -= 1
            if not self._tried[before.identity]:
                del self._tried[before.identity]
            if before.is_informative:
                self._count(number, before, -1)
        if note is not None:
            self._tried[note.identity] += 1
            if note.is_informative:
                self._count(number, note, +1)
        self._notes[number] = note

    def _count(self, number: int, note: _Noted, sign: int) -> None:
        """Add an informative trial to the tables, or remove it."""
        change = _insert if sign > 0 else _remove
        change(self._informative, number)
        self.observations += sign * max(1, len(note.observed))
        if note.is_running:
            (self._running.add if sign > 0 else self._running.discard)(number)
        if note.last is not None:
            rung = note.last.rungs_left
            change(self._of_rung.setdefault(rung, []), (-(note.last.value or 0.0), number))
            change(self._numbers_of_rung.setdefault(rung, []), number)


def _insert(table: list[Any], value: Any) -> None:
    bisect.insort(table, value)


def _remove(table: list[Any], value: Any) -> None:
    del table[bisect.bisect_left(table, value)]


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
        self._notes = _Notes()
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
        notes = self._read(study, without=trial.number)
        for candidate, _ in _untried(self._ranked(study, notes, search_space), notes):
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
        notes = self._read(study)
        ranking = self._ranked(study, notes, space)
        return Ranking(ranking.trials, list(_untried(ranking, notes)))

    def _read(self, study: optuna.Study, without: int | None = None) -> _Notes:
        """Notes on the trials of the study, those that changed read again."""
        notes = _Notes() if self._observe is None else self._notes
        # A list of ours, which is not copied: it may have thousands of trials.
        trials = cast("list[FrozenTrial | None]", study.get_trials(deepcopy=False))
        if without is not None:
            trials[without] = None
        # A study in memory replaces a trial by another object when it changes.
        notes.update(trials, functools.partial(self._note, study))
        return notes

    def _ranked(self, study: optuna.Study, notes: _Notes, space: Space) -> Ranking:
        """The ranking, cached for the same content of the study, or for nearly the same."""
        content: object = tuple(space)
        if self._observe is None:
            seen = ((n.trial.number, n.trial.state, *n.observed) for n in notes.informative)
            content = *seen, *space
        if self._last is not None:
            is_same = self._last[0] == content and (
                self._observe is None or notes.is_as_remembered()
            )
            if is_same or (self._observe is not None and _is_recent(notes)):
                return self._last[1]
        ranking = self._rank(study, notes, space)
        self._last = content, ranking
        notes.remember()
        return ranking

    def _note(self, study: optuna.Study, trial: FrozenTrial) -> _Noted:
        """What is read from a trial."""
        is_informative = self._is_informative(trial)
        return _Noted(trial, is_informative, self._observed(study, trial) if is_informative else ())

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

    def _rank(self, study: optuna.Study, notes: _Notes, space: Space) -> Ranking:
        chance = random.Random(seed_of(self._seed, "turn", notes.observations))
        kept = notes.bounded()
        seen = [note.trial for note in kept]
        estimate = self._estimate or _learned_estimate(seen)
        known = self._model(study, kept, estimate, chance)
        pool = self._pool(space, notes.count, _parents(known), estimate)
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
            values = values + _log_feasibility(encoding, rows, seen)
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
        seen: Sequence[_Noted],
        estimate: Estimator,
        chance: random.Random,
    ) -> list[_Known]:
        """Trials with their observations, scaled for the model."""
        both = [(note, one) for note in seen if (one := estimate(note.trial.params)) is not None]
        fixed = {index for _, one in both for index in one.values}
        learned = [n for n in range(len(study.directions)) if n not in fixed]
        observations = [note.observed for note, _ in both]
        if self._observe is None:
            complete = [note.trial.state == TrialState.COMPLETE for note, _ in both]
            observations = _combined(observations, complete, learned, chance)
        observations = _without_failures(observations)
        return [
            _Known(note.trial.number, one, observed, _costs(study, one), note.is_feasible)
            for (note, one), observed in zip(both, observations, strict=True)
        ]


_UNREAD = _Noted(optuna.trial.create_trial(value=0.0), False, ())
"""In place of no trial."""


def _is_recent(notes: _Notes) -> bool:
    """Whether few trials have changed since the last ranking, relative to those that train."""
    most = notes.running // TASKS_PER_CHANGE
    return most > 0 and most >= notes.changes


def _untried(ranking: Ranking, notes: _Notes) -> Iterator[tuple[Candidate, float]]:
    """Candidates whose parameters no trial has, in any state."""
    return (pair for pair in ranking.candidates if not notes.has_tried(pair[0].estimate.identity))


def acquisition(
    encoding: Encoding,
    rows: Floats,
    known: Sequence[_Known],
    costs: Sequence[tuple[float, ...]],
    chance: random.Random,
) -> Floats:
    """Logarithm of every point's share of the expected improvement (Ginsbourger et al. 2010).

    The improvement is over the best point that was trained to its last rung within the cost bounds.
    It is not divided by the cost of the next rung (docs/decisions.md, "Acquisition").

    Parameters
    ----------
    encoding : Encoding
        Encoding of the space.
    rows : ndarray
        (N, levels): the trials first, then the candidates.
    known : sequence of _Known
        Trials, at least one of them with a result.
    costs : sequence of tuple
        Known costs of all N points, lower is better.
    chance : random.Random
        Source of the cost bounds and the draws.

    Returns
    -------
    ndarray
        (N,); minus infinity for points above a cost bound.
    """
    seed = chance.getrandbits(31)
    budget = budgets(costs, chance)
    surrogate = _fitted(encoding, rows, known)
    within = [row for row, cost in enumerate(costs) if _fits(cost, budget)]
    is_complete = [one.left == 0 for one in known] + [False] * (len(costs) - len(known))
    complete = [r for r in within if is_complete[r]]
    reached = [r for r in complete if known[r].is_feasible]
    mean = surrogate.mean()
    bound = mean + surrogate.deviation()
    open_ = sorted(set(within) - set(complete), key=lambda row: (-bound[row], row))[:FAVOURITES]
    reached = sorted(reached, key=lambda row: (-mean[row], row))[:FAVOURITES]
    values = np.full(len(costs), -np.inf)
    values[within] = LEAST + (bound[within] - bound.max())
    if open_:
        shares = surrogate.improvement_shares(open_, reached, seed)
        values[open_] = np.logaddexp(values[open_], np.log(np.maximum(shares, 1e-300)))
    return values


def budgets(costs: Sequence[tuple[float, ...]], chance: random.Random) -> tuple[float, ...]:
    """Random upper bounds of the costs of the next proposal; infinite for all but one or none.

    The bound is drawn log-uniformly between the lowest and the highest cost of the points.
    """
    columns = list(zip(*costs, strict=True))
    is_free = not columns or chance.random() < ACCURACY_ALONE
    limited = -1 if is_free else chance.randrange(len(columns))
    return tuple(
        _between(column, chance.random()) if place == limited else math.inf
        for place, column in enumerate(columns)
    )


def _between(costs: Sequence[float], share: float) -> float:
    low, high = min(costs), max(costs)
    if low <= 0:  # No logarithm: uniformly between them.
        return float(low + share * (high - low))
    return float(max(low * (high / low) ** share, low))


def _fits(costs: Sequence[float], budget: Sequence[float]) -> bool:
    return all(cost <= most for cost, most in zip(costs, budget, strict=True))


def _fitted(encoding: Encoding, rows: Floats, known: Sequence[_Known]) -> Surrogate:
    results = [
        Result(row, o.rungs_left, o.value, o.variance)
        for row, one in enumerate(known)
        for o in one.observations
        if o.value is not None
    ]
    # Results of the last rungs have the least variance, and new ones are nearest to the candidates.
    results = sorted(results, key=lambda one: (one.rungs_left, -one.row))[:MOST_RESULTS]
    surrogate = Surrogate(encoding, rows, sorted(results, key=lambda r: (r.row, -r.rungs_left)))
    pending = [
        (row, o.rungs_left)
        for row, one in enumerate(known)
        for o in one.observations
        if o.value is None
    ]
    return surrogate.supposing(pending) if pending else surrogate


def _log_feasibility(encoding: Encoding, rows: Floats, seen: Sequence[FrozenTrial]) -> Floats:
    """Logarithm of the probability that each point satisfies all modelled constraints."""
    total = np.zeros(len(rows))
    for name in sorted({name for trial in seen for name in trial.constraints}):
        values = {
            row: trial.constraints[name]
            for row, trial in enumerate(seen)
            if name in trial.constraints
        }
        known = np.clip(list(values.values()), -1e100, 1e100)
        spread = float(np.std(known)) or float(np.abs(known).max()) or 1.0
        scaled = np.clip(known / spread, WORST, -WORST) * SPREAD
        results = [Result(r, 0, float(v)) for r, v in zip(values, scaled, strict=True)]
        model = Surrogate(encoding, rows, results[-MOST_RESULTS:])
        distance = model.mean() / np.maximum(model.deviation(), 1e-9)
        total += [math.log(max(0.5 * math.erfc(d / math.sqrt(2)), 1e-30)) for d in distance]
    return total


def _learned_estimate(seen: Sequence[FrozenTrial]) -> Estimator:
    """An estimator without costs that knows the conditional parameters."""
    conditions = Conditions.of([t.params for t in seen if t.state != TrialState.RUNNING])
    return lambda drawn: CandidateEstimate(conditions.present(drawn))


def _combined(
    observations: Sequence[tuple[Observation, ...]],
    complete: Sequence[bool],
    learned: Sequence[int],
    chance: random.Random,
) -> list[tuple[Observation, ...]]:
    """One scaled observation a trial; several objectives are combined by random weights."""
    if not learned:
        return [() for _ in observations]
    table = np.array(
        [
            [one[n].value for n in learned]
            for one, is_complete in zip(observations, complete, strict=True)
            if is_complete
        ],
        np.float64,
    ).reshape(-1, len(learned))
    if len(learned) == 1:
        single = [one.value for observed in observations for one in observed]
        scale = _Scale(np.array([v for v in single if v is not None], np.float64))
        return [
            tuple(
                Observation(o.rungs_left, None if o.value is None else scale(o.value))
                for o in (observed[learned[0] :] if is_complete else observed)[:1]
            )
            for observed, is_complete in zip(observations, complete, strict=True)
        ]
    weights = np.array([chance.expovariate(1.0) for _ in learned])
    losses = _unit_losses(table) * (weights / weights.sum())
    joint = -losses.max(1, initial=0.0) - AUGMENTATION * losses.sum(1)
    scale = _Scale(joint)
    values = iter(joint)
    return [
        (Observation(0, scale(float(next(values)))),) if is_complete else observed
        for observed, is_complete in zip(observations, complete, strict=True)
    ]


def _unit_losses(table: Floats) -> Floats:
    """(N, objectives): 0 for the best value of a column, 1 for its worst."""
    if not len(table):
        return table
    scaled = np.stack([[_Scale(c)(v) for v in c] for c in table.T], 1)
    best, worst = scaled.max(0), scaled.min(0)
    losses: Floats = (best - scaled) / np.where(best > worst, best - worst, 1.0)
    return losses


class _Scale:
    """Values in standard deviations of those not far below the median, times `SPREAD`."""

    def __init__(self, values: Floats) -> None:
        finite = values[np.isfinite(values)]
        self._top = float(finite.max()) if len(finite) else 0.0
        self._middle = float(np.median(finite)) if len(finite) else 0.0
        upper = finite[finite >= np.quantile(finite, 0.25)] if len(finite) else finite
        spread = float(np.sqrt(np.mean((upper - self._middle) ** 2))) if len(upper) else 0.0
        self._spread = spread if math.isfinite(spread) and spread > 0 else 1.0

    def __call__(self, value: float) -> float:
        """The scaled value; infinities become the highest and the lowest one."""
        scaled = (min(value, self._top) - self._middle) / self._spread
        return SPREAD * max(scaled, WORST)


def _without_failures(
    observations: Sequence[tuple[Observation, ...]],
) -> list[tuple[Observation, ...]]:
    """Observations where failed trainings have the worst value of the others."""
    values = [o.value for observed in observations for o in observed if o.value is not None]
    worst = min((value for value in values if math.isfinite(value)), default=0.0)
    return [
        tuple(
            Observation(o.rungs_left, worst, o.variance) if o.value == -math.inf else o
            for o in observed
        )
        for observed in observations
    ]


def _parents(known: Sequence[_Known]) -> list[Params]:
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
