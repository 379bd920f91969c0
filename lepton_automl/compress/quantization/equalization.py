"""Cross-layer equalisation: channels rescaled so that one scale fits them all.

Nagel et al. 2019, section 4.1 (arXiv:1906.04721), with measured peaks in place of the ranges of
the weights that make a channel: those have a scale of their own here, one an output channel.
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

ROUNDS = 4
"""Passes over all groups; each changes what its neighbours should do."""
LIMIT = 1e4
"""A channel is rescaled by at most this, either way."""


def equalize(model: Model, calibration: Calibration) -> Model:
    """The same function with channels of more equal size.

    Values that every operation between their producers and their readers passes on in
    proportion (clamps at 0, maxima, means, sums) are divided by a number a channel, and the
    weights that read them multiplied by it.

    Parameters
    ----------
    model : Model
        Folded.
    calibration : Calibration
        Of this very model; only its peaks are used.
    """
    weights = {name: tensor.clone() for name, tensor in model.weights.items()}
    peaks = dict(calibration.peaks)
    groups = list(proportional(model.arch.graph))
    for _ in range(ROUNDS):
        for group in groups:
            factor = _factor(model.arch.graph, group, weights, peaks)
            rescale(model.arch.graph, group, weights, peaks, factor)
    return dataclasses.replace(model, weights=weights, qparams=None, parent=model.digest)


def proportional(graph: Graph) -> Iterator[frozenset[str]]:
    """Groups of value names whose channels may be rescaled together without any other change."""
    parent = {graph.input.name: graph.input.name} | {op.y.name: op.y.name for op in graph.ops}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    fixed = {graph.input.name, graph.output.name}
    for op in graph.ops:
        for name in _joined(op):
            parent[root(name)] = root(op.y.name)
        fixed |= _fixed(op)
    barred = {root(name) for name in fixed}
    members: dict[str, set[str]] = {}
    for name in parent:
        if root(name) not in barred:
            members.setdefault(root(name), set()).add(name)
    return (frozenset(group) for group in members.values())


def _joined(op: Op) -> list[str]:
    """Inputs that must be rescaled by as much as the output."""
    match op:
        case MaxPool() | GlobalPool() | Mul():
            return [op.x.name]
        case Add():
            return [op.a.name, op.b.name]
        case _:
            return []


def _fixed(op: Op) -> set[str]:
    """Values that this operation lets nobody rescale."""
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
    """What each channel of the group is divided by, (channels,)."""
    size = torch.stack([_share(peaks[name]) for name in sorted(group)]).amax(0)
    readers = [
        _share(_columns(op, weights[f"{op.name}.weight"]))
        for op in graph.weighted_ops
        if op.x.name in group and not (isinstance(op, Conv) and op.depthwise)
    ]
    # Filters of a depthwise convolution have a scale each, so they take any factor for nothing.
    factor = torch.sqrt(size / torch.stack(readers).amax(0)) if readers else size
    factor = torch.where(torch.isfinite(factor) & (factor > 0), factor, 1.0)
    return factor.clamp(1 / LIMIT, LIMIT)


def _share(sizes: Tensor) -> Tensor:
    return sizes / sizes.amax().clamp_min(1e-30)


def _columns(op: Conv | Linear, weight: Tensor) -> Tensor:
    """How much of the int8 range of its output channels each input channel fills, at most."""
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
    """Divide the values of a group by `factor` (channels,), in `weights` and `peaks`; see above."""
    for name in group:
        peaks[name] = peaks[name] / factor
    for op in graph.weighted_ops:
        weight, bias = f"{op.name}.weight", f"{op.name}.bias"
        if op.y.name in group:
            weights[weight] = weights[weight] / _as_rows(factor, weights[weight])
            weights[bias] = weights[bias] / factor
        if op.x.name in group and isinstance(op, Conv) and op.depthwise:
            weights[weight] = weights[weight] * _as_rows(factor, weights[weight])
        elif op.x.name in group:
            weights[weight] = weights[weight] * _as_rows(factor, weights[weight][0])


def _as_rows(factor: Tensor, like: Tensor) -> Tensor:
    return factor.reshape(-1, *[1] * (like.ndim - 1))


def fold(model: Model) -> Model:
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
