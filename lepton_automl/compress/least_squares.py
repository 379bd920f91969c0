"""Moments: what a layer reads in one net and in a changed one, as least squares need it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lepton_automl.models.graph import Conv, Graph, Linear

LARGEST_BYTES = 1 << 26
"""Of one value of all pictures together, in float32; of large ones there are fewer pictures."""
PATCHES = 1 << 14
"""Patches a layer is solved from at most; they have some hundred unknowns."""
MOST_TAPS = 2304
"""3x3 over 256 channels: solving takes seconds. A layer with more stays as it is."""
RIDGE = 0.01
"""Of a patch's mean square: how much the weights are held to where they were."""


@dataclass(frozen=True)
class Moments:
    """Of a layer's patches in the net as it was, `x`, and in the changed one, `z`, by group."""

    x_mean: Tensor
    """(groups, 1, taps)."""
    z_mean: Tensor
    xz: Tensor
    """(groups, taps, taps): covariance."""
    zz: Tensor

    @classmethod
    def of(cls, x: Tensor, z: Tensor) -> Moments:
        """Of patches (groups, patches, taps), which may have other taps."""
        x_mean, z_mean = (each.double().mean(1, keepdim=True) for each in (x, z))
        x, z = x - x_mean.float(), z - z_mean.float()
        return cls(x_mean, z_mean, *((each.mT @ z).double() / x.shape[1] for each in (x, z)))

    @property
    def squares(self) -> Tensor:
        """(groups, taps, taps): `zz` with the ridge, so that it can be solved."""
        held = RIDGE * self.zz.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
        return self.zz + held[:, None, None] * torch.eye(self.zz.shape[1], dtype=torch.float64)

    def solved(self, rows: Tensor, near: Tensor) -> Tensor:
        """Weights that give of `z` what `rows` give of `x`, held to `near`, by least squares.

        Parameters
        ----------
        rows, near : Tensor
            float64 (groups, out, taps of x) and (groups, out, taps of z).
        """
        moved: Tensor = torch.linalg.solve(self.squares, (rows @ self.xz - near @ self.zz).mT).mT
        return near + moved


def taps(op: Conv | Linear) -> int:
    """Weights that one output is the sum over."""
    return math.prod(op.weight_shape[1:])


def count(graph: Graph) -> int:
    """Pictures whose largest value stays in bounds."""
    largest = max(op.y.size for op in graph.ops)
    return max(1, LARGEST_BYTES // (4 * largest))


def patches(op: Conv | Linear, value: Tensor) -> Tensor:
    """(groups, patches, taps): what outputs of the layer are products of."""
    if isinstance(op, Linear):
        return value.flatten(1)[None]
    padded = F.pad(value, [op.kernel // 2] * 4)
    places = torch.cartesian_prod(torch.arange(op.y.height), torch.arange(op.y.width))
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
    corners = op.stride * places[order[: max(1, PATCHES // len(value))]]
    k, groups = op.kernel, value.shape[1] if op.depthwise else 1
    seen = [padded[:, :, r : r + k, c : c + k].flatten(2) for r, c in corners.tolist()]
    whole = torch.cat(seen)  # (patches, channels, taps)
    return whole.reshape(len(whole), groups, -1).transpose(0, 1)
