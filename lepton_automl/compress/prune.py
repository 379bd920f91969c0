"""Structured pruning: a pure rewrite of (Arch, weights) through the widths of the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from lepton_automl.errors import ArchError
from lepton_automl.graph import Conv, Linear, Width
from lepton_automl.model import Model

OUTPUT_PARTS = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "bias")
"""Tensors of an operation with one number an output channel."""


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


def _width(model: Model, name: str) -> Width:
    known = {width.name: width for width in model.arch.graph.widths}
    if name not in known:
        raise ArchError(f"{name!r} is not a width of this net", fix=f"one of: {', '.join(known)}")
    return known[name]
