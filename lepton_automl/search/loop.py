"""The search loop: plan the time, keep workers busy, record results, select the winner."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import torch

from lepton_automl.core.events import Event
from lepton_automl.core.units import duration, epochs_text, percent
from lepton_automl.runs.ledger import EventKind
from lepton_automl.runs.live_status import WORKERS
from lepton_automl.search import progress
from lepton_automl.search.finals.finalists import FINALISTS, Finalist, makespan
from lepton_automl.search.finals.winner import WinnerStore
from lepton_automl.search.flip_check import FLIP, with_flip_checked
from lepton_automl.search.objectives import load as load_objective
from lepton_automl.search.pareto import Progress, series
from lepton_automl.search.proposals.proposer import Proposer
from lepton_automl.search.request import SearchRequest, SearchResult
from lepton_automl.search.rungs import RUNGS, Rung
from lepton_automl.search.scheduler import Scheduler
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.time_plan import (
    FINAL_SHARES,
    SAFETY,
    SCARCE_FINAL_SHARES,
    Clock,
    macs_of,
    mean_trial_epochs,
    planned_epochs,
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
    result_event,
)
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.pool import Workers, WorkersPerGpu
from lepton_automl.search.workers.task import Task, TaskResult
from lepton_automl.training.distributed import expected_speedup

RECENT = 20
"""A new candidate will probably take as long as so many before it on average."""
SECONDS_BETWEEN_EVENTS = 0.2
"""Of progress: nobody reads faster."""
HOPELESS = 8
"""After so many candidates without a single trained one, the search gives up."""
USUAL_SECONDS_PER_WORK = 1e-10
"""Where the first candidate cannot be timed."""


def search(work: SearchRequest, workers: Workers | None = None) -> SearchResult:
    """The best net for the time given, inside the limits; also left in RUN/models/best.

    Everything that is decided follows from the ledger, so a search that was stopped anywhere goes
    on where it was. With one worker, `trials` instead of a budget and no measured latency, the
    resumed search is the uninterrupted one, bit for bit.

    Parameters
    ----------
    work : SearchRequest
        What to search, within which limits, how long.
    workers : Workers, optional
        Processes to use; by default `work.jobs` are started and killed at the end.

    Raises
    ------
    InfeasibleError
        If no net of the space is within the limits; nothing was trained.
    ConfigError
        If none of the candidates could be trained.
    MachineError
        If the disk is full.
    KeyboardInterrupt
        Passed on after the best so far was saved.
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
            work.ledger.watched(Progress(work.ledger, objectives, trials)),
            closing(MeasurementLock(work.folder.checkpoints)) as lock,
            _started(work, workers) as own,
        ):
            try:
                work = dataclasses.replace(work, space=with_flip_checked(work, tasks, own))
                explorer = Explorer(work, tasks, trials, winners, own, lock)
                explorer.explore()
                choice = winners.select_winner(own, explorer.clock)
            except KeyboardInterrupt:
                _leave_usable(work)
                raise
    winners.delete_other_checkpoints(choice.number)  # Also after a kill before this line.
    rows = [progress.row_of(trials, number) for number in sorted(trials)]
    found = winners.result(choice, rows, progress.front_of(trials, objectives))
    if is_new:
        work.emit(progress.ended(progress.row_of(trials, choice.number), found.front, len(rows)))
    return dataclasses.replace(found, hypervolume=tuple(series(work.ledger)))


def _record_classes(work: SearchRequest) -> None:
    """Where every class counts alike, those who read the ledger alone need the samples' classes."""
    strata = work.dataset.validation.strata
    if strata is not None and work.ledger.get(EventKind.PLAN, CLASSES) is None:
        work.ledger.record(EventKind.PLAN, CLASSES, {"validation": strata.tolist()})


