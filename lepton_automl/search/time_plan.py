"""The plan: how long candidates are trained and when the search ends, from measured speed."""

from __future__ import annotations

import math
from collections.abc import Callable

from lepton_automl.search.rungs import ETA, cycles

FINAL_SHARES, SCARCE_FINAL_SHARES = (0.28, 0.34, 0.4), (0.5, 0.6, 0.7, 0.9)
"""Of a search's time, kept to train the best to the end: the first that is enough. More where
candidates are cut short: known-good candidates are near the best, and one net trained to the
end beats many half trained (docs/decisions.md, "Where time is scarce")."""

CANDIDATES_FEW, CANDIDATES_MANY = 10, 60
"""Fewer candidates: shorter trainings; more: longer ones."""

LONGEST = 3
"""Candidates are trained at most so many times the recipe's epochs, at the end so many times the
search's."""

EPOCH_OVERHEAD_MACS = 700_000
"""What a sample costs beside its MACs in training, in MACs: batches, augmentation, optimiser."""

TASK_SECONDS = 0.3
"""What a task costs beside its training: reading, writing, answering the validation part."""

SAFETY = 1.15
"""Machines slow down; a task that would end in the last moment is not started."""


def work_of(macs: int, samples: int, epochs: float) -> float:
    """Size of a training, in units that take about the same time for every net."""
    return float((macs + EPOCH_OVERHEAD_MACS) * samples * epochs)


def macs_of(work: float, samples: int, epochs: float) -> float:
    """Multiply-accumulates of the net whose training has this size, the inverse of `work_of`."""
    return work / (samples * epochs) - EPOCH_OVERHEAD_MACS


def planned_epochs(
    own: int, seconds_per_epoch: float, search_seconds: float, jobs: int, samples: int
) -> int:
    """Epochs of the last rung under which the time gives a sensible number of candidates.

    Parameters
    ----------
    own : int
        What the recipe asks for.
    seconds_per_epoch : float
        Of a typical candidate in one worker, above 0.
    search_seconds : float
        Time for all rungs of all candidates.
    jobs : int
        Workers at the same time.
    samples : int
        Of the training part.
    """

    def count(epochs: int) -> float:
        each = share_trained(epochs, samples) * seconds_per_epoch * SAFETY + TASK_SECONDS
        return search_seconds * jobs / each

    epochs = own
    while epochs > 1 and count(epochs) < CANDIDATES_FEW:
        epochs -= 1
    while epochs < own * LONGEST and count(epochs) / CANDIDATES_MANY > (epochs + 1) / own:
        epochs += 1
    return epochs


def share_trained(epochs: int, samples: int) -> float:
    """Epochs a candidate is trained on average: one in `ETA` goes on at every rung."""
    return float(sum(n / ETA**rung for rung, n in enumerate(cycles(epochs, samples))))


class Clock:
    """Seconds left, and what a training will take, learnt from those that have ended.

    Parameters
    ----------
    left : callable
        Seconds until the search must end.
    final_seconds : float
        Of these, kept for the winner's last training.
    seconds_per_work : float
        First measurement.
    """

    def __init__(
        self, left: Callable[[], float], final_seconds: float, seconds_per_work: float
    ) -> None:
        self.left, self._final = left, final_seconds
        self._seconds, self._work = seconds_per_work, 1.0
        self._own: dict[int | None, float] = {}

    def learn(self, seconds: float, work: float, number: int) -> None:
        """A training of `work` took candidate `number` so many `seconds`.

        Of all candidates together the newest count most, as machines drift.
        """
        if self._work == 1.0:
            self._seconds, self._work = self._seconds * work, work
        self._seconds = 0.8 * self._seconds + seconds
        self._work = 0.8 * self._work + work
        self._own[number] = seconds / work

    def seconds(self, work: float, number: int | None = None) -> float:
        """What a training of `work` will probably take, in seconds.

        By the candidate's own pace where it is known: nets of equal work may differ by a factor.
        """
        pace = self._own.get(number, self._seconds / self._work)
        return SAFETY * pace * work + TASK_SECONDS

    def allows(self, work: float) -> bool:
        """Whether a training of `work` ends before the time kept for the winner begins."""
        left = self.left() - self._final
        return left == math.inf or self.seconds(work) <= left

    def most_work(self) -> float:
        """The largest training that probably ends before the search must, of an unknown net."""
        left = self.left()
        if left == math.inf:
            return math.inf
        return max(0.0, left - TASK_SECONDS / SAFETY) * self._work / self._seconds

    def has_time(self, work: float, number: int | None = None) -> bool:
        """Whether a training of `work` probably ends before the search must."""
        return self.seconds(work, number) / SAFETY <= self.left()
