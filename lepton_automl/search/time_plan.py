"""Epochs and time shares of a search, planned from the measured training speed."""

from __future__ import annotations

import math
from collections.abc import Callable

from lepton_automl.search.rungs import ETA, cycles

FINAL_SHARES, SCARCE_FINAL_SHARES = (0.28, 0.34, 0.4), (0.5, 0.6, 0.7, 0.9)
"""Shares of the search time for the final trainings, tried in this order. The larger ones are for
trials with fewer epochs than their recipe: known-good candidates are near the best, and one net
with all its epochs beats many with few (docs/decisions.md, "Where time is scarce")."""

MAX_EPOCHS_FACTOR = 3
"""Most epochs of a trial relative to its recipe, and of a final training relative to the search."""

TASK_SECONDS = 0.3
"""Time of a task besides its training: reading, writing, evaluation on validation."""

SAFETY = 1.15
"""Factor on estimated durations: a machine may slow down."""

GRACE_SECONDS = 3.0
"""A training that is late may end so much later."""

_MIN_PROBE_SECONDS, _PROBE_SHARE = 2.0, 0.05
"""Longest duration of a measurement before the first trial: seconds, or a share of the budget."""

FEW_TRIALS, _MANY_TRIALS = 10, 60
"""With fewer trials than this their trainings get shorter; with more, longer."""

_OVERHEAD_MACS = 700_000
"""Training time of a sample besides its MACs, in MACs: batches, augmentation, optimizer."""


def work_of(macs: int, samples: int, epochs: float) -> float:
    """Size of a training, in units that take about the same time for every net: MACs + overhead."""
    return float((macs + _OVERHEAD_MACS) * samples * epochs)


def macs_of(work: float, samples: int, epochs: float) -> float:
    """Multiply-accumulates of the net whose training has this size, the inverse of `work_of`."""
    return work / (samples * epochs) - _OVERHEAD_MACS


def probe_seconds(budget: float | None) -> float:
    """Longest duration of a training that only measures something before the first trial.

    Parameters
    ----------
    budget : float or None
        Seconds of the whole run; None: there is no limit.

    Returns
    -------
    float
        Seconds; 0 without a limit.
    """
    return 0.0 if budget is None else max(_MIN_PROBE_SECONDS, _PROBE_SHARE * budget)


def planned_epochs(
    recipe_epochs: int, seconds_per_epoch: float, search_seconds: float, jobs: int, samples: int
) -> int:
    """Epochs of a trial at its last rung, such that the time allows a sensible number of trials.

    Parameters
    ----------
    recipe_epochs : int
        Epochs in the recipe.
    seconds_per_epoch : float
        Of a typical trial on one worker, above 0.
    search_seconds : float
        Time for all rungs of all trials.
    jobs : int
        Number of workers.
    samples : int
        Number of training samples.
    """

    def count(epochs: int) -> float:
        each = mean_trial_epochs(epochs, samples) * seconds_per_epoch * SAFETY + TASK_SECONDS
        return search_seconds * jobs / each

    epochs = recipe_epochs
    while epochs > 1 and count(epochs) < FEW_TRIALS:
        epochs -= 1
    while (
        epochs < recipe_epochs * MAX_EPOCHS_FACTOR
        and count(epochs) / _MANY_TRIALS > (epochs + 1) / recipe_epochs
    ):
        epochs += 1
    return epochs


def mean_trial_epochs(epochs: int, samples: int) -> float:
    """Mean epochs of a trial with `epochs` in all: one in `ETA` is promoted at every rung."""
    return float(sum(n / ETA**rung for rung, n in enumerate(cycles(epochs, samples))))


class Clock:
    """Time left, and the duration of trainings, estimated from those that have ended.

    Parameters
    ----------
    left : callable
        Returns the seconds until the search ends, final trainings included.
    final_seconds : float
        The part of them that is kept for the final trainings.
    seconds_per_work : float
        Measured before the first training.
    """

    def __init__(
        self, left: Callable[[], float], final_seconds: float, seconds_per_work: float
    ) -> None:
        self.left, self._final_seconds = left, final_seconds
        self._seconds, self._work = seconds_per_work, 1.0
        self._of_trial: dict[int | None, float] = {}

    def learn(self, seconds: float, work: float, number: int) -> None:
        """Record that a training of `work` of trial `number` took `seconds`.

        The mean over all trials weights the newest most, as the speed of a machine changes.
        """
        if self._work == 1.0:
            self._seconds, self._work = self._seconds * work, work
        self._seconds = 0.8 * self._seconds + seconds
        self._work = 0.8 * self._work + work
        self._of_trial[number] = seconds / work

    def seconds(self, work: float, number: int | None = None) -> float:
        """Estimated seconds of a training of `work`, with the factor `SAFETY`.

        With the trial's own speed where it is known: nets of equal work may differ by a factor.
        """
        per_work = self._of_trial.get(number, self._seconds / self._work)
        return SAFETY * per_work * work + TASK_SECONDS

    def search_seconds(self, share: float = 0.0) -> float:
        """Seconds until the time of the final trainings begins; negative after it has begun.

        Parameters
        ----------
        share : float
            Share of the time of the final trainings that is added, 0 to 1.
        """
        return self.left() - (1 - share) * self._final_seconds

    def allows(self, work: float, seconds_before: float = 0.0) -> bool:
        """Whether a training of `work` ends before the time of the final trainings begins.

        Parameters
        ----------
        work : float
            As `work_of` returns it.
        seconds_before : float
            Until the training starts, at least 0.
        """
        left = self.search_seconds()
        return left == math.inf or seconds_before + self.seconds(work) <= left

    def most_work(self) -> float:
        """The largest `work` whose training ends before the search must, for a new trial."""
        left = self.left()
        if left == math.inf:
            return math.inf
        return max(0.0, left - TASK_SECONDS / SAFETY) * self._work / self._seconds

    def has_time(self, work: float, number: int | None = None) -> bool:
        """Whether a training of `work` probably ends before the search does."""
        return self.seconds(work, number) / SAFETY <= self.left()
