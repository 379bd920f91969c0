"""Least-squares reconstruction of a cut net (He et al. 2017, section 3.1, arXiv:1707.06168).

Layer by layer, from the values that the cut net computes, the weights are solved for the uncut
net's values before batch normalisation. It needs no labels and no gradients and takes a second or
two; fine-tuning then starts closer to its end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Module

from lepton_automl.compress.least_squares import (
    MAX_FAN_IN,
    Moments,
    extract_patches,
    fan_in,
    picture_count,
)
from lepton_automl.compress.pruning.cut import renamed_without_layer
from lepton_automl.models.graph import Conv, Graph, Linear
from lepton_automl.models.model import Model
from lepton_automl.models.network import extract_weights

Kept = Mapping[str, Tensor]
"""Width name -> indices of the channels that stay, increasing."""


def reconstruct(
    pruned: Model, original: Model, kept: Kept, pixels: Tensor, *, removed_layer: int | None = None
) -> Model:
    """`pruned` with weights that reproduce the values of `original` by least squares.

    Parameters
    ----------
    pruned, original : Model
        The net after and before the cut, both folded or both not.
    kept : mapping of str to Tensor
        Channels that stay of each width that was cut.
    pixels : Tensor
        uint8 (N, H, W, C), training pictures.
    removed_layer : int, optional
        The layer of `original` that `pruned` lacks.
    """
    graph = original.arch.graph
    before, after = original.network(), pruned.network()
    x = original.preprocessing.apply(pixels[: picture_count(graph)])
    values_before, values_after = {graph.input.name: x}, {graph.input.name: x}
    channels = _by_axis(graph, kept)
    with torch.inference_mode():
        pruned_ops = after.iter_ops(values_after)
        for old_op in before.iter_ops(values_before):
            if removed_layer is not None and (
                renamed_without_layer(old_op.name, removed_layer) is None
            ):
                continue
            new_op = next(pruned_ops)
            if not isinstance(old_op, (Conv, Linear)) or not isinstance(new_op, (Conv, Linear)):
                continue
            if fan_in(old_op) <= MAX_FAN_IN:
                x = extract_patches(old_op, values_before[old_op.x.name])
                z = extract_patches(new_op, values_after[new_op.x.name])
                outputs = channels.get(old_op.y.axis, torch.arange(old_op.y.channels))
                _solve(
                    before.modules_by_op[old_op.name],
                    after.modules_by_op[new_op.name],
                    outputs,
                    x,
                    z,
                )
    return dataclasses.replace(pruned, weights=extract_weights(after), parent=pruned.digest)


def _by_axis(graph: Graph, kept: Kept) -> Kept:
    return {
        axis: kept[width.name]
        for width in graph.widths
        for axis in width.axes
        if width.name in kept
    }


def _solve(old: Module, new: Module, outputs: Tensor, x: Tensor, z: Tensor) -> None:
    """Replace the weights of `new`, and its bias or running mean."""
    x = x[outputs] if len(x) > 1 else x  # Each filter of a depthwise convolution is a group.
    moments = Moments.of(x, z)
    rows = old.get_parameter("weight")[outputs].double().reshape(len(x), -1, x.shape[2])
    near = new.get_parameter("weight")
    solved = moments.solve(rows, near.double().reshape(len(z), -1, z.shape[2]))
    near.copy_(solved.reshape(near.shape))
    missing = (rows @ moments.x_mean.mT - solved @ moments.z_mean.mT).flatten()
    if getattr(new, "norm", None) is not None:
        new.get_buffer("norm.running_mean").sub_(missing)
    else:
        new.get_parameter("bias").add_(missing)
