"""The coordinator: decides what is trained next and writes down what came of it."""

from __future__ import annotations

import math
import time

import torch

from lepton_automl.arch import Arch
from lepton_automl.events import Event
from lepton_automl.objectives import load as load_objective
from lepton_automl.recipe import Recipe
from lepton_automl.search import outcome
from lepton_automl.search.cost_check import CostCheck
from lepton_automl.search.executor import Workers
from lepton_automl.search.feasible import Proposer
from lepton_automl.search.plan import (
    FINAL_SHARE,
    Clock,
    Plan,
    planned_epochs,
    share_trained,
    work_of,
)
from lepton_automl.search.quiet import Quiet
from lepton_automl.search.rungs import RUNGS, cycles, milestones, promotable
from lepton_automl.search.sampler import Sampler
from lepton_automl.search.task import Task, TaskResult
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import (
    PLAN,
    RUNG,
    TRIAL,
    Score,
    Trials,
    parsed,
    read_trials,
    score_event,
)
from lepton_automl.search.winner import Winners
from lepton_automl.search.work import SearchResult, SearchWork
from lepton_automl.space import Trial

HOPELESS = 8
"""After so many candidates without a single trained one, the search gives up."""
USUAL_SECONDS_PER_WORK = 1e-10
"""Where the first candidate cannot be timed."""


