"""Offers: the cuts that a net could take next, each refitted, with what it saves and harms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lepton_automl.compress.context import Work
from lepton_automl.compress.evaluation import divergence, float_probabilities
from lepton_automl.compress.pruning.cut import cut, spare, without
from lepton_automl.compress.pruning.importance import IMPORTANCES
from lepton_automl.compress.pruning.refit import refit
from lepton_automl.compress.pruning.savings import Savings, savings, smaller
from lepton_automl.cost.targets import ChannelStep
from lepton_automl.data.sampling import PICTURES, balanced
from lepton_automl.models.arch import Arch
from lepton_automl.models.graph import Conv
from lepton_automl.models.model import Model


@dataclass(frozen=True)
class Offer:
    """A cut net before any training."""

    model: Model
    """Refitted."""
    what: str
    """What was cut, in words."""
    saved: float
    """Of the cost, 0 to 1; see `Savings`."""
    harm: float
    """How far its answers are from those before, nats."""

    @property
    def price(self) -> float:
        """Nats for the whole cost, at this rate."""
        return self.harm / self.saved


def offers(model: Model, work: Work, share: float, known: frozenset[str]) -> list[Offer]:
    """Channels for about `share` of the cost, by each importance, and every layer alone.

    What is predicted before the refit says little of what is left after it, so each cut is made,
    refitted and compared by its answers on training pictures. Where the time is over, those that
    are ready are all.

    Parameters
    ----------
    model : Model
        Not folded.
    work : Work
        Data, target and limits.
    share : float
        Of the cost, 0 to 1.
    known : frozenset of str
        Hashes of architectures that are not to be offered.
    """
    pixels = work.train.pixels[balanced(work.train.labels, PICTURES, work.seed)]
    wanted = float_probabilities(model, pixels)
    found = []
    for less, what, saved in _cuts(model, work, share, known, pixels):
        harm = divergence(wanted, float_probabilities(less, pixels))
        found.append(Offer(less, what, saved, max(harm, 0.0)))
        if work.seconds_left is not None and work.seconds_left() <= work.quantize_seconds:
            break
    return found


def _cuts(
    model: Model, work: Work, share: float, known: frozenset[str], pixels: Tensor
) -> Iterator[tuple[Model, str, float]]:
    """Each cut that pays, refitted, in words, and what it saves."""
    steps = channel_steps(model.arch, work.target.channel_step)
    saves = savings(model.arch, steps, work)

    def pays(arch: Arch, saved: float, layer: int | None = None) -> bool:
        return saved > 0 and arch.hash not in known and saves.pays(work, arch, layer)

    for name, importance in IMPORTANCES.items():
        scores = importance(model, work.train, work.seed)
        sizes = chosen(model.arch, scores, steps, share, saves, saves.is_enough(work))
        less, kept = model, {}
        for width, size in sizes.items():
            kept[width] = torch.topk(scores[width], size).indices.sort().values
            less = cut(less, width, kept[width].tolist())
        if pays(less.arch, saved := saves.of(less.arch)):
            yield refit(less, model, kept, pixels), f"channels by {name}", saved
    for layer in spare(model.arch):
        less = without(model, layer)
        if pays(less.arch, saved := saves.of_layer(layer, less.arch), layer):
            yield refit(less, model, {}, pixels, gone=layer), f"layer {layer} left out", saved


def chosen(
    arch: Arch,
    scores: Mapping[str, Tensor],
    steps: Mapping[str, int],
    share: float,
    saves: Savings,
    is_enough: Callable[[Arch], bool] | None = None,
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
    is_enough : callable, optional
        Ends it earlier.
    """
    ordered = {name: score.sort().values.cumsum(0) for name, score in scores.items()}
    sizes = {w.name: w.size for w in arch.graph.widths}
    start, now = dict(sizes), arch

    def lost(name: str, size: int) -> float:
        gone = start[name] - size
        return float(ordered[name][gone - 1]) if gone else 0.0

    while saves.of(now) < share and not (is_enough and is_enough(now)):
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
    filtered = {
        op.y.axis for op in arch.graph.weighted_ops if isinstance(op, Conv) and op.depthwise
    }
    return {
        width.name: step.depthwise if width.axes & filtered else step.dense
        for width in arch.graph.widths
    }
