"""A layer run by the network, beside torch's own functions on the same weights, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lepton_automl.models.arch import Arch, chain
from lepton_automl.models.graph import GlobalPool
from lepton_automl.models.layers import Layer
from lepton_automl.models.layers.head import Head
from tests.helpers.nets import random_model

ACTIVATIONS = {
    "none": lambda x: x,
    "relu": torch.relu,
    "relu6": lambda x: x.clamp(0, 6),
    "hswish": lambda x: x * (x + 3).clamp(0, 6) / 6,
    "silu": lambda x: x / (1 + torch.exp(-x)),
}


@dataclass(frozen=True)
class Trace:
    """One layer as first in a net: its input, its output and the net's weights."""

    arch: Arch
    weights: Mapping[str, Tensor]
    x: Tensor
    y: Tensor
    logits: Tensor

    def conv(self, part: str, x: Tensor, *, stride: int = 1, depthwise: bool = False) -> Tensor:
        """Convolution and batch normalisation of `part` of layer 0, by torch's own functions."""
        return conv_norm(self.weights, f"0/{part}", x, stride, x.shape[1] if depthwise else 1)


def conv_norm(weights: Mapping[str, Tensor], name: str, x: Tensor, stride: int, groups: int):
    """Convolution with `kernel // 2` padding, then batch normalisation, both from torch."""
    weight = weights[f"{name}.weight"]
    mean, var, gamma, beta = (
        weights[f"{name}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    y = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)
    return F.batch_norm(y, mean, var, gamma, beta)


def trace(layer: Layer, *, channels: int = 6, size: tuple[int, int] = (9, 7)) -> Trace:
    """Run `layer` behind an input of `channels` channels, the head after it."""
    layers = [layer] if isinstance(layer, Head) else [layer, Head()]
    arch = chain((*size, channels), layers, 5)
    model = random_model(arch, 1)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn((4, channels, *size), generator=generator)
    seen = {arch.graph.input.name: x}

    def keep(name: str, value: Tensor) -> Tensor:
        seen[name] = value
        return value

    with torch.no_grad():
        logits = model.network()(x, keep)
    pool = next(op for op in arch.graph.ops if isinstance(op, GlobalPool) and "/pool" in op.name)
    return Trace(arch, model.weights, x, seen[pool.x.name], logits)


def close(a: Tensor, b: Tensor) -> bool:
    """Equal shapes, and values within float32 rounding."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5)
