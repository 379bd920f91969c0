"""Each stage of a run on an open run: search, compress, export and verify."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lepton_automl.compress.context import CompressionContext, MeasureLatency
from lepton_automl.compress.decisions import (
    end_check_decision,
    pruning_decision,
    quantization_decision,
)
from lepton_automl.compress.loop import compress as run_compression
from lepton_automl.compress.steps import REFIT, CompressionResult
from lepton_automl.config import MAIN_PROCESS_BYTES
from lepton_automl.core import untrusted_files
from lepton_automl.core.decisions import Decision
from lepton_automl.cost.latency import Timing, predicted_milliseconds
from lepton_automl.data.folds import assign_folds, folds_to_use, group_count, is_small
from lepton_automl.data.tensors import load_labelled
from lepton_automl.errors import DataError
from lepton_automl.metrics.intervals import is_near_chance
from lepton_automl.models.model import Model
from lepton_automl.option_texts import fold_count
from lepton_automl.pipeline import charts, front
from lepton_automl.pipeline.context import RunContext
from lepton_automl.pipeline.export import reject_rate, write_and_verify
from lepton_automl.pipeline.outcome import Outcome
from lepton_automl.runs import time_budget
from lepton_automl.runs.ledger import record_decision
from lepton_automl.search import observers
from lepton_automl.search.finals.results import winner_speed
from lepton_automl.search.finals.winner import load_winner_fold_nets
from lepton_automl.search.loop import search as run_search
from lepton_automl.search.request import SearchRequest, SearchResult
from lepton_automl.search.space.search_space import SearchSpace
from lepton_automl.search.trials import read_plans
from lepton_automl.training.recipe import Recipe

REFIT_SAMPLES = 20_000
"""Training and validation samples together below which the net that ships is trained on both parts
("Training on all samples" in docs/decisions.md); with few groups also where there are more."""

_START_AGAIN = "start again with --fresh, which moves the old folder aside"

StageSeconds = Callable[[float, int], Mapping[str, float]]
"""Seconds by stage, given the seconds of an epoch and the epochs of a complete training."""


def search(context: RunContext, stage_budget: StageSeconds | None = None) -> SearchResult:
    """Search for the best float net and draw the front.

    Parameters
    ----------
    context : RunContext
        Configuration, data, folder.
    stage_budget : callable, optional
        Time of the budget that is reserved for the stages after the search; by default there are
        none.

    Raises
    ------
    LeptonError
        As `search.loop.search`.
    """
    with observers.notified(context.config, context.folder, context.ledger, context.emit):
        result = run_search(search_request(context, stage_budget))
    front.draw(context.folder, context.ledger)
    return result


def search_request(context: RunContext, stage_budget: StageSeconds | None = None) -> SearchRequest:
    """The input of the search of this run."""
    more: dict[str, Any] = {}
    if stage_budget is not None:
        least = functools.partial(time_budget.least_stage_seconds, budget_inputs(context))
        more = {"stage_budget": stage_budget, "least_stage_seconds": least}
    return SearchRequest(
        config=context.config,
        dataset=context.dataset,
        space=context.space,
        target=context.target,
        latency_model=context.latency_model,
        folder=context.folder,
        ledger=context.ledger,
        device=context.device,
        emit=context.emit,
        start_seconds=context.start_seconds,
        stopwatch=context.stopwatch,
        **more,
    )


def stage_budget(context: RunContext) -> StageSeconds:
    """Time reserved for compression, export and verification, as the search's plan needs it."""
    return lambda epoch_seconds, epochs: _stage_budget(context, epoch_seconds, epochs).by_stage


def _stage_budget(
    context: RunContext, epoch_seconds: float, epochs: int
) -> time_budget.StageBudget:
    budget, inputs = context.config.seconds_in_all or 0.0, budget_inputs(context)
    reserved = time_budget.stage_budget(budget, inputs, epoch_seconds, epochs)
    # With accuracy as the only objective nothing is pruned: the search gets that time.
    if context.config.goal.prefers_cheaper:
        return reserved
    return dataclasses.replace(reserved, compress=reserved.quantize)


def budget_inputs(context: RunContext) -> time_budget.BudgetInputs:
    """Sizes and speed from which the time of the stages after the search is estimated."""
    data = context.dataset
    return time_budget.BudgetInputs(
        len(data.train),
        len(data.validation),
        len(data.test),
        context.start_seconds,
        _recipe_epochs(context.space) if refits(context) else 0,
    )


