"""Finals: who is trained to the end, for how long and how often, in the time there is."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from lepton_automl.data.dataset import load_labelled
from lepton_automl.data.sampling import subset
from lepton_automl.models.model import Model
from lepton_automl.runs.ledger import EventKind, LedgerView
from lepton_automl.search.finals.selection import Option, by_accuracy, finalists, within_limits
from lepton_automl.search.request import SearchWork
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.time_plan import LONGEST, TASK_SECONDS, Clock, work_of
from lepton_automl.search.training_key import Stage, TrainingKey
from lepton_automl.search.trials import Trials, stronger_augmentation
from lepton_automl.search.warm_start import is_at, read_warm_start
from lepton_automl.training.distributed import expected_speedup
from lepton_automl.training.evaluate import is_correct

FINALISTS = 3
"""Trained to the end where there is time for all of them."""
MOST_SEEDS = 3
"""Trainings of one finalist, where there is more time than the longest training takes."""
FRESH_LEAST = 2
"""Where the clock decides, a training from nothing gets at least so many times the epochs of the
last rung or of its recipe, whichever is less: shorter ones are worse than going on from the rung
for the same seconds (docs/decisions.md, "Final trainings from nothing")."""
MEMORISED = 0.5
"""Where a net errs on training pictures less than so many times as often as on validation ones,
longer training makes it worse, unless they are changed more (docs/decisions.md, "Stronger
changes at the end")."""
JUDGED = 2000
"""Training pictures this is judged by."""


@dataclass(frozen=True)
class Finalist:
    """One of the best candidates when the search ends."""

    number: int
    epochs: int
    """Of the search's last rung: what its recipe asks for, or as planned."""
    own: int
    """What its recipe asks for."""
    seconds_per_epoch: float
    """Of its training in one worker."""
    augment: float | None = None
    """How much its last training changes pictures; None: as its recipe says."""

    @property
    def least(self) -> int:
        """Epochs from which a training from nothing is as good as going on from the rung."""
        return max(self.own, self.epochs, FRESH_LEAST * min(self.epochs, self.own))

    @property
    def longest(self) -> int:
        """Epochs beyond which more hardly help."""
        return LONGEST * max(self.epochs, self.own)


@dataclass(frozen=True)
class FinalRun:
    """One training to the end."""

    number: int
    epochs: int
    seed: int = 0
    """Which of the candidate's trainings: 0, 1, 2."""
    is_fresh: bool = True
    """From nothing with weights and order of its own; else from the last rung's checkpoint."""
    ranks: int = 1
    """Processes that train it together."""
    augment: float | None = None
    """How much pictures are changed; None: as the recipe says."""

    def key(self, round_number: int) -> TrainingKey:
        """Its key in the ledger and among the checkpoints."""
        return TrainingKey(self.number, Stage.FINAL, round_number, self.seed, self.augment)

    def to_event(self) -> dict[str, Any]:
        """As the ledger keeps it."""
        return dict(vars(self))

    @classmethod
    def from_event(cls, event: dict[str, Any]) -> Self:
        """Read what `to_event` wrote."""
        return cls(**event)


def planned_final_runs(ledger: LedgerView, key: str) -> list[FinalRun]:
    """The last trainings that a plan in the ledger names, such as "final-0"."""
    known = ledger.get(EventKind.PLAN, key) or {}
    return [FinalRun.from_event(event) for event in known.get("finals", [])]


def plan_final_runs(entrants: Sequence[Finalist], jobs: int, seconds: float) -> list[FinalRun]:
    """The last trainings, in the order in which they are handed out.

    Without a clock the first `FINALISTS` get their planned epochs. With one, as many as can be
    trained from nothing in the time; then longer, then again with other seeds. Where there is no
    time for even one of them, the best go on from where the search left them.

    Parameters
    ----------
    entrants : sequence of Finalist
        The best first.
    jobs : int
        Trainings at the same time.
    seconds : float
        Until the last one must have ended; infinite where no time is given.
    """
    best = entrants[:FINALISTS]
    if seconds == math.inf:
        return [FinalRun(e.number, e.epochs, augment=e.augment) for e in best]
    for count in range(len(best), 0, -1):
        chosen = best[:count]
        if _lasting(chosen, _stretched(chosen, 1.0), jobs) <= seconds:
            return _with_seeds(chosen, _longest_in(chosen, jobs, seconds), jobs, seconds)
    as_searched = [e for e in best if e.augment is None][:jobs]
    more = [(e, min(e.longest, math.floor(seconds / e.seconds_per_epoch))) for e in as_searched]
    return [FinalRun(e.number, epochs, is_fresh=False) for e, epochs in more if epochs > 0]


def makespan(seconds: Sequence[float], jobs: int) -> float:
    """When the last of several trainings ends, each given to the first free worker in turn."""
    ends = [0.0] * jobs
    for each in seconds:
        heapq.heappush(ends, heapq.heappop(ends) + each)
    return max(ends)


def _stretched(entrants: Sequence[Finalist], factor: float) -> list[int]:
    return [max(1, min(e.longest, round(factor * e.least))) for e in entrants]


def _lasting(entrants: Sequence[Finalist], epochs: Sequence[int], jobs: int) -> float:
    each = zip(entrants, epochs, strict=True)
    return makespan([e.seconds_per_epoch * n for e, n in each], jobs)


def _longest_in(entrants: Sequence[Finalist], jobs: int, seconds: float) -> list[int]:
    """Epochs of each, all stretched alike, as many as fit."""
    factor, epochs = 1.0, _stretched(entrants, 1.0)
    while any(n < e.longest for n, e in zip(epochs, entrants, strict=True)):
        factor *= 1.05
        longer = _stretched(entrants, factor)
        if _lasting(entrants, longer, jobs) > seconds:
            break
        epochs = longer
    return epochs


def _with_seeds(
    entrants: Sequence[Finalist], epochs: Sequence[int], jobs: int, seconds: float
) -> list[FinalRun]:
    """Every one once; again with other seeds where a worker would have nothing to do."""
    pairs = list(zip(entrants, epochs, strict=True))
    plan = [FinalRun(e.number, n, augment=e.augment) for e, n in pairs]
    each = [e.seconds_per_epoch * n for e, n in pairs]
    lasting = list(each)
    for seed in range(1, MOST_SEEDS):
        for final, took in zip(plan[: len(entrants)], each, strict=True):
            if makespan([*lasting, took], jobs) <= seconds:
                lasting.append(took)
                plan.append(dataclasses.replace(final, seed=seed))
    return plan


class FinalistSelection:
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

    def of(self, options: Sequence[Option]) -> list[Finalist]:
        """At most `FINALISTS`, the best first; trained otherwise it comes a second time."""
        pairs = [self._strategies(o.number) for o in self._finalists(self._distinct(options))]
        entrants = [pair[0] for pair in pairs]
        entrants[1:1] = [other for pair in pairs[:1] for other in pair[1:]]
        return entrants[:FINALISTS]

    def _strategies(self, number: int) -> list[Finalist]:
        """A candidate as its recipe says and with stronger changes, the better choice first."""
        own = self._entrant(number)
        augment = stronger_augmentation(self._trials[number].recipe, self._work.space)
        if augment is None:
            return [own]
        both = [own, dataclasses.replace(own, augment=augment)]
        return both[::-1] if self._memorises(number) else both

    def _memorises(self, number: int) -> bool:
        """Whether its net knows training pictures much better than others, though changed ones."""
        score = self._trials.search_result(number)
        checkpoint = self._tasks.checkpoint(score.key)
        if not self._tasks.is_complete(checkpoint):
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
        points = read_warm_start(self._work.ledger).begins_with(self._work.space.candidates)
        params = {o.number: self._trials[o.number].params for o in options}
        known_good = [o for o in options if any(is_at(params[o.number], p) for p in points)]
        legal = within_limits(known_good or options, self._work.config.limits)
        return by_accuracy(legal)[:FINALISTS]

    def _in_time(self, chosen: list[Option], options: Sequence[Option]) -> list[Option]:
        """`chosen`, unless its first is too slow for a training from scratch in the time left.

        Then the most accurate of those that are fast enough; of all, if none is.
        """
        left = self._clock.left() - TASK_SECONDS

        def is_in_time(option: Option) -> bool:
            entrant = self._entrant(option.number)
            return entrant.least * entrant.seconds_per_epoch <= left

        if left == math.inf or not chosen or is_in_time(chosen[0]):
            return chosen
        legal = within_limits(options, self._work.config.limits)
        return by_accuracy([o for o in legal if is_in_time(o)] or legal)[:FINALISTS]

    def _entrant(self, number: int) -> Finalist:
        candidate = self._trials[number]
        work = work_of(candidate.cost.macs, self._tasks.samples, 1)
        seconds = self._clock.seconds(work, number) - TASK_SECONDS
        epoch = seconds / expected_speedup(self._work.config.final_jobs)
        return Finalist(number, self._trials.epochs_of(number), candidate.recipe.epochs, epoch)
