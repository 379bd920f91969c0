"""Choose the finalists, and plan how long and how often each has a final training."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from lepton_automl.metrics.paired import is_significantly_below
from lepton_automl.runs.ledger import EventKind, LedgerView
from lepton_automl.search.finals.augmentation import overfits, training_error
from lepton_automl.search.finals.mirror_test import FlipVerdict
from lepton_automl.search.finals.selection import (
    Option,
    by_accuracy,
    finalists,
    within_limits,
)
from lepton_automl.search.proposals.portfolio import MIN_RECIPE_SHARE
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.time_plan import MAX_EPOCHS_FACTOR, TASK_SECONDS, Clock, work_of
from lepton_automl.search.training_key import Stage, TrainingKey
from lepton_automl.search.trials import Plan, Trials, stronger_augmentation
from lepton_automl.search.warm_start import is_at, read_warm_start
from lepton_automl.training.distributed import expected_speedup

FINALISTS = 3
"""Number of finalists, where there is time for all of them."""
MAX_SEEDS = 3
"""Final trainings of one finalist, where the time is longer than the longest training."""
_FOLDS_FIRST = 3
"""Folds of which the trainings have precedence over more epochs, where data are small."""
_MIN_SCRATCH_FACTOR = 2
"""With a budget, a training from scratch has at least this many times the epochs of the last rung
or of the recipe, whichever is less: a shorter one is worse than continuing from the rung for the
same time (docs/decisions.md, "Final trainings from scratch")."""
_SATURATED_ERROR = 0.02
"""Where the best net errs less after one short rung, a larger one has little to gain, and costs
count as they do after long trainings."""


@dataclass(frozen=True)
class Finalist:
    """A trial with the data that its final training is planned from."""

    number: int
    epochs: int
    """Epochs of the trial after the last rung."""
    recipe_epochs: int
    seconds_per_epoch: float
    """Estimated for a final training."""
    augment: float | None = None
    """Strength of the augmentation; None: that of the recipe."""
    flip: bool = False
    """Whether it is trained with random flips where its recipe has none."""
    training_error: float | None = None
    """Error of its net of the search on training samples, 0 to 1; None: not measured."""

    @property
    def min_epochs(self) -> int:
        """Epochs from which a training from scratch is as good as continuing from the rung."""
        shorter = min(self.epochs, self.recipe_epochs)
        return max(self.recipe_epochs, self.epochs, _MIN_SCRATCH_FACTOR * shorter)

    @property
    def max_epochs(self) -> int:
        """Epochs beyond which a training hardly gains accuracy."""
        return MAX_EPOCHS_FACTOR * max(self.epochs, self.recipe_epochs)


@dataclass(frozen=True)
class FinalRun:
    """One planned final training."""

    number: int
    """Number of the trial."""
    epochs: int
    seed: int = 0
    """Which of the trial's final trainings: 0, 1, 2."""
    from_scratch: bool = True
    """Whether it starts with new weights; else it continues from the last rung's checkpoint."""
    ranks: int = 1
    """Number of processes that train it together."""
    augment: float | None = None
    """Strength of the augmentation; None: that of the recipe."""
    flip: bool = False
    """Whether it is trained with random flips where its recipe has none."""
    fold: int = 0
    """Fold that it leaves out and is evaluated on; 0: the validation part."""

    def key(self, round_number: int) -> TrainingKey:
        """Its key in a round of final trainings."""
        variant = self.seed, self.augment, self.flip, self.fold
        return TrainingKey(self.number, Stage.FINAL, round_number, *variant)

    def to_event(self) -> dict[str, Any]:
        """Its entry in the value of the ledger event."""
        return dict(vars(self))

    @classmethod
    def from_event(cls, event: dict[str, Any]) -> Self:
        """Read what `to_event` wrote."""
        return cls(**event)


def planned_final_runs(ledger: LedgerView, round_number: int) -> list[FinalRun]:
    """The final trainings that a round has planned, from the ledger; none before."""
    event = ledger.get(EventKind.PLAN, f"{Stage.FINAL}-{round_number}") or {}
    return [FinalRun.from_event(run) for run in event.get("finals", [])]


def trial_numbers(finals: Sequence[FinalRun | Finalist]) -> list[int]:
    """Numbers of the trials in the order of their first occurrence, without repetitions."""
    return list(dict.fromkeys(final.number for final in finals))