def _recipe_epochs(space: SearchSpace) -> int:
    """Most epochs that a recipe of the space has."""
    values = [value for each in space.train_parameters("epochs") for value in each.values]
    return max((int(value) for value in values), default=Recipe().epochs)


def refits(context: RunContext) -> bool:
    """Whether the net that ships is trained on the training and validation parts together."""
    wanted, data = context.config.refit, context.dataset
    if wanted != "auto":
        return wanted == "on"
    if reject_rate(context):  # Its threshold is fitted on the validation part.
        return False
    count = len(data.train) + len(data.validation)
    return count < REFIT_SAMPLES or is_small(data.train, data.validation)


def _planned_stage_budget(context: RunContext) -> time_budget.StageBudget:
    """The stage budget at the speed at which the winner was trained; before, at the planned one."""
    plans, speed = read_plans(context.ledger), winner_speed(context.ledger)
    if not plans:
        return _stage_budget(context, 0.0, 0)
    if speed is None:
        return _stage_budget(context, plans[-1].epoch_seconds, plans[-1].whole_epochs)
    return _stage_budget(context, speed.epoch_seconds, speed.epochs)


def compression_end(context: RunContext) -> float | None:
    """Alive seconds of the run at which compression has to end; None without a budget."""
    budget = context.config.seconds_in_all
    return None if budget is None else budget - _planned_stage_budget(context).verify


def compress(
    context: RunContext,
    best: Model,
    recipe: Recipe,
    end: float | None,
    *,
    step: Model | None = None,
    prunes: bool = True,
    is_aim: bool = False,
    may_refit: bool = True,
) -> CompressionResult:
    """Prune, recover and quantize.

    Parameters
    ----------
    context : RunContext
        Data, limits, folder.
    best : Model
        The float net that every drop is measured against.
    recipe : Recipe
        How it was trained.
    end : float or None
        Alive seconds of the run at which compression ends; None: no time limit.
    step : Model, optional
        A pruned net of `best`, which is only quantized.
    prunes : bool
        Whether `best` is pruned before it is quantized.
    is_aim : bool
        Whether pruning stops as soon as the cost limits are met.
    may_refit : bool
        Whether the net that ships may be trained on the validation part too (`refits`).
    """
    dataset, size, ledger = context.dataset, best.arch.size, context.ledger
    train, validation = (
        load_labelled(dataset.decoded_files(part, size, context.folder.cache))
        for part in ("train", "validation")
    )
    planned, is_refit = _planned_stage_budget(context), may_refit and refits(context)
    refit_epochs, least_refit_epochs = _refit_epochs(context, best, recipe) if is_refit else (0, 0)
    compression = CompressionContext(
        train=train,
        validation=validation,
        reference=best,
        limits=context.config.limits,
        target=context.target,
        recipe=recipe,
        seed=context.config.seed,
        device=context.device,
        memory=context.config.memory - MAIN_PROCESS_BYTES,
        epochs=_recovery_epochs(context, recipe, end) if prunes and step is None else 0,
        seconds_left=None if end is None else lambda: end - ledger.alive_seconds(),
        quantize_seconds=planned.quantize,
        refit_epochs=refit_epochs,
        least_refit_epochs=least_refit_epochs,
        refit_seconds=planned.refit if is_refit else 0.0,
        fits_temperature=context.config.temperature == "auto",
        emit=context.emit,
        measure=_measure(context),
        latency_basis=context.latency_model.basis if context.latency_model else "measured",
        is_aim=is_aim,
        **_folds(context, judges_cuts=prunes and step is None and not is_aim),
    )
    folder = compressed_folder(context, step or best)
    result = run_compression(step or best, compression, folder)
    record_decision(ledger, quantization_decision(folder))
    if result.temperature is not None:
        record_decision(ledger, result.temperature.decision())
    if prunes and step is None:
        record_decision(ledger, pruning_decision(result.steps, compression))
        if (judged := end_check_decision(compression)) is not None:
            record_decision(ledger, judged)
    if may_refit and context.config.refit == "auto":
        record_decision(ledger, _refit_decision(context, result))
    charts.write_compression_chart(context.folder.path, result.steps)
    return result


def _refit_epochs(context: RunContext, best: Model, recipe: Recipe) -> tuple[int, int]:
    """Epochs of the training on all samples, and the fewest that are worth their time.

    It gets as many as the winner has had, or as a recipe has: where the winner is the net of a
    rung, with few epochs, time is kept for as many as a complete training has.
    """
    own, complete = round(best.metrics.get("epochs", recipe.epochs)), _recipe_epochs(context.space)
    return max(own, complete), math.ceil(time_budget.LEAST_REFIT_SHARE * min(own, complete))


