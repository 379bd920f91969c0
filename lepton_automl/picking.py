"""Picking: another point of a search's front, trained to the end, compressed and proven."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from lepton_automl import balance, bundle, durable, manifest, stages
from lepton_automl.candidates import Candidates, Point
from lepton_automl.config import EVERY_OBJECTIVE, Goal, Limits, Prefer, RunConfig
from lepton_automl.errors import ConfigError
from lepton_automl.events import Emit, Event, silent
from lepton_automl.front import PICK, draw
from lepton_automl.model import Model
from lepton_automl.pick import choose
from lepton_automl.proof import Outcome
from lepton_automl.run_folder import RunFolder
from lepton_automl.search.ledger import EventKind
from lepton_automl.search.plan import LONGEST, SAFETY
from lepton_automl.search.quiet import Quiet
from lepton_automl.search.remaking import missing
from lepton_automl.search.strategy import recipe_of
from lepton_automl.search.task import Task, run_task, unpack
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import Stage, TrainingKey
from lepton_automl.session import Session, opened
from lepton_automl.shares import epochs_text

RECIPE, REFERENCE, ACCURACY = "recipe.json", "reference", "validation_accuracy"
LEAST_SHARE = 1 / 3
"""Of its recipe's epochs; a training shorter than this is no training to the end."""


@dataclass(frozen=True)
class Wanted:
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
class Picked:
    """A pick, proven."""

    label: str
    """`trial 7`, or `trial 7, pruned-2` for a step of the compression."""
    reason: str
    outcome: Outcome


def pick(config: RunConfig, wanted: Wanted, *, emit: Emit = silent) -> Picked:
    """Choose the trained net that keeps other limits best, and make it a whole artifact.

    The same call goes on where it was stopped; a finished pick answers at once.

    Parameters
    ----------
    config : RunConfig
        Goes on with a run that has searched (`run_folder.configured`). Its `budget_seconds` are for
        this pick alone; None: the net is trained as long as the winner was.
    wanted : Wanted
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
    with opened(config, emit) as run, closing(Quiet(run.folder.checkpoints)) as quiet:
        began = run.ledger.alive_seconds()
        asked = dataclasses.replace(run.config, limits=limits, prefer=prefer)
        session = dataclasses.replace(run, config=asked)
        candidates = Candidates(session, quiet)
        points = candidates.legal()
        minded = run.config.objectives if wanted.prefer is None else EVERY_OBJECTIVE
        choice = choose([point.option for point in points], Goal(limits, prefer, minded))
        point = next(p for p in points if p.option.number == choice.number)
        session.tell(PICK, f"{point.label}, {choice.reason}")
        folder = wanted.out or run.folder.picks / f"{point.name}-{wanted.name}"
        session = dataclasses.replace(session, folder=RunFolder(folder, run.folder.path))
        outcome = _made(session, candidates, point, began)
        draw(run.folder, run.ledger)
    return Picked(point.label, choice.reason, outcome)


def _made(session: Session, candidates: Candidates, point: Point, began: float) -> Outcome:
    """The artifact of a point, as far as it is not there yet."""
    folder, budget = session.folder.artifact, session.config.budget_seconds
    if manifest.is_complete(folder):
        session.tell(PICK, f"picked before: {folder}")
        return Outcome(folder, bundle.read_verdict(folder))
    kept = candidates.later(point.trial, budget or 0.0)
    ends = None if budget is None else began + budget - kept.prove
    if not (session.folder.best / RECIPE).is_file():
        left = math.inf if ends is None else ends - kept.compress - session.ledger.alive_seconds()
        _leave_best(session, candidates, point, left)
    best, recipe = stages.winner(session)
    step = None if point.step is None else Model.load(point.step)
    with stages.telling_what_is_there(session):
        stages.compressed(session, best, recipe, ends, step=step)
        return stages.exported(session, step)


def _leave_best(session: Session, candidates: Candidates, point: Point, left: float) -> None:
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
    durable.write(session.folder.best / RECIPE, text + "\n")


def _trained(session: Session, candidates: Candidates, number: int, left: float) -> Model:
    """A candidate as its last training left it, or after one in `left` seconds."""
    trials, tasks = candidates.trials, candidates.tasks
    if candidates.final(number) is not None:
        score = trials.best_result(number)
        out, epochs, accuracy = tasks.checkpoint(score.key), score.epochs, score.accuracy
        todo = missing(score.key, tasks, trials, session.ledger)
        _decided(session, number, lambda: epochs)
    else:
        epochs = _decided(session, number, lambda: _epochs(session, candidates, number, left))
        key = TrainingKey(number, Stage.PICK)
        out, accuracy = tasks.checkpoint(key), None
        todo = [] if Tasks.is_whole(out) else [tasks.fresh(trials[number], epochs, key)]
    for task in todo:
        accuracy = _run(
            session, task, f"trial {number} is trained to the end, {epochs_text(epochs)}"
        )
    metrics = {"epochs": float(epochs)} | ({} if accuracy is None else {ACCURACY: accuracy})
    return dataclasses.replace(Model.load(out), metrics=metrics)


def _decided(session: Session, number: int, epochs: Callable[[], int]) -> int:
    """How long this pick is trained; decided once and written down."""
    key = session.folder.path.name
    known = session.ledger.get(EventKind.PICK, key)
    if known is None:
        known = {"number": number, "epochs": epochs()}
        session.ledger.record(EventKind.PICK, key, known)
    return int(known["epochs"])


def _run(session: Session, task: Task, message: str) -> float:
    """Train in this process; the share of validation samples that are right then."""

    def told(share: float) -> None:
        session.emit(Event(PICK, message, share, 1.0))

    session.tell(PICK, message)
    result = run_task(task, contextlib.nullcontext, told)
    if result.failed:
        raise ConfigError(
            f"the training to the end failed: {result.failed}",
            fix="state other limits, so that another net is picked",
        )
    return balance.balanced_mean(unpack(result.correct), session.dataset.validation.strata)


def _epochs(session: Session, candidates: Candidates, number: int, left: float) -> int:
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
