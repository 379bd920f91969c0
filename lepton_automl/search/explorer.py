"""The explorer: decides what is trained next and writes down what came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from lepton_automl.cost import Cost
from lepton_automl.objectives import load as load_objective
from lepton_automl.search import outcome
from lepton_automl.search.advisor import Advisor
from lepton_automl.search.encoding import Encoding
from lepton_automl.search.executor import Workers
from lepton_automl.search.finals import FINALISTS
from lepton_automl.search.ideas import Ideas
from lepton_automl.search.ledger import EventKind
from lepton_automl.search.newcomers import Newcomers
from lepton_automl.search.plan import share_trained, work_of
from lepton_automl.search.planning import clock_for, make_plan, search_ends, seconds_left
from lepton_automl.search.quiet import Quiet
from lepton_automl.search.rungs import RUNGS, may_go_on
from lepton_automl.search.task import Task, TaskResult
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import RungResult, TrainingKey, Trials, result_event
from lepton_automl.search.winner import Winners
from lepton_automl.search.work import SearchWork

RECENT = 20
"""A new candidate will probably take as long as so many before it on average."""
SECONDS_BETWEEN_EVENTS = 0.2
"""Of progress: nobody reads faster."""
HOPELESS = 8
"""After so many candidates without a single trained one, the search gives up."""


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
    quiet : Quiet
        Makes workers pause while a candidate is timed.

    Raises
    ------
    InfeasibleError
        If no net of the space is within the limits.
    """

    def __init__(
        self,
        work: SearchWork,
        tasks: Tasks,
        trials: Trials,
        winners: Winners,
        workers: Workers,
        quiet: Quiet,
    ) -> None:
        self._work, self._tasks, self._trials = work, tasks, trials
        self._winners, self._workers = winners, workers
        self._objectives = [load_objective(name) for name in work.config.objectives]
        self._known_costs = [o for o in self._objectives if not o.needs_training]
        self._newcomers = Newcomers(work, trials, self._objectives, quiet)
        knobs = work.space.parameters()
        self._advisor = Advisor(
            trials,
            self._objectives,
            Encoding(knobs),
            Ideas(
                self._newcomers.draw, self._newcomers.guess, work.config.limits, work.config.seed
            ),
            lambda number: len(tasks.cycles(number)),
            work.config.seed,
            self._newcomers.observed,
            self._has_time,
        )
        self._shown = -SECONDS_BETWEEN_EVENTS
        self._begun, self._epochs_before = time.monotonic(), self._epochs_done()
        if trials.plan is None:
            first = trials.get(0) or self._newcomers.add(self._wishes())
            assert first is not None, "the first candidate is refused by an error"
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
        """What to train now: interrupted, else the most promising, somebody new or known."""
        return self._interrupted() or self._advised()

    def _interrupted(self) -> Task | None:
        at_work = self._at_work()
        waiting = [number for number in self._trials.unstarted() if number not in at_work]
        return self._rung_task(waiting[0], 0) if waiting else None

    def _advised(self) -> Task | None:
        """Known-good candidates first; then what the advisor says."""
        new, trials = self._wants_more(), self._trials
        if new and len(trials) < len(self._newcomers.first):
            return self._newcomer(()) or self._advised()
        may_go_on = self._may_go_on(closing=not new)
        if not new and not may_go_on:
            return None
        advice = self._advisor.advise(may_go_on, self._at_work(), new=new)
        if advice.promote is not None:
            return self._rung_task(advice.promote, len(trials.results[advice.promote]))
        return self._newcomer(advice.wishes) or self._advised() if new else None

    def _wishes(self) -> tuple[Mapping[str, Any], ...]:
        """For the first candidate of all, where another run knows what is good."""
        known = self._newcomers.observed and not self._newcomers.first
        return self._advisor.advise([], [], new=True).wishes if known else ()

    def _has_time(self, cost: Cost) -> bool:
        """Whether a net could be trained to the last rung before the search must end.

        A net ten times as large takes ten times as long: its first rung alone may eat the time in
        which others would have been trained to the end, as it never could be.
        """
        plan = self._trials.plan
        if plan is None or plan.epochs is None:
            return True
        return self.clock.has_time(work_of(cost.macs, self._tasks.samples, plan.epochs))

    def _newcomer(self, wishes: Sequence[Mapping[str, Any]]) -> Task | None:
        candidate = self._newcomers.add(wishes)
        return None if candidate is None else self._rung_task(candidate.number, 0)

    def _may_go_on(self, *, closing: bool) -> list[int]:
        """Who may be trained to the next rung, as far as quotas, intervals and time allow."""
        found = []
        for rung in range(RUNGS - 1):
            standings = self._trials.entries(rung, self._known_costs)
            found += may_go_on(standings, self._promoted(rung), rung=rung, closing=closing)
        return [
            n for n in found if self.clock.allows(self._work_of(n, len(self._trials.results[n])))
        ]

    def _promoted(self, rung: int) -> set[int]:
        """Who went on beyond `rung`, is about to, or has no further rung."""
        last = {n for n in self._trials if len(self._tasks.cycles(n)) == rung + 1}
        return self._trials.beyond(rung) | self._at_work() | last

    def _wants_more(self) -> bool:
        wanted, trials = self._work.config.trials, self._trials
        if self._newcomers.exhausted or (wanted is not None and len(trials) >= wanted):
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
        if rung == 0:
            self._newcomers.learn(number, score)
        if not score.failed:
            if rung:
                self._tasks.discard(TrainingKey(number, round=rung - 1))
            pictures = self._tasks.cycles(number)[rung] * self._tasks.samples
            seconds = result.steady_seconds(pictures)
            self.clock.learn(seconds, self._work_of(number, rung), number)
        self._show(number)

    def _rung_task(self, number: int, rung: int) -> Task:
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
        event = outcome.progress(
            outcome.row_of(self._trials, number),
            None if leader is None else outcome.row_of(self._trials, leader),
            outcome.front_of(self._trials, self._objectives),
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
        share = share_trained(round(mean), self._tasks.samples)
        total = max((self._work.config.trials or len(trials)) * share, done) + FINALISTS * mean
        speed = (time.monotonic() - self._begun) / max(1, done - self._epochs_before)
        return done, total, speed * (total - done)

    def _epochs_done(self) -> int:
        return sum(self._trials.search_epochs(number) for number in self._trials)
