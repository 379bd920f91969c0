"""The search loop: keep workers busy, record results, select the winner."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import torch

from lepton_automl.core.events import Event
from lepton_automl.core.units import duration
from lepton_automl.runs.ledger import EventKind, record_decision
from lepton_automl.runs.live_status import WORKERS
from lepton_automl.search import progress
from lepton_automl.search.executors import Executor
from lepton_automl.search.executors.hosts import HostsExecutor
from lepton_automl.search.executors.processes import ProcessExecutor, WorkersPerGpu
from lepton_automl.search.finals.cross_validation import training_shares
from lepton_automl.search.finals.finalists import FINALISTS
from lepton_automl.search.finals.flip_check import without_flips
from lepton_automl.search.finals.winner import WinnerStore
from lepton_automl.search.objectives import load as load_objective
from lepton_automl.search.pareto import HypervolumeRecorder, series
from lepton_automl.search.planning import (
    check_time,
    clock_for,
    extend_plan,
    make_plan,
    needs_new_plan,
    search_ends,
    seconds_left,
    seconds_to_spare,
    too_short,
    with_workers,
)
from lepton_automl.search.proposals import portfolio
from lepton_automl.search.proposals.proposer import Proposer
from lepton_automl.search.request import SearchRequest, SearchResult
from lepton_automl.search.rungs import RUNGS, Rung
from lepton_automl.search.scheduler import Action, Scheduler
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.time_plan import (
    GRACE_SECONDS,
    SAFETY,
    macs_of,
    mean_trial_epochs,
    work_of,
)
from lepton_automl.search.training_key import TrainingKey
from lepton_automl.search.trials import CLASSES, RungResult, Trials, read_trials, result_event
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.task import Task, TaskResult

_RECENT = 20
"""The training time of a new trial is estimated from so many trials before it."""
SECONDS_BETWEEN_EVENTS, SHARE_OF_EVENTS = 0.2, 0.05
"""At least, between two events of progress; and their largest share of the time."""
_LATE_SHARE = 0.25
"""Share of the time of the final trainings that a late training of the search may take."""
MOST_FAILURES = 8
"""The search ends after so many trials if the training of all of them failed."""


def search(work: SearchRequest, workers: Executor | None = None) -> SearchResult:
    """Search for the best net that satisfies the limits, in the given time or number of trials.

    All decisions follow from the ledger, so an interrupted search continues from its last event.
    With one worker, `trials` instead of a budget and no measured latency, the result of a resumed
    search is bit for bit that of an uninterrupted one. The winner is written to RUN/models/best.

    Parameters
    ----------
    work : SearchRequest
        Space, data, limits, time.
    workers : Executor, optional
        Runs the trainings; by default `work.jobs` processes are started, and ended with the search.

    Raises
    ------
    InfeasibleError
        If no net of the space satisfies the limits; no training has started.
    ConfigError
        If the training of every trial failed.
    MachineError
        If the disk is full.
    KeyboardInterrupt
        Raised again after the best net so far was saved.
    """
    trials = read_trials(work.ledger)
    tasks = TaskBuilder(work, trials)
    winners = WinnerStore(work, tasks, trials)
    choice = winners.recorded()
    _record_classes(work)
    objectives = [load_objective(name) for name in work.config.objectives]
    is_new = choice is None
    if choice is None:
        with (
            work.ledger.watched(HypervolumeRecorder(work.ledger, objectives, trials)),
            closing(MeasurementLock(work.folder.checkpoints)) as lock,
            _started(work, workers) as own,
        ):
            work = with_workers(work, own)
            winners = WinnerStore(work, tasks, trials)
            try:
                loop = SearchLoop(without_flips(work), tasks, trials, winners, own, lock)
                loop.run()
                _record_space(work, trials)
                choice = winners.select_winner(own, loop.clock)
            except KeyboardInterrupt:
                _leave_usable(work)
                raise
    winners.delete_other_checkpoints(choice.number)  # Also after a kill before this line.
    rows = [progress.row_of(trials, number) for number in sorted(trials)]
    found = winners.result(choice, rows, progress.front_of(trials, objectives))
    if is_new:
        work.emit(progress.ended(progress.row_of(trials, choice.number), found.front, len(rows)))
    return dataclasses.replace(found, hypervolume=tuple(series(work.ledger)))


def _record_space(work: SearchRequest, trials: Trials) -> None:
    """Record what the known-good nets of the default space reached."""
    if work.config.space is None and (found := portfolio.decision(work.space, trials)):
        record_decision(work.ledger, found)


def _record_classes(work: SearchRequest) -> None:
    """Record the validation classes where balanced accuracy is used, for readers of the ledger."""
    strata = work.dataset.validation.strata
    if strata is not None and work.ledger.get(EventKind.PLAN, CLASSES) is None:
        work.ledger.record(EventKind.PLAN, CLASSES, {"validation": strata.tolist()})


@contextmanager
def _started(work: SearchRequest, workers: Executor | None) -> Iterator[Executor]:
    if workers is not None:
        yield workers
        return
    with _executor(work) as own:
        work.ledger.live_status.publish_from(WORKERS, own.facts)
        try:
            yield own
        finally:
            work.ledger.live_status.publish(WORKERS, own.facts() | {"workers": []})


def _executor(work: SearchRequest) -> Executor:
    """Start the executor that the options name."""
    locks = work.folder.checkpoints
    if work.config.hosts is not None:
        return HostsExecutor(work.config.hosts, locks, emit=work.emit)
    if work.config.cluster is not None:
        # The extra may not be installed, and Dask takes a second to load.
        dask = importlib.import_module("lepton_automl.search.executors.dask")
        made: Executor = dask.DaskExecutor(
            work.config.cluster, locks, device=work.config.device, emit=work.emit
        )
        return made
    gpus = torch.cuda.device_count() if work.device.type == "cuda" else 0
    packing = WorkersPerGpu(work.workers_per_gpu) if work.workers_per_gpu else None
    return ProcessExecutor(work.jobs, locks, gpus, emit=work.emit, workers_per_gpu=packing)


def _leave_usable(work: SearchRequest) -> None:
    # Read the ledger again: the interruption may have come between an event and its effect here.
    trials = read_trials(work.ledger)
    number = WinnerStore(work, TaskBuilder(work, trials), trials).save_best_so_far()
    if number is None:
        work.emit(Event("search", "stopped before the first trial was trained"))
    else:
        where = work.folder.best
        work.emit(Event("search", f"stopped; the best so far, trial {number}, is in {where}"))


class SearchLoop:
    """Trains candidates, rung by rung, until the trials or the time are used up.

    Parameters
    ----------
    work : SearchRequest
        Space, data, limits, time.
    tasks : TaskBuilder
        Builds the tasks of the workers.
    trials : Trials
        Trials of the ledger; new ones are added.
    winners : WinnerStore
        Selects the best trial so far.
    workers : Executor
        Processes that run the tasks.
    lock : MeasurementLock
        Workers pause while it is held to measure a latency.

    Raises
    ------
    InfeasibleError
        If no net of the space satisfies the limits.
    """

    def __init__(
        self,
        work: SearchRequest,
        tasks: TaskBuilder,
        trials: Trials,
        winners: WinnerStore,
        workers: Executor,
        lock: MeasurementLock,
    ) -> None:
        self._work, self._tasks, self._trials = work, tasks, trials
        self._winners, self._workers = winners, workers
        self._objectives = [load_objective(name) for name in work.config.objectives]
        self._known_costs = [o for o in self._objectives if not o.needs_training]
        self._proposer = Proposer(work, trials, self._objectives, lock)
        if trials.plan is not None and 0 in trials and needs_new_plan(work, trials.plan):
            extend_plan(work, tasks, trials, workers, self._proposer.known_nets())
            # Which trials the new plan is for decides what it proposes.
            self._proposer = Proposer(work, trials, self._objectives, lock)
        self._scheduler = Scheduler(self._proposer.study)
        self._with_last: dict[int, set[int]] = {}
        """Trials by the number of their last rung, of the first `_with_rungs` ones."""
        self._with_rungs = 0
        self._running = set[int]()
        """Trials with a training at a worker; there may be thousands."""
        self._show_at = -math.inf
        self._begun, self._epochs_before = time.monotonic(), self._epochs_done()
        self._is_slow_reported = False
        if trials.plan is None:
            first = trials.get(0) or self._proposer.add()
            assert first is not None, "an infeasible first candidate raises an error"
            nets = self._proposer.known_nets()
            trials.follow(make_plan(work, tasks, first, workers, nets))
        assert trials.plan is not None
        if trials.plan.first is not None:
            points = self._proposer.first
            self._proposer.first = [points[index] for index in trials.plan.first]
        self.clock = clock_for(work, trials.plan)
        self._final_trainings = sum(training_shares(work, math.inf))
        """Final trainings of each finalist without a budget, in those on the training part."""
        self._is_over = False
        """Whether a training was stopped because the time is over."""

    def run(self) -> None:
        """Keep the workers busy until no training may start any more."""
        has_started = False
        while True:
            while self._workers.free and (task := self._next_task()):
                self._workers.start(task)
                self._running.add(TrainingKey.parse(task.key).trial)
                has_started = True
            if not self._workers.busy:
                break
            for task, result in self._workers.finished():
                self._record(task, result)
        if not has_started:
            self._report_no_time()
        if trained := self._trials.trained():
            self._show(trained[-1], is_last=True)

    def _report_no_time(self) -> None:
        """Say why a search that is to continue trains nothing, if it is the time."""
        work, plan = self._work, self._trials.plan
        budget, used = work.config.seconds_in_all, work.ledger.alive_seconds()
        if budget is None or plan is None or self._proposer.exhausted:
            return
        has_all = work.config.trials is not None and len(self._trials) >= work.config.trials
        is_continued = bool(work.ledger.all(EventKind.WINNER))
        if has_all or not (is_continued or used > budget):
            return
        larger = work.continuing_budget(plan.epoch_seconds)
        text = f"no time for another trial: this run has used {duration(used)} of --budget "
        text += f"{duration(budget)}; --budget {larger} continues it"
        work.emit(Event("search", text))

    def _next_task(self) -> Task | None:
        """The next training; None where no training may start now.

        Trials whose first rung was interrupted come first, then the known-good candidates; after
        them the scheduler chooses between a promotion and a new trial.
        """
        while not self._is_over:
            interrupted = [n for n in self._trials.unstarted() if n not in self._running]
            if interrupted and self._may_begin(interrupted[0]):
                return self._rung_task(interrupted[0], 0)
            may_propose = not interrupted and self._may_propose()
            if may_propose and self._proposer.has_known_good:
                action: Action | None = Action()
            else:
                self._proposer.estimator.most_macs = self._most_macs()
                promotable = self._promotable(closing=not may_propose)
                action = self._scheduler.next_action(
                    promotable, may_propose=may_propose, may_train=self._may_train_now()
                )
            if action is None:
                return None
            if action.promote is not None:
                return self._rung_task(action.promote, len(self._trials.results[action.promote]))
            candidate = self._proposer.add(self._proposal_deadline())
            if candidate is not None:
                return self._rung_task(candidate.number, 0)
            # No new trial is possible: the next action is a promotion or none.
        return None

    def _may_begin(self, number: int) -> bool:
        """Whether the first rung of a trial may start; the first trial of all always may."""
        trained = self._trials.trained()
        if not trained:
            check_time(self._work, self._trials.plan, self.clock.seconds(self._work_of(number, 0)))
        return not trained or self._allows(self._work_of(number, 0))

    def _allows(self, work: float, seconds_before: float = 0.0) -> bool:
        """Whether a training ends in time on the worker that is free, which may be a slow one."""
        return self.clock.allows(self._workers.slowness * work, seconds_before)

    @property
    def _compares_known_nets(self) -> bool:
        """Whether the time is only enough for one rung of the known-good nets."""
        plan = self._trials.plan
        return plan is not None and plan.is_scarce and len(self._proposer.first) > 1

    def _promotable(self, *, closing: bool) -> list[int]:
        """Trials that may train their next rung by the promotion rule."""
        if self._compares_known_nets:
            return []
        rungs = [
            Rung(self._trials.entries(rung, self._known_costs), self._promoted(rung))
            for rung in range(RUNGS - 1)
        ]
        return self._scheduler.promotable(rungs, closing=closing)

    def _promoted(self, rung: int) -> set[int]:
        """Trials that train or have trained beyond `rung`, or have no rung after it."""
        if self._with_rungs < len(self._trials):
            for number in itertools.islice(self._trials, self._with_rungs, None):
                self._with_last.setdefault(len(self._tasks.cycles(number)) - 1, set()).add(number)
            self._with_rungs = len(self._trials)
        return self._with_last.get(rung, set()) | self._trials.beyond(rung) | self._running

    def _may_train_now(self) -> Callable[[int], bool]:
        """Whether the next rung of a trial ends in time on the worker that is free."""
        slowness, left = self._workers.slowness, self.clock.search_seconds()
        longest = self._longest_work(slowness)

        def may_train(number: int) -> bool:
            work = slowness * self._work_of(number, len(self._trials.results[number]))
            return work <= longest and (left == math.inf or self.clock.seconds(work) <= left)

        return may_train

    def _longest_work(self, slowness: float) -> float:
        """Size, on the fastest worker, of what takes as long as may be on the one that is free.

        On a slow one that is the longest rung, as the others would wait for it at the end; where no
        other worker is busy it may take any time.
        """
        if slowness == 1.0 or not self._workers.busy:
            return math.inf
        rungs = (self._work_of(n, RUNGS - 1) for n in self._trials.trained())
        return max(rungs, default=math.inf)

    def _may_propose(self) -> bool:
        """Whether a new trial may start: its proposal and its first rung fit in the time left."""
        wanted, trials = self._work.config.trials, self._trials
        if self._proposer.exhausted or (wanted is not None and len(trials) >= wanted):
            return False
        if not trials.trained():
            is_first = not any(trials.results.values())
            return is_first or (len(trials) < MOST_FAILURES and self.clock.left() > 0)
        if self._compares_known_nets and not self._proposer.has_known_good:
            return False  # One of these will be the winner: the time is for its training.
        recent = list(trials)[-_RECENT:]
        first_rung = sum(self._work_of(n, 0) for n in recent) / len(recent)
        proposal_seconds = self._proposer.seconds
        if self._allows(first_rung, proposal_seconds):
            return True
        if self._allows(first_rung) and not self._is_slow_reported:
            self._is_slow_reported = True
            self._work.emit(
                Event(
                    "search",
                    f"no more new trials: --sampler {self._work.config.sampler} takes "
                    f"{proposal_seconds:.2g} s for a proposal, which does not fit in the "
                    f"{max(0.0, self.clock.search_seconds()):.0f} s left for the search; "
                    "known trials continue",
                )
            )
        return False

    def _proposal_deadline(self) -> float:
        """`time.monotonic()` after which no proposal becomes a trial; infinite for the first."""
        if not self._trials.trained():
            return math.inf
        return time.monotonic() + self.clock.search_seconds()

    def _most_macs(self) -> float:
        """Multiply-accumulates of the largest net that can be trained to its last rung in time.

        A larger net could start, but never finish, and its first rung may take as long as all rungs
        of others.
        """
        plan = self._trials.plan
        if plan is None or plan.epochs is None:
            return math.inf
        most = self.clock.most_work() / self._workers.slowness
        return macs_of(most, self._tasks.samples, plan.epochs)

    def _record(self, task: Task, result: TaskResult) -> None:
        key = TrainingKey.parse(task.key)
        number, rung = key.trial, key.round
        self._running.discard(number)
        if result.is_stopped:
            self._stop(number, result)
            return
        epochs = sum(self._tasks.cycles(number)[: rung + 1])
        event = result_event(result, epochs, self._work.dataset.validation)
        self._work.ledger.record(EventKind.RUNG, task.key, event)
        recorded = RungResult.from_event(key, event)
        self._trials.add_result(recorded)
        self._proposer.record(number)
        if not recorded.failed:
            if rung:
                self._tasks.delete(TrainingKey(number, round=rung - 1))
            samples = self._tasks.cycles(number)[rung] * self._tasks.samples
            seconds = result.steady_seconds(samples) / result.slowness
            self.clock.learn(seconds, self._work_of(number, rung), number)
        self._show(number)

    def _stop(self, number: int, result: TaskResult) -> None:
        """End the search after a training that did not end in time; nothing of it is recorded.

        Raises
        ------
        ConfigError
            If it is the first one, so that there is no net.
        """
        self._is_over = True
        if not self._trials.trained() and not self._workers.busy:
            needed = sum(result.seconds) / max(result.share, 0.01)
            raise too_short(self._work, self._trials.plan, SAFETY * needed)
        message = f"trial {number}: training stopped after {result.share:.0%}, the time is over"
        self._work.emit(Event("search", message))

    def _rung_task(self, number: int, rung: int) -> Task:
        self._proposer.begin(number)
        task = self._tasks.rung(self._trials[number], rung)
        return dataclasses.replace(task, max_seconds=self._longest_training())

    def _longest_training(self) -> float:
        """Seconds after which a training is stopped that starts now; 0: never.

        The first one may use up the overrun that is allowed, as without it there is no net. Later
        ones leave most of their time to the final trainings, which gain more from it.
        """
        work, plan = self._work, self._trials.plan
        if work.config.seconds_in_all is None or plan is None:
            return 0.0
        left = self.clock.left() + GRACE_SECONDS
        if self._trials.trained():
            left = self.clock.search_seconds(_LATE_SHARE) + GRACE_SECONDS
        else:
            left = max(left, seconds_to_spare(work, plan))
        return max(left, GRACE_SECONDS)

    def _work_of(self, number: int, rung: int) -> float:
        macs, each = self._trials[number].cost.macs, self._tasks.cycles(number)
        return work_of(macs, self._tasks.samples, each[min(rung, len(each) - 1)])

    def _show(self, number: int, *, is_last: bool = False) -> None:
        """Emit the progress, not after every task: the front of hundreds of trials takes time."""
        now = time.monotonic()
        if now < self._show_at and not is_last:
            return
        leader = self._winners.leader()
        done, total, seconds = self._progress()
        event = progress.progress(
            progress.row_of(self._trials, number),
            None if leader is None else progress.row_of(self._trials, leader),
            progress.front_of(self._trials, self._objectives),
            started=len(self._trials),
            done=total if is_last else done,
            total=total,
            seconds=seconds,
        )
        self._work.emit(event)
        took = time.monotonic() - now
        self._show_at = now + max(SECONDS_BETWEEN_EVENTS, took / SHARE_OF_EVENTS)

    def _progress(self) -> tuple[float, float, float]:
        """Done and total (seconds of the search, or epochs), and the seconds until the run ends."""
        budget, trials = self._work.config.seconds_in_all, self._trials
        if budget is not None:
            ends = search_ends(self._work, trials.plan)
            left = max(0.0, seconds_left(self._work, trials.plan)) + budget - ends
            return self._work.ledger.alive_seconds(), ends, left
        done = self._epochs_done()
        mean = sum(trials.epochs_of(n) for n in trials) / len(trials)
        share = mean_trial_epochs(max(1, round(mean)), self._tasks.samples)
        finals = FINALISTS * mean * self._final_trainings
        total = max((self._work.config.trials or len(trials)) * share, done) + finals
        speed = (time.monotonic() - self._begun) / max(1, done - self._epochs_before)
        return done, total, speed * (total - done)

    def _epochs_done(self) -> int:
        return sum(self._trials.search_epochs(number) for number in self._trials)
