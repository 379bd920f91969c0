"""Compress a model step by step; every step is recorded.

Prune while it pays, judge the int8 net, fit the temperature of its probabilities, train on all
samples where that is wanted, quantize.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lepton_automl.compress.acceptance import (
    RISK,
    Judgement,
    can_accept,
    judge_end,
    pictures_text,
    pruning_limit,
)
from lepton_automl.compress.context import (
    MIN_GROUPS_TO_SPLIT,
    MIN_PICTURES_TO_SPLIT,
    CompressionContext,
)
from lepton_automl.compress.cross_fit import (
    FoldNets,
    load_fold_nets,
    save_fold_nets,
    with_references,
)
from lepton_automl.compress.evaluation import int8_file, validation_correct
from lepton_automl.compress.pruning.prune import prune
from lepton_automl.compress.pruning.savings import is_within
from lepton_automl.compress.quantization.quantize import (
    MethodResult,
    QuantizationResult,
    quantize_model,
)
from lepton_automl.compress.refit import refit
from lepton_automl.compress.temperature import Temperature, fit_temperature, with_temperature
from lepton_automl.core import files, untrusted_files
from lepton_automl.core.decisions import Certainty, Decision
from lepton_automl.core.events import Event
from lepton_automl.core.field_types import check_types
from lepton_automl.cost.latency import NetFile
from lepton_automl.cost.latency_model import Basis
from lepton_automl.errors import DataError
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
_DECIDING_WEIGHT = 0.5
"""Weight of the pictures in the expected drop from which they decide."""
_ONE_GROUP = "all validation samples are of one group, which does not tell what another one loses"
REFIT, QUANTIZED = "refit", "quantized"
"""Names of steps: the float net trained on all samples, and the int8 net that ships."""
STEPS_FILE = "steps.json"
_KL = "KL divergence from float"
CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class StepRecord:
    """One step of a compression: its net, its cost and whether it was accepted."""

    name: str
    """`reference`, `pruned-1` and so on, `refit`, `quantized`."""
    accuracy: float
    """Share of validation pictures that are right, 0 to 1; of the int8 file once quantized. After a
    training on all samples that of the int8 file before it, which had not seen these pictures."""
    arch: str
    """`hash` of its architecture; empty for a model made elsewhere."""
    size_bytes: int
    """Of the int8 file."""
    macs: int
    latency_ms: float | None
    """Of the int8 file at batch 1; None where latencies are unknown."""
    is_accepted: bool
    why: str
    latency_basis: Basis = "measured"
    interval: tuple[float, float] | None = None
    """95 % interval of the accuracy."""
    drop: float | None = None
    """Accuracy points below the float model on the same samples, as far as it was judged; of a net
    of lepton a smoothed estimate (`metrics.paired.smoothed_drop`)."""
    expected_drop: float | None = None
    """`drop` together with what cuts to this size lost elsewhere (`compress.acceptance`), points;
    None where it was not judged. Of nets of lepton only, as is what follows."""
    drop_bound: float | None = None
    """One-sided upper bound of the expected drop, corrected for the tries, points."""
    drop_weight: float | None = None
    """Weight of the pictures in the expected drop, 0 to 1."""
    samples: int = 0
    """Pictures that judged it; 0: it was not judged."""
    folds: int = 1
    """Folds that these are of; 1: the validation part alone."""
    tries: int = 0
    """Which judged net of this compression it is, from 1; 0: it was not judged."""
    is_withdrawn: bool = False
    """Whether it was accepted as a float net, but its int8 file was rejected at the end."""
    is_short_of_time: bool = False
    """Of `reference`: whether pruning ended because the time was used up; of `refit`: whether the
    time was too short for it. A later call with more time goes on there (`compress`)."""
    float_layers: int = 0
    """Layers left in float; of a model made elsewhere."""


@dataclass(frozen=True)
class CompressionResult:
    """The models before and after a compression, and the records of its steps."""

    reference: Model
    """The float model that was compressed."""
    pruned_float: Model
    """The float model that `int8` was quantized from, with the same temperature."""
    int8: Model
    steps: tuple[StepRecord, ...]
    """In order, accepted or rejected."""
    temperature: Temperature | None = None
    """That of the probabilities of `pruned_float` and `int8`; None: none was fitted."""

    @property
    def is_refit(self) -> bool:
        """Whether the net that ships was trained on the validation part too."""
        return any(step.name == REFIT for step in _accepted(self.steps))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a finished compression.

        Raises
        ------
        DataError
            If it is not there or not finished.
        """
        steps = read_steps(folder)
        if not _is_finished(steps):
            raise DataError(
                f"{folder} holds no finished compression",
                fix="run `lepton compress` on this run first",
            )
        accepted = [step.name for step in _accepted(steps)]
        reference, pruned, int8 = (Model.load(folder / accepted[n]) for n in (0, -2, -1))
        fitted = Temperature.load(folder)
        return cls(reference, with_temperature(pruned, fitted), int8, steps, fitted)


