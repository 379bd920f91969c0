"""Summaries of the trials of a study: only trials that have changed are read again."""

from __future__ import annotations

import bisect
import functools
import itertools
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from lepton_automl.search.sampler.candidate_pool import Identity, identity_of
from lepton_automl.search.sampler.observations import Observation

MOST_TRIALS, MOST_OF_RUNG, MOST_NEW = 500, 100, 100
"""Of more trials than the first, the acquisition has the best of each rung, at most the second, and
half the third, and the newest that train, at most the third."""


@dataclass(frozen=True, eq=False)
class TrialSummary:
    """What the sampler reads from a trial, kept until the trial changes."""

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

    def is_like(self, other: TrialSummary | None) -> bool:
        """Whether a ranking takes the same from both."""
        if other is None or not (self.is_informative and other.is_informative):
            return not self.is_informative and (other is None or not other.is_informative)
        return (self.trial.state, self.observed) == (other.trial.state, other.observed)


class TrialSummaries:
    """Summaries of all trials of a study; only trials that have changed are read again.

    Numbers are places in the list of trials.
    """

    def __init__(self) -> None:
        self._trials: list[FrozenTrial | None] = []
        self._summaries: list[TrialSummary | None] = []
        self._tried: Counter[Identity] = Counter()
        self._informative: list[int] = []
        """Numbers, in order."""
        self._running: set[int] = set()
        self._of_rung: dict[int, list[tuple[float, int]]] = {}
        """Rungs left -> minus the value and the number of trials whose last result that is."""
        self._numbers_of_rung: dict[int, list[int]] = {}
        self.observations = 0
        """Of all informative trials, at least one each."""
        self.changed: dict[int, TrialSummary | None] = {}
        """Earlier summaries of the trials that changed since `remember`; None: there was none."""

    def update(
        self, trials: Sequence[FrozenTrial | None], read: Callable[[FrozenTrial], TrialSummary]
    ) -> None:
        """Read the trials that are other objects than before; None counts as no trial."""
        if len(trials) < len(self._trials):
            self.update([*trials, *[None] * (len(self._trials) - len(trials))], read)
            return
        self._trials += [None] * (len(trials) - len(self._trials))
        self._summaries += [None] * (len(trials) - len(self._summaries))
        differ = map(operator.is_not, trials, self._trials)
        for number in list(itertools.compress(itertools.count(), differ)):
            trial = trials[number]
            self._replace(number, None if trial is None else read(trial))
            self._trials[number] = trial

    @property
    def informative(self) -> list[TrialSummary]:
        """Summaries that the model uses, in order."""
        return [self._at(number) for number in self._informative]

    @property
    def running(self) -> int:
        """Number of trials that train."""
        return len(self._running)

    @property
    def changes(self) -> int:
        """Number of informative trials that changed since `remember`."""
        summaries = (self._summaries[number] for number in self.changed)
        return sum(summary is not None and summary.is_informative for summary in summaries)

    @property
    def count(self) -> int:
        """Number of informative trials."""
        return len(self._informative)

    def is_as_remembered(self) -> bool:
        """Whether a ranking would be what it was at `remember`."""
        for number, before in self.changed.items():
            now = self._summaries[number]
            if not (now or _NO_TRIAL).is_like(before):
                return False
        return True

    def remember(self) -> None:
        """Count changes from now on."""
        self.changed = {}

    def has_tried(self, identity: Identity) -> bool:
        """Whether any trial, in any state, has these parameters."""
        return self._tried[identity] > 0

    def bounded(self) -> list[TrialSummary]:
        """All of few informative trials, of many those that a decision depends on most."""
        if len(self._informative) <= MOST_TRIALS:
            return self.informative
        kept = set[int]()
        for rung, found in self._of_rung.items():
            kept |= {number for _, number in found[:MOST_OF_RUNG]}
            kept |= set(self._numbers_of_rung[rung][-MOST_NEW // 2 :])
        kept |= set(sorted(self._running)[-MOST_NEW:])
        return [self._at(number) for number in sorted(kept)]

    def _at(self, number: int) -> TrialSummary:
        summary = self._summaries[number]
        assert summary is not None, "informative"
        return summary

    def _replace(self, number: int, summary: TrialSummary | None) -> None:
        before = self._summaries[number]
        self.changed.setdefault(number, before)
        if before is not None:
            self._tried[before.identity] -= 1
            if not self._tried[before.identity]:
                del self._tried[before.identity]
            if before.is_informative:
                self._count(number, before, -1)
        if summary is not None:
            self._tried[summary.identity] += 1
            if summary.is_informative:
                self._count(number, summary, +1)
        self._summaries[number] = summary

    def _count(self, number: int, summary: TrialSummary, sign: int) -> None:
        """Add an informative trial to the tables, or remove it."""
        change = _insert if sign > 0 else _remove
        change(self._informative, number)
        self.observations += sign * max(1, len(summary.observed))
        if summary.is_running:
            (self._running.add if sign > 0 else self._running.discard)(number)
        if summary.last is not None:
            rung = summary.last.rungs_left
            change(self._of_rung.setdefault(rung, []), (-(summary.last.value or 0.0), number))
            change(self._numbers_of_rung.setdefault(rung, []), number)


def _insert(table: list[Any], value: Any) -> None:
    bisect.insort(table, value)


def _remove(table: list[Any], value: Any) -> None:
    del table[bisect.bisect_left(table, value)]


_NO_TRIAL = TrialSummary(optuna.trial.create_trial(value=0.0), False, ())
"""In place of no trial."""
