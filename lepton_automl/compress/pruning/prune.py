"""Structured pruning: cut the candidate with the best score, fine-tune, accept or reject."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from lepton_automl.compress.acceptance import Judgement, is_hopeless, judge_pruned
from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.cross_fit import NO_NETS, FoldNets, fold_context
from lepton_automl.compress.evaluation import keeps_class_limit, validation_accuracy
from lepton_automl.compress.pruning.candidates import Cut, apply_cut, pruning_candidates
from lepton_automl.compress.pruning.savings import is_within
from lepton_automl.compress.recovery import OutOfTime, RecoveryBudget, recover, recovery_budget
from lepton_automl.cost.latency import NetFile
from lepton_automl.data.tensors import subset
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.training.loop import Diverged

_ACCURACY = "validation_accuracy"

_SLOWER = 1.02
"""Latency ratio up to which a cut net counts as no slower; below it is timer noise."""

_MORE_SECONDS = 1.3
"""Factor on the time of the same work on the net of another fold."""

RECOVERIES, MAX_RECOVERIES_TO_LIMITS = 2, 6
"""Of one cut, unless it is hopeless after the first; while it is rejected and still improves, where
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
    judgement: Judgement | None = None
    """On the acceptance pictures; None where the cut was given up before."""
    fold_nets: FoldNets = field(default_factory=dict)
    """The nets of other folds that judged it, after the same cut."""
    is_out_of_time: bool = False
    """Whether nothing was cut because the time was used up."""


def prune(
    model: Model,
    context: CompressionContext,
    share: float = 0.25,
    known: frozenset[str] = frozenset(),
    tries: int = 1,
    fold_nets: FoldNets = NO_NETS,
) -> PruningAttempt:
    """Cut channels or a layer, fine-tune with the unpruned net as teacher, and judge the result.

    Of all candidates the one with the least KL divergence for its saving is tried. It is judged
    once, by `acceptance.judge_pruned`. Where there is no time to train, the reconstructed net is
    judged as it is.

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
    tries : int
        Nets judged in this compression, with this one.
    fold_nets : mapping of int to Model
        Nets of other folds, of the architecture of `model`: they are cut in the same way and
        judged too, unless the net is hopeless on the validation part.
    """
    candidates = pruning_candidates(model, context, share, known)
    if not candidates:
        return PruningAttempt(None, False, "no further cut reduces the cost")
    best = min(candidates, key=lambda candidate: candidate.score)
    pruned, description = best.model, str(best.cut)
    slower = _slower(model.arch, pruned.arch, context)
    if slower:
        return PruningAttempt(pruned, False, f"{description}, {slower}")
    begun = time.monotonic()
    try:
        budget = recovery_budget(pruned, context, context.reserved_seconds)
        trained = pruned if budget is None else recover(pruned, context, budget)
    except Diverged as error:
        return PruningAttempt(pruned, False, error.what)
    except OutOfTime:
        return PruningAttempt(None, False, "the time is used up", is_out_of_time=True)
    trained = dataclasses.replace(trained, parent=model.digest)
    if budget is not None and _reaches_limits(trained.arch, context):
        return _recovered_while_improving(trained, context, description, [budget], tries)
    trained, budgets = _recovered(trained, context, budget)
    nets = NO_NETS
    if fold_nets and not is_hopeless(trained, context):
        seconds = time.monotonic() - begun
        nets = _cut_fold_nets(fold_nets, best.cut, budgets, context, seconds)
    attempt = _judged(trained, context, description, budgets, tries, nets)
    return dataclasses.replace(attempt, fold_nets=nets)


def _recovered(
    model: Model, context: CompressionContext, first: RecoveryBudget | None
) -> tuple[Model, list[RecoveryBudget]]:
    """`model` after all its recoveries, or after the `first` one if it is hopeless; their budgets.

    It has had the first one, if there is one.
    """
    budgets = [] if first is None else [first]
    while budgets and len(budgets) < RECOVERIES and not is_hopeless(model, context):
        again = _recovered_again(model, context, len(budgets))
        if again is None:
            break
        model = again[0]
        budgets.append(again[1])
    return model, budgets


