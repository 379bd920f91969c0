"""Cross-layer equalization (Nagel et al. 2019, section 4.1, arXiv:1906.04721).

Channels are rescaled so that one scale fits all channels of a value. Measured activation peaks
replace the ranges of the weights that produce a channel: those have one scale per output channel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from lepton_automl.compress.quantization.calibration import Calibration
from lepton_automl.models.graph import Add, Conv, Gate, GlobalPool, Graph, Linear, MaxPool, Mul, Op
from lepton_automl.models.model import Model
from lepton_automl.models.onnx_export import folded_weights

_PASSES = 4
"""Over all groups: rescaling one changes the best factors of its neighbours."""
_MAX_FACTOR = 1e4
"""Channels are rescaled by at most this factor, up or down."""


def equalize(model: Model, calibration: Calibration) -> Model:
    """The same function with channels of more equal range.

    Values are divided by a factor per channel and the weights that read them multiplied by it,
    where all operations in between are homogeneous (ReLU, maxima, means, sums).

    Parameters
    ----------
    model : Model
        Folded.
    calibration : Calibration
        Of the same model; only its peaks are used.
    """
    weights = {name: tensor.clone() for name, tensor in model.weights.items()}
    peaks = dict(calibration.peaks)
    groups = list(equalization_groups(model.arch.graph))
    for _ in range(_PASSES):
        for group in groups:
            factor = _factor(model.arch.graph, group, weights, peaks)
            rescale(model.arch.graph, group, weights, peaks, factor)
    return dataclasses.replace(model, weights=weights, qparams=None, parent=model.digest)


def equalization_groups(graph: Graph) -> Iterator[frozenset[str]]:
    """Groups of value names whose channels can be rescaled together, the function unchanged."""
    parent = {graph.input.name: graph.input.name} | {op.y.name: op.y.name for op in graph.ops}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    fixed = {graph.input.name, graph.output.name}
    for op in graph.ops:
        for name in _linked_inputs(op):
            parent[root(name)] = root(op.y.name)
        fixed |= _fixed_values(op)
    excluded = {root(name) for name in fixed}
    members: dict[str, set[str]] = {}
    for name in parent:
        if root(name) not in excluded:
            members.setdefault(root(name), set()).add(name)
    return (frozenset(group) for group in members.values())


def _linked_inputs(op: Op) -> list[str]:
    """Inputs that must be rescaled by the same factor as the output."""
    match op:
        case MaxPool() | GlobalPool() | Mul():
            return [op.x.name]
        case Add():
            return [op.a.name, op.b.name]
        case _:
            return []


def _fixed_values(op: Op) -> set[str]:
    """Values around this operation that cannot be rescaled."""
    match op:
        case Gate():
            return {op.x.name, op.y.name}
        case Conv() | Add() if op.clamp == "relu6":
            return {op.y.name}
        case _:
            return set()


def _factor(
    graph: Graph, group: frozenset[str], weights: dict[str, Tensor], peaks: dict[str, Tensor]
) -> Tensor:
    """Divisor of each channel of the group, (channels,)."""
    ranges = torch.stack([_relative(peaks[name]) for name in sorted(group)]).amax(0)
    readers = [
        _relative(_input_ranges(op, weights[f"{op.name}.weight"]))
        for op in graph.weighted_ops
        if op.x.name in group and not (isinstance(op, Conv) and op.depthwise)
    ]
    # Filters of a depthwise convolution have one scale each, so any factor suits them.
    factor = torch.sqrt(ranges / torch.stack(readers).amax(0)) if readers else ranges
    factor = torch.where(torch.isfinite(factor) & (factor > 0), factor, 1.0)
    return factor.clamp(1 / _MAX_FACTOR, _MAX_FACTOR)


def _relative(sizes: Tensor) -> Tensor:
    return sizes / sizes.amax().clamp_min(1e-30)


def _input_ranges(op: Conv | Linear, weight: Tensor) -> Tensor:
    """Largest share of an output channel's int8 range that each input channel fills."""
    rows = weight.abs().flatten(1).amax(1).clamp_min(1e-30)
    return (
        (weight.abs().flatten(2).amax(2) if isinstance(op, Conv) else weight.abs())
        .div(rows[:, None])
        .amax(0)
    )


def rescale(
    graph: Graph,
    group: frozenset[str],
    weights: dict[str, Tensor],
    peaks: dict[str, Tensor],
    factor: Tensor,
) -> None:
    """Divide the values of a group by `factor` (channels,), in place in `weights` and `peaks`."""
    for name in group:
        peaks[name] = peaks[name] / factor
    for op in graph.weighted_ops:
        weight, bias = f"{op.name}.weight", f"{op.name}.bias"
        if op.y.name in group:
            weights[weight] = weights[weight] / _broadcast(factor, weights[weight])
            weights[bias] = weights[bias] / factor
        if op.x.name in group and isinstance(op, Conv) and op.depthwise:
            weights[weight] = weights[weight] * _broadcast(factor, weights[weight])
        elif op.x.name in group:
            weights[weight] = weights[weight] * _broadcast(factor, weights[weight][0])


def _broadcast(factor: Tensor, like: Tensor) -> Tensor:
    return factor.reshape(-1, *[1] * (like.ndim - 1))


def fold_batchnorm(model: Model) -> Model:
    """The same function without batch normalisation.

    Every convolution owns `{op}.weight` and `{op}.bias` afterwards. A folded model is returned
    as it is.
    """
    if model.is_folded:
        return model
    weights = {}
    for op in model.arch.graph.weighted_ops:
        weight, bias = folded_weights(model, op)
        weights[f"{op.name}.weight"] = torch.from_numpy(weight.copy())
        weights[f"{op.name}.bias"] = torch.from_numpy(bias.copy())
    return dataclasses.replace(model, weights=weights, qparams=None, parent=model.digest)
