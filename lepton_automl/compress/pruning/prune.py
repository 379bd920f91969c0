"""Structured pruning: the cheapest cut on offer, recovered and judged."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from lepton_automl.compress.context import Work
from lepton_automl.compress.evaluation import keeps_classes, validation_accuracy, validation_right
from lepton_automl.compress.pruning.candidates import offers
from lepton_automl.compress.pruning.savings import is_within
from lepton_automl.compress.recovery import OutOfTime, effort, recover
from lepton_automl.cost.latency import Written
from lepton_automl.metrics.paired import paired_drop
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.training.loop import Diverged

ACCURACY = "validation_accuracy"

SLOWER = 1.02
"""A cut net may take this much of the time before and still count as no slower: timer noise."""

RECOVERIES, AIMED_RECOVERIES = 3, 6
"""Of one cut, while it misses by no more than chance; while it gets better, where it is what
reaches the limits: cheaper than another cut from the start."""


@dataclass(frozen=True)
class Attempt:
    """What came of trying to cut a share of a model away."""

    model: Model | None
    """The smaller model, recovered; None where nothing was there to cut."""
    is_accepted: bool
    why: str
    recoveries: int = 0
    """Trainings that it took."""


def prune(
    model: Model, work: Work, share: float = 0.25, known: frozenset[str] = frozenset()
) -> Attempt:
    """Cut channels or a layer, recover from the unpruned net, judge the outcome.

    At most half of the allowed drop is spent here, the rest is int8's. Of all offers the one that
    harms least for what it saves is tried. Where there is no time to train, the refitted net is
    judged as it is. Sizes are multiples of what the target's kernels like, so that a cut net is not
    slower than the whole one.

    Parameters
    ----------
    model : Model
        The net to cut; it is not changed.
    work : Work
        Data, limits, target and the time.
    share : float
        Of the cost, what to cut, 0 to 1; see `Savings`.
    known : frozenset of str
        Hashes of architectures that were tried before and need no second try.
    """
    offered = offers(model, work, share, known)
    if not offered:
        return Attempt(None, False, "no further cut would save anything")
    least = min(offered, key=lambda offer: offer.price)
    less = least.model
    slower = _slower(model.arch, less.arch, work)
    if slower:
        return Attempt(less, False, f"{least.what}: {slower}")
    try:
        budget = effort(less, work, work.quantize_seconds)
        ready = less if budget is None else recover(less, work, budget)
    except Diverged as error:
        return Attempt(less, False, error.what)
    except OutOfTime:
        return Attempt(None, False, "the time is over")
    told = least.what + ("" if budget else ", not trained")
    ready = dataclasses.replace(ready, parent=model.digest)
    made = _judged(ready, work, told, 0 if budget is None else 1)
    return made if budget is None else _further(made, work, least.what)


def _further(made: Attempt, work: Work, what: str) -> Attempt:
    """Recovered again while there is time and hope."""
    assert made.model is not None, "it was judged"
    reaches, parent = _reaches(made.model.arch, work), made.model.parent
    while not made.is_accepted and made.recoveries < (AIMED_RECOVERIES if reaches else RECOVERIES):
        before, count = made.model, made.recoveries + 1
        if not reaches and not _is_close(before, work):
            break
        try:
            share = effort(before, work, work.quantize_seconds)
            if share is None:
                break
            ready = recover(before, work, share, work.seed + made.recoveries)
        except (Diverged, OutOfTime):
            break
        ready = dataclasses.replace(ready, parent=parent)
        made = _judged(ready, work, f"{what}, recovered {count} times", count)
        assert made.model is not None, "it was judged"
        if reaches and made.model.metrics[ACCURACY] <= before.metrics[ACCURACY]:
            break
    return made


def _reaches(arch: Arch, work: Work) -> bool:
    """Whether a net keeps the limits on costs, if these are the aim."""
    if not work.is_aim:
        return False
    file = random_int8_onnx(arch, work.target.weight_limit, 2)
    milliseconds = work.measure({"a": Written(arch, file)})["a"] if work.measure else None
    return is_within(work.limits, arch, len(file), milliseconds)


def _slower(before: Arch, after: Arch, work: Work) -> str:
    """Why the cut does not pay; nothing if it does, nobody measures, or other costs are the aim.

    Whoever asks for few bytes and states no latency gets them, be it a few percent slower.
    """
    if work.measure is None or (work.is_aim and work.limits.max_latency_ms is None):
        return ""
    limit = work.target.weight_limit
    written = {"b": before, "a": after}
    # Files of their own, so that neither was timed before, at another moment.
    times = work.measure({k: Written(v, random_int8_onnx(v, limit, 2)) for k, v in written.items()})
    if times["a"] <= SLOWER * times["b"]:
        return ""
    called = "slower" if work.latency_basis == "measured" else f"{work.latency_basis} slower"
    return f"{called}: {times['a'] * 1000:.1f} us, before {times['b'] * 1000:.1f} us"


def _is_close(model: Model, work: Work) -> bool:
    """Whether what it loses is within a standard error of what it may."""
    before, after = (validation_right(each, work) for each in (work.reference, model))
    drop = paired_drop(before, after, strata=work.validation.strata)
    return drop.points - (drop.points - drop.low) / 2 <= work.allowed_drop / 2


def _judged(model: Model, work: Work, told: str, recoveries: int) -> Attempt:
    reference = validation_accuracy(work.reference, work)
    reached = validation_accuracy(model, work)
    drop = 100 * (reference - reached)
    model = dataclasses.replace(model, metrics={ACCURACY: reached})
    allowed = work.allowed_drop / 2
    why = f"{told}, {drop:+.2f} points lost on validation, {allowed:.2f} allowed"
    least = work.limits.min_accuracy or 0.0
    if drop > allowed + 1e-9:
        return Attempt(model, False, why, recoveries)
    if not keeps_classes(model, work, 0.5):
        why = "a class loses more than half of what it may"
        return Attempt(model, False, why, recoveries)
    if reached < min(least, reference):
        why = f"{reached:.2%} on validation, at least {least:.2%} asked"
        return Attempt(model, False, why, recoveries)
    return Attempt(model, True, why, recoveries)