def _folds(context: RunContext, *, judges_cuts: bool) -> dict[str, Any]:
    """Fields of `CompressionContext` on groups and folds, and the nets that the search has left."""
    data = context.dataset
    groups = {"validation_groups": data.validation.groups}
    most = folds_to_use(data.train, data.validation, fold_count(context.config.folds))
    if not judges_cuts or most == 1:
        return groups
    folds = assign_folds(data.train, data.validation, context.config.seed)
    if folds.samples.groups is not None:
        groups = {"validation_groups": folds.samples.groups[folds.evaluated_index(0)]}
    nets = load_winner_fold_nets(context.folder.best, folds)
    most = max(most, 1 + max(nets, default=0))
    return groups | {"folds": folds, "most_folds": most, "fold_references": nets}


def _refit_decision(context: RunContext, result: CompressionResult) -> Decision:
    """Whether the net that ships was trained on all samples, and why."""
    data = context.dataset
    groups = group_count(data.train, data.validation)
    count = len(data.train) + len(data.validation)
    counted = f"{count} training and validation samples"
    in_groups = counted if groups is None else f"{counted} in {groups} groups"
    steps = [step for step in result.steps if step.name == REFIT]
    why = steps[-1].why if steps else ""
    evidence = why.replace(counted, in_groups) if counted in why else in_groups
    evidence += f"; {why}" if why and counted not in why else ""
    if result.is_refit:
        choice, option = "trained on the validation part too, after all choices", "--refit off"
    else:
        choice, option = "not trained on the validation part", "" if steps else "--refit on"
    choice = f"the net that ships was {choice}"
    return Decision("training on all samples", choice, evidence, "assumed", option)


def _recovery_epochs(context: RunContext, recipe: Recipe, end: float | None) -> int:
    """Epochs of recovery at most; with a time limit a net that was trained briefly may get more."""
    plans = read_plans(context.ledger)
    own = 0 if end is None or not plans else plans[-1].own_epochs
    return max(1, round(time_budget.RECOVERY_SHARE * max(recipe.epochs, own)))


@contextmanager
def naming_best_net_on_interrupt(context: RunContext) -> Iterator[None]:
    """Report where the best float net is when the user interrupts the block."""
    try:
        yield
    except KeyboardInterrupt:
        context.report("run", f"stopped; the best float net is in {context.folder.best}")
        raise


def _measure(context: RunContext) -> MeasureLatency | None:
    """Measured latencies, replayed by a resumed run, or predicted ones; None: none are needed."""
    if context.latency_model is not None and context.config.asks_for_latency:
        return functools.partial(predicted_milliseconds, context.latency_model)
    return Timing(context.ledger, context.stopwatch).milliseconds if context.is_timed else None


def export_and_verify(context: RunContext, step: Model | None = None) -> Outcome:
    """Write the artifact of a compressed net, verify it and seal its folder.

    Raises
    ------
    DataError
        If nothing was searched or compressed yet.
    """
    best, _ = winner(context)
    result = CompressionResult.load(compressed_folder(context, step or best))
    return write_and_verify(context, best, result)


def winner(context: RunContext) -> tuple[Model, Recipe]:
    """The best net of the search and its training recipe.

    Raises
    ------
    DataError
        If the run has no winner yet.
    """
    context.folder.check_winner()
    folder = context.folder.best
    return Model.load(folder), Recipe.from_json(
        untrusted_files.read_text(folder / "recipe.json", fix=_START_AGAIN)
    )


def check_better_than_chance(name: str, share: float, classes: int, *, why: str, fix: str) -> None:
    """Reject a given net whose validation accuracy is near that of guessing.

    Parameters
    ----------
    name : str
        Name of the net in the message.
    share : float
        Share of the validation samples classified correctly, 0 to 1.
    classes : int
        Number of classes.
    why, fix : str
        What may be wrong, and the way out.

    Raises
    ------
    DataError
        If `share` is near that of guessing (`is_near_chance`).
    """
    if is_near_chance(share, classes):
        raise DataError(
            f"{name} classifies {share:.1%} of the validation samples correctly, guessing "
            f"{1 / classes:.1%}: {why}",
            fix=fix,
        )


def compressed_folder(context: RunContext, best: Model) -> Path:
    """One folder a winner: a longer search may end with another one, whose steps differ."""
    return context.folder.models / f"compressed-{best.digest[:8]}"