def _cut_fold_nets(
    nets: FoldNets,
    cut: Cut,
    budgets: Sequence[RecoveryBudget],
    context: CompressionContext,
    seconds: float,
) -> dict[int, Model]:
    """The nets of other folds after the same cut, and as many recoveries of equal length.

    Each net ranks its channels itself. Folds for which the time left is not enough are left out;
    `seconds` is how long the recoveries of the net of the validation part took.
    """
    made = dict[int, Model]()
    for fold, net in nets.items():
        if context.seconds_left is not None:
            left = context.seconds_left() - context.reserved_seconds
            if left < _MORE_SECONDS * seconds:
                break
        own = fold_context(context, fold)
        model = apply_cut(net, cut, own)
        try:
            for number, budget in enumerate(budgets):
                same = _for_fold(budget, context, own)
                model = recover(model, own, same, context.seed + number)
        except (Diverged, OutOfTime):
            break
        made[fold] = dataclasses.replace(model, parent=net.digest)
    return made


def _for_fold(
    budget: RecoveryBudget, context: CompressionContext, own: CompressionContext
) -> RecoveryBudget:
    """`budget` with the samples of a fold: all of them, or as many as it has."""
    is_part = len(budget.data) < len(context.train)
    data = subset(own.train, len(budget.data), context.seed) if is_part else own.train
    return RecoveryBudget(data, budget.epochs)


def _recovered_again(
    model: Model, context: CompressionContext, done: int
) -> tuple[Model, RecoveryBudget] | None:
    """`model` after one more recovery; None where that fails or there is no time for it."""
    try:
        budget = recovery_budget(model, context, context.reserved_seconds)
        if budget is None:
            return None
        trained = recover(model, context, budget, context.seed + done)
    except (Diverged, OutOfTime):
        return None
    return dataclasses.replace(trained, parent=model.parent), budget


def _recovered_while_improving(
    model: Model,
    context: CompressionContext,
    description: str,
    done: Sequence[RecoveryBudget],
    tries: int,
) -> PruningAttempt:
    """The attempt after further recoveries, while it is rejected and its drop falls."""
    attempt = _judged(model, context, description, done, tries)
    while not attempt.is_accepted and len(done) < MAX_RECOVERIES_TO_LIMITS:
        assert attempt.model is not None, "it was judged"
        assert attempt.judgement is not None, "it was judged"
        again = _recovered_again(attempt.model, context, len(done))
        if again is None:
            break
        before, (model, budget) = attempt.judgement.drop.points, again
        done = [*done, budget]
        attempt = _judged(model, context, description, done, tries)
        assert attempt.judgement is not None, "it was judged"
        if attempt.judgement.drop.points >= before:
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


def _judged(
    model: Model,
    context: CompressionContext,
    description: str,
    done: Sequence[RecoveryBudget],
    tries: int,
    fold_nets: FoldNets = NO_NETS,
) -> PruningAttempt:
    """Accept or reject a net on the pictures that judge it, with the reason in words."""
    judgement = judge_pruned(model, context, tries, fold_nets)
    reached = validation_accuracy(model, context)
    model = dataclasses.replace(model, metrics={_ACCURACY: reached})
    trained = _recoveries_text(done, len(context.train))
    is_accepted, why = judgement.is_accepted, f"{description}, {trained}, {judgement}"
    min_accuracy = context.limits.min_accuracy or 0.0
    if is_accepted and not keeps_class_limit(model, context, 0.5):
        limit = (context.limits.max_class_drop or 0.0) / 2
        is_accepted = False
        why = f"{description}, one class loses more on validation (limit {limit:.2f} points)"
    elif is_accepted and min_accuracy:
        least = min(min_accuracy, validation_accuracy(context.reference, context))
        if reached < least:
            is_accepted = False
            why = f"{description}, {reached:.2%} on validation (limit {min_accuracy:.2%})"
    return PruningAttempt(model, is_accepted, why, len(done), judgement)


def _recoveries_text(done: Sequence[RecoveryBudget], of: int) -> str:
    """Recoveries in words, where the training part has `of` samples."""
    times = {0: "not fine-tuned", 1: "fine-tuned once", 2: "fine-tuned twice"}
    text = times.get(len(done), f"fine-tuned {len(done)} times")
    least = min((len(budget.data) for budget in done), default=of)
    return text + (f" on {least:,} of {of:,} samples" if least < of else "")