def plan_final_runs(
    finalists: Sequence[Finalist], jobs: int, seconds: float, folds: Sequence[float] = (1.0,)
) -> list[FinalRun]:
    """Plan the final trainings, in the order in which they start.

    Without a budget the first `FINALISTS` are trained for their planned epochs. With one, as many
    of them as can be trained from scratch in the time; then with more epochs, then with more seeds.
    Where there is not enough time for even one, the best continue from their last rung.

    Several finalists are compared on several folds where there are any: all of them have a training
    without each fold, in place of other seeds. The first of these come before more epochs.

    Parameters
    ----------
    finalists : sequence of Finalist
        The best first.
    jobs : int
        Number of trainings that run at the same time.
    seconds : float
        Time for all of them; infinite without a budget.
    folds : sequence of float
        Size of the training for each fold, relative to that on the training part, which is the
        first.
    """
    best = finalists[:FINALISTS]
    if len(best) == 1:
        folds = folds[:1]
    if seconds == math.inf:
        plan = [FinalRun(f.number, f.epochs, augment=f.augment, flip=f.flip) for f in best]
        return [dataclasses.replace(run, fold=k) for k in range(len(folds)) for run in plan]
    for count in range(len(best), 0, -1):
        chosen = best[:count]
        if _duration(chosen, _scaled_epochs(chosen, 1.0), jobs) <= seconds:
            if count > 1 and len(folds) > 1:
                return _with_folds(chosen, jobs, seconds, folds)
            return _with_seeds(chosen, _most_epochs(chosen, jobs, seconds), jobs, seconds)
    of_recipe = [f for f in best if f.augment is None][:jobs]
    epochs = [min(f.max_epochs, math.floor(seconds / f.seconds_per_epoch)) for f in of_recipe]
    return [
        FinalRun(f.number, n, from_scratch=False, flip=f.flip)
        for f, n in zip(of_recipe, epochs, strict=True)
        if n > 0
    ]


def makespan(seconds: Sequence[float], jobs: int) -> float:
    """Duration of list scheduling: each training in turn starts on the first free worker."""
    ends = [0.0] * jobs
    for duration in seconds:
        heapq.heappush(ends, heapq.heappop(ends) + duration)
    return max(ends)


def _scaled_epochs(finalists: Sequence[Finalist], factor: float) -> list[int]:
    return [max(1, min(f.max_epochs, round(factor * f.min_epochs))) for f in finalists]


def _duration(
    finalists: Sequence[Finalist],
    epochs: Sequence[int],
    jobs: int,
    folds: Sequence[float] = (1.0,),
) -> float:
    pairs = list(zip(finalists, epochs, strict=True))
    return makespan([size * f.seconds_per_epoch * n for size in folds for f, n in pairs], jobs)


def _most_epochs(
    finalists: Sequence[Finalist], jobs: int, seconds: float, folds: Sequence[float] = (1.0,)
) -> list[int]:
    """Epochs of each finalist, scaled by one factor, as many as the time allows."""
    factor, epochs = 1.0, _scaled_epochs(finalists, 1.0)
    while any(n < f.max_epochs for n, f in zip(epochs, finalists, strict=True)):
        factor *= 1.05
        more = _scaled_epochs(finalists, factor)
        if _duration(finalists, more, jobs, folds) > seconds:
            break
        epochs = more
    return epochs


def _with_seeds(
    finalists: Sequence[Finalist], epochs: Sequence[int], jobs: int, seconds: float
) -> list[FinalRun]:
    """One training of each finalist, and more with other seeds where a worker would be idle."""
    pairs = list(zip(finalists, epochs, strict=True))
    plan = [FinalRun(f.number, n, augment=f.augment, flip=f.flip) for f, n in pairs]
    durations = [f.seconds_per_epoch * n for f, n in pairs]
    planned = list(durations)
    for seed in range(1, MAX_SEEDS):
        for run, duration in zip(plan[: len(finalists)], durations, strict=True):
            if makespan([*planned, duration], jobs) <= seconds:
                planned.append(duration)
                plan.append(dataclasses.replace(run, seed=seed))
    return plan


def _with_folds(
    finalists: Sequence[Finalist], jobs: int, seconds: float, folds: Sequence[float]
) -> list[FinalRun]:
    """A training of each finalist without each fold, for as many folds as the time allows.

    Where it allows none but the validation part, there may be more seeds.
    """
    least = _scaled_epochs(finalists, 1.0)
    first = min(len(folds), _FOLDS_FIRST)
    while first > 1 and _duration(finalists, least, jobs, folds[:first]) > seconds:
        first -= 1
    epochs = _most_epochs(finalists, jobs, seconds, folds[:first])
    count = first
    while count < len(folds) and (
        _duration(finalists, epochs, jobs, folds[: count + 1]) <= seconds
    ):
        count += 1
    if count == 1:
        return _with_seeds(finalists, epochs, jobs, seconds)
    pairs = list(zip(finalists, epochs, strict=True))
    return [
        FinalRun(f.number, n, augment=f.augment, flip=f.flip, fold=fold)
        for fold in range(count)
        for f, n in pairs
    ]


