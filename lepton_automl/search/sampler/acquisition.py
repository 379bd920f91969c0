"""Acquisition: the share of each point in the expected improvement of a batch."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from optuna.trial import FrozenTrial

from lepton_automl.search.sampler.candidate_pool import CandidateEstimate
from lepton_automl.search.sampler.observations import SPREAD, WORST, Observation
from lepton_automl.search.sampler.surrogate import Encoding, Floats, Result, Surrogate

ACCURACY_ALONE = 1 / 3
"""Share of the proposals without a bound on the known costs."""
FAVOURITES = 80
"""Points that may train longer, and completely trained ones, that the expected improvement is
computed from: of each the best by the model."""
MOST_RESULTS = 240
"""Results that the model is fitted to at most: its time grows with their cube."""
LEAST = -20.0
"""Logarithm of a share that counts as 0; such points are ordered by upper confidence bound."""


@dataclass(frozen=True, eq=False)
class SurrogateTrial:
    """A trial as the surrogate model sees it."""

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


def acquisition(
    encoding: Encoding,
    rows: Floats,
    known: Sequence[SurrogateTrial],
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
    known : sequence of SurrogateTrial
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


def _fitted(encoding: Encoding, rows: Floats, known: Sequence[SurrogateTrial]) -> Surrogate:
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


def log_feasibility(encoding: Encoding, rows: Floats, seen: Sequence[FrozenTrial]) -> Floats:
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