@contextmanager
def _started(work: SearchRequest, workers: Workers | None) -> Iterator[Workers]:
    if workers is not None:
        yield workers
        return
    gpus = torch.cuda.device_count() if work.device.type == "cuda" else 0
    packing = WorkersPerGpu(work.workers_per_gpu) if work.workers_per_gpu else None
    locks = work.folder.checkpoints
    with Workers(work.jobs, locks, gpus, emit=work.emit, workers_per_gpu=packing) as own:
        work.ledger.live_status.publish_from(WORKERS, own.facts)
        try:
            yield own
        finally:
            work.ledger.live_status.publish(WORKERS, own.facts() | {"workers": []})


def _leave_usable(work: SearchRequest) -> None:
    # By the ledger: the interruption may have come between it and what is known here.
    trials = read_trials(work.ledger)
    number = WinnerStore(work, TaskBuilder(work, trials), trials).save_best_so_far()
    if number is None:
        work.emit(Event("search", "stopped before the first candidate was trained"))
    else:
        where = work.folder.best
        work.emit(Event("search", f"stopped; the best so far, trial {number}, is in {where}"))


class Explorer:
    """Trains candidates, rung by rung, until the trials or the time are used up.

    Parameters
    ----------
    work : SearchRequest
        What to search.
    tasks : TaskBuilder
        Makes tasks.
    trials : Trials
        What the ledger knows; added to.
    winners : WinnerStore
        Tells who leads.
    workers : Workers
        Where tasks run.
    lock : MeasurementLock
        Makes workers pause while a candidate is timed.

    Raises
    ------
    InfeasibleError
        If no net of the space is within the limits.
    """

    def __init__(
        self,
        work: SearchRequest,
        tasks: TaskBuilder,
        trials: Trials,
        winners: WinnerStore,
        workers: Workers,
        lock: MeasurementLock,
    ) -> None:
        self._work, self._tasks, self._trials = work, tasks, trials
        self._winners, self._workers = winners, workers
        self._objectives = [load_objective(name) for name in work.config.objectives]
        self._known_costs = [o for o in self._objectives if not o.needs_training]
        self._proposer = Proposer(work, trials, self._objectives, lock)
        self._scheduler = Scheduler(self._proposer.study)
        self._shown = -SECONDS_BETWEEN_EVENTS
        self._begun, self._epochs_before = time.monotonic(), self._epochs_done()
        if trials.plan is None:
            first = trials.get(0) or self._proposer.add()
            assert first is not None, "the first candidate is rejected by an error"
            trials.plan = make_plan(work, tasks, first, workers)
        self.clock = clock_for(work, trials.plan)

    def explore(self) -> None:
        """Keep the workers busy until nothing is left to do."""
        while True:
            while self._workers.free and (task := self._next()):
                self._workers.start(task)
            if not self._workers.busy:
                break
            for task, result in self._workers.finished():
                self._record(task, result)
        if trained := self._trials.trained():
            self._show(trained[-1], is_last=True)

    def _next(self) -> Task | None:
        """The next training; trials whose first one was interrupted come first."""
        at_work = self._at_work()
        waiting = [number for number in self._trials.unstarted() if number not in at_work]
        if waiting:
            return self._rung_task(waiting[0], 0)
        may_propose, trials = self._may_propose(), self._trials
        if may_propose and len(trials) < len(self._proposer.first):
            return self._proposed() or self._next()
        self._proposer.estimator.most_macs = self._most_macs()
        rungs = [
            Rung(trials.entries(rung, self._known_costs), self._promoted(rung))
            for rung in range(RUNGS - 1)
        ]
        promotable = [
            number
            for number in self._scheduler.promotable(rungs, closing=not may_propose)
            if self.clock.allows(self._work_of(number, len(trials.results[number])))
        ]
        action = self._scheduler.next_action(promotable, may_propose=may_propose)
        if action is None:
            return None
        if action.promote is not None:
            return self._rung_task(action.promote, len(trials.results[action.promote]))
        return self._proposed() or self._next()

    def _proposed(self) -> Task | None:
        """The first training of a new trial; None where the space is exhausted."""
        candidate = self._proposer.add()
        return None if candidate is None else self._rung_task(candidate.number, 0)

    def _most_macs(self) -> float:
        """Of a net that could be trained to the last rung before the search must end.

        A net ten times as large takes ten times as long: its first rung alone may take the time in
        which others would have been trained to the end, as it never could be.
        """
        plan = self._trials.plan
        if plan is None or plan.epochs is None:
            return math.inf
        return macs_of(self.clock.most_work(), self._tasks.samples, plan.epochs)

    def _promoted(self, rung: int) -> set[int]:
        """Trials that train or have trained beyond `rung`, or have no further one."""
        last = {n for n in self._trials if len(self._tasks.cycles(n)) == rung + 1}
        return self._trials.beyond(rung) | self._at_work() | last

    def _may_propose(self) -> bool:
        wanted, trials = self._work.config.trials, self._trials
        if self._proposer.exhausted or (wanted is not None and len(trials) >= wanted):
            return False
        if not trials.trained():
            return len(trials) < HOPELESS
        recent = list(trials)[-RECENT:]
        return self.clock.allows(sum(self._work_of(n, 0) for n in recent) / len(recent))

    def _record(self, task: Task, result: TaskResult) -> None:
        key = TrainingKey.parse(task.key)
        number, rung = key.trial, key.round
        epochs = sum(self._tasks.cycles(number)[: rung + 1])
        event = result_event(result, epochs, self._work.dataset.validation)
        self._work.ledger.record(EventKind.RUNG, task.key, event)
        score = RungResult.from_event(key, event)
        self._trials.add_result(score)
        self._proposer.record(number)
        if not score.failed:
            if rung:
                self._tasks.delete(TrainingKey(number, round=rung - 1))
            pictures = self._tasks.cycles(number)[rung] * self._tasks.samples
            seconds = result.steady_seconds(pictures)
            self.clock.learn(seconds, self._work_of(number, rung), number)
        self._show(number)

    def _rung_task(self, number: int, rung: int) -> Task:
        self._proposer.begin(number)
        return self._tasks.rung(self._trials[number], rung)

    def _work_of(self, number: int, rung: int) -> float:
        macs, each = self._trials[number].cost.macs, self._tasks.cycles(number)
        return work_of(macs, self._tasks.samples, each[min(rung, len(each) - 1)])

    def _at_work(self) -> set[int]:
        return {TrainingKey.parse(task.key).trial for task in self._workers.busy}

    def _show(self, number: int, *, is_last: bool = False) -> None:
        """Tell how far it is: who leads and the front take some time at hundreds of trials."""
        now = time.monotonic()
        if now - self._shown < SECONDS_BETWEEN_EVENTS and not is_last:
            return
        self._shown = now
        leader = self._winners.leader()
        done, total, seconds = self._how_far()
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

    def _how_far(self) -> tuple[float, float, float]:
        """Done and total (seconds of the search, or epochs); what the whole run still takes."""
        budget, trials = self._work.config.seconds_in_all, self._trials
        if budget is not None:
            ends = search_ends(self._work, trials.plan)
            left = max(0.0, seconds_left(self._work, trials.plan)) + budget - ends
            return self._work.ledger.alive_seconds(), ends, left
        done = self._epochs_done()
        mean = sum(trials.epochs_of(n) for n in trials) / len(trials)
        share = mean_trial_epochs(round(mean), self._tasks.samples)
        total = max((self._work.config.trials or len(trials)) * share, done) + FINALISTS * mean
        speed = (time.monotonic() - self._begun) / max(1, done - self._epochs_before)
        return done, total, speed * (total - done)

    def _epochs_done(self) -> int:
        return sum(self._trials.search_epochs(number) for number in self._trials)


