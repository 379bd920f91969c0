"""Choose another trial of a finished search by other limits and ship it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lepton_automl.artifact import manifest
from lepton_automl.compress.steps import read_steps
from lepton_automl.config import EVERY_OBJECTIVE, LIMITS, Goal, Limits, Prefer, RunConfig, would_fit
from lepton_automl.core import files
from lepton_automl.core.events import Emit, silent
from lepton_automl.core.files import real_path
from lepton_automl.core.units import quantity_text
from lepton_automl.cost.cost import Cost, violations
from lepton_automl.data.tensors import load_labelled
from lepton_automl.errors import ConfigError, DataError, InfeasibleError
from lepton_automl.metrics.intervals import accuracy_interval, wilson_interval
from lepton_automl.models.model import Model
from lepton_automl.pipeline import stages
from lepton_automl.pipeline.charts import STEPS_CHART
from lepton_automl.pipeline.context import RunContext, open_run
from lepton_automl.pipeline.export import written_outcome
from lepton_automl.pipeline.front import PICK, draw
from lepton_automl.pipeline.outcome import Outcome
from lepton_automl.runs import time_budget
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import EventKind
from lepton_automl.runs.lock import RunLock
from lepton_automl.search.finals.selection import Option, choose
from lepton_automl.search.finals.train_to_end import epochs_to_end, seconds_per_epoch, train_to_end
from lepton_automl.search.trial_costs import net_costs, trial_costs
from lepton_automl.search.trials import Trials, read_trials, recipe_of
from lepton_automl.training.evaluate import is_correct

_RECIPE, _REFERENCE = "recipe.json", "reference"


@dataclass(frozen=True)
class PickRequest:
    """What the user asks of a pick."""

    limits: Limits
    """Limits of the run hold where none is given here."""
    prefer: Prefer | None = None
    out: Path | None = None
    """Folder of the pick; by default `RUN/picks/NAME`."""

    def over(self, limits: Limits) -> Limits:
        """The limits of a run, with those of this request in their place."""
        return Limits(**(limits.stated | self.limits.stated))  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        """Limits and preference as a part of a folder's name."""
        words = [f"{n.removeprefix('max_')}-{v:g}" for n, v in self.limits.stated.items()]
        words += [] if self.prefer is None else [f"prefer-{self.prefer}"]
        return "-".join(words).replace("_", "-")


@dataclass(frozen=True)
class PickResult:
    """A pick with its verified artifact."""

    label: str
    """`trial 7`, or `pruned-2 of the winner` for a step of the compression."""
    reason: str
    outcome: Outcome


@dataclass(frozen=True, eq=False)
class PickCandidate:
    """A net that can be shipped without a search."""

    label: str
    """`trial 7`, or `pruned-2 of the winner`."""
    name: str
    """The same as a part of a folder's name."""
    option: Option
    trial: int
    """Number of the trial, or of the trial that was pruned."""
    step: Path | None = None
    """Folder of a pruned net; None: the net of the trial."""


def pick(config: RunConfig, request: PickRequest, *, emit: Emit = silent) -> PickResult:
    """Choose the trained net that fits other limits best, and write its artifact.

    An interrupted pick is continued by the same call; a finished one is returned at once.

    Parameters
    ----------
    config : RunConfig
        Configuration of a run that has searched (`folder.configured`). Its `budget_seconds` are
        those of this pick; None: the net is trained as long as the winner was.
    request : PickRequest
        Limits and preference.
    emit : callable
        Receives progress.

    Raises
    ------
    InfeasibleError
        If no trained net satisfies the limits; says which limits would fit.
    ConfigError
        If the budget is too short to train the chosen net.
    DataError
        If the run has not trained anything yet.
    """
    limits, prefer = request.over(config.limits), request.prefer or config.prefer
    with open_run(config, emit) as run:
        merged = dataclasses.replace(run.config, limits=limits, prefer=prefer)
        context = dataclasses.replace(run, config=merged)
        trials = read_trials(context.ledger)
        # An accuracy of windows does not show that recordings miss a minimum.
        is_of_recordings = run.dataset.test.recordings is not None and merged.judge != "windows"
        shown = dataclasses.replace(limits, min_accuracy=None) if is_of_recordings else limits
        candidates = within_limits(pick_candidates(context, trials), shown, run.folder.path)
        objectives = run.config.objectives if request.prefer is None else EVERY_OBJECTIVE
        goal = Goal(limits, prefer, objectives)
        choice = choose([candidate.option for candidate in candidates], goal)
        chosen = next(c for c in candidates if c.option.number == choice.number)
        context.report(PICK, f"{chosen.label}, {choice.reason}")
        folder = request.out or run.folder.picks / f"{chosen.name}-{request.name}"
        context = dataclasses.replace(context, folder=RunFolder(folder, run.folder.path))
        with _locked(folder, run.folder):
            outcome = _ship(context, trials, chosen)
        draw(run.folder, run.ledger)
    return PickResult(chosen.label, choice.reason, outcome)


