"""Choose another trial of a finished search by other limits and ship it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lepton_automl.artifact import manifest, writer
from lepton_automl.compress.loop import read_steps
from lepton_automl.config import EVERY_OBJECTIVE, LIMITS, Goal, Limits, Prefer, RunConfig, would_fit
from lepton_automl.core import files
from lepton_automl.core import units as w
from lepton_automl.core.events import Emit, Event, silent
from lepton_automl.core.units import epochs_text
from lepton_automl.cost.cost import Cost, excess
from lepton_automl.data.dataset import load_labelled
from lepton_automl.errors import ConfigError, DataError, InfeasibleError
from lepton_automl.metrics import balanced
from lepton_automl.metrics.intervals import accuracy_interval, wilson_interval
from lepton_automl.models.model import Model
from lepton_automl.pipeline import stages
from lepton_automl.pipeline.context import RunContext, open_run
from lepton_automl.pipeline.export import Outcome
from lepton_automl.pipeline.front import PICK, draw
from lepton_automl.runs import time_budget
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import EventKind
from lepton_automl.search.finals.selection import Option, choose
from lepton_automl.search.finals.training import rebuild_checkpoint
from lepton_automl.search.proposals.feasibility import CostCheck
from lepton_automl.search.proposals.proposer import label_bytes
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.time_plan import LONGEST, SAFETY, work_of
from lepton_automl.search.training_key import Stage, TrainingKey
from lepton_automl.search.trials import RungResult, Trials, read_trials, recipe_of
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.task import Task, run_task, unpack
from lepton_automl.training.evaluate import is_correct

RECIPE, REFERENCE, ACCURACY = "recipe.json", "reference", "validation_accuracy"
LEAST_SHARE = 1 / 3
"""Of its recipe's epochs; a training shorter than this is no training to the end."""


@dataclass(frozen=True)
class PickRequest:
    """What a pick is to keep."""

    limits: Limits
    """Those of the run stay where these say nothing."""
    prefer: Prefer | None = None
    out: Path | None = None
    """Where the pick goes; by default `RUN/picks/NAME`."""

    def over(self, known: Limits) -> Limits:
        """The run's limits with these in place of its own."""
        return Limits(**(known.stated | self.limits.stated))  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        """The wishes as a part of a folder's name."""
        words = [f"{n.removeprefix('max_')}-{v:g}" for n, v in self.limits.stated.items()]
        words += [] if self.prefer is None else [f"prefer-{self.prefer}"]
        return "-".join(words).replace("_", "-")


@dataclass(frozen=True)
class PickResult:
    """A pick, proven."""

    label: str
    """`trial 7`, or `trial 7, pruned-2` for a step of the compression."""
    reason: str
    outcome: Outcome


def pick(config: RunConfig, wanted: PickRequest, *, emit: Emit = silent) -> PickResult:
    """Choose the trained net that keeps other limits best, and make it a whole artifact.

    The same call goes on where it was stopped; a finished pick answers at once.

    Parameters
    ----------
    config : RunConfig
        Goes on with a run that has searched (`run_folder.configured`). Its `budget_seconds` are for
        this pick alone; None: the net is trained as long as the winner was.
    wanted : PickRequest
        Limits and preference.

    Raises
    ------
    InfeasibleError
        If no trained net keeps the limits; says what would fit.
    ConfigError
        If the budget is too short to train the net that was chosen.
    DataError
        If the run has not trained anything yet.
    """
    limits, prefer = wanted.over(config.limits), wanted.prefer or config.prefer
    with open_run(config, emit) as run, closing(MeasurementLock(run.folder.checkpoints)) as lock:
        began = run.ledger.alive_seconds()
        asked = dataclasses.replace(run.config, limits=limits, prefer=prefer)
        session = dataclasses.replace(run, config=asked)
        candidates = PickCandidates(session, lock)
        points = candidates.legal()
        minded = run.config.objectives if wanted.prefer is None else EVERY_OBJECTIVE
        choice = choose([point.option for point in points], Goal(limits, prefer, minded))
        point = next(p for p in points if p.option.number == choice.number)
        session.report(PICK, f"{point.label}, {choice.reason}")
        folder = wanted.out or run.folder.picks / f"{point.name}-{wanted.name}"
        session = dataclasses.replace(session, folder=RunFolder(folder, run.folder.path))
        outcome = _made(session, candidates, point, began)
        draw(run.folder, run.ledger)
    return PickResult(point.label, choice.reason, outcome)


