"""Compress a model step by step; every step is recorded.

Prune while it pays, judge the int8 net, fit the temperature of its probabilities, train on all
samples where that is wanted, quantize.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from lepton_automl.compress.acceptance import Judgement, can_accept, judge_end
from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.cross_fit import (
    FoldNets,
    load_fold_nets,
    save_fold_nets,
    with_references,
)
from lepton_automl.compress.decisions import KL, ONE_GROUP
from lepton_automl.compress.evaluation import int8_file, validation_correct
from lepton_automl.compress.pruning.prune import prune
from lepton_automl.compress.pruning.savings import is_within
from lepton_automl.compress.quantization.quantize import QuantizationResult, quantize_model
from lepton_automl.compress.refit import refit
from lepton_automl.compress.steps import (
    CALIBRATION,
    QUANTIZED,
    REFIT,
    CompressionResult,
    StepRecord,
    accepted_steps,
    is_finished,
    read_steps,
    write_steps,
)
from lepton_automl.compress.temperature import Temperature, fit_temperature, with_temperature
from lepton_automl.core import files
from lepton_automl.core.events import Event
from lepton_automl.cost.latency import NetFile
from lepton_automl.metrics import balanced
from lepton_automl.metrics.intervals import accuracy_interval
from lepton_automl.models.model import Model
from lepton_automl.models.random_weights import random_int8_onnx

_FIRST_CUT = 0.4
"""Share of the cost that the first cut removes; every rejected cut halves it."""
_SMALLEST_CUT = 0.1
"""Smaller cuts do not pay for their recovery."""
_MAX_CUTS, _MAX_CUTS_TO_LIMITS = 6, 16
"""Cuts tried at most; where pruning is to reach the cost limits."""
_MENTIONED_POINTS = 0.1
"""Rounding to nearest is compared by accuracy in the record if it loses this much more."""


def compress(model: Model, context: CompressionContext, folder: Path) -> CompressionResult:
    """Prune while it pays, train on all samples if `context.refit_epochs` says so, quantize.

    Every step is written to `folder` before the next one begins, and a recorded step is read
    instead of repeated, so an interrupted compression continues where it stopped. A finished one
    is continued where pruning or the training on all samples had ended for lack of time, and there
    is time now: its int8 net and that training are superseded, and the cuts go on.

    Parameters
    ----------
    model : Model
        A trained float model, batch normalisation not folded.
    context : CompressionContext
        Data, limits, target and the budget for training.
    folder : Path
        Used for this model and these limits only.

    Raises
    ------
    MachineError
        If the folder cannot be written.
    """
    steps = list(read_steps(folder))
    if not steps:
        model.save(folder / "reference")
        record = _record("reference", model, context, why="all drops are relative to this net")
        _append(folder, steps, record)
    if is_finished(steps) and _can_go_on(steps, context):
        _supersede_end(steps, context, folder)
    if not (is_finished(steps) or steps[-1].name == REFIT):
        if context.epochs and context.folds is not None:
            context = with_references(context, folder)
        _prune_steps(steps, context, folder)
    while not is_finished(steps):
        _quantize_or_withdraw(steps, context, folder)
    return CompressionResult.load(folder)


def _has_time(context: CompressionContext) -> bool:
    """Whether there is time beside that of the steps after pruning."""
    return context.seconds_left is None or context.seconds_left() > context.reserved_seconds


def _can_go_on(steps: list[StepRecord], context: CompressionContext) -> bool:
    """Whether a finished compression had too little time for what this call has time for."""
    has_cuts = context.epochs > 0 and _next_cut(steps, context) > 0
    trains = any(step.is_short_of_time for step in _last_end(steps)) and context.refit_epochs > 0
    return _has_time(context) and ((steps[0].is_short_of_time and has_cuts) or trains)


def _last_end(steps: Sequence[StepRecord]) -> list[StepRecord]:
    """The steps after the last pruned net: a training on all samples and the int8 net."""
    count = 1 + (len(steps) > 1 and steps[-2].name == REFIT)
    return list(steps[-count:])


def _supersede_end(steps: list[StepRecord], context: CompressionContext, folder: Path) -> None:
    """Mark the end of a finished compression as superseded; its judgement counts as a try."""
    end = _last_end(steps)
    why = "superseded: the compression was continued with more time"
    steps[-len(end) :] = [
        dataclasses.replace(step, is_accepted=False, is_short_of_time=False, why=why)
        for step in end
    ]
    write_steps(folder, steps)
    context.emit(
        Event("compress", "the earlier compression had ended for lack of time and is continued")
    )


def _mark_pruned(steps: list[StepRecord], folder: Path, *, is_short_of_time: bool) -> None:
    """Record whether pruning has ended because the time was used up."""
    if steps[0].is_short_of_time != is_short_of_time:
        steps[0] = dataclasses.replace(steps[0], is_short_of_time=is_short_of_time)
        write_steps(folder, steps)


def _prune_steps(steps: list[StepRecord], context: CompressionContext, folder: Path) -> None:
    """Add a step for every cut that is tried, until one of the reasons to stop holds."""
    name, is_short_of_time = accepted_steps(steps)[-1].name, False
    current = Model.load(folder / name)
    fold_nets: FoldNets = load_fold_nets(context, folder, name)
    if context.epochs and not fold_nets and not can_accept(context):
        context.emit(Event("compress", f"no pruning: {ONE_GROUP}"))
        return
    while context.epochs and (share := _next_cut(steps, context)):
        if _reaches_limits(steps, current, context):
            context.emit(Event("compress", "no more pruning: the net is within the limits"))
            break
        if not _has_time(context):
            is_short_of_time = True
            more = "; --fresh with a larger --budget prunes further" if context.is_aim else ""
            context.emit(Event("compress", f"no more pruning: the time is used up{more}"))
            break
        known = frozenset(step.arch for step in steps)
        attempt = prune(current, context, share, known, _next_try(steps), fold_nets)
        if attempt.model is None:
            is_short_of_time = attempt.is_out_of_time
            context.emit(Event("compress", f"no more pruning: {attempt.why}"))
            break
        name = f"pruned-{len(steps)}"
        if attempt.is_accepted:
            current, fold_nets = attempt.model, attempt.fold_nets
            current.save(folder / name)
            save_fold_nets(folder, name, fold_nets)
        record = _record(name, attempt.model, context, attempt.is_accepted, why=attempt.why)
        record = _with_judgement(record, attempt.judgement, _next_try(steps))
        _append(folder, steps, record)
        context.emit(_event(record))
    _mark_pruned(steps, folder, is_short_of_time=is_short_of_time)


def _quantize_or_withdraw(
    steps: list[StepRecord], context: CompressionContext, folder: Path
) -> None:
    """Quantize the last accepted net; withdraw it where its int8 file loses too much.

    Where it is kept and is to be trained on all samples, the result of that is quantized instead.
    """
    accepted = accepted_steps(steps)
    if accepted[-1].name == REFIT:
        _quantize_refit(steps, context, folder)
        return
    result = quantize_model(Model.load(folder / accepted[-1].name), context)
    judgement = None
    if len(accepted) > 1:
        fold_nets = load_fold_nets(context, folder, accepted[-1].name)
        judgement = judge_end(result.model, context, _next_try(steps), fold_nets)
        if not judgement.is_accepted and not context.is_aim:
            place = steps.index(accepted[-1])
            steps[place] = _withdrawn(steps[place], judgement)
            write_steps(folder, steps)
            context.emit(_event(steps[place]))
            return
    if context.fits_temperature:  # Before a training on the samples that it is fitted on.
        fit_temperature(result.model, context).save(folder)
    record = _record(QUANTIZED, result.model, context, why=_comparison(result))
    record = _with_judgement(record, judgement, _next_try(steps))
    if context.refit_epochs and steps[-1].name != REFIT:
        made = _refit_step(steps, record, context, folder)
        if made.is_accepted:
            return
    _save_quantized(result, record, steps, context, folder)


def _refit_step(
    steps: list[StepRecord], judged: StepRecord, context: CompressionContext, folder: Path
) -> StepRecord:
    """Add the step of the training on all samples, with the figures of the int8 net before it."""
    made = refit(Model.load(folder / accepted_steps(steps)[-1].name), context)
    if made.model is not None:
        made.model.save(folder / REFIT)
    is_accepted = made.model is not None
    record = dataclasses.replace(
        judged,
        name=REFIT,
        is_accepted=is_accepted,
        why=made.why,
        is_short_of_time=made.is_out_of_time,
    )
    _append(folder, steps, record)
    context.emit(_event(record))
    return record


def _quantize_refit(steps: list[StepRecord], context: CompressionContext, folder: Path) -> None:
    """Quantize the net trained on all samples; its loss by int8 is relative to itself."""
    model, judged = Model.load(folder / REFIT), steps[-1]
    own = dataclasses.replace(context, reference=model, refit_epochs=0, refit_seconds=0.0)
    result = quantize_model(model, own)
    size = len(int8_file(result.model))
    record = dataclasses.replace(judged, name=QUANTIZED, size_bytes=size, why=_comparison(result))
    _save_quantized(result, record, steps, context, folder)


def _save_quantized(
    result: QuantizationResult,
    record: StepRecord,
    steps: list[StepRecord],
    context: CompressionContext,
    folder: Path,
) -> None:
    with_temperature(result.model, Temperature.load(folder)).save(folder / QUANTIZED)
    body = {
        "training_pictures": result.calibration_ids,
        "methods": [dataclasses.asdict(each) for each in result.results],
    }
    files.write_json(folder / CALIBRATION, body)
    _append(folder, steps, record)
    context.emit(_event(record))


def _next_try(steps: Sequence[StepRecord]) -> int:
    """The number of the next net that is judged, from 1; withdrawn ones were judged twice."""
    judged = [step for step in steps if step.name != REFIT]  # That has the figures of another one.
    return 1 + sum((step.tries > 0) + step.is_withdrawn for step in judged)


def _with_judgement(step: StepRecord, judgement: Judgement | None, tries: int) -> StepRecord:
    if judgement is None:
        return step
    return dataclasses.replace(
        step,
        drop=judgement.drop.points,
        expected_drop=judgement.expected,
        drop_bound=judgement.bound,
        drop_weight=judgement.weight,
        samples=judgement.drop.n,
        folds=judgement.folds,
        tries=tries,
    )


def _withdrawn(step: StepRecord, judgement: Judgement) -> StepRecord:
    why = f"withdrawn: its int8 file {judgement}"
    return dataclasses.replace(step, is_accepted=False, is_withdrawn=True, why=why)


def _comparison(result: QuantizationResult) -> str:
    """The method that was chosen, beside plain rounding to nearest."""
    nearest = result.results[0]
    text = (
        f"{result.method}, {KL} {result.kl_divergence:.2g} "
        f"({nearest.method}: {nearest.kl_divergence:.2g}"
    )
    loss = 0.0 if nearest.accuracy is None else 100 * (result.accuracy - nearest.accuracy)
    return text + (f", {loss:.1f} points less accurate)" if loss >= _MENTIONED_POINTS else ")")


def _next_cut(steps: list[StepRecord], context: CompressionContext) -> float:
    """Share of the cost that the next cut removes; 0 ends pruning."""
    cuts = [step for step in steps[1:] if step.name not in {REFIT, QUANTIZED}]
    if any(step.is_withdrawn for step in cuts):
        return 0.0
    most = _MAX_CUTS_TO_LIMITS if context.is_aim else _MAX_CUTS
    share = _FIRST_CUT / 2 ** sum(not step.is_accepted for step in cuts)
    return share if len(cuts) < most and share >= _SMALLEST_CUT else 0.0


def _reaches_limits(steps: list[StepRecord], current: Model, context: CompressionContext) -> bool:
    last = accepted_steps(steps)[-1]
    return context.is_aim and is_within(
        context.limits, current.arch, last.size_bytes, last.latency_ms
    )


def _record(
    name: str, model: Model, context: CompressionContext, is_accepted: bool = True, *, why: str
) -> StepRecord:
    limit = context.target.weight_limit
    file = int8_file(model) if model.qparams else random_int8_onnx(model.arch, limit)
    right, strata = validation_correct(model, context, context.held_out), context.validation.strata
    latency = None
    if context.measure:
        latency = context.measure({name: NetFile(model.arch, file)})[name]
    return StepRecord(
        name=name,
        accuracy=balanced.balanced_mean(right, strata),
        interval=accuracy_interval(right, context.validation_groups, strata),
        arch=model.arch.hash,
        size_bytes=len(file),
        macs=model.arch.graph.macs,
        latency_ms=latency,
        is_accepted=is_accepted,
        why=why,
        latency_basis=context.latency_basis,
    )


def _event(step: StepRecord) -> Event:
    verb = "accepted" if step.is_accepted else "rejected"
    text = f"{step.name} {verb}: {step.accuracy:.2%}, {step.size_bytes / 1000:.1f} kB; {step.why}"
    return Event("compress", text, data=dataclasses.asdict(step))


def _append(folder: Path, steps: list[StepRecord], step: StepRecord) -> None:
    steps.append(step)
    write_steps(folder, steps)