def search(work: SearchWork, workers: Workers | None = None) -> SearchResult:
    """The best net for the time given, inside the limits; also left in RUN/models/best.

    Everything that is decided follows from the ledger, so a search that was stopped anywhere goes
    on where it was. With one worker, `trials` instead of a budget and no measured latency, the
    resumed search is the uninterrupted one, bit for bit.

    Parameters
    ----------
    work : SearchWork
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
    trials, tasks = read_trials(work.ledger), Tasks(work)
    winners = Winners(work, tasks, trials)
    choice = winners.recorded()
    if choice is None:
        own = workers or _start_workers(work)
        try:
            explorer = Explorer(work, tasks, trials, winners, own)
            explorer.explore()
            choice = winners.crown(own, explorer.clock)
        except KeyboardInterrupt:
            _leave_usable(work, winners)
            raise
        finally:
            if own is not workers:
                own.close()
    rows = [outcome.row_of(trials, number) for number in sorted(trials.candidates)]
    front = outcome.front_of(rows, [load_objective(name) for name in work.objectives])
    return winners.result(choice, rows, front)


class Explorer:
    """Trains candidates, rung by rung, until the trials or the time are used up.

    Parameters
    ----------
    work : SearchWork
        What to search.
    tasks : Tasks
        Makes tasks.
    trials : Trials
        What the ledger knows; added to.
    winners : Winners
        Tells who leads.
    workers : Workers
        Where tasks run.
    """

    def __init__(
        self, work: SearchWork, tasks: Tasks, trials: Trials, winners: Winners, workers: Workers
    ) -> None:
        self._work, self._tasks, self._trials = work, tasks, trials
        self._winners, self._workers = winners, workers
        self._objectives = [load_objective(name) for name in work.objectives]
        self._known_costs = [o for o in self._objectives if not o.needs_training]
        self._exhausted = False
        self._started, self._epochs_done = time.monotonic(), 0
        self._sampler = self._restored_sampler()
        self._proposer = Proposer(
            self._sampler,
            self._draw,
            work.space.parameters(),
            self._cost_check(),
            list(trials.candidates.values()),
        )
        self.clock = self._planned_clock()

    def explore(self) -> None:
        """Keep the workers busy until nothing is left to do."""
        while True:
            while self._workers.free and (task := self._next()):
                self._workers.start(task)
            if not self._workers.busy:
                return
            for task, result in self._workers.finished():
                self._record(task, result)

    def _next(self) -> Task | None:
        """What to train now: interrupted, promoted, new; in the end the best of those left."""
        return (
            self._interrupted()
            or self._promotion(closing=False)
            or self._newcomer()
            or self._promotion(closing=True)
        )

    def _interrupted(self) -> Task | None:
        at_work = self._at_work()
        waiting = [number for number in self._trials.unstarted() if number not in at_work]
        return self._rung_task(waiting[0], 0) if waiting else None

    def _promotion(self, *, closing: bool) -> Task | None:
        for rung in reversed(range(RUNGS - 1)):
            standings = self._trials.standings(rung, self._known_costs)
            number = promotable(standings, self._promoted(rung), closing=closing)
            if number is not None and self.clock.allows(self._work_of(number, rung + 1)):
                return self._rung_task(number, rung + 1)
        return None

    def _promoted(self, rung: int) -> set[int]:
        """Who went on beyond `rung`, is about to, or has no further rung."""
        last = {n for n in self._trials.candidates if len(self._cycles(n)) == rung + 1}
        return self._trials.beyond(rung) | self._at_work() | last

    def _newcomer(self) -> Task | None:
        if not self._wants_more():
            return None
        number = len(self._trials)
        if not self._add_candidate(number):
            return None
        return self._rung_task(number, 0)

    def _wants_more(self) -> bool:
        wanted, trials = self._work.trials, self._trials
        if self._exhausted or (wanted is not None and len(trials) >= wanted):
            return False
        if not trials.alive():
            return len(trials) < HOPELESS
        usual = sum(self._work_of(n, 0) for n in trials.candidates) / len(trials)
        return self.clock.allows(usual)

    def _add_candidate(self, number: int) -> bool:
        candidate = self._proposer.propose(number)
        if candidate is None:
            self._exhausted = True
            self._tell("nothing new is left in the search space within the limits")
            return False
        self._work.ledger.record(TRIAL, str(number), candidate.to_event())
        self._trials.add(candidate)
        return True

    def _record(self, task: Task, result: TaskResult) -> None:
        number, rung = parsed(task.key)
        epochs = milestones(self._trials.epochs_of(number))[int(rung)]
        event = score_event(result, epochs)
        self._work.ledger.record(RUNG, task.key, event)
        score = Score.from_event(rung, event)
        self._trials.score(number, score)
        if rung == "0":
            accuracy = None if score.failed else score.accuracy
            self._sampler.tell(number, accuracy, self._trials.candidates[number].cost)
        elif not score.failed:
            self._tasks.discard(number, str(int(rung) - 1))
        if result.seconds and not score.failed:
            self.clock.learn(result.seconds[-1], self._work_of(number, int(rung)))
            self._epochs_done += task.cycles[-1][0]
        self._show(number)

    def _rung_task(self, number: int, rung: int) -> Task:
        candidate = self._trials.candidates[number]
        return self._tasks.rung(candidate, rung, self._trials.epochs_of(number))

    def _work_of(self, number: int, rung: int) -> float:
        each = self._cycles(number)
        macs = self._trials.candidates[number].cost.macs
        return work_of(macs, self._tasks.samples, each[min(rung, len(each) - 1)])

    def _cycles(self, number: int) -> tuple[int, ...]:
        return cycles(self._trials.epochs_of(number))

    def _at_work(self) -> set[int]:
        return {parsed(task.key)[0] for task in self._workers.busy}

    def _draw(self, trial: Trial) -> tuple[Arch, Recipe]:
        data = self._work.dataset
        return self._work.space.sample(
            trial,
            size=data.size,
            channels=data.channels,
            classes=len(data.class_names),
            target=self._work.target,
        )

    def _restored_sampler(self) -> Sampler:
        sampler = Sampler(
            self._draw,
            self._objectives,
            self._work.space.candidates,
            seed=self._work.seed,
            jobs=self._work.jobs,
        )
        for number, candidate in self._trials.candidates.items():
            first = next(iter(self._trials.scores[number]), None)
            accuracy = None if first is None or first.failed else first.accuracy
            sampler.restore(candidate, accuracy, finished=first is not None)
        return sampler

    def _cost_check(self) -> CostCheck:
        work = self._work
        asked = any(o.needs_timing for o in self._objectives)
        return CostCheck(
            work.limits,
            work.target.weight_limit,
            _label_bytes(work.dataset.class_names),
            needs_latency=asked or work.limits.max_latency_ms is not None,
            ledger=work.ledger,
            quiet=Quiet(work.folder / "checkpoints"),
        )

    def _planned_clock(self) -> Clock:
        """The plan of an earlier session, or one from the measured speed of the first net."""
        plan = self._trials.plan or self._make_plan()
        self._trials.plan = plan
        share = 0.0
        if self._work.budget_seconds is not None:
            share = FINAL_SHARE * max(0.0, self._work.budget_seconds - plan.begun)
        return Clock(self._seconds_left, share, plan.seconds_per_work)

    def _make_plan(self) -> Plan:
        begun = self._work.ledger.alive_seconds()
        if self._work.budget_seconds is None:
            plan = Plan(None, 0.0, 0.0)
        else:
            if not self._trials.candidates:
                self._add_candidate(0)
            speed = self._speed()
            first = self._trials.candidates[0]
            epoch = speed * work_of(first.cost.macs, self._tasks.samples, 1)
            seconds = (1 - FINAL_SHARE) * max(0.0, self._seconds_left())
            epochs = planned_epochs(first.recipe.epochs, epoch, seconds, self._work.jobs)
            plan = Plan(epochs, speed, begun)
            self._tell(f"an epoch takes {epoch:.2g} s; the longest rung has {epochs} epochs")
        self._work.ledger.record(PLAN, "search", plan.to_event())
        return plan

    def _speed(self) -> float:
        """Measured seconds for one unit of work."""
        first = self._trials.candidates[0]
        probe = self._tasks.probe(first)
        result = self._workers.call(probe)
        if result.failed:
            return USUAL_SECONDS_PER_WORK
        return result.seconds[-1] / work_of(first.cost.macs, probe.samples, probe.cycles[-1][0])

    def _seconds_left(self) -> float:
        budget = math.inf if self._work.budget_seconds is None else self._work.budget_seconds
        return min(budget - self._work.ledger.alive_seconds(), self._work.deadline())

    def _show(self, number: int) -> None:
        rows = {n: outcome.row_of(self._trials, n) for n in self._trials.alive()}
        leader = self._winners.leader()
        budget, spent = self._work.budget_seconds, self._work.ledger.alive_seconds()
        done, total, seconds = spent, budget or 0.0, self._seconds_left()
        if budget is None:
            done, total = self._epochs()
            each = (time.monotonic() - self._started) / max(1, self._epochs_done)
            seconds = each * max(0.0, total - done)
        self._work.emit(
            outcome.progress(
                outcome.row_of(self._trials, number),
                None if leader is None else rows[leader],
                outcome.front_of(list(rows.values()), self._objectives),
                started=len(self._trials),
                done=done,
                total=total,
                seconds=seconds,
            )
        )

    def _epochs(self) -> tuple[float, float]:
        """Epochs trained, and about how many there will be, the winner's last ones included."""
        trials = self._trials
        done = sum(trials.epochs_before(number) for number in trials.candidates)
        mean = sum(trials.epochs_of(n) for n in trials.candidates) / len(trials)
        wanted = (self._work.trials or len(trials)) * share_trained(round(mean)) + mean
        return float(done), max(wanted, done + mean)

    def _tell(self, message: str) -> None:
        self._work.emit(Event("search", message))


def _start_workers(work: SearchWork) -> Workers:
    gpus = torch.cuda.device_count() if work.device.type == "cuda" else 0
    return Workers(work.jobs, work.folder / "checkpoints", gpus)


def _leave_usable(work: SearchWork, winners: Winners) -> None:
    number = winners.save_best_so_far()
    if number is None:
        work.emit(Event("search", "stopped before the first candidate was trained"))
    else:
        where = work.folder / "models" / "best"
        work.emit(Event("search", f"stopped; the best so far, trial {number}, is in {where}"))


def _label_bytes(class_names: tuple[str, ...]) -> int:
    """What names longer than a number and the other metadata add to a file."""
    numbered = sum(len(str(number)) for number in range(len(class_names)))
    return sum(len(name.encode()) for name in class_names) - numbered + METADATA_BYTES


METADATA_BYTES = 120
"""Fingerprint of the data and version, with their keys."""
