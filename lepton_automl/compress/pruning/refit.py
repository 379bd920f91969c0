"""Least squares after a cut: layers give of what is left what they gave of all of it.

Layer after layer, from what the smaller net really computes, the weights are solved for the whole
net's values before batch normalisation (He et al. 2017, section 3.1, arXiv:1707.06168). No label,
no gradient, a second or two; a recovery begins nearer to its end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Module

from lepton_automl.compress.least_squares import MOST_TAPS, Moments, count, patches, taps
from lepton_automl.compress.pruning.cut import name_without
from lepton_automl.models.graph import Conv, Graph, Linear
from lepton_automl.models.model import Model
from lepton_automl.models.network import extract_weights

Kept = Mapping[str, Tensor]
"""Width name -> the channels that stay, increasing, of the whole net."""


def refit(
    less: Model, whole: Model, kept: Kept, pixels: Tensor, *, gone: int | None = None
) -> Model:
    """`less` with weights that give what those of `whole` give, as far as they can.

    Parameters
    ----------
    less, whole : Model
        A cut net and what it was cut from, both folded or both not.
    kept : mapping of str to Tensor
        Channels that stay of each width that was cut.
    pixels : Tensor
        uint8 (N, H, W, C), training pictures.
    gone : int, optional
        The layer of `whole` that `less` does without.
    """
    graph = whole.arch.graph
    before, after = whole.network(), less.network()
    x = whole.preprocessing.apply(pixels[: count(graph)])
    seen, found = {graph.input.name: x}, {graph.input.name: x}
    channels = _by_axis(graph, kept)
    with torch.inference_mode():
        rest = after.iter_ops(found)
        for was in before.iter_ops(seen):
            if gone is not None and name_without(was.name, gone) is None:
                continue
            now = next(rest)
            if not isinstance(was, (Conv, Linear)) or not isinstance(now, (Conv, Linear)):
                continue
            if taps(was) <= MOST_TAPS:
                pair = patches(was, seen[was.x.name]), patches(now, found[now.x.name])
                outputs = channels.get(was.y.axis, torch.arange(was.y.channels))
                _solve(before.modules_by_op[was.name], after.modules_by_op[now.name], outputs, pair)
    return dataclasses.replace(less, weights=extract_weights(after), parent=less.digest)


def _by_axis(graph: Graph, kept: Kept) -> Kept:
    return {
        axis: kept[width.name]
        for width in graph.widths
        for axis in width.axes
        if width.name in kept
    }


def _solve(old: Module, new: Module, outputs: Tensor, pair: tuple[Tensor, Tensor]) -> None:
    """Replace the weights of `new`, and what moves its values as a whole."""
    x, z = pair
    x = x[outputs] if len(x) > 1 else x  # Filters of a depthwise convolution are solved alone.
    seen = Moments.of(x, z)
    rows = old.get_parameter("weight")[outputs].double().reshape(len(x), -1, x.shape[2])
    near = new.get_parameter("weight")
    solved = seen.solved(rows, near.double().reshape(len(z), -1, z.shape[2]))
    near.copy_(solved.reshape(near.shape))
    missed = (rows @ seen.x_mean.mT - solved @ seen.z_mean.mT).flatten()
    if getattr(new, "norm", None) is not None:
        new.get_buffer("norm.running_mean").sub_(missed)
    else:
        new.get_parameter("bias").add_(missed)
