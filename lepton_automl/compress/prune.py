"""Structured pruning: a pure rewrite of (Arch, weights) through the widths of the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lepton_automl.arch import Arch
from lepton_automl.compress import Step, Work
from lepton_automl.compress.importance import importance
from lepton_automl.compress.plan import Effort, OutOfTime, deadline, effort
from lepton_automl.compress.savings import Savings, savings, smaller
from lepton_automl.compress.scoring import keeps_classes, validation_accuracy
from lepton_automl.cost import Written
from lepton_automl.errors import ArchError
from lepton_automl.graph import Conv, Linear, Width
from lepton_automl.model import Model
from lepton_automl.random_net import random_int8
from lepton_automl.targets import ChannelStep
from lepton_automl.train import Diverged, fit

OUTPUT_PARTS = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "bias")
"""Tensors of an operation with one number an output channel."""
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
    """Cut the least important channels, recover from the unpruned net, keep it if that pays.

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

        The sizes are multiples of what the target's kernels like, so that a cut net is not slower
        than the whole one.
        """
        sizes, scores = self._sizes(model, work)
        if not sizes:
            return Attempt(None, False, "no cut would save anything")
        less = model
        for name, size in sizes.items():
            best = torch.topk(scores[name], size).indices
            less = cut(less, name, sorted(best.tolist()))
        if less.arch.hash in self.known:
            return Attempt(None, False, "the next cut is one that was put back")
        slower = _slower(model.arch, less.arch, work)
        if slower:
            return Attempt(less, False, slower)
        share = effort(less, work, work.quantize_seconds)
        if share is None:
            return Attempt(None, False, "no time left to recover")
        try:
            recovered = recover(less, work, share)
        except Diverged as error:
            return Attempt(less, False, error.what)
        except OutOfTime:
            return Attempt(None, False, "the time is over")
        return _judged(dataclasses.replace(recovered, parent=model.digest), work)

    def _sizes(self, model: Model, work: Work) -> tuple[dict[str, int], dict[str, Tensor]]:
        """New sizes of widths, and how much each of their channels matters."""
        steps = channel_steps(model.arch, work.target.channel_step)
        scores = importance(model, work.train, work.seed)
        saves = savings(model.arch, steps, work)
        return chosen(model.arch, scores, steps, self.share, saves), scores


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


def chosen(
    arch: Arch,
    scores: Mapping[str, Tensor],
    steps: Mapping[str, int],
    share: float,
    saves: Savings,
) -> dict[str, int]:
    """Sizes of the widths to cut so that about `share` of the cost goes at the least loss.

    Parameters
    ----------
    arch : Arch
        Before the cut.
    scores : mapping of str to Tensor
        Width name -> importance of each channel.
    steps : mapping of str to int
        Width name -> multiple that its size is rounded to; never cut below it.
    share : float
        Of the cost, 0 to 1.
    saves : Savings
        What a smaller net saves.
    """
    ordered = {name: score.sort().values.cumsum(0) for name, score in scores.items()}
    sizes = {w.name: w.size for w in arch.graph.widths}
    start, now = dict(sizes), arch

    def lost(name: str, size: int) -> float:
        gone = start[name] - size
        return float(ordered[name][gone - 1]) if gone else 0.0

    while saves.of(now) < share:
        offers = []
        for name, size in sizes.items():
            for fewer in smaller(size, steps[name]):
                saved = saves.of(now.with_widths({name: fewer})) - saves.of(now)
                if saved > 0:
                    price = lost(name, fewer) - lost(name, size)
                    offers.append((price / saved, -fewer, name))
        if not offers:
            break
        _, fewer, name = min(offers)
        sizes[name] = -fewer
        now = now.with_widths({name: -fewer})
    return {name: size for name, size in sizes.items() if size < start[name]}


def channel_steps(arch: Arch, step: ChannelStep) -> dict[str, int]:
    """Width name -> the multiple its size is cut to."""
    filtered = {op.y.axis for op in arch.graph.weighted if isinstance(op, Conv) and op.depthwise}
    return {
        width.name: step.depthwise if width.axes & filtered else step.dense
        for width in arch.graph.widths
    }


def cut(model: Model, width_name: str, keep: Sequence[int]) -> Model:
    """The model with only the channels `keep` of one width.

    Parameters
    ----------
    model : Model
        Folded or not; quantization parameters are dropped.
    width_name : str
        Name of one of `model.arch.graph.widths`.
    keep : sequence of int
        Channels that stay, increasing, at least one.

    Raises
    ------
    ArchError
        If there is no such width, or `keep` is no increasing choice of its channels.
    """
    width = _width(model, width_name)
    if not keep or list(keep) != sorted({i for i in keep if 0 <= i < width.size}):
        raise ArchError(
            f"cannot keep channels {list(keep)} of {width_name}, which has {width.size}",
            fix="keep at least one channel, in increasing order",
        )
    index = torch.tensor(list(keep))
    weights = dict(model.weights)
    for op in model.arch.graph.weighted:
        weights |= _cut_operation(model, op, width, index)
    arch = model.arch.with_widths({width_name: len(keep)})
    return dataclasses.replace(
        model, arch=arch, weights=weights, qparams=None, metrics={}, parent=model.digest
    )


def _cut_operation(
    model: Model, op: Conv | Linear, width: Width, index: Tensor
) -> dict[str, Tensor]:
    """The tensors of `op` that the cut changes."""
    name, changed = f"{op.name}.weight", {}
    weight = model.weights[name]
    if op.y.axis in width.axes:
        weight = weight[index]
        for part in OUTPUT_PARTS:
            tensor = model.weights.get(f"{op.name}.{part}")
            if tensor is not None:
                changed[f"{op.name}.{part}"] = tensor[index]
    if op.x.axis in width.axes and not (isinstance(op, Conv) and op.depthwise):
        weight = weight[:, index]
    changed[name] = weight.contiguous()
    return changed


def _slower(before: Arch, after: Arch, work: Work) -> str:
    """Why the cut does not pay; nothing if it does, or if nobody measures."""
    if work.measure is None:
        return ""
    limit = work.target.weight_limit
    written = {"b": before, "a": after}
    times = work.measure({k: Written(v, random_int8(v, limit)) for k, v in written.items()})
    if times["a"] <= SLOWER * times["b"]:
        return ""
    called = "slower" if work.latency_basis == "measured" else f"{work.latency_basis} slower"
    return f"{called}: {times['a'] * 1000:.1f} us, before {times['b'] * 1000:.1f} us"


def _judged(model: Model, work: Work) -> Attempt:
    reference = validation_accuracy(work.reference, work)
    reached = validation_accuracy(model, work)
    drop = 100 * (reference - reached)
    model = dataclasses.replace(model, metrics={"validation_accuracy": reached})
    allowed = work.allowed_drop / 2
    why = f"{drop:+.2f} points lost on validation, {allowed:.2f} allowed"
    least = work.limits.min_accuracy or 0.0
    if drop > allowed + 1e-9:
        return Attempt(model, False, why)
    if not keeps_classes(model, work, 0.5):
        return Attempt(model, False, "a class loses more than half of what it may")
    if reached < min(least, reference):
        return Attempt(model, False, f"{reached:.2%} on validation, at least {least:.2%} asked")
    return Attempt(model, True, why)


def _width(model: Model, name: str) -> Width:
    known = {width.name: width for width in model.arch.graph.widths}
    if name not in known:
        raise ArchError(f"{name!r} is not a width of this net", fix=f"one of: {', '.join(known)}")
    return known[name]
