"""Structured pruning: the cheapest cut on offer, recovered and judged."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from lepton_automl.arch import Arch
from lepton_automl.compress import Step, Work
from lepton_automl.compress.offers import offers
from lepton_automl.compress.plan import Effort, OutOfTime, deadline, effort
from lepton_automl.compress.scoring import keeps_classes, validation_accuracy
from lepton_automl.cost import Written
from lepton_automl.model import Model
from lepton_automl.random_net import random_int8
from lepton_automl.train import Diverged, fit

LR_SHARE = 0.5
"""Of the recipe's peak learning rate, what recovery uses: the net is nearly trained already."""
SLOWER = 1.02
"""A cut net may take this much of the time before and still count as no slower: timer noise."""


@dataclass(frozen=True)
class Attempt:
    """What came of trying to cut a share of a model away."""

    model: Model | None
    """The smaller model, recovered; None where nothing was there to cut."""
    is_accepted: bool
    why: str


class Prune(Step):
    """Cut channels or a layer, recover from the unpruned net, keep it if that pays.

    Parameters
    ----------
    share : float
        Of the cost, what to cut, 0 to 1; see `Savings`.
    known : frozenset of str
        Hashes of architectures that were tried before and need no second try.
    """

    def __init__(self, share: float = 0.25, known: frozenset[str] = frozenset()) -> None:
        self.share, self.known = share, known

    def __call__(self, model: Model, work: Work) -> Model:
        """The pruned model, or `model` itself."""
        tried = self.attempt(model, work)
        return tried.model if tried.model is not None and tried.is_accepted else model

    def attempt(self, model: Model, work: Work) -> Attempt:
        """Cut, recover, judge: at most half of the allowed drop is spent here, the rest is int8's.

        Of all offers the one that harms least for what it saves is tried. Where there is no time
        to train, the refitted net is judged as it is. Sizes are multiples of what the target's
        kernels like, so that a cut net is not slower than the whole one.
        """
        offered = offers(model, work, self.share, self.known)
        if not offered:
            return Attempt(None, False, "no further cut would save anything")
        least = min(offered, key=lambda offer: offer.price)
        less = least.model
        slower = _slower(model.arch, less.arch, work)
        if slower:
            return Attempt(less, False, f"{least.what}: {slower}")
        try:
            share = effort(less, work, work.quantize_seconds)
            ready = less if share is None else recover(less, work, share)
        except Diverged as error:
            return Attempt(less, False, error.what)
        except OutOfTime:
            return Attempt(None, False, "the time is over")
        told = f"{least.what}, " + ("" if share else "not trained, ")
        return _judged(dataclasses.replace(ready, parent=model.digest), work, told)


def recover(model: Model, work: Work, share: Effort) -> Model:
    """`model` after distillation from the reference."""
    recipe = dataclasses.replace(work.recipe, lr=work.recipe.lr * LR_SHARE)
    return fit(
        model,
        share.data,
        recipe,
        epochs=share.epochs,
        seed=work.seed,
        device=work.device,
        teachers=(work.reference,),
        turn=work.turn,
        tick=deadline(work, work.quantize_seconds),
    )


def _slower(before: Arch, after: Arch, work: Work) -> str:
    """Why the cut does not pay; nothing if it does, or if nobody measures."""
    if work.measure is None:
        return ""
    limit = work.target.weight_limit
    written = {"b": before, "a": after}
    # Files of their own, so that neither was timed before, at another moment.
    times = work.measure({k: Written(v, random_int8(v, limit, 2)) for k, v in written.items()})
    if times["a"] <= SLOWER * times["b"]:
        return ""
    called = "slower" if work.latency_basis == "measured" else f"{work.latency_basis} slower"
    return f"{called}: {times['a'] * 1000:.1f} us, before {times['b'] * 1000:.1f} us"


def _judged(model: Model, work: Work, told: str) -> Attempt:
    reference = validation_accuracy(work.reference, work)
    reached = validation_accuracy(model, work)
    drop = 100 * (reference - reached)
    model = dataclasses.replace(model, metrics={"validation_accuracy": reached})
    allowed = work.allowed_drop / 2
    why = f"{told}{drop:+.2f} points lost on validation, {allowed:.2f} allowed"
    least = work.limits.min_accuracy or 0.0
    if drop > allowed + 1e-9:
        return Attempt(model, False, why)
    if not keeps_classes(model, work, 0.5):
        return Attempt(model, False, "a class loses more than half of what it may")
    if reached < min(least, reference):
        return Attempt(model, False, f"{reached:.2%} on validation, at least {least:.2%} asked")
    return Attempt(model, True, why)
