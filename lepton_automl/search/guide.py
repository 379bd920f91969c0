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
    the search's questions and the last one as its answers (benchmarks/study).

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