def _made(
    session: RunContext, candidates: PickCandidates, point: PickCandidate, began: float
) -> Outcome:
    """The artifact of a point, as far as it is not there yet."""
    folder, budget = session.folder.artifact, session.config.budget_seconds
    if manifest.is_complete(folder):
        session.report(PICK, f"picked before: {folder}")
        return Outcome(folder, writer.read_verdict(folder))
    reserved = candidates.stage_budget(point.trial, budget or 0.0)
    ends = None if budget is None else began + budget - reserved.verify
    if not (session.folder.best / RECIPE).is_file():
        left = (
            math.inf if ends is None else ends - reserved.compress - session.ledger.alive_seconds()
        )
        _leave_best(session, candidates, point, left)
    best, recipe = stages.winner(session)
    step = None if point.step is None else Model.load(point.step)
    with stages.naming_best_net_on_interrupt(session):
        stages.compress(session, best, recipe, ends, step=step)
        return stages.export_and_verify(session, step)


def _leave_best(
    session: RunContext, candidates: PickCandidates, point: PickCandidate, left: float
) -> None:
    """The float net of a point, trained to the end, as the pick's `models/best`."""
    if point.step is not None:
        model = Model.load(point.step.parent / REFERENCE)
    else:
        model = _trained(session, candidates, point.trial, left)
    recipe = candidates.trials[point.trial].recipe
    if candidates.final(point.trial) is not None:
        recipe = recipe_of(recipe, candidates.trials.best_result(point.trial).key)
    epochs = candidates.trials.epochs_of(point.trial)
    model.save(session.folder.best)
    text = dataclasses.replace(recipe, epochs=epochs).to_json()
    files.write(session.folder.best / RECIPE, text + "\n")


def _trained(session: RunContext, candidates: PickCandidates, number: int, left: float) -> Model:
    """A candidate as its last training left it, or after one in `left` seconds."""
    trials, tasks = candidates.trials, candidates.tasks
    if candidates.final(number) is not None:
        score = trials.best_result(number)
        out, epochs, accuracy = tasks.checkpoint(score.key), score.epochs, score.accuracy
        todo = rebuild_checkpoint(score.key, tasks, trials, session.ledger)
        _decided(session, number, lambda: epochs)
    else:
        epochs = _decided(session, number, lambda: _epochs(session, candidates, number, left))
        key = TrainingKey(number, Stage.PICK)
        out, accuracy = tasks.checkpoint(key), None
        todo = [] if Tasks.is_complete(out) else [tasks.from_scratch(trials[number], epochs, key)]
    for task in todo:
        accuracy = _run(
            session, task, f"trial {number} is trained to the end, {epochs_text(epochs)}"
        )
    metrics = {"epochs": float(epochs)} | ({} if accuracy is None else {ACCURACY: accuracy})
    return dataclasses.replace(Model.load(out), metrics=metrics)


def _decided(session: RunContext, number: int, epochs: Callable[[], int]) -> int:
    """How long this pick is trained; decided once and written down."""
    key = session.folder.path.name
    known = session.ledger.get(EventKind.PICK, key)
    if known is None:
        known = {"number": number, "epochs": epochs()}
        session.ledger.record(EventKind.PICK, key, known)
    return int(known["epochs"])