class FinalistSelection:
    """Selects the finalists among the trials of a search.

    Parameters
    ----------
    request : SearchRequest
        Goal, data and search space.
    tasks : TaskBuilder
        Knows where checkpoints are.
    trials : Trials
        The trials and their results.
    clock : Clock
        Training speed of each trial, and the time left.
    """

    def __init__(
        self, request: SearchRequest, tasks: TaskBuilder, trials: Trials, clock: Clock
    ) -> None:
        self._request, self._tasks, self._trials, self._clock = request, tasks, trials, clock

    def select(
        self, options: Sequence[Option], flips: FlipVerdict = FlipVerdict.OFF
    ) -> list[Finalist]:
        """Select at most `FINALISTS`, the best first.

        The first trial enters a second time with stronger augmentation, where the search space has
        one; or with random flips, where the mirror test leaves them open.

        Parameters
        ----------
        options : sequence of Option
            All trained trials.
        flips : FlipVerdict
            Of the mirror test.
        """
        variants = [self._variants(o.number) for o in self._finalists(self._distinct(options))]
        selected = [pair[0] for pair in variants]
        others = [other for pair in variants[:1] for other in pair[1:]]
        if flips is FlipVerdict.OPEN:
            others[:0] = [dataclasses.replace(first, flip=True) for first in selected[:1]]
        selected[1:1] = others[:1]
        if flips is FlipVerdict.ON:
            selected = [dataclasses.replace(one, flip=True) for one in selected]
        return selected[:FINALISTS]

    def _variants(self, number: int) -> list[Finalist]:
        """A trial with the augmentation of its recipe and a stronger one, the better first."""
        of_recipe = self._finalist(number)
        augment = stronger_augmentation(self._trials[number].recipe, self._request.space)
        if augment is None:
            return [of_recipe]
        result = self._trials.search_result(number)
        error = training_error(self._request, self._tasks, result)
        of_recipe = dataclasses.replace(of_recipe, training_error=error)
        both = [of_recipe, dataclasses.replace(of_recipe, augment=augment)]
        return both[::-1] if overfits(error, 1 - result.accuracy) else both

    def _distinct(self, options: Sequence[Option]) -> list[Option]:
        """The most accurate option of each architecture."""
        best: dict[str, Option] = {}
        for option in sorted(options, key=lambda o: (-o.accuracy, o.number)):
            best.setdefault(self._trials[option.number].arch.hash, option)
        return sorted(best.values(), key=lambda o: o.number)

    def _finalists(self, options: Sequence[Option]) -> list[Option]:
        plan = self._trials.plan
        if plan is None or not plan.is_scarce:
            chosen = finalists(options, self._request.config.goal, FINALISTS)
            return self._fast_enough(chosen, options)
        known_good = [o for o in options if self._is_known_good(o.number, plan)]
        feasible = within_limits(known_good or options, self._request.config.limits)
        in_time = [o for o in feasible if self._is_in_time(o)] or feasible
        best, *others = by_accuracy(in_time)
        if 1 - best.accuracy <= _SATURATED_ERROR:
            return finalists(in_time, self._request.config.goal, FINALISTS)

        def may_be_best(option: Option) -> bool:
            return not is_significantly_below(
                option.correct, best.correct, option.groups, option.strata
            )

        # Of nets that are as good after one rung the larger gains more from a long training.
        near = sorted([best, *filter(may_be_best, others)], key=lambda option: -option.cost.macs)
        return [*near, *(o for o in others if o not in near)][:FINALISTS]

    def _is_known_good(self, number: int, plan: Plan) -> bool:
        """Whether a trial is a known-good point, or one of those trained in their place.

        Where a point violates a limit, one that does not is trained instead of it.
        """
        points = read_warm_start(self._request.ledger).begins_with(self._request.space.candidates)
        count = len(points if plan.first is None else plan.first)
        params, is_first = self._trials[number].params, 0 <= number - plan.first_trial < count
        return is_first or any(is_at(params, point) for point in points)

    def _fast_enough(self, chosen: list[Option], options: Sequence[Option]) -> list[Option]:
        """`chosen`, unless its first is too slow for a useful training in the time left.

        Then the most accurate of those that are fast enough; of all, if none is.
        """
        if not chosen or self._is_in_time(chosen[0]):
            return chosen
        feasible = within_limits(options, self._request.config.limits)
        return by_accuracy([o for o in feasible if self._is_in_time(o)] or feasible)[:FINALISTS]

    def _is_in_time(self, option: Option) -> bool:
        """Whether the time left is enough for `MIN_RECIPE_SHARE` of the epochs of its recipe."""
        left, finalist = self._clock.left() - TASK_SECONDS, self._finalist(option.number)
        return MIN_RECIPE_SHARE * finalist.recipe_epochs * finalist.seconds_per_epoch <= left

    def _finalist(self, number: int) -> Finalist:
        trial = self._trials[number]
        work = work_of(trial.cost.macs, self._tasks.samples, 1)
        seconds = self._clock.seconds(work, number) - TASK_SECONDS
        per_epoch = seconds / expected_speedup(self._request.config.final_jobs)
        return Finalist(number, self._trials.epochs_of(number), trial.recipe.epochs, per_epoch)
