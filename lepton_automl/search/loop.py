"""The search loop: plan the time, keep workers busy, record results, select the winner."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager

import torch

from lepton_automl.core.events import Event
from lepton_automl.core.units import duration, epochs_text, percent
from lepton_automl.errors import ConfigError
from lepton_automl.runs.ledger import EventKind, record_decision
from lepton_automl.runs.live_status import WORKERS
from lepton_automl.runs.time_budget import sufficient_budget
from lepton_automl.search import progress
from lepton_automl.search.executors import Executor
from lepton_automl.search.executors.hosts import HostsExecutor
from lepton_automl.search.executors.processes import ProcessExecutor, WorkersPerGpu
from lepton_automl.search.finals.cross_validation import training_shares
from lepton_automl.search.finals.finalists import FINALISTS, Finalist, makespan
from lepton_automl.search.finals.flip_check import without_flips
from lepton_automl.search.finals.winner import WinnerStore
from lepton_automl.search.objectives import load as load_objective
from lepton_automl.search.pareto import HypervolumeRecorder, series
from lepton_automl.search.proposals import portfolio
from lepton_automl.search.proposals.portfolio import KnownNet
from lepton_automl.search.proposals.proposer import Proposer
from lepton_automl.search.request import SearchRequest, SearchResult
from lepton_automl.search.rungs import ETA, RUNGS, Rung, least_epochs
from lepton_automl.search.scheduler import Action, Scheduler
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.time_plan import (
    FINAL_SHARES,
    GRACE_SECONDS,
    SAFETY,
    SCARCE_FINAL_SHARES,
    TASK_SECONDS,
    Clock,
    macs_of,
    mean_trial_epochs,
    planned_epochs,
    probe_seconds,
    work_of,
)
from lepton_automl.search.training_key import TrainingKey
from lepton_automl.search.trials import (
    CLASSES,
    Plan,
    RungResult,
    Trial,
    Trials,
    read_trials,
    record_plan,
    result_event,
)
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.task import Task, TaskResult
from lepton_automl.training.distributed import expected_speedup

_RECENT = 20
"""The training time of a new trial is estimated from so many trials before it."""
_SPEED = "speed"
"""Key of the `EventKind.PLAN` event with the measured speed."""
_LONGER = 2
"""A new plan is followed if its trials are trained so many times as long as those before."""
SECONDS_BETWEEN_EVENTS, SHARE_OF_EVENTS = 0.2, 0.05
"""At least, between two events of progress; and their largest share of the time."""
_LATE_SHARE = 0.25
"""Share of the time of the final trainings that a late training of the search may take."""
MOST_FAILURES = 8
"""The search ends after so many trials if the training of all of them failed."""
_USUAL_SECONDS_PER_WORK = 1e-10
"""Speed of training where the first candidate cannot be timed."""


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
            work = _with_workers(work, own)
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


def _with_workers(work: SearchRequest, workers: Executor) -> SearchRequest:
    """`work` with the number of workers, where this machine does not decide it."""
    if not work.config.trains_elsewhere:
        return work
    return dataclasses.replace(work, worker_count=max(1, round(workers.equivalent_jobs)))


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
            running = self._running()
            interrupted = [n for n in self._trials.unstarted() if n not in running]
            if interrupted and self._may_begin(interrupted[0]):
                return self._rung_task(interrupted[0], 0)
            may_propose = not interrupted and self._may_propose()
            if may_propose and self._proposer.has_known_good:
                action: Action | None = Action()
            else:
                self._proposer.estimator.most_macs = self._most_macs()
                promotable = self._promotable(closing=not may_propose)
                action = self._scheduler.next_action(promotable, may_propose=may_propose)
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

    def _is_short(self, work: float) -> bool:
        """Whether a training may start on the worker that is free.

        On a slow one it takes no longer than the longest rung on the fastest, as the others would
        wait for it at the end; where no other worker is busy somebody has to train it.
        """
        slowness = self._workers.slowness
        if slowness == 1.0 or not self._workers.busy:
            return True
        rungs = (self._work_of(n, RUNGS - 1) for n in self._trials.trained())
        return slowness * work <= max(rungs, default=math.inf)

    @property
    def _compares_known_nets(self) -> bool:
        """Whether the time is only enough for one rung of the known-good nets."""
        plan = self._trials.plan
        return plan is not None and plan.is_scarce and len(self._proposer.first) > 1

    def _promotable(self, *, closing: bool) -> list[int]:
        """Trials that may train their next rung by the promotion rule and the time left."""
        if self._compares_known_nets:
            return []
        rungs = [
            Rung(self._trials.entries(rung, self._known_costs), self._promoted(rung))
            for rung in range(RUNGS - 1)
        ]
        found = self._scheduler.promotable(rungs, closing=closing)
        works = {n: self._work_of(n, len(self._trials.results[n])) for n in found}
        return [n for n in found if self._allows(works[n]) and self._is_short(works[n])]

    def _promoted(self, rung: int) -> set[int]:
        """Trials that train or have trained beyond `rung`, or have no rung after it."""
        last = {n for n in self._trials if len(self._tasks.cycles(n)) == rung + 1}
        return self._trials.beyond(rung) | self._running() | last

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

    def _running(self) -> set[int]:
        return {_trial_of(task.key) for task in self._workers.busy}

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


@functools.lru_cache(maxsize=1 << 14)
def _trial_of(key: str) -> int:
    """Trial of a task; thousands that run are looked at again at every decision."""
    return TrainingKey.parse(key).trial


def search_ends(work: SearchRequest, plan: Plan | None) -> float:
    """Seconds of the run after which the search ends: the budget less that of later stages."""
    if work.config.seconds_in_all is None:
        return math.inf
    stages = work.stage_budget(plan.epoch_seconds, plan.whole_epochs) if plan else {}
    return work.config.seconds_in_all - sum(stages.values())


def seconds_left(work: SearchRequest, plan: Plan | None) -> float:
    """Seconds until the search ends, final trainings included."""
    return search_ends(work, plan) - work.ledger.alive_seconds()


def needs_new_plan(work: SearchRequest, plan: Plan) -> bool:
    """Whether the budget is larger than that of a plan whose trials were trained too briefly.

    Also where a run without a budget gets one: the speed of this machine is not known then.
    """
    budget = work.config.seconds_in_all
    if budget is None:
        return plan.is_scarce
    return not plan.seconds_per_work or (plan.is_scarce and budget > plan.budget_seconds)


def make_plan(
    work: SearchRequest,
    tasks: TaskBuilder,
    first: Trial,
    workers: Executor,
    nets: Sequence[KnownNet] = (),
) -> Plan:
    """Plan the search and record it; without a budget every trial has the epochs of its recipe.

    Parameters
    ----------
    work : SearchRequest
        Time, data, ledger.
    tasks : TaskBuilder
        Builds the task that measures the speed.
    first : Trial
        The first trial.
    workers : Executor
        One of them measures the speed.
    nets : sequence of KnownNet
        The known-good nets, that of the first trial first; by default it is the only one.

    Raises
    ------
    ConfigError
        If the budget is too short for one epoch of the first trial and the stages after it.
    """
    plan = Plan(None, 0.0, 0.0)
    if work.config.seconds_in_all is not None:
        speed = _seconds_per_work(work, tasks, first, workers)
        work = _with_workers(work, workers)
        plan = _plan_at(work, tasks, first, speed, nets)
        check_time(work, plan, SAFETY * speed * work_of(first.cost.macs, tasks.samples, 1))
        for line in _plan_lines(work, plan):
            work.emit(Event("plan", line))
    record_plan(work.ledger, plan)
    return plan


def extend_plan(
    work: SearchRequest,
    tasks: TaskBuilder,
    trials: Trials,
    workers: Executor,
    nets: Sequence[KnownNet] = (),
) -> None:
    """Follow a plan with longer trainings from the next trial on, where the budget allows it.

    The trials so far keep their results; as they were trained briefly, the known-good candidates
    are trained again.
    """
    old, first = trials.plan, trials[0]
    assert old is not None
    if work.config.seconds_in_all is None:
        plan = Plan(None, 0.0, 0.0, first_trial=len(trials))
    else:
        speed = old.seconds_per_work or _seconds_per_work(work, tasks, first, workers)
        work = _with_workers(work, workers)
        plan = _plan_at(work, tasks, first, speed, nets)
        if not old.seconds_per_work and old.epochs is None:
            share = FINAL_SHARES[0]
            plan = dataclasses.replace(plan, epochs=None, final_share=share, first=old.first)
        elif not trials.trained():
            pass  # Nothing was trained by the old plan.
        elif plan.epochs_or_own < _LONGER * old.epochs_or_own:
            plan = dataclasses.replace(
                plan, epochs=old.epochs, first=old.first, first_trial=old.first_trial
            )
        else:
            plan = dataclasses.replace(plan, first_trial=len(trials))
    if plan.first_trial > old.first_trial:
        longer = epochs_text(plan.epochs_or_own) if plan.own_epochs else "all epochs"
        text = f"new trials are trained for up to {longer}, those before them for "
        text += f"{epochs_text(old.epochs_or_own)}"
        work.emit(Event("plan", text))
    record_plan(work.ledger, plan)
    trials.follow(plan)


def _plan_at(
    work: SearchRequest,
    tasks: TaskBuilder,
    first: Trial,
    speed: float,
    nets: Sequence[KnownNet] = (),
) -> Plan:
    """The plan for the time left at a speed in seconds per unit of `work_of`."""
    begun, own = work.ledger.alive_seconds(), first.recipe.epochs
    nets = nets or (KnownNet(work_of(first.cost.macs, tasks.samples, 1), own),)
    left, rung = max(0.0, seconds_left(work, None)), least_epochs(own, tasks.samples)
    kept = portfolio.affordable(nets, rung, speed, left, work.jobs)
    epoch = speed * sum(nets[index].work for index in kept) / len(kept)
    budget = work.config.seconds_in_all or 0.0
    plan = Plan(None, speed, begun, 0.0, epoch, own, own, tuple(kept), budget)
    # Shorter trainings need shorter fine-tuning after a cut: the search gets that time too. The
    # time that is kept is the least one that is enough for the epochs it leaves to the trials.
    plans = (
        _planned(work, tasks, dataclasses.replace(plan, whole_epochs=whole))
        for whole in range(1, own + 1)
    )
    return next(each for each in plans if min(own, each.epochs or own) <= each.whole_epochs)


def check_time(work: SearchRequest, plan: Plan | None, training_seconds: float) -> None:
    """Refuse a budget in which not even the first training and the later stages would end.

    Raises
    ------
    ConfigError
        If they would end later than `SearchRequest.allowed_overrun` allows.
    """
    if work.config.seconds_in_all is None or plan is None:
        return
    if training_seconds > seconds_to_spare(work, plan):
        raise too_short(work, plan, training_seconds)


def seconds_to_spare(work: SearchRequest, plan: Plan) -> float:
    """Seconds that the first training may take; negative where the later stages take too long."""
    budget = work.config.seconds_in_all or 0.0
    later = work.least_stage_seconds(plan.epoch_seconds)
    # The time that has passed is lost: only what is still to come decides.
    left = max(0.0, budget - work.ledger.alive_seconds())
    return left + work.allowed_overrun - later


def too_short(work: SearchRequest, plan: Plan | None, training_seconds: float) -> ConfigError:
    """The error for a budget in which the first training of `training_seconds` does not end."""
    budget, ledger = work.config.seconds_in_all or 0.0, work.ledger
    later = work.least_stage_seconds(plan.epoch_seconds if plan else 0.0)
    # The next command opens the data again, and what this one took counts too.
    begins = ledger.alive_seconds() + ledger.session_seconds()
    enough = sufficient_budget(SAFETY * (begins + training_seconds + later))
    stages = f", quantization and verification about {later:.0f} s" if later else ""
    return ConfigError(
        f"--budget {duration(budget)} is too short for these data: the first training takes about "
        f"{max(1.0, training_seconds):.0f} s here{stages}, and {ledger.alive_seconds():.0f} s have "
        "passed",
        fix=f"give --budget {enough}: the same command goes on with what is done",
    )


def _planned(work: SearchRequest, tasks: TaskBuilder, plan: Plan) -> Plan:
    """`plan` with the epochs of trials and the share of the time for the final trainings.

    The share is enough for three final trainings from scratch, else for one. Where trials get fewer
    epochs than their recipe has, several known-good nets are trained for one short rung and all
    other time is that of the final training; with one known-good net the trials get the most epochs
    such that the share is enough for a training of twice those, or the largest share.
    """
    left, own = max(0.0, seconds_left(work, plan)), plan.own_epochs
    nets = len(plan.first or (0,))
    known: dict[float, int] = {}
    for share in (*FINAL_SHARES, *SCARCE_FINAL_SHARES):
        seconds = (1 - share) * left
        known[share] = planned_epochs(own, plan.epoch_seconds, seconds, work.jobs, tasks.samples)

    def is_enough(share: float, epochs: int, count: int, times: int = 1) -> bool:
        epoch_seconds = SAFETY * plan.epoch_seconds / expected_speedup(work.config.final_jobs)
        finalist = Finalist(0, epochs, own, epoch_seconds)
        each = times * finalist.min_epochs * finalist.seconds_per_epoch
        return makespan([each] * count, work.finals_at_once) <= share * left

    def planned(share: float, epochs: int) -> Plan:
        return dataclasses.replace(plan, epochs=epochs, final_share=share)

    for count in (FINALISTS, 1):
        for share in FINAL_SHARES if count == FINALISTS else known:
            if known[share] >= own and is_enough(share, known[share], count):
                return planned(share, known[share])
    epochs = least_epochs(own, tasks.samples)
    if nets > 1 and left > 0 and ETA * epochs <= own:
        rung = nets * (SAFETY * plan.epoch_seconds * epochs + TASK_SECONDS) / work.jobs
        share = min(max(SCARCE_FINAL_SHARES[0], 1 - rung / left), SCARCE_FINAL_SHARES[-1])
        return planned(share, epochs)
    return _short_plan(plan, known, functools.partial(is_enough, count=1, times=2))


def _short_plan(
    plan: Plan, known: Mapping[float, int], is_enough: Callable[[float, int], bool]
) -> Plan:
    """The plan with the most epochs of trials for which the share of the final training is enough.

    With the largest share, where no share is enough or the epochs are too few for a comparison.
    """
    most = {
        share: max((n for n in range(known[share] + 1) if is_enough(share, n)), default=0)
        for share in SCARCE_FINAL_SHARES
    }
    share = max(most, key=lambda each: most[each])
    longest = dataclasses.replace(plan, epochs=max(1, most[share]), final_share=share)
    if not most[share] or longest.is_scarce:
        share = SCARCE_FINAL_SHARES[-1]
        return dataclasses.replace(plan, epochs=known[share], final_share=share)
    return longest


def _plan_lines(work: SearchRequest, plan: Plan) -> tuple[str, str]:
    """How the budget is shared out, and the measured speed from which this follows."""
    budget = work.config.seconds_in_all or 0.0
    search = search_ends(work, plan)
    final = plan.final_share * max(0.0, search - plan.begun)
    stages = work.stage_budget(plan.epoch_seconds, plan.whole_epochs)
    parts = [f"search {percent(search, budget)}, of which {final:.0f} s for final trainings"]
    parts += [f"{stage} {percent(seconds, budget)}" for stage, seconds in stages.items()]
    shares = f"{duration(budget)} budget (--budget): {'; '.join(parts)}"
    speed = f"an epoch takes about {plan.epoch_seconds:.2g} s; trials are trained for "
    speed += f"up to {epochs_text(plan.epochs or plan.own_epochs)}"
    if plan.is_scarce:
        speed += f" of {plan.own_epochs}: with a larger --budget the search compares more trials"
    return shares, speed


def clock_for(work: SearchRequest, plan: Plan) -> Clock:
    """Clock of a search with this plan."""
    kept = 0.0
    if work.config.seconds_in_all is not None:
        kept = plan.final_share * max(0.0, search_ends(work, plan) - plan.begun)
    return Clock(lambda: seconds_left(work, plan), kept, plan.seconds_per_work)


def _seconds_per_work(
    work: SearchRequest, tasks: TaskBuilder, first: Trial, workers: Executor
) -> float:
    """Measured seconds for one unit of `work_of`, from a training of a small part of the budget.

    It is recorded: the budget that a message names for this speed must suffice in the next command.
    """
    known = work.ledger.get(EventKind.PLAN, _SPEED)
    if known is not None:
        return float(known["seconds_per_work"])
    limit = probe_seconds(work.config.seconds_in_all)
    probe = dataclasses.replace(tasks.probe(first), max_seconds=limit)
    speed = workers.probe(probe).seconds_per_work(probe, first.cost.macs)
    if speed:
        work.ledger.record(EventKind.PLAN, _SPEED, {"seconds_per_work": speed})
    return speed or _USUAL_SECONDS_PER_WORK
