"""Cuts that a net could take next, reconstructed, with their saving and their KL divergence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.evaluation import float_probabilities, kl_divergence
from lepton_automl.compress.pruning.cut import cut_channels, removable_layers, remove_layer
from lepton_automl.compress.pruning.importance import IMPORTANCES
from lepton_automl.compress.pruning.reconstruction import reconstruct
from lepton_automl.compress.pruning.savings import Savings, savings_for_limits, smaller_sizes
from lepton_automl.cost.targets import ChannelStep
from lepton_automl.data.sampling import PICTURES, balanced
from lepton_automl.models.arch import Arch
from lepton_automl.models.graph import Conv
from lepton_automl.models.model import Model


@dataclass(frozen=True)
class Cut:
    """What is cut: channels, the least important ones first, or one layer."""

    importance: str = ""
    """Name in `IMPORTANCES` of what ranks the channels; empty where a layer is removed."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Width name -> channels that are left, of the widths that are cut."""
    layer: int | None = None
    """Index of the layer that is removed; None where channels are cut."""

    def __str__(self) -> str:
        if self.layer is not None:
            return f"layer {self.layer} removed"
        return f"channels by {self.importance}"


@dataclass(frozen=True)
class PruningCandidate:
    """A cut net before any training."""

    model: Model
    """Refitted by least squares."""
    cut: Cut
    saving: float
    """Share of the cost, 0 to 1; see `Savings`."""
    kl_divergence: float
    """From the uncut net's probabilities on training pictures, nats."""

    @property
    def score(self) -> float:
        """KL divergence per saving, nats for the whole cost; less is better."""
        return self.kl_divergence / self.saving


def pruning_candidates(
    model: Model, context: CompressionContext, share: float, known: frozenset[str]
) -> list[PruningCandidate]:
    """Cut channels by each importance, and remove each removable layer on its own.

    Importances rank cuts poorly once the net is reconstructed, so each cut is made, reconstructed
    and compared by its outputs on training pictures. Where the time is used up, those that are
    ready are returned.

    Parameters
    ----------
    model : Model
        Not folded.
    context : CompressionContext
        Data, target and limits.
    share : float
        Share of the cost to cut by channels, 0 to 1.
    known : frozenset of str
        Hashes of architectures to leave out.
    """
    pixels = _pictures(context)
    expected = float_probabilities(model, pixels)
    candidates = []
    for pruned, cut, saving in _cuts(model, context, share, known, pixels):
        divergence = kl_divergence(expected, float_probabilities(pruned, pixels))
        candidates.append(PruningCandidate(pruned, cut, saving, max(divergence, 0.0)))
        if context.seconds_left is not None and context.seconds_left() <= context.reserved_seconds:
            break
    return candidates


def apply_cut(model: Model, cut: Cut, context: CompressionContext) -> Model:
    """`model` without what is cut, its remaining weights fitted to its outputs.

    Parameters
    ----------
    model : Model
        Not folded.
    cut : Cut
        Sizes or a layer of its architecture.
    context : CompressionContext
        Training pictures, which rank the channels and fit the weights.
    """
    pixels = _pictures(context)
    if cut.layer is not None:
        return _without_layer(model, cut.layer, pixels)
    scores = IMPORTANCES[cut.importance](model, context.train, context.seed)
    return _with_best_channels(model, cut.sizes, scores, pixels)


def _pictures(context: CompressionContext) -> Tensor:
    return context.train.pixels[balanced(context.train.labels, PICTURES, context.seed)]


def _with_best_channels(
    model: Model, sizes: Mapping[str, int], scores: Mapping[str, Tensor], pixels: Tensor
) -> Model:
    pruned, kept = model, {}
    for width, size in sizes.items():
        kept[width] = torch.topk(scores[width], size).indices.sort().values
        pruned = cut_channels(pruned, width, kept[width].tolist())
    return reconstruct(pruned, model, kept, pixels)


def _without_layer(model: Model, layer: int, pixels: Tensor) -> Model:
    return reconstruct(remove_layer(model, layer), model, {}, pixels, removed_layer=layer)


def _cuts(
    model: Model,
    context: CompressionContext,
    share: float,
    known: frozenset[str],
    pixels: Tensor,
) -> Iterator[tuple[Model, Cut, float]]:
    """Every cut that pays: the reconstructed model, what is cut, and its saving."""
    steps = channel_steps(model.arch, context.target.channel_step)
    savings = savings_for_limits(model.arch, steps, context)

    def pays(arch: Arch, saving: float, layer: int | None = None) -> bool:
        return saving > 0 and arch.hash not in known and savings.pays(context, arch, layer)

    for name, importance in IMPORTANCES.items():
        scores = importance(model, context.train, context.seed)
        is_enough = savings.reaches_limits(context)
        sizes = choose_widths(model.arch, scores, steps, share, savings, is_enough)
        arch = model.arch.with_widths(sizes)
        if pays(arch, saving := savings.of(arch)):
            yield _with_best_channels(model, sizes, scores, pixels), Cut(name, sizes), saving
    for layer in removable_layers(model.arch):
        arch = remove_layer(model, layer).arch
        if pays(arch, saving := savings.of_layer(layer, arch), layer):
            yield _without_layer(model, layer, pixels), Cut(layer=layer), saving


def choose_widths(
    arch: Arch,
    scores: Mapping[str, Tensor],
    steps: Mapping[str, int],
    share: float,
    savings: Savings,
    is_enough: Callable[[Arch], bool] | None = None,
) -> dict[str, int]:
    """New sizes of the widths to cut: greedily the least importance lost for the saving.

    Parameters
    ----------
    arch : Arch
        Before the cut.
    scores : mapping of str to Tensor
        Width name -> importance of each channel, (channels,).
    steps : mapping of str to int
        Width name -> sizes are multiples of it; never cut below it.
    share : float
        Share of the cost to cut, 0 to 1.
    savings : Savings
        What a smaller net saves.
    is_enough : callable, optional
        Ends the cut earlier.
    """
    lowest_sum = {name: score.sort().values.cumsum(0) for name, score in scores.items()}
    original = {w.name: w.size for w in arch.graph.widths}
    sizes, current = dict(original), arch

    def importance_lost(name: str, size: int) -> float:
        removed = original[name] - size
        return float(lowest_sum[name][removed - 1]) if removed else 0.0

    while savings.of(current) < share and not (is_enough and is_enough(current)):
        options = []
        for name, size in sizes.items():
            for smaller in smaller_sizes(size, steps[name]):
                saving = savings.of(current.with_widths({name: smaller})) - savings.of(current)
                if saving > 0:
                    loss = importance_lost(name, smaller) - importance_lost(name, size)
                    options.append((loss / saving, -smaller, name))
        if not options:
            break
        _, smaller, name = min(options)
        sizes[name] = -smaller
        current = current.with_widths({name: -smaller})
    return {name: size for name, size in sizes.items() if size < original[name]}


def channel_steps(arch: Arch, step: ChannelStep) -> dict[str, int]:
    """Width name -> the multiple that its size is cut to, as the target's kernels compute it."""
    depthwise = {
        op.y.axis for op in arch.graph.weighted_ops if isinstance(op, Conv) and op.depthwise
    }
    return {
        width.name: step.depthwise if width.axes & depthwise else step.dense
        for width in arch.graph.widths
    }