def search_ends(work: SearchRequest, plan: Plan | None) -> float:
    """Seconds the run may have been alive when the search ends: the budget less later stages."""
    if work.config.seconds_in_all is None:
        return math.inf
    stages = work.stage_budget(plan.epoch_seconds, plan.whole_epochs) if plan else {}
    return work.config.seconds_in_all - sum(stages.values())


def seconds_left(work: SearchRequest, plan: Plan | None) -> float:
    """Until the search must end."""
    return search_ends(work, plan) - work.ledger.alive_seconds()


def make_plan(work: SearchRequest, tasks: TaskBuilder, first: Trial, workers: Workers) -> Plan:
    """The plan, recorded and told; without a budget every recipe's own epochs count."""
    plan = Plan(None, 0.0, 0.0)
    if work.config.seconds_in_all is not None:
        begun = work.ledger.alive_seconds()
        known = work.ledger.get(EventKind.PLAN, FLIP) or {}
        speed = known.get("speed") or _seconds_per_work(tasks, first, workers)
        epoch = speed * work_of(first.cost.macs, tasks.samples, 1)
        own = first.recipe.epochs
        plan = _planned(work, tasks, Plan(None, speed, begun, 0.0, epoch, own, own))
        # Cut short, trainings leave less to recover after a cut: the search gets that time too.
        plan = dataclasses.replace(plan, whole_epochs=min(own, plan.epochs or own))
        plan = _planned(work, tasks, plan)
        for line in _plan_lines(work, plan):
            work.emit(Event("plan", line))
    work.ledger.record(EventKind.PLAN, "search", plan.to_event())
    return plan


