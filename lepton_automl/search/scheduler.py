"""Choose the next training of a search: a promotion, or the first rung of a new trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lepton_automl.search.pareto import pareto_ranks
from lepton_automl.search.rungs import ETA, Rung, promotable
from lepton_automl.search.study import SearchStudy


@dataclass(frozen=True)
class Action:
    """The next training: a promotion or a new trial."""

    promote: int | None = None
    """Number of the trial to train to its next rung; None: propose a new trial."""


class Scheduler:
    """Chooses between promotions and a new trial.

    Our sampler gives acquisition values to trials and candidates, each a share of the expected
    improvement at the end of the training; the highest is chosen. Other samplers give none: trials
    in the best third of their rung are promoted before a new one starts (asynchronous successive
    halving, Li et al. 2020).

    Parameters
    ----------
    study : SearchStudy
        Study with the results of all trials.
    """

    def __init__(self, study: SearchStudy) -> None:
        self._study = study

    def promotable(self, rungs: Sequence[Rung], *, closing: bool) -> list[int]:
        """Trials that may train their next rung.

        Parameters
        ----------
        rungs : sequence of Rung
            All rungs but the last one, from the first on.
        closing : bool
            No new trials will start.
        """
        rule = promotable if self._study.ranks else successive_halving
        return rule(rungs, closing=closing)

    def next_action(
        self,
        promotable: Sequence[int],
        *,
        may_propose: bool,
        may_train: Callable[[int], bool] = lambda _: True,
    ) -> Action | None:
        """The next training; None where nothing is left to do.

        Parameters
        ----------
        promotable : sequence of int
            Numbers of the trials that may train longer, as `promotable` returns them.
        may_propose : bool
            Whether a new trial may start.
        may_train : callable
            Whether the next rung of a trial may start now; asked of as few as possible.
        """
        new = Action() if may_propose else None
        if not promotable:
            return new
        if not self._study.ranks:
            first = next(filter(may_train, promotable), None)
            return new if first is None else Action(first)
        values, candidate = self._study.rank()
        # Minus infinity: above this turn's cost bound. So are those of many that are not ranked.
        chosen = set(promotable)
        ranked = [n for n, value in values.items() if value > -math.inf and n in chosen]
        for number in sorted(ranked, key=lambda n: -values[n]):
            if may_propose and candidate is not None and candidate > values[number]:
                return new
            if may_train(number):
                return Action(number)
        if may_propose:
            return new
        others = (n for n in promotable if values.get(n, -math.inf) == -math.inf)
        last = next(filter(may_train, others), None)
        return None if last is None else Action(last)


def successive_halving(rungs: Sequence[Rung], *, closing: bool) -> list[int]:
    """Trials to promote by asynchronous successive halving (Li et al. 2020).

    The best third of each rung is promoted, ordered by Pareto rank of accuracy and costs, then by
    accuracy.

    Parameters
    ----------
    rungs : sequence of Rung
        From the first one on.
    closing : bool
        No new trials will start: the best trial of every rung is promoted at least.

    Returns
    -------
    list of int
        Numbers, from the last rung on, the best of each first.
    """
    found = []
    for rung in reversed(rungs):
        if not rung.entries:
            continue
        best = sorted(rung.entries, key=lambda entry: -entry.accuracy)
        ranks = pareto_ranks(np.array([(-e.accuracy, *e.costs) for e in best]))
        ordered = [best[place] for place in np.argsort(ranks, kind="stable")]
        quota = max(len(ordered) // ETA, 1 if closing else 0)
        found += [e.number for e in ordered[:quota] if e.number not in rung.promoted]
    return found
