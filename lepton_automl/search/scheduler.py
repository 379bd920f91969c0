"""Advisor: asks the guide about a search's candidates and about ideas for new ones."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_automl.cost.cost import Cost
from lepton_automl.search.objectives import Objective
from lepton_automl.search.proposals.candidate_pool import Idea, Ideas
from lepton_automl.search.space.draw import seed_of
from lepton_automl.search.surrogate import Encoding, Floats, Seen, Surrogate
from lepton_automl.search.trials import Trial, Trials
from lepton_automl.search.warm_start import KnownTrial

PARENTS = 6
"""Candidates that ideas are made from."""
FEW = 12
"""Ideas with the least work that are kept where there is time for none."""
FREE = 1 / 3
"""Share of the turns that look for accuracy alone; the others look for it at a limited cost, so
that the whole front moves."""
FAVOURITES = 80
"""Contenders with the highest bounds, of those to train and of those that are trained to the end,
that are looked at together."""
MOST = 240
"""Results that are learnt from: the time it takes grows with their cube."""
LEAST = -20.0
"""Logarithm of a share that is as good as nothing: among such, the bound decides."""


@dataclass(frozen=True)
class Advice:
    """What to do next: train `promote` for longer, or try `wishes`, the best first."""

    promote: int | None
    wishes: tuple[Mapping[str, Any], ...] = ()


class Advisor:
    """Decides from the trials and the seed alone, so that a resumed search decides the same.

    Parameters
    ----------
    trials : Trials
        What is known.
    objectives : sequence of Objective
        Those of the search.
    encoding : Encoding
        Of the space.
    ideas : Ideas
        New points.
    rungs_of : callable
        How many rungs a candidate has.
    seed : int
        Of the search.
    observed : sequence of KnownTrial
        Known from another run; they cannot go on.
    has_time : callable
        Whether a net of that cost could still be trained to the end.
    """

    def __init__(
        self,
        trials: Trials,
        objectives: Sequence[Objective],
        encoding: Encoding,
        ideas: Ideas,
        rungs_of: Callable[[int], int],
        seed: int,
        observed: Sequence[KnownTrial],
        has_time: Callable[[Cost], bool],
    ) -> None:
        self._observed, self._has_time = observed, has_time
        self._trials, self._ideas = trials, ideas
        self._known_costs = [o for o in objectives if not o.needs_training]
        self._encoding, self._rungs_of, self._seed = encoding, rungs_of, seed

    def advise(self, may_go_on: Collection[int], at_work: Collection[int], *, new: bool) -> Advice:
        """The most promising of those who may go on and, if `new`, of ideas.

        Parameters
        ----------
        may_go_on : collection of int
            Numbers of candidates that may be trained to their next rung.
        at_work : collection of int
            Numbers of those that are in training now.
        new : bool
            Whether a new candidate may start.
        """
        known = {n: c for n in self._trials if (c := self._contender(n, at_work))}
        seen = [*known.values(), *map(self._elsewhere, self._observed)]
        ideas = self._sound_ideas() if new else []
        if not any(c.results for c in seen):
            return Advice(None, tuple(idea.params for idea in ideas))
        contenders = [*seen, *(self._new(idea) for idea in ideas)]
        seed = seed_of(self._seed, "turn", self._turn())
        budget = budgets(contenders, random.Random(seed))
        prospect = prospects(self._encoding, contenders, budget, seed)
        rows = {row: number for row, number in enumerate(known) if number in may_go_on}
        fresh = sorted(range(len(seen), len(contenders)), key=lambda row: (-prospect[row], row))
        oldest, newest = best_of(prospect, rows), best_of(prospect, fresh)
        if oldest is not None and (newest is None or prospect[oldest] >= prospect[newest]):
            return Advice(rows[oldest])
        if not new and rows:  # None of them is within the budget of this turn.
            return Advice(min(rows.values()))
        return Advice(None, tuple(contenders[row].params for row in fresh))

    def _turn(self) -> int:
        return len(self._trials) + sum(len(scores) for scores in self._trials.results.values())

    def _contender(self, number: int, at_work: Collection[int]) -> Contender | None:
        """A candidate as the guide sees it; None where nothing is known of it."""
        candidate, scores = self._trials[number], self._trials.results[number]
        left = self._rungs_of(number) - 1
        results = tuple(
            (max(0, left - rung), self._worst() if score.failed else score.accuracy)
            for rung, score in enumerate(scores)
        )
        ahead = max(0, left - len(scores)) if number in at_work else None
        if not results and ahead is None:
            return None
        return Contender(candidate.params, self._costs(candidate), results, self._samples(), ahead)

    def _elsewhere(self, known: KnownTrial) -> Contender:
        """What another run has trained as the guide sees it."""
        results = tuple((n, self._worst() if a is None else a) for n, a in known.results)
        costs = self._costs(known.candidate)
        return Contender(known.candidate.params, costs, results, known.samples)

    def _worst(self) -> float:
        """Of a training that failed: like the worst of the others."""
        good = [
            s.accuracy for scores in self._trials.results.values() for s in scores if not s.failed
        ]
        good += [a for known in self._observed for _, a in known.results if a is not None]
        return min(good, default=0.0)

    def _samples(self) -> int:
        good = (s for scores in self._trials.results.values() for s in scores if not s.failed)
        first = next(good, None)
        return 1 if first is None else first.samples

    def _costs(self, known: Trial | Idea) -> tuple[float, ...]:
        return tuple(o.value(None, known.cost) * o.sign for o in self._known_costs)

    def _new(self, idea: Idea) -> Contender:
        return Contender(idea.params, self._costs(idea))

    def _sound_ideas(self) -> list[Idea]:
        """Within limits and time, as far as can be guessed; the nearest where none is."""
        ideas = self._ideas(len(self._trials), self._parents())
        within = [idea for idea in ideas if not idea.beyond]
        within = within or sorted(ideas, key=lambda idea: idea.beyond)
        in_time = [idea for idea in within if self._has_time(idea.cost)]
        return in_time or sorted(within, key=lambda idea: idea.cost.macs)[:FEW]

    def _parents(self) -> list[Mapping[str, Any]]:
        trials = self._trials
        ranked = [
            (len(trials.results[n]), trials.search_result(n).accuracy, trials[n].params)
            for n in trials.trained()
        ]
        ranked += [
            (len(known.results), known.best, known.candidate.params)
            for known in self._observed
            if known.best is not None
        ]
        ranked.sort(key=lambda row: row[:2], reverse=True)  # Stable: the first of equals.
        return [params for _, _, params in ranked[:PARENTS]]


@dataclass(frozen=True, eq=False)
class Contender:
    """A point that could be trained now, or could not."""

    params: Mapping[str, Any]
    costs: tuple[float, ...]
    """Objectives that need no training, known or guessed; less is better."""
    results: tuple[tuple[int, float], ...] = ()
    """(rungs left after it, accuracy) of each of its trainings; none: it is new."""
    samples: int = 1
    """Of the validation part."""
    at_work: int | None = None
    """Rungs left after the training it is in; what comes of that is taken to be as expected."""

    @property
    def is_complete(self) -> bool:
        """Whether it was trained to the last rung."""
        return any(left == 0 for left, _ in self.results)


def budgets(contenders: Sequence[Contender], turn: random.Random) -> tuple[float, ...]:
    """Costs that a turn's candidate may have at most; infinite where accuracy alone counts.

    One cost is limited at a time, to anything between the least and the most there is, as likely
    between 10 and 20 as between 100 and 200.
    """
    columns = list(zip(*(c.costs for c in contenders), strict=True))
    limited = -1 if not columns or turn.random() < FREE else turn.randrange(len(columns))
    return tuple(
        _between(column, turn.random()) if place == limited else math.inf
        for place, column in enumerate(columns)
    )


def _between(costs: Sequence[float], share: float) -> float:
    least, most = max(min(costs), 1e-9), max(*costs, 1e-9)
    return float(max(least * (most / least) ** share, min(costs)))


def prospects(
    encoding: Encoding, contenders: Sequence[Contender], budget: Sequence[float], seed: int
) -> Floats:
    """What may come of training each contender, as a logarithm: its share of the improvement.

    It is the improvement over the best that was trained to the end within the budget. What the
    next rung costs does not count: on recorded tables the first rungs, which are cheap, serve as
    the search's questions and the last one as its answers (docs/decisions.md, "Shares of the
    expected improvement").

    Parameters
    ----------
    encoding : Encoding
        Of the space.
    contenders : sequence of Contender
        At least one of them with results.
    budget : sequence of float
        As `budgets` gives it.
    seed : int
        Of what is drawn.

    Returns
    -------
    ndarray
        (N,); minus infinity for those beyond the budget.
    """
    surrogate = _surrogate(encoding, contenders)
    within = [row for row, c in enumerate(contenders) if _fits(c.costs, budget)]
    complete = [row for row in within if contenders[row].is_complete]
    mean, bound = surrogate.at_end(), surrogate.bound()
    open_ = sorted(set(within) - set(complete), key=lambda row: (-bound[row], row))[:FAVOURITES]
    reached = sorted(complete, key=lambda row: (-mean[row], row))[:FAVOURITES]
    prospect = np.full(len(contenders), -np.inf)
    prospect[within] = LEAST + (bound[within] - bound.max())
    if open_:
        shares = surrogate.shares(open_, reached, seed)
        prospect[open_] = np.logaddexp(prospect[open_], np.log(np.maximum(shares, 1e-300)))
    return prospect


def _surrogate(encoding: Encoding, contenders: Sequence[Contender]) -> Surrogate:
    rows = encoding.rows([c.params for c in contenders])
    seen = [
        Seen(row, left, accuracy, c.samples)
        for row, c in enumerate(contenders)
        for left, accuracy in c.results
    ]
    # The last rungs tell most, and of the others the newest are nearest to what is tried now.
    seen = sorted(seen, key=lambda one: (one.left, -one.row))[:MOST]
    surrogate = Surrogate(encoding, rows, sorted(seen, key=lambda one: (one.row, -one.left)))
    ahead = [(row, c.at_work) for row, c in enumerate(contenders) if c.at_work is not None]
    return surrogate.supposing(ahead) if ahead else surrogate


def best_of(prospect: Floats, among: Collection[int]) -> int | None:
    """The one with the best prospect, the first of equals; None where all are beyond the budget."""
    chosen = min(among, key=lambda row: (-prospect[row], row), default=None)
    return None if chosen is None or prospect[chosen] == -np.inf else chosen


def _fits(costs: Sequence[float], budget: Sequence[float]) -> bool:
    return all(cost <= most for cost, most in zip(costs, budget, strict=True))