def _planned(work: SearchRequest, tasks: TaskBuilder, plan: Plan) -> Plan:
    """`plan` with the epochs of candidates and what is kept for the end.

    Enough for three trainings from nothing, else for one. Where candidates would get fewer epochs
    than their recipe asks for, enough for one of twice as many, or nearly all there is.
    """
    left, own = max(0.0, seconds_left(work, plan)), plan.own_epochs
    known: dict[float, int] = {}
    for share in (*FINAL_SHARES, *SCARCE_FINAL_SHARES):
        seconds = (1 - share) * left
        known[share] = planned_epochs(own, plan.epoch_seconds, seconds, work.jobs, tasks.samples)

    def is_enough(share: float, count: int, times: int = 1) -> bool:
        epoch_seconds = SAFETY * plan.epoch_seconds / expected_speedup(work.config.final_jobs)
        finalist = Finalist(0, known[share], own, epoch_seconds)
        each = times * finalist.min_epochs * finalist.seconds_per_epoch
        lasting = makespan([each] * count, work.finals_at_once)
        return lasting <= share * left

    whole = [share for share in FINAL_SHARES if known[share] >= own and is_enough(share, FINALISTS)]
    some = [share for share in known if known[share] >= own and is_enough(share, 1)]
    short = [share for share in SCARCE_FINAL_SHARES if is_enough(share, 1, times=2)]
    plans = [
        dataclasses.replace(plan, epochs=known[share], final_share=share)
        for share in (*whole, *some, *short, SCARCE_FINAL_SHARES[-1])
    ]
    return next((plan for plan in plans if not plan.is_scarce), plans[-1])


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
    """Time left and the time of tasks, under `plan`."""
    kept = 0.0
    if work.config.seconds_in_all is not None:
        kept = plan.final_share * max(0.0, search_ends(work, plan) - plan.begun)
    return Clock(lambda: seconds_left(work, plan), kept, plan.seconds_per_work)


def _seconds_per_work(tasks: TaskBuilder, first: Trial, workers: Workers) -> float:
    probe = tasks.probe(first)
    result = workers.call(probe)
    if result.failed:
        return USUAL_SECONDS_PER_WORK
    return result.seconds[-1] / work_of(first.cost.macs, probe.samples, probe.cycles[-1][0])
