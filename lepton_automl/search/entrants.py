"""Entrants: who is worth a last training when the search ends, and how it may differ."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from lepton_automl.compress.plan import subset
from lepton_automl.dataset import load_labelled
from lepton_automl.evaluate import is_correct
from lepton_automl.model import Model
from lepton_automl.parallel import expected_speedup
from lepton_automl.pick import LEARNING_ON, Option, early, finalists
from lepton_automl.search.finals import FINALISTS, Entrant
from lepton_automl.search.plan import TASK_SECONDS, Clock, work_of
from lepton_automl.search.strategy import stronger
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import Trials
from lepton_automl.search.warm_start import is_at, recorded
from lepton_automl.search.work import SearchWork

MEMORISED = 0.5
"""Where a net errs on training pictures less than so many times as often as on validation ones,
longer training makes it worse, unless they are changed more (benchmarks/README.md, "Stronger
changes at the end")."""
JUDGED = 2000
"""Training pictures this is judged by."""


class Entrants:
    """Chooses them from what the search has found.

    Parameters
    ----------
    work : SearchWork
        Goal and space.
    tasks : Tasks
        Knows the data.
    trials : Trials
        What is known.
    clock : Clock
        How fast each candidate is trained, and the time left.
    """

    def __init__(self, work: SearchWork, tasks: Tasks, trials: Trials, clock: Clock) -> None:
        self._work, self._tasks, self._trials, self._clock = work, tasks, trials, clock

    def of(self, options: Sequence[Option]) -> list[Entrant]:
        """At most `FINALISTS`, the best first; trained otherwise it comes a second time."""
        pairs = [self._strategies(o.number) for o in self._finalists(self._distinct(options))]
        entrants = [pair[0] for pair in pairs]
        entrants[1:1] = [other for pair in pairs[:1] for other in pair[1:]]
        return entrants[:FINALISTS]

    def _strategies(self, number: int) -> list[Entrant]:
        """A candidate as its recipe says and with stronger changes, the better choice first."""
        own = self._entrant(number)
        augment = stronger(self._trials[number].recipe, self._work.space)
        if augment is None:
            return [own]
        both = [own, dataclasses.replace(own, augment=augment)]
        return both[::-1] if self._memorises(number) else both

    def _memorises(self, number: int) -> bool:
        """Whether its net knows training pictures much better than others, though changed ones."""
        score = self._trials.search_result(number)
        checkpoint = self._tasks.checkpoint(score.key)
        if not self._tasks.is_whole(checkpoint):
            return False
        model = Model.load(checkpoint)
        files = self._work.dataset.decoded_files(
            "train", model.arch.input[:2], self._work.folder.cache
        )
        some = subset(load_labelled(files), JUDGED, self._work.config.seed)
        right = is_correct(model, some, device=self._work.device)
        return bool(1 - right.mean() < MEMORISED * (1 - score.accuracy))

    def _distinct(self, options: Sequence[Option]) -> list[Option]:
        """Of each architecture the most accurate: others would hardly be another choice."""
        best: dict[str, Option] = {}
        for option in sorted(options, key=lambda o: (-o.accuracy, o.number)):
            best.setdefault(self._trials[option.number].arch.hash, option)
        return sorted(best.values(), key=lambda o: o.number)

    def _finalists(self, options: Sequence[Option]) -> list[Option]:
        plan = self._trials.plan
        if plan is None or not plan.is_scarce:
            return self._in_time(finalists(options, self._work.config.goal, FINALISTS), options)
        points = recorded(self._work.ledger).begins_with(self._work.space.candidates)
        params = {o.number: self._trials[o.number].params for o in options}
        known_good = [o for o in options if any(is_at(params[o.number], p) for p in points)]
        growth = {o.number: self._growth(o.number) for o in options}
        return early(known_good or options, self._work.config.limits, growth, FINALISTS)

    def _in_time(self, chosen: list[Option], options: Sequence[Option]) -> list[Option]:
        """`chosen`, unless the first is too slow to be trained from nothing in the time left.

        Then one that is trained faster may come out ahead, as it gets many more passes.
        """
        left = self._clock.left() - TASK_SECONDS
        entrants = {o.number: self._entrant(o.number) for o in options}

        def is_in_time(entrant: Entrant) -> bool:
            return entrant.least * entrant.seconds_per_epoch <= left

        if left == math.inf or not chosen or is_in_time(entrants[chosen[0].number]):
            return chosen
        growth = {
            number: min(entrant.longest, left / entrant.seconds_per_epoch)
            / self._trials.search_result(number).epochs
            if is_in_time(entrant)
            else self._growth(number)
            for number, entrant in entrants.items()
        }
        return early(options, self._work.config.limits, growth, FINALISTS, LEARNING_ON)

    def _growth(self, number: int) -> float:
        """How many times as many passes it will have had, at least 1: the time may be over."""
        entrant = self._entrant(number)
        more = min(entrant.own, max(0.0, self._clock.left() / entrant.seconds_per_epoch))
        return 1 + more / self._trials.search_result(number).epochs

    def _entrant(self, number: int) -> Entrant:
        candidate = self._trials[number]
        work = work_of(candidate.cost.macs, self._tasks.samples, 1)
        seconds = self._clock.seconds(work, number) - TASK_SECONDS
        epoch = seconds / expected_speedup(self._work.config.final_jobs)
        return Entrant(number, self._trials.epochs_of(number), candidate.recipe.epochs, epoch)
