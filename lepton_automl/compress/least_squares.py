"""Solve the weights of a layer by least squares, from the patches before and after a change."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lepton_automl.models.graph import Conv, Graph, Linear

_MAX_VALUE_BYTES = 1 << 26
"""Bytes of one value over all pictures, float32; nets with larger values see fewer pictures."""
_MAX_PATCHES = 1 << 14
"""Patches per layer at most; a layer has some hundred unknowns."""
MAX_FAN_IN = 2304
"""Layers with a larger fan-in (3x3 over 256 channels) are skipped: solving takes seconds."""
RIDGE = 0.01
"""Ridge penalty on a change of the weights, as a share of the mean square of a patch."""


@dataclass(frozen=True)
class Moments:
    """First and second moments, by group, of the patches `x` before and `z` after a change."""

    x_mean: Tensor
    """(groups, 1, taps)."""
    z_mean: Tensor
    xz: Tensor
    """(groups, taps, taps): covariance of x and z."""
    zz: Tensor

    @classmethod
    def of(cls, x: Tensor, z: Tensor) -> Moments:
        """Moments of patches (groups, patches, taps); `x` and `z` may differ in taps."""
        x_mean, z_mean = (each.double().mean(1, keepdim=True) for each in (x, z))
        x, z = x - x_mean.float(), z - z_mean.float()
        return cls(x_mean, z_mean, *((each.mT @ z).double() / x.shape[1] for each in (x, z)))

    @property
    def regularized(self) -> Tensor:
        """(groups, taps, taps): `zz` plus the ridge penalty."""
        penalty = RIDGE * self.zz.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
        return self.zz + penalty[:, None, None] * torch.eye(self.zz.shape[1], dtype=torch.float64)

    def solve(self, rows: Tensor, near: Tensor) -> Tensor:
        """Weights whose outputs on `z` are closest to those of `rows` on `x`, by ridge regression.

        Parameters
        ----------
        rows, near : Tensor
            float64 (groups, out, taps of x) and (groups, out, taps of z); the penalty is on
            changes from `near`.
        """
        change: Tensor = torch.linalg.solve(
            self.regularized, (rows @ self.xz - near @ self.zz).mT
        ).mT
        return near + change


def fan_in(op: Conv | Linear) -> int:
    """Number of weights of one output channel."""
    return math.prod(op.weight_shape[1:])


def picture_count(graph: Graph) -> int:
    """Number of pictures whose largest value fits into `_MAX_VALUE_BYTES`."""
    largest = max(op.y.size for op in graph.ops)
    return max(1, _MAX_VALUE_BYTES // (4 * largest))


def extract_patches(op: Conv | Linear, value: Tensor) -> Tensor:
    """(groups, patches, taps): inputs of the layer's dot products, at random positions."""
    if isinstance(op, Linear):
        return value.flatten(1)[None]
    rows, columns = op.padding
    padded = F.pad(value, [columns, columns, rows, rows])
    positions = torch.cartesian_prod(torch.arange(op.y.height), torch.arange(op.y.width))
    order = torch.randperm(len(positions), generator=torch.Generator().manual_seed(0))
    corners = op.stride * positions[order[: max(1, _MAX_PATCHES // len(value))]]
    (height, width), groups = op.window, value.shape[1] if op.depthwise else 1
    patches = [padded[:, :, r : r + height, c : c + width].flatten(2) for r, c in corners.tolist()]
    stacked = torch.cat(patches)  # (patches, channels, taps)
    return stacked.reshape(len(stacked), groups, -1).transpose(0, 1)
