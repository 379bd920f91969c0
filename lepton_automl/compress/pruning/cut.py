"""Remove channels of a width, or a whole layer, from a model: architecture and weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from lepton_automl.errors import ArchError
from lepton_automl.models.arch import Arch
from lepton_automl.models.graph import Conv, Linear, Width
from lepton_automl.models.model import Model

OUTPUT_PARTS = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "bias")
"""Tensors of an operation with one element per output channel."""


def cut_channels(model: Model, width_name: str, keep: Sequence[int]) -> Model:
    """Keep only the channels `keep` of one width.

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
        If there is no such width, or `keep` is not an increasing choice of its channels.
    """
    width = _width(model, width_name)
    if not keep or list(keep) != sorted({i for i in keep if 0 <= i < width.size}):
        raise ArchError(
            f"cannot keep channels {list(keep)} of {width_name}, which has {width.size}",
            fix="keep at least one channel, in increasing order",
        )
    index = torch.tensor(list(keep))
    weights = dict(model.weights)
    for op in model.arch.graph.weighted_ops:
        weights |= _cut_operation(model, op, width, index)
    arch = model.arch.with_widths({width_name: len(keep)})
    return dataclasses.replace(
        model, arch=arch, weights=weights, qparams=None, metrics={}, parent=model.digest
    )


def _cut_operation(
    model: Model, op: Conv | Linear, width: Width, index: Tensor
) -> dict[str, Tensor]:
    """Name -> new content of the tensors of `op` that the cut changes."""
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


def removable_layers(arch: Arch) -> list[int]:
    """Layers whose output has the shape of their input, so that the net is valid without one."""
    build, found = arch.builder(), []
    value = build.input
    for number, layer in enumerate(arch.layers):
        build.begin_layer(number, layer)
        before, value = value, layer.lower(build, value)
        if (before.channels, before.height, before.width) == (
            value.channels,
            value.height,
            value.width,
        ):
            found.append(number)
    return found


def arch_without_layer(arch: Arch, layer: int) -> Arch:
    """The architecture without one of its `removable_layers`."""
    layers = (*arch.layers[:layer], *arch.layers[layer + 1 :])
    return dataclasses.replace(arch, layers=layers)


def remove_layer(model: Model, layer: int) -> Model:
    """The model without one of its `removable_layers`.

    Raises
    ------
    ArchError
        If the layer is not removable.
    """
    if layer not in removable_layers(model.arch):
        raise ArchError(
            f"layer {layer} cannot be removed: its output has another shape than its input",
            fix=f"removable: {', '.join(map(str, removable_layers(model.arch))) or 'none'}",
        )
    names = {key: renamed_without_layer(key, layer) for key in model.weights}
    weights = {new: model.weights[old] for old, new in names.items() if new is not None}
    return dataclasses.replace(
        model,
        arch=arch_without_layer(model.arch, layer),
        weights=weights,
        qparams=None,
        metrics={},
        parent=model.digest,
    )


def renamed_without_layer(name: str, layer: int) -> str | None:
    """Name of a tensor `NUMBER/...` once `layer` is removed; None if it belongs to that layer."""
    number, _, rest = name.partition("/")
    if int(number) == layer:
        return None
    return f"{int(number) - (int(number) > layer)}/{rest}"


def _width(model: Model, name: str) -> Width:
    known = {width.name: width for width in model.arch.graph.widths}
    if name not in known:
        raise ArchError(f"{name!r} is not a width of this net", fix=f"one of: {', '.join(known)}")
    return known[name]
