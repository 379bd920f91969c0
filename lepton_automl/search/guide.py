"""Guide: what to train next, a candidate for longer or somebody new, by what may come of it."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_automl.search.encoding import Encoding, Floats
from lepton_automl.search.surrogate import Seen, Surrogate

FREE = 0.5
"""Share of the turns that look for accuracy alone; the others look for it at a cost at most that
of a candidate drawn for the turn, so that the whole front moves."""


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
    """Costs that a turn's candidate may have at most; infinite where accuracy alone counts."""
    tried = [c for c in contenders if c.results]
    if not tried or turn.random() < FREE:
        return (math.inf,) * (len(contenders[0].costs) if contenders else 0)
    return turn.choice(tried).costs


def prospects(
    encoding: Encoding, contenders: Sequence[Contender], budget: Sequence[float]
) -> Floats:
    """What may come of each contender: the logarithm of its expected improvement at the end.

    It is the improvement over the best that was trained to the end within the budget, in
    logarithms of the error. What the next rung costs does not count: on recorded tables the
    first rungs, which are cheap, then serve as the search's questions and the last as its answers
    (benchmarks/study).

    Parameters
    ----------
    encoding : Encoding
        Of the space.
    contenders : sequence of Contender
        At least one of them with results.
    budget : sequence of float
        As `budgets` gives it.

    Returns
    -------
    ndarray
        (N,); minus infinity for those beyond the budget.
    """
    rows = encoding.rows([c.params for c in contenders])
    seen = [
        Seen(row, left, accuracy, c.samples)
        for row, c in enumerate(contenders)
        for left, accuracy in c.results
    ]
    surrogate = Surrogate(encoding, rows, seen)
    ahead = [(row, c.at_work) for row, c in enumerate(contenders) if c.at_work is not None]
    if ahead:
        surrogate = surrogate.supposing(ahead)
    within = np.array([_fits(c.costs, budget) for c in contenders])
    complete = [row for row, c in enumerate(contenders) if c.is_complete and within[row]]
    mean = surrogate.at_end()
    rivals = complete or [row for row in range(len(contenders)) if within[row]]
    best = max(rivals, key=lambda row: mean[row])
    return np.where(within, surrogate.improvement(best, reached=bool(complete)), -np.inf)


def best_of(prospect: Floats, among: Collection[int]) -> int | None:
    """The one with the best prospect, the first of equals; None where all are beyond the budget."""
    chosen = min(among, key=lambda row: (-prospect[row], row), default=None)
    return None if chosen is None or prospect[chosen] == -np.inf else chosen


def _fits(costs: Sequence[float], budget: Sequence[float]) -> bool:
    return all(cost <= most for cost, most in zip(costs, budget, strict=True))