@contextmanager
def _locked(folder: Path, run: RunFolder) -> Iterator[None]:
    """Hold the lock of a pick's folder; the lock of its run covers one that lies in the run.

    Raises
    ------
    ConfigError
        If the folder holds a run, or another command works in it.
    """
    _check_no_run(folder)
    if real_path(folder).is_relative_to(real_path(run.path)):
        yield
        return
    with RunLock(folder):
        _check_no_run(folder)
        own = RunFolder(folder)
        for part in (own.checkpoints, own.models, own.artifact):
            files.remove_leftovers(part)
        files.remove_leftovers_of(folder / STEPS_CHART)
        yield


def _check_no_run(folder: Path) -> None:
    if RunFolder(folder).definition_file.exists():
        raise ConfigError(
            f"--out {folder} holds a run, a pick needs a folder of its own",
            fix="give another folder with --out, or leave it out",
        )


def _ship(context: RunContext, trials: Trials, chosen: PickCandidate) -> Outcome:
    """Train, compress and export a candidate, as far as it is not done yet."""
    folder = context.folder.artifact
    if manifest.is_complete(folder):
        context.report(PICK, f"this pick is finished: {folder}")
        return written_outcome(folder)
    reserved = stage_budget(context, trials, chosen.trial, context.config.budget_seconds or 0.0)
    end = None if context.command_end is None else context.command_end - reserved.verify
    if not (context.folder.best / _RECIPE).is_file():
        left = math.inf if end is None else end - reserved.compress - context.ledger.alive_seconds()
        _save_float(context, trials, chosen, left)
    best, recipe = stages.winner(context)
    step = None if chosen.step is None else Model.load(chosen.step)
    with stages.naming_best_net_on_interrupt(context):
        stages.compress(context, best, recipe, end, step=step)
        return stages.export_and_verify(context, step)


def _save_float(context: RunContext, trials: Trials, chosen: PickCandidate, left: float) -> None:
    """Save the float net of a candidate, trained to the end, as `models/best` of the pick."""
    number, request = chosen.trial, stages.search_request(context)
    has_final = bool(trials.final_results(number))
    if chosen.step is not None:
        model = Model.load(chosen.step.parent / _REFERENCE)
    else:
        # Recorded once, so that an interrupted pick continues with the same epochs.
        event = context.ledger.get(EventKind.PICK, context.folder.path.name)
        if event is None:
            epochs = (
                trials.best_result(number).epochs
                if has_final
                else epochs_to_end(
                    request, trials, number, left, lambda s: _budget_for(context, trials, number, s)
                )
            )
            event = {"number": number, "epochs": epochs}
            context.ledger.record(EventKind.PICK, context.folder.path.name, event)
        model = train_to_end(request, trials, number, int(event["epochs"]))
    if has_final:
        recipe = recipe_of(trials[number].recipe, trials.best_result(number).key)
    else:
        recipe = trials.complete_recipe(number)
    model.save(context.folder.best)
    recipe = dataclasses.replace(recipe, epochs=trials.epochs_of(number))
    files.write(context.folder.best / _RECIPE, recipe.to_json() + "\n")


def _budget_for(context: RunContext, trials: Trials, number: int, seconds: float) -> float:
    """The shortest budget of a pick in which a trial can be trained for so many seconds."""
    passed = context.ledger.session_seconds()
    budget = passed + seconds
    while True:
        reserved = stage_budget(context, trials, number, budget)
        # Where all of the budget is reserved, the stages may need more.
        if passed + seconds + reserved.compress + reserved.verify <= budget:
            return budget
        budget *= 1.05


