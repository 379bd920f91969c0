"""Random changes of training pictures, a whole chunk of batches at a time, on their device."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

TURN = math.radians(15)
ZOOM = 0.15
SHEAR = 0.1
SHIFT = 0.125
LIGHT = 0.2
"""At strength 1: rotation, log zoom, shear, shift as a share of the side, contrast and brightness
in standard deviations. Each is drawn evenly from minus that to plus that."""


def changed(x: Tensor, strength: float, *, flip: bool, generator: torch.Generator) -> Tensor:
    """Pictures, each turned, zoomed, sheared, shifted and lit a little differently.

    Parameters
    ----------
    x : Tensor
        float (B, C, H, W), normalised.
    strength : float
        0 (none) to 1.
    flip : bool
        Mirror half of the pictures left to right.
    generator : torch.Generator
        Of the device of `x`.

    Returns
    -------
    Tensor
        Of the shape of `x`, channels last in memory; edges are filled by reflection.
    """
    sign = torch.ones(len(x), device=x.device)
    if flip:
        sign = 1 - 2 * (torch.rand(len(x), generator=generator, device=x.device) < 0.5).float()
    if not strength:
        return torch.where(sign[:, None, None, None] < 0, x.flip(3), x) if flip else x
    places = _places(sign, x.shape[2], x.shape[3], strength, generator)
    # Kernels for sampling like channels first, those for training channels last.
    y = F.grid_sample(x.contiguous(), places, padding_mode="reflection", align_corners=False)
    contrast, brightness = strength * LIGHT * _even(2, len(x), generator)[..., None, None, None]
    y.mul_(1 + contrast).add_(brightness)
    return y.contiguous(memory_format=torch.channels_last)


def _places(
    sign: Tensor, height: int, width: int, strength: float, generator: torch.Generator
) -> Tensor:
    """Where in the source, -1 to 1 as (x, y), each place of the result is read: (B, H, W, 2)."""
    turn, zoom, stretch, shear, right, down = strength * _even(6, len(sign), generator)[..., None]
    zoom, stretch = torch.exp(ZOOM * zoom), torch.exp(ZOOM / 2 * stretch)
    cosine, sine = torch.cos(TURN * turn) * zoom, torch.sin(TURN * turn) * zoom
    y, x = (torch.arange(1 - n, n, 2, device=sign.device) / n for n in (height, width))
    x = x * sign[:, None]
    # An affine map is a sum of a row and a column: far quicker than torch's affine_grid.
    places = torch.empty(len(sign), height, width, 2, device=sign.device)
    down_across = (SHEAR * shear - sine) * y + 2 * SHIFT * right
    down_along = cosine / stretch * y + 2 * SHIFT * down
    torch.add((cosine * stretch * x)[:, None], down_across[:, :, None], out=places[..., 0])
    torch.add((sine * x)[:, None], down_along[:, :, None], out=places[..., 1])
    return places


def _even(kinds: int, count: int, generator: torch.Generator) -> Tensor:
    """Draws (kinds, count) from -1 to 1."""
    return 2 * torch.rand(kinds, count, generator=generator, device=generator.device) - 1
