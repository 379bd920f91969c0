"""Train the finalists with new seeds, so that the selection does not rest on lucky results."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lepton_automl.core.decisions import Decision
from lepton_automl.core.events import Event
from lepton_automl.core.units import duration, epochs_text
from lepton_automl.runs.ledger import EventKind, LedgerView, record_decision
from lepton_automl.runs.time_budget import COMPRESSION, REFIT
from lepton_automl.search.executors import Executor
from lepton_automl.search.finals import augmentation, cross_validation, flip_check
from lepton_automl.search.finals.finalists import (
    FINALISTS,
    Finalist,
    FinalistSelection,
    FinalRun,
    makespan,
    plan_final_runs,
    planned_final_runs,
    trial_numbers,
)
from lepton_automl.search.finals.selection import Option
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.time_plan import GRACE_SECONDS, SAFETY, TASK_SECONDS, Clock
from lepton_automl.search.training_key import Stage, TrainingKey
from lepton_automl.search.trials import RungResult, Trials, result_event, stronger_augmentation
from lepton_automl.search.workers.run_task import share_done
from lepton_automl.search.workers.task import Task, TaskResult
from lepton_automl.training.distributed import expected_speedup
from lepton_automl.training.precision import MIN_MEASURED_SECONDS

ERRORS = "training_errors"
"""Field of the plan event: errors of nets of the search on training samples, by trial."""
FINALS = "finals"
"""Stage of the progress events."""
FINAL_TRAININGS = "final trainings"
"""Name of the decision on their number and length."""
_GRACE_SHARE, _END_SHARE = 0.5, 0.5
"""Share of the time that is kept for pruning which late final trainings may take; share of that by
which they are shortened to end. One that has not ended after all of it is given up."""
_LEAST_LENGTH = 0.6
"""A final training that does not fit into the time is shortened to no less than this share of its
length, or left out; but one takes place."""


class FinalTraining:
    """One round of final trainings; a longer search adds a round.

    Parameters
    ----------
    request : SearchRequest
        Goal and ledger.
    tasks : TaskBuilder
        Creates the trainings.
    trials : Trials
        The trials and their results; results are added.
    round_number : int
        0, 1, ...
    """

    def __init__(
        self, request: SearchRequest, tasks: TaskBuilder, trials: Trials, round_number: int
    ) -> None:
        self._request, self._tasks, self._trials = request, tasks, trials
        self._round = round_number

    @property
    def runs(self) -> list[FinalRun]:
        """The planned final trainings; none before `train`."""
        return planned_final_runs(self._request.ledger, self._round)

    def train(self, options: Sequence[Option], workers: Executor, clock: Clock) -> list[Option]:
        """Select finalists among `options` and train them; returns them with their new accuracy.

        A training whose result is in the ledger is not repeated. A training that cannot end in time
        is left out, and so is a finalist without any result, because its accuracy in the search is
        biased upwards by the selection.
        """
        key = f"{Stage.FINAL}-{self._round}"
        if self._request.ledger.get(EventKind.PLAN, key) is None:
            flips = flip_check.check(self._request, self._tasks, self._trials, clock, self._round)
            selection = FinalistSelection(self._request, self._tasks, self._trials, clock)
            finalists = selection.select(options, flips)
            ranks = self._request.config.final_jobs
            planned = self._planned(finalists, clock.left() - TASK_SECONDS)
            plan = [dataclasses.replace(run, ranks=ranks) for run in planned]
            event = {"finals": [run.to_event() for run in plan], ERRORS: _errors(finalists)}
            self._request.ledger.record(EventKind.PLAN, key, event)
            epoch = 0.0 if self._trials.plan is None else self._trials.plan.epoch_seconds
            larger = self._request.continuing_budget(epoch)
            self._emit(plan_text(plan, len(trial_numbers(finalists)), larger))
        self._train(workers, clock)
        flip_check.choose(self._request, self._trials, self.runs, self._round)
        self._cross_validate()
        return self.options()

    def _planned(self, finalists: Sequence[Finalist], seconds: float) -> list[FinalRun]:
        """The trainings for which `seconds` are enough, and for one more on all samples after them.

        Time was kept for that at the speed of the nets that were trained first; the finalists may
        be slower, and have more epochs.
        """
        first = self._plan_within(finalists, seconds)
        late = self._refit_seconds(finalists, first)
        if not late or not first[0].from_scratch:
            return first
        shorter = self._plan_within(finalists, seconds - late)
        return shorter if shorter and shorter[0].from_scratch else first

    def _plan_within(self, finalists: Sequence[Finalist], seconds: float) -> list[FinalRun]:
        folds = cross_validation.training_shares(self._request, seconds)
        return plan_final_runs(finalists, self._request.finals_at_once, seconds, folds)

    def _refit_seconds(self, finalists: Sequence[Finalist], runs: Sequence[FinalRun]) -> float:
        """Seconds of a training on all samples of the slowest finalist beyond those kept for it."""
        plan = self._trials.plan
        if plan is None or self._request.config.seconds_in_all is None or not runs:
            return 0.0
        chosen = {run.number for run in runs}
        epoch = max(each.seconds_per_epoch for each in finalists if each.number in chosen)
        needed, kept = (
            self._request.stage_budget(*each).get(REFIT, 0.0)
            for each in ((epoch, runs[0].epochs), (plan.epoch_seconds, plan.whole_epochs))
        )
        return max(0.0, needed - kept)

    def options(self, *, by_folds: bool = True) -> list[Option]:
        """The finalists with their accuracy after the final trainings.

        Parameters
        ----------
        by_folds : bool
            Whether they are compared on all folds that all of them have; else on the validation
            part.
        """
        request, trials = self._request, self._trials
        found = cross_validation.fold_results(
            request, trials, self.runs, self._round, by_folds=by_folds
        )
        options = []
        for number in trial_numbers(self.runs):
            variant = found.best(number)
            if variant is not None:
                correct, cost = found.correct[variant], trials[number].cost
                samples = found.samples
                where = "in cross-validation" if len(found.folds) > 1 else "on validation"
                options.append(Option(number, correct, cost, samples.groups, samples.strata, where))
        return options

    def _cross_validate(self) -> None:
        """Record the comparison of the finalists where they have several folds; once a round."""
        key, ledger = str(self._round), self._request.ledger
        event = ledger.get(EventKind.CROSS_VALIDATION, key)
        if event is None:
            found = cross_validation.fold_results(
                self._request, self._trials, self.runs, self._round
            )
            if len(found.folds) < 2:
                return
            event = found.to_event()
            ledger.record(EventKind.CROSS_VALIDATION, key, event)
            self._emit(_comparison_text(event))
        self._trials.add_cross_validation(self._round, event)

    def record_decisions(self, number: int, *, by_folds: bool = True) -> None:
        """Record what was decided about the final trainings.

        Parameters
        ----------
        number : int
            The winner.
        by_folds : bool
            Whether the finalists were compared on several folds, where they have these.
        """
        request, ledger = self._request, self._request.ledger
        event = ledger.get(EventKind.CROSS_VALIDATION, str(self._round)) if by_folds else None
        made = [event and cross_validation.decision(request, event), self._plan_decision()]
        made.append(self._augmentation_decision(number, by_folds=by_folds))
        for decision in made:
            if decision:
                record_decision(ledger, decision)

    def _plan_decision(self) -> Decision | None:
        """How many final trainings of which length there were; None without any."""
        runs, budget = self.runs, self._request.config.seconds_in_all
        if not runs:
            return None
        evidence = f"at most {FINALISTS} finalists"
        evidence += "" if budget is None else f", {duration(budget)} budget"
        evidence += f", {self._request.finals_at_once} at a time"
        choice = plan_text(runs, len(trial_numbers(runs)), "")
        return Decision(FINAL_TRAININGS, choice, evidence, "inferred", "--budget", is_detail=True)

    def _augmentation_decision(self, number: int, *, by_folds: bool) -> Decision | None:
        """Which augmentation the training of the winner had; None where there was no choice."""
        request, trials = self._request, self._trials
        recipe, key = trials[number].recipe, trials.best_result(number).key
        stronger = stronger_augmentation(recipe, request.space)
        runs = [run for run in self.runs if run.from_scratch]
        if stronger is None or key not in {run.key(self._round) for run in runs}:
            return None
        found = cross_validation.fold_results(request, trials, runs, self._round, by_folds=by_folds)
        accuracies: dict[float, float] = {}
        for variant in found.correct:
            if variant.number == number:
                strength = recipe.augment if variant.augment is None else variant.augment
                accuracy = found.accuracy(variant)
                accuracies[strength] = max(accuracy, accuracies.get(strength, 0.0))
        where = f"{len(found.samples):,} samples"
        where += f" of {len(found.folds)} folds" if len(found.folds) > 1 else " for validation"
        event = request.ledger.get(EventKind.PLAN, f"{Stage.FINAL}-{self._round}") or {}
        error = event.get(ERRORS, {}).get(str(number))
        errors = None if error is None else (error, 1 - trials.search_result(number).accuracy)
        chosen = recipe.augment if key.augment is None else key.augment
        return augmentation.decision(recipe.augment, stronger, chosen, accuracies, where, errors)

    def _train(self, workers: Executor, clock: Clock) -> None:
        waiting = [run for run in self.runs if self._result(run) is None]
        count, begun = len(waiting), time.monotonic()
        while True:
            while waiting and self._may_start(waiting[0], workers, clock):
                next_task = self._next_task(waiting, clock, workers.slowness)
                if next_task is not None:
                    workers.start(next_task)
            if not workers.busy:
                return
            for task, result in workers.finished():
                if result.is_stopped:
                    self._emit_stopped([task.key])
                else:
                    self._record(task, result)
            left = len(waiting) + len(workers.busy)
            seconds = time.monotonic() - begun
            self._emit_progress(count, left, seconds, workers.facts()["workers"])
            if workers.busy and -clock.left() > self._grace_seconds():
                self._emit_stopped([task.key for task in workers.busy])
                return

    def _emit_stopped(self, keys: Sequence[str]) -> None:
        self._emit(f"{_trials_text(keys)}: final training stopped, the time is over")

    def _has_free_workers(self, workers: Executor) -> bool:
        """Whether as many workers are idle as one training has processes."""
        busy, ranks = len(workers.busy), self._request.config.final_jobs
        return workers.free > 0 and (not busy or ranks * (busy + 1) <= workers.free + busy)

    def _longest_training(self, run: FinalRun, waiting: list[FinalRun], left: float) -> float:
        """Seconds to which `run` is shortened, `left` s before the search ends; 0: never.

        The other finalists that are `waiting` get their share; further seeds and folds do not.
        """
        if left == math.inf:
            return 0.0
        needed = [run, *(other for other in waiting if not other.seed and not other.fold)]
        works = [self._work_left(each) for each in needed]
        share = works[0] / max(makespan(works, self._request.finals_at_once), 1e-9)
        return max(share * (left + _END_SHARE * self._grace_seconds()), TASK_SECONDS)

    def _grace_seconds(self) -> float:
        """Seconds of the compression's time that late trainings may take.

        They are a share of the time for pruning: quantization takes place in any case.
        """
        plan = self._trials.plan
        if plan is None:
            return GRACE_SECONDS
        stages = dict(self._request.stage_budget(plan.epoch_seconds, plan.whole_epochs))
        compression = stages.pop(COMPRESSION, 0.0)
        least = self._request.least_stage_seconds(plan.epoch_seconds) - sum(stages.values())
        return max(GRACE_SECONDS, _GRACE_SHARE * (compression - max(0.0, least)))

    def _record(self, task: Task, result: TaskResult) -> None:
        key = TrainingKey.parse(task.key)
        run = next(run for run in self.runs if run.key(self._round) == key)
        before = 0 if run.from_scratch else self._trials.search_epochs(run.number)
        request = self._request
        part = request.folds.evaluated([run.fold]) if run.fold else request.dataset.validation
        planned = before + run.epochs
        epochs = before + max(1, round(result.share * run.epochs))
        event = result_event(result, planned if result.failed else epochs, part, planned)
        kind = EventKind.FOLD if run.fold else EventKind.RUNG
        request.ledger.record(kind, task.key, event)
        final = RungResult.from_event(key, event)
        self._trials.add_result(final)
        search = self._trials.search_result(run.number)
        outcome = final.failed or f"{final.accuracy:.2%} after {epochs_text(final.epochs)}"
        if final.planned_epochs:
            outcome += f" of {planned} planned, as it was slower than expected"
        augment = "" if run.augment is None else f" with augment {run.augment:g}"
        flips = " with random flips" if run.flip else ""
        fold = f" without fold {run.fold}" if run.fold else ""
        before_text = f" (in the search: {search.accuracy:.2%} after {epochs_text(search.epochs)})"
        self._emit(
            f"trial {run.number}: final training{fold}{augment}{flips}: {outcome}"
            f"{'' if run.fold else before_text}{throughput_text(result)}"
        )

    def _work_left(self, run: FinalRun) -> float:
        """Work of a final training, less what an interrupted one has done."""
        work = self._tasks.work(run.number, run.epochs, run.fold)
        return (1 - self._share_done(run)) * work / expected_speedup(run.ranks)

    def _result(self, run: FinalRun) -> RungResult | None:
        return self._trials.final_result(run.key(self._round))

    def _may_start(self, run: FinalRun, workers: Executor, clock: Clock) -> bool:
        is_free = self._has_free_workers(workers)
        return is_free and not self._waits_for_faster(run, workers, clock)

    def _waits_for_faster(self, run: FinalRun, workers: Executor, clock: Clock) -> bool:
        """Whether a run ends sooner, or in time at all, on a faster worker that is busy now."""
        if not workers.busy or workers.slowness == 1.0:
            return False
        work = self._work_left(run)
        is_late = not clock.has_time(workers.slowness * work, run.number)
        return not workers.is_worth_starting(work) or (is_late and clock.has_time(work, run.number))

    def _next_task(self, waiting: list[FinalRun], clock: Clock, slowness: float) -> Task | None:
        """Remove the first run of `waiting`; its task, or None where it is left out."""
        run = waiting.pop(0)
        if not self._is_worth_starting(run, slowness, clock):
            # A fold that one finalist lacks is not compared, so the others need none.
            waiting[:] = [other for other in waiting if not other.fold]
            return None
        if run.fold and self._has_failed(dataclasses.replace(run, fold=0)):
            return None
        task = final_task(run, self._round, self._tasks, self._trials)
        limit = self._longest_training(run, waiting, clock.left())
        return dataclasses.replace(task, max_seconds=limit, is_shortened=True)

    def _is_worth_starting(self, run: FinalRun, slowness: float, clock: Clock) -> bool:
        """Whether the time is enough for a final training, or for most of one that is needed."""
        work, done = slowness * self._work_left(run), self._share_done(run)
        if clock.has_time(work, run.number):
            return True
        if run.seed or run.fold:
            return False
        # One that was late when its command was killed has the time that it would have had.
        left = clock.left() + (_END_SHARE * self._grace_seconds() if done else 0.0)
        if left < TASK_SECONDS:
            return False
        share = done + (1 - done) * left * SAFETY / clock.seconds(work, run.number)
        least = _LEAST_LENGTH
        if self.runs[0] == run and not self._trials.finals.get(run.number):
            # A net that was hardly trained would ship if there were no final training at all.
            epochs = self._trials.search_epochs(run.number) if run.from_scratch else 0
            least = min(least, epochs / run.epochs)
        return share >= least

    def _share_done(self, run: FinalRun) -> float:
        """Share of a final training that an interrupted one has done."""
        return share_done(self._tasks.checkpoint(run.key(self._round)))

    def _has_failed(self, run: FinalRun) -> bool:
        result = self._result(run)
        return result is not None and bool(result.failed)

    def _emit(self, message: str) -> None:
        self._request.emit(Event("search", message))

    def _emit_progress(
        self, count: int, left: int, seconds: float, workers: Sequence[Mapping[str, Any]]
    ) -> None:
        """Emit how much of `count` trainings is done after `seconds`, `left` of them not ended."""
        busy = [worker for worker in workers if worker["task"]]
        done = count - left + sum(worker["share"] for worker in busy)
        if not done:
            return
        message = "final trainings done"
        if busy:
            remaining = duration(seconds * (count / done - 1))
            running = _trials_text(worker["task"] for worker in busy)
            message = f"{running}: final training, about {remaining} left"
        self._request.emit(Event(FINALS, message, done, float(count)))


def plan_text(plan: Sequence[FinalRun], count: int, larger: str) -> str:
    """The plan of the final trainings in a line.

    Parameters
    ----------
    plan : sequence of FinalRun
        The planned trainings.
    count : int
        Number of trials that were finalists.
    larger : str
        The value of `--budget` with which a search continues that has no time for one.
    """
    numbers = trial_numbers(plan)
    if not numbers:
        return (
            "no time for final trainings: the best net of the search ships; the same command with "
            f"--budget {larger} continues the search"
        )
    trials = f"trial{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
    epochs = epochs_text(plan[0].epochs)
    if not plan[0].from_scratch:
        verb = "continues" if len(numbers) == 1 else "continue"
        return f"not enough time for a training from scratch: {trials} {verb} for {epochs}"
    fewer = "" if len(numbers) == count else f" (no time for {count})"
    folds = len({run.fold for run in plan})
    several = f", {len(plan)} trainings" if len(plan) > len(numbers) else ""
    several += f" on {folds} folds" if folds > 1 else ""
    stronger = [run for run in plan if run.augment is not None]
    augment = (
        f", one with augment {stronger[0].augment:g} for trial {stronger[0].number}"
        if stronger
        else ""
    )
    flipped = [run for run in plan if run.flip]
    flips = ", with random flips" if flipped else ""
    if flipped and len(flipped) < len(plan):
        flips = f", one with random flips for trial {flipped[0].number}"
    return f"{trials}: final training{fewer}, {epochs} from scratch{several}{augment}{flips}"


def _comparison_text(event: Mapping[str, Any]) -> str:
    """The result of a cross-validation in a line."""
    shown = ", ".join(
        f"trial {each['number']} {each['accuracy']:.2%} [{each['low']:.2%}, {each['high']:.2%}]"
        for each in event["finalists"]
    )
    folds, samples = len(event["folds"]), event["samples"]
    return f"cross-validation on {folds} folds with {samples:,} samples: {shown}"


def _trials_text(keys: Iterable[str]) -> str:
    """`trial 8` or `trials 8, 3`: the trials of these tasks, each once."""
    numbers = list(dict.fromkeys(str(TrainingKey.parse(key).trial) for key in keys))
    return f"trial{'s' * (len(numbers) > 1)} {', '.join(numbers)}"


def throughput_text(result: TaskResult) -> str:
    """Throughput of a training; empty where it was too short to be measured."""
    if not result.pictures_per_second or result.seconds[-1] < MIN_MEASURED_SECONDS:
        return ""
    return f"; {result.pictures_per_second:.0f} samples/s"


def _errors(finalists: Sequence[Finalist]) -> dict[str, float]:
    known = [(each.number, each.training_error) for each in finalists]
    return {str(number): error for number, error in known if error is not None}


def final_task(run: FinalRun, round_number: int, tasks: TaskBuilder, trials: Trials) -> Task:
    """The task of a final training; one that has a result is repeated as it was."""
    trial, key = trials[run.number], run.key(round_number)
    result = trials.final_result(key)
    changes = () if result is None else result.schedule_changes
    if run.from_scratch:
        task = tasks.from_scratch(trial, run.epochs, key)
    else:
        rungs = len([result for result in trials.results[run.number] if not result.failed])
        task = tasks.continued(trial, rungs, run.epochs, key)
    return dataclasses.replace(task, ranks=run.ranks, schedule_changes=changes)


def rebuild_checkpoint(
    key: TrainingKey, tasks: TaskBuilder, trials: Trials, ledger: LedgerView
) -> Task | None:
    """The task that creates a missing checkpoint again; None where the checkpoint is there.

    Parameters
    ----------
    key : TrainingKey
        The training whose checkpoint is needed.
    tasks, trials : TaskBuilder, Trials
        Of the search.
    ledger : LedgerView
        Holds the planned final trainings.
    """
    if tasks.is_complete(tasks.checkpoint(key)):
        return None
    if key.stage is Stage.RUNG:
        return tasks.rung(trials[key.trial], key.round)
    runs = planned_final_runs(ledger, key.round)
    run = next(run for run in runs if run.key(key.round) == key)
    return final_task(run, key.round, tasks, trials)