def _run(session: RunContext, task: Task, message: str) -> float:
    """Train in this process; the share of validation samples that are right then."""

    def told(share: float) -> None:
        session.emit(Event(PICK, message, share, 1.0))

    session.report(PICK, message)
    result = run_task(task, contextlib.nullcontext, told)
    if result.failed:
        raise ConfigError(
            f"the training to the end failed: {result.failed}",
            fix="state other limits, so that another net is picked",
        )
    return balanced.balanced_mean(unpack(result.correct), session.dataset.validation.strata)


def _epochs(session: RunContext, candidates: PickCandidates, number: int, left: float) -> int:
    """As many as the winner's last training had, or as fit into the time."""
    trials = candidates.trials
    own = max(trials.epochs_of(number), trials[number].recipe.epochs)
    finals = [score for number in trials.finals for score in trials.finals[number]]
    if left == math.inf:
        return max((score.epochs for score in finals if not score.failed), default=own)
    each = max(candidates.seconds_per_epoch(number) * SAFETY, 1e-9)
    epochs = min(LONGEST * own, math.floor(left / each))
    if epochs < LEAST_SHARE * own:
        kept = (session.config.budget_seconds or 0.0) - left
        raise ConfigError(
            f"the time is too short to train trial {number} to the end: {max(left, 0):.0f} s are "
            f"left for it, {epochs_text(own)} take about {own * each:.0f} s",
            fix=f"give --budget {math.ceil(kept + own * each)}s, or leave it out",
        )
    return epochs


@dataclass(frozen=True, eq=False)
class PickCandidate:
    """A net that can be made an artifact without searching."""

    label: str
    """`trial 7`, or `pruned-2 of the winner`."""
    name: str
    """The same as a part of a folder's name."""
    option: Option
    trial: int
    """The candidate it is, or was pruned from."""
    step: Path | None = None
    """Folder of a pruned net; None: the candidate itself."""