def compress(model: Model, context: CompressionContext, folder: Path) -> CompressionResult:
    """Prune while it pays, train on all samples if `context.refit_epochs` says so, quantize.

    Every step is written to `folder` before the next one begins, and a recorded step is read
    instead of repeated, so an interrupted compression continues where it stopped. A finished one
    is continued where pruning or the training on all samples had ended for want of time, and there
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
    if _is_finished(steps) and _can_go_on(steps, context):
        _supersede_end(steps, context, folder)
    if not (_is_finished(steps) or steps[-1].name == REFIT):
        if context.epochs and context.folds is not None:
            context = with_references(context, folder)
        _prune_steps(steps, context, folder)
    while not _is_finished(steps):
        _quantize_or_withdraw(steps, context, folder)
    return CompressionResult.load(folder)


def _is_finished(steps: Sequence[StepRecord]) -> bool:
    return bool(steps) and steps[-1].name == QUANTIZED and steps[-1].is_accepted


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
    why = "superseded: the compression goes on with more time"
    steps[-len(end) :] = [
        dataclasses.replace(step, is_accepted=False, is_short_of_time=False, why=why)
        for step in end
    ]
    write_steps(folder, steps)
    context.emit(
        Event("compress", "the earlier compression had ended for want of time: it goes on")
    )


def _mark_pruned(steps: list[StepRecord], folder: Path, *, is_short_of_time: bool) -> None:
    """Record whether pruning has ended because the time was used up."""
    if steps[0].is_short_of_time != is_short_of_time:
        steps[0] = dataclasses.replace(steps[0], is_short_of_time=is_short_of_time)
        write_steps(folder, steps)


def _prune_steps(steps: list[StepRecord], context: CompressionContext, folder: Path) -> None:
    """Add a step for every cut that is tried, until one of the reasons to stop holds."""
    name, is_short_of_time = _accepted(steps)[-1].name, False
    current = Model.load(folder / name)
    fold_nets: FoldNets = load_fold_nets(context, folder, name)
    if context.epochs and not fold_nets and not can_accept(context):
        context.emit(Event("compress", f"no pruning: {_ONE_GROUP}"))
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
    accepted = _accepted(steps)
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
    made = refit(Model.load(folder / _accepted(steps)[-1].name), context)
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


def _accepted(steps: Sequence[StepRecord]) -> list[StepRecord]:
    return [step for step in steps if step.is_accepted]


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
    why = f"{step.why}; withdrawn: its int8 file {judgement}"
    return dataclasses.replace(step, is_accepted=False, is_withdrawn=True, why=why)


def _comparison(result: QuantizationResult) -> str:
    """The method that was chosen, beside plain rounding to nearest."""
    nearest = result.results[0]
    text = (
        f"{result.method}, {_KL} {result.kl_divergence:.2g} "
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


def end_check_decision(context: CompressionContext) -> Decision | None:
    """Which validation samples judge the end only; None where all of them judge every step."""
    if context.last is None:
        return None
    kept, rest = len(context.last.data), len(context.acceptance.data)
    return Decision(
        name="validation of compression",
        choice=f"{rest} validation samples accept or reject each step, {kept} others judge the end "
        "only",
        evidence=f"{kept + rest} validation samples are enough for that (from "
        f"{MIN_PICTURES_TO_SPLIT} on, and {MIN_GROUPS_TO_SPLIT} groups where there are groups)",
        certainty="inferred",
        option="",
        is_detail=True,
    )


def pruning_decision(steps: Sequence[StepRecord], context: CompressionContext) -> Decision:
    """How far a finished compression has pruned, from what evidence, and why it stopped."""
    cuts = [step for step in steps[1:] if step.name not in {REFIT, QUANTIZED}]
    kept, last = [step for step in cuts if step.is_accepted], steps[-1]
    judged = [step for step in steps if step.samples] or [steps[0]]
    count, folds = judged[-1].samples or len(context.validation), judged[-1].folds
    pictures = pictures_text(count, folds)
    certainty: Certainty = "measured"
    if kept and last.drop is not None:
        sizes = f"{steps[0].size_bytes / 1000:.1f} to {kept[-1].size_bytes / 1000:.1f} kB"
        choice = f"{len(kept)} of {len(cuts)} cuts kept, {sizes}"
        change = f"loses {last.drop:.2f}" if last.drop >= 0 else f"gains {-last.drop:.2f}"
        evidence = f"the int8 file {change} points on {pictures}, expected "
        evidence += f"{last.expected_drop:.2f}, at most {last.drop_bound:.2f} "
        evidence += f"(risk {RISK:g}, {last.tries} tries)"
        if (last.drop_weight or 0.0) < _DECIDING_WEIGHT:
            certainty = "assumed"
            evidence += f"; these samples alone cannot tell {context.allowed_drop:g} points"
    else:
        choice = "no pruning"
        evidence = f"{len(cuts)} cuts were rejected" if cuts else "no cut was tried"
        if folds == 1 and not can_accept(context):
            certainty, evidence = "assumed", _ONE_GROUP
        limit = pruning_limit(context)
        if any(step.tries and (step.expected_drop or 0.0) <= limit for step in cuts):
            certainty = "assumed"
            evidence += f": {pictures} cannot tell {context.allowed_drop:g} points"
    if context.limits.max_drop is None and can_accept(context):
        evidence += f"; without --max-drop a loss of {context.allowed_drop:g} points is allowed"
    if steps[0].is_short_of_time:
        evidence += "; the time was used up: a larger --budget goes on"
    rejected = [step for step in cuts if not step.is_accepted]
    if rejected:
        evidence += f"; {rejected[-1].name} rejected: {rejected[-1].why}"
    return Decision("pruning", choice, evidence, certainty, "--max-drop")


def quantization_decision(folder: Path) -> Decision:
    """Which method quantized the net of a finished compression, and what it was chosen from.

    Raises
    ------
    DataError
        If the record is damaged.
    """
    path = folder / CALIBRATION
    fix = f"remove {folder} and compress again"
    try:
        body = untrusted_files.read_json(path, fix=fix, top=dict, finite=False)
        made = [MethodResult(**each) for each in body["methods"]]
        pictures = len(body["training_pictures"])
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is damaged: {error}", fix=fix) from error
    figures = ", ".join(f"{each.method} {each.kl_divergence:.2g}" for each in made)
    evidence = f"{_KL} on {pictures} training samples: {figures}"
    chosen = read_steps(folder)[-1].why.partition(_KL)[0].removesuffix(", ")
    return Decision("quantization", chosen, evidence, "measured", "", is_detail=True)


def _reaches_limits(steps: list[StepRecord], current: Model, context: CompressionContext) -> bool:
    last = _accepted(steps)[-1]
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


def write_steps(folder: Path, steps: Sequence[StepRecord]) -> None:
    """Write the record that `read_steps` reads.

    Raises
    ------
    MachineError
        If the folder cannot be written.
    """
    files.write_json(folder / STEPS_FILE, [dataclasses.asdict(step) for step in steps])


def read_steps(folder: Path) -> tuple[StepRecord, ...]:
    """The steps recorded in `folder`; none where no compression began.

    Raises
    ------
    DataError
        If the record is damaged.
    """
    path = folder / STEPS_FILE
    if not path.is_file():
        return ()
    fix = f"remove {folder} and compress again"
    body = untrusted_files.read_json(path, fix=fix, top=list, finite=False)
    try:
        steps = tuple(StepRecord(**_fields(item)) for item in body)
        for step in steps:
            check_types(step)
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged: {error}", fix=fix) from error
    return steps


def _fields(item: dict[str, Any]) -> dict[str, Any]:
    bounds = item.get("interval")
    return item | {"interval": None if bounds is None else tuple(bounds)}
