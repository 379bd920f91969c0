"""Observed values of trials: what they are, and how they are scaled and combined for the model."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from optuna.trial import FrozenTrial

from lepton_automl.search.sampler.surrogate import Floats

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


def combined(
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


def without_failures(
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
