"""Structured pruning: cut the candidate with the best score, fine-tune, accept or reject."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.evaluation import (
    keeps_class_limit,
    validation_accuracy,
    validation_correct,
)
from lepton_automl.compress.pruning.candidates import pruning_candidates
from lepton_automl.compress.pruning.savings import is_within
from lepton_automl.compress.recovery import OutOfTime, recover, recovery_budget
from lepton_automl.cost.latency import NetFile
from lepton_automl.metrics.paired import paired_drop
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.training.loop import Diverged

_ACCURACY = "validation_accuracy"

_SLOWER = 1.02
"""Latency ratio up to which a cut net counts as no slower; below it is timer noise."""

MAX_RECOVERIES, MAX_RECOVERIES_TO_LIMITS = 3, 6
"""Of one cut, while it misses its limit within a standard error; while it still improves, where
it reaches the cost limits, because another cut would start from the beginning."""


@dataclass(frozen=True)
class PruningAttempt:
    """One cut, and whether it was accepted."""

    model: Model | None
    """The smaller model after its recoveries; None where nothing was cut."""
    is_accepted: bool
    why: str
    recoveries: int = 0
    """Fine-tunings done."""


def prune(
    model: Model,
    context: CompressionContext,
    share: float = 0.25,
    known: frozenset[str] = frozenset(),
) -> PruningAttempt:
    """Cut channels or a layer, fine-tune with the unpruned net as teacher, and judge the result.

    Of all candidates the one with the least KL divergence for its saving is tried. Half of the
    allowed drop may be spent here; the rest is left for quantization. Where there is no time to
    train, the refitted net is judged as it is.

    Parameters
    ----------
    model : Model
        Float, not folded.
    context : CompressionContext
        Data, limits, target and the budget for training.
    share : float
        Share of the cost to cut, 0 to 1; see `Savings`.
    known : frozenset of str
        Hashes of architectures that were tried before and are not tried again.
    """
    candidates = pruning_candidates(model, context, share, known)
    if not candidates:
        return PruningAttempt(None, False, "no further cut reduces the cost")
    best = min(candidates, key=lambda candidate: candidate.score)
    pruned = best.model
    slower = _slower(model.arch, pruned.arch, context)
    if slower:
        return PruningAttempt(pruned, False, f"{best.description}, {slower}")
    try:
        budget = recovery_budget(pruned, context, context.quantize_seconds)
        trained = pruned if budget is None else recover(pruned, context, budget)
    except Diverged as error:
        return PruningAttempt(pruned, False, error.what)
    except OutOfTime:
        return PruningAttempt(None, False, "the time is used up")
    trained = dataclasses.replace(trained, parent=model.digest)
    attempt = _judged(trained, context, best.description, 0 if budget is None else 1)
    return attempt if budget is None else _continued(attempt, context, best.description)


def _continued(
    attempt: PruningAttempt, context: CompressionContext, description: str
) -> PruningAttempt:
    """`attempt` after further recoveries, while it is rejected and close to its limit."""
    assert attempt.model is not None, "it was judged"
    reaches, parent = _reaches_limits(attempt.model.arch, context), attempt.model.parent
    most = MAX_RECOVERIES_TO_LIMITS if reaches else MAX_RECOVERIES
    while not attempt.is_accepted and attempt.recoveries < most:
        before, done = attempt.model, attempt.recoveries
        if not reaches and not _is_close(before, context):
            break
        try:
            budget = recovery_budget(before, context, context.quantize_seconds)
            if budget is None:
                break
            trained = recover(before, context, budget, context.seed + done)
        except (Diverged, OutOfTime):
            break
        trained = dataclasses.replace(trained, parent=parent)
        attempt = _judged(trained, context, description, done + 1)
        assert attempt.model is not None, "it was judged"
        if reaches and attempt.model.metrics[_ACCURACY] <= before.metrics[_ACCURACY]:
            break
    return attempt


def _reaches_limits(arch: Arch, context: CompressionContext) -> bool:
    """Whether a net keeps the cost limits, where these are the aim."""
    if not context.is_aim:
        return False
    file = random_int8_onnx(arch, context.target.weight_limit, 2)
    milliseconds = context.measure({"a": NetFile(arch, file)})["a"] if context.measure else None
    return is_within(context.limits, arch, len(file), milliseconds)


def _slower(before: Arch, after: Arch, context: CompressionContext) -> str:
    """In words, by how much the cut net is slower; empty if it is not, or latency is unlimited."""
    if context.measure is None or (context.is_aim and context.limits.max_latency_ms is None):
        return ""
    limit = context.target.weight_limit
    # Files of their own: known ones were timed at another moment, and machines drift.
    files = {
        name: NetFile(arch, random_int8_onnx(arch, limit, 2))
        for name, arch in (("b", before), ("a", after))
    }
    times = context.measure(files)
    if times["a"] <= _SLOWER * times["b"]:
        return ""
    kind = "slower" if context.latency_basis == "measured" else f"{context.latency_basis} slower"
    return f"{kind}: {times['a'] * 1000:.1f} us, before the cut {times['b'] * 1000:.1f} us"


def _is_close(model: Model, context: CompressionContext) -> bool:
    """Whether its drop exceeds the limit by at most one standard error."""
    before, after = (validation_correct(each, context) for each in (context.reference, model))
    drop = paired_drop(before, after, strata=context.validation.strata)
    return drop.points - (drop.points - drop.low) / 2 <= context.allowed_drop / 2


def _judged(
    model: Model, context: CompressionContext, description: str, recoveries: int
) -> PruningAttempt:
    """Accept or reject by the accuracy on validation, with the reason in words."""
    reference = validation_accuracy(context.reference, context)
    reached = validation_accuracy(model, context)
    drop, allowed = 100 * (reference - reached), context.allowed_drop / 2
    model = dataclasses.replace(model, metrics={_ACCURACY: reached})
    times = {0: "not fine-tuned", 1: "fine-tuned once", 2: "fine-tuned twice"}
    change = f"loses {drop:.2f}" if drop >= 0 else f"gains {-drop:.2f}"
    why = (
        f"{description}, {times.get(recoveries, f'fine-tuned {recoveries} times')}, "
        f"{change} points on validation (limit {allowed:.2f})"
    )
    min_accuracy = context.limits.min_accuracy or 0.0
    if drop > allowed + 1e-9:
        return PruningAttempt(model, False, why, recoveries)
    if not keeps_class_limit(model, context, 0.5):
        limit = (context.limits.max_class_drop or 0.0) / 2
        why = f"{description}, one class loses more on validation (limit {limit:.2f} points)"
        return PruningAttempt(model, False, why, recoveries)
    if reached < min(min_accuracy, reference):
        why = f"{description}, {reached:.2%} on validation (limit {min_accuracy:.2%})"
        return PruningAttempt(model, False, why, recoveries)
    return PruningAttempt(model, True, why, recoveries)