class PickCandidates:
    """What a pick chooses from.

    Parameters
    ----------
    session : RunContext
        The run, with the limits of the pick.
    lock : MeasurementLock
        For latencies that were not measured yet.
    """

    def __init__(self, session: RunContext, lock: MeasurementLock) -> None:
        self._session, self._lock = session, lock
        self.trials: Trials = read_trials(session.ledger)
        self.work = stages.search_request(session)
        self.tasks = Tasks(self.work, self.trials)
        self._validation = session.dataset.validation

    def legal(self) -> list[PickCandidate]:
        """The points that keep the limits, as far as costs and known accuracies tell.

        Raises
        ------
        DataError
            If nothing was trained yet.
        InfeasibleError
            If none does; says which limit bites and what would fit.
        """
        limits = self._session.config.limits
        points = [self._trial(number) for number in self.trials.trained()] + self._steps()
        if not points:
            path = self._session.folder.path
            raise DataError(f"{path} has trained nothing yet", fix="run `lepton search` first")
        kept = [point for point in points if not excess(point.option.cost, limits)]
        if not kept:
            raise _too_dear(points, limits)
        least, best = limits.min_accuracy, max(kept, key=lambda point: point.option.accuracy)
        if least is not None and _upper(best.option) < least:
            raise _too_weak(best, least)
        return kept

    def final(self, number: int) -> RungResult | None:
        """The best of a candidate's last trainings, if it had one."""
        good = [score for score in self.trials.finals.get(number, []) if not score.failed]
        return max(good, key=lambda score: score.accuracy, default=None)

    def seconds_per_epoch(self, number: int) -> float:
        """Of a training of this candidate, about, from the first rungs of all."""
        seconds, work = 0.0, 0.0
        for key, event in self._session.ledger.all(EventKind.RUNG).items():
            trial = TrainingKey.parse(key).trial
            if key == str(TrainingKey(trial)) and not event["failed"]:
                seconds += event["seconds"]
                work += self._work(trial, event["epochs"])
        return seconds / work * self._work(number, 1) if work else 0.0

    def stage_budget(self, number: int, budget: float) -> time_budget.StageBudget:
        """Seconds of `budget` reserved for compression and verification of this trial."""
        data = self._session.dataset
        inputs = time_budget.BudgetInputs(
            len(data.train), len(data.validation), len(data.test), self._session.start_seconds
        )
        return time_budget.stage_budget(
            budget, inputs, self.seconds_per_epoch(number), self.trials.epochs_of(number)
        )

    def _work(self, number: int, epochs: int) -> float:
        return work_of(self.trials[number].cost.macs, self.tasks.samples, epochs)

    def _trial(self, number: int) -> PickCandidate:
        candidate = self.trials[number]
        cost = candidate.cost
        if cost.latency_ms is None and self._session.config.limits.max_latency_ms is not None:
            cost = self._check.whole(candidate.arch)
        good = [score for score in self.trials.finals.get(number, []) if not score.failed]
        scores = good or [self.trials.search_result(number)]
        share = np.mean([score.correct for score in scores], axis=0)
        option = self._option(number, share, cost)
        return PickCandidate(f"trial {number}", f"trial-{number}", option, number)

    def _option(self, number: int, correct: np.ndarray, cost: Cost) -> Option:
        return Option(number, correct, cost, self._validation.groups, self._validation.strata)

    def _steps(self) -> list[PickCandidate]:
        """Pruned nets that a compression of this run has kept, numbered after all trials."""
        points: list[PickCandidate] = []
        named = list(self._session.ledger.all(EventKind.WINNER).values())
        winner = named[-1]["number"] if named else 0
        for folder in sorted(self._session.folder.models.glob("compressed-*")):
            kept = [r for r in read_steps(folder) if r.is_accepted and r.name.startswith("pruned")]
            for step in kept:
                number = len(self.trials) + len(points)
                model = Model.load(folder / step.name)
                cost = self._check.whole(model.arch)
                option = self._option(number, self._correct(model), cost)
                label = f"{step.name} of the winner"
                points.append(PickCandidate(label, step.name, option, winner, folder / step.name))
        return points

    def _correct(self, model: Model) -> np.ndarray:
        session, size = self._session, model.arch.input[:2]
        files = session.dataset.decoded_files("validation", size, session.folder.cache)
        return is_correct(model, load_labelled(files), device=session.device)

    @functools.cached_property
    def _check(self) -> CostCheck:
        session = self._session
        return CostCheck(
            session.config.limits,
            session.target,
            label_bytes(session.dataset.class_names),
            needs_latency=session.config.asks_for_latency,
            ledger=session.ledger,
            lock=self._lock,
            model=session.latency_model,
        )


def _too_dear(points: Sequence[PickCandidate], limits: Limits) -> InfeasibleError:
    nearest = min(points, key=lambda point: sum(excess(point.option.cost, limits).values()))
    broken = excess(nearest.option.cost, limits)
    values = {n: LIMITS[n].measured(nearest.option.cost) or 0.0 for n in broken}
    asked = ", ".join(f"{LIMITS[n].words} {_text(n, limits.stated[n])}" for n in broken)
    has = ", ".join(_text(n, value) for n, value in values.items())
    return InfeasibleError(
        f"none of the {len(points)} trained nets and pruned steps keeps {asked}; the nearest, "
        f"{nearest.label}, has {has}",
        fix=f"{would_fit(values)}; or search with this limit, into another folder",
    )


def _text(limit: str, value: float) -> str:
    return w.quantity_text(value, LIMITS[limit].unit)


def _upper(option: Option) -> float:
    """What the accuracy is at most, as far as the validation samples tell."""
    if option.strata is not None:
        return accuracy_interval(option.correct, option.groups, option.strata)[1]
    n = len(option.correct)
    return wilson_interval(round(option.accuracy * n), n)[1]


def _too_weak(best: PickCandidate, least: float) -> InfeasibleError:
    reached = best.option.accuracy
    return InfeasibleError(
        f"no trained net within the other limits reaches {least:.2%} on validation; the best, "
        f"{best.label}, has {reached:.2%}",
        fix=f"{would_fit({'min_accuracy': reached})}; or search longer: the same run with a larger "
        "--budget or --trials",
    )