def stage_budget(
    context: RunContext, trials: Trials, number: int, budget: float
) -> time_budget.StageBudget:
    """Estimated seconds of compression and verification of a trial, within `budget` seconds."""
    epoch = seconds_per_epoch(stages.search_request(context), trials, number)
    return time_budget.stage_budget(
        budget, stages.budget_inputs(context), epoch, trials.epochs_of(number)
    )


def pick_candidates(context: RunContext, trials: Trials) -> list[PickCandidate]:
    """All trained trials, and the pruned nets that a compression of this run has accepted."""
    request, validation = stages.search_request(context), context.dataset.validation

    def option(number: int, correct: np.ndarray, cost: Cost) -> Option:
        return Option(number, correct, cost, validation.groups, validation.strata)

    candidates = []
    for number, cost in trial_costs(request, trials).items():
        results = trials.final_results(number) or [trials.search_result(number)]
        correct = np.mean([result.correct for result in results], axis=0)
        candidate = PickCandidate(
            f"trial {number}", f"trial-{number}", option(number, correct, cost), number
        )
        candidates.append(candidate)
    steps = [
        folder / step.name
        for folder in sorted(context.folder.models.glob("compressed-*"))
        for step in read_steps(folder)
        if step.is_accepted and step.name.startswith("pruned")
    ]
    winners = list(context.ledger.all(EventKind.WINNER).values())
    winner = winners[-1]["number"] if winners else 0
    models = [Model.load(step) for step in steps]
    costs = net_costs(request, [model.arch for model in models])
    # Numbered after all trials, so that no two options share a number.
    for number, (step, model, cost) in enumerate(
        zip(steps, models, costs, strict=True), len(trials)
    ):
        size = model.arch.size
        decoded = context.dataset.decoded_files("validation", size, context.folder.cache)
        correct = is_correct(model, load_labelled(decoded), device=context.device)
        label = f"{step.name} of the winner"
        candidates.append(
            PickCandidate(label, step.name, option(number, correct, cost), winner, step)
        )
    return candidates


def within_limits(
    candidates: Sequence[PickCandidate], limits: Limits, run: Path
) -> list[PickCandidate]:
    """The candidates that satisfy the limits, as far as costs and validation accuracies show.

    Raises
    ------
    DataError
        If there are no candidates.
    InfeasibleError
        If no candidate does; says which limit is the problem and what would fit.
    """
    if not candidates:
        raise DataError(f"{run} has trained nothing yet", fix="run `lepton search` first")
    feasible = [c for c in candidates if not violations(c.option.cost, limits)]
    if not feasible:
        raise _too_expensive(candidates, limits)
    least, best = limits.min_accuracy, max(feasible, key=lambda c: c.option.accuracy)
    if least is not None and _upper_bound(best.option) < least:
        reached = best.option.accuracy
        raise InfeasibleError(
            f"no trained net within the other limits reaches an accuracy of {least:.2%} on "
            f"validation; the best, {best.label}, has {reached:.2%}",
            fix=f"{would_fit({'min_accuracy': reached})}; or search longer: the same run with a "
            "larger --budget or --trials",
        )
    return feasible


def _too_expensive(candidates: Sequence[PickCandidate], limits: Limits) -> InfeasibleError:
    nearest = min(candidates, key=lambda c: sum(violations(c.option.cost, limits).values()))
    broken = violations(nearest.option.cost, limits)
    values = {name: LIMITS[name].measured(nearest.option.cost) or 0.0 for name in broken}
    wanted = ", ".join(f"{LIMITS[n].words} {_text(n, limits.stated[n])}" for n in broken)
    return InfeasibleError(
        f"none of the {len(candidates)} trained nets and pruned steps has {wanted}; the nearest, "
        f"{nearest.label}, has {', '.join(_text(n, value) for n, value in values.items())}",
        fix=f"{would_fit(values)}; or search with this limit, into another folder",
    )


def _text(limit: str, value: float) -> str:
    return quantity_text(value, LIMITS[limit].unit)


def _upper_bound(option: Option) -> float:
    """Upper end of the 95 % interval of the validation accuracy."""
    if option.strata is not None:
        return accuracy_interval(option.correct, option.groups, option.strata)[1]
    n = len(option.correct)
    return wilson_interval(round(option.accuracy * n), n)[1]
