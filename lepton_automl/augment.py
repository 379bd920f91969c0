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
TINT, SATURATION = 0.2, 0.5
"""At strength 1, likewise: hue, and contrast and brightness of one channel; saturation."""


def changed(
    x: Tensor,
    kind: str,
    strength: float,
    *,
    mirrored: Tensor | None = None,
    generator: torch.Generator,
) -> Tensor:
    """Pictures, each changed a little differently; edges are filled by reflection.

    Parameters
    ----------
    x : Tensor
        float (B, C, H, W), normalised.
    kind : str
        `affine` turns, zooms, shears, shifts and lights; `crop` shifts by whole pixels.
    strength : float
        0 (none) to 1.
    mirrored : Tensor, optional
        bool (B,): which pictures are mirrored left to right; None: none is.
    generator : torch.Generator
        Of the device of `x`.

    Returns
    -------
    Tensor
        Of the shape of `x`, channels last in memory.
    """
    if not strength:
        return x if mirrored is None else torch.where(_each(mirrored), x.flip(3), x)
    if kind == "crop":
        return _shifted(x, strength, mirrored, generator)
    sign = torch.ones(len(x), device=x.device) if mirrored is None else 1 - 2 * mirrored.float()
    places = _places(sign, x.shape[2], x.shape[3], strength, generator)
    # Kernels for sampling like channels first, those for training channels last.
    y = F.grid_sample(x.contiguous(), places, padding_mode="reflection", align_corners=False)
    contrast, brightness = strength * LIGHT * _even(2, len(x), generator)[..., None, None, None]
    y.mul_(1 + contrast).add_(brightness)
    return y.contiguous(memory_format=torch.channels_last)


def cut_out(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Pictures, each with one square anywhere in it made grey (DeVries 2017, arXiv:1708.04552).

    Parameters
    ----------
    x : Tensor
        float (B, C, H, W), normalised, so that 0 is the mean.
    share : float
        Side of the square as a share of the shorter side of the picture, 0 to 1.
    generator : torch.Generator
        Of the device of `x`.
    """
    side = round(share * min(x.shape[2:]))
    if not side:
        return x
    down, right = (
        _between(-(side // 2), size - (side + 1) // 2, len(x), generator) for size in x.shape[2:]
    )
    rows, columns = (
        (places >= first[:, None]) & (places < first[:, None] + side)
        for first, places in zip((down, right), _counted(x), strict=True)
    )
    return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def coloured(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """RGB pictures, each with another hue, saturation and light of its channels, in place.

    Parameters
    ----------
    x : Tensor
        float (B, C, H, W), normalised; returned as it is where C is not 3.
    strength : float
        0 (none) to 1.
    generator : torch.Generator
        Of the device of `x`.
    """
    if not strength or x.shape[1] != 3:
        return x
    saturation, *rest = strength * _even(8, len(x), generator)
    gain, light = torch.stack(rest[:3], 1), torch.stack(rest[3:6], 1)
    grey = x.mean(1, keepdim=True)
    # A small turn about the grey axis moves each channel by a share of the other two's difference.
    turn = (TINT * rest[6])[:, None, None, None] * (x.roll(1, 1) - x.roll(2, 1))
    x = x.add_(turn).lerp_(grey.expand_as(x), (SATURATION * saturation)[:, None, None, None])
    return x.mul_(1 + (TINT * gain)[..., None, None]).add_((TINT * light)[..., None, None])


def mixed(
    x: Tensor, mixup: float, cutmix: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Pictures, some with another one in them; the partner of number i is number B - 1 - i.

    Parameters
    ----------
    x : Tensor
        float (B, C, H, W).
    mixup, cutmix : float
        Shares of the pictures that are blended (Zhang et al. 2018, arXiv:1710.09412, with alpha 1)
        and that get a rectangle (Yun et al. 2019, arXiv:1905.04899).
    generator : torch.Generator
        Of the device of `x`.

    Returns
    -------
    tuple of Tensor
        The pictures, and what is left of each one in itself: (B,), 0 to 1.
    """
    height, width = x.shape[2:]
    kind, share, down, across = torch.rand(4, len(x), generator=generator, device=x.device)
    kept = torch.where(kind < mixup, share, 1.0)
    side = (1 - share).sqrt()
    inside = [
        (places + 0.5 > (1 - side[:, None]) * first[:, None] * size)
        & (places + 0.5 < ((1 - side[:, None]) * first[:, None] + side[:, None]) * size)
        for first, places, size in zip((down, across), _counted(x), (height, width), strict=True)
    ]
    is_cut = (kind >= mixup) & (kind < mixup + cutmix)
    hole = inside[0][:, :, None] & inside[1][:, None, :] & is_cut[:, None, None]
    weight = kept[:, None, None] * (~hole)
    return torch.lerp(x.flip(0), x, weight[:, None]), weight.mean((1, 2))


def _shifted(
    x: Tensor, strength: float, mirrored: Tensor | None, generator: torch.Generator
) -> Tensor:
    """Each picture moved by up to `SHIFT` of its side, and mirrored where asked for."""
    found = []
    for size, places in zip(x.shape[2:], _counted(x), strict=True):
        most = round(strength * SHIFT * size)
        read = places + _between(-most, most, len(x), generator)[:, None]
        found.append(size - 1 - (size - 1 - read.abs()).abs())
    rows, columns = found
    if mirrored is not None:
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    each = torch.arange(len(x), device=x.device)
    # Indexed channels last, a pixel is read in one piece.
    y = x.permute(0, 2, 3, 1)[each[:, None, None], rows[:, :, None], columns[:, None, :]]
    return y.permute(0, 3, 1, 2)


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


def _counted(x: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the rows and of the columns."""
    return torch.arange(x.shape[2], device=x.device), torch.arange(x.shape[3], device=x.device)


def _each(values: Tensor) -> Tensor:
    """One value a picture, (B, 1, 1, 1)."""
    return values[:, None, None, None]


def _even(kinds: int, count: int, generator: torch.Generator) -> Tensor:
    """Draws (kinds, count) from -1 to 1."""
    return 2 * torch.rand(kinds, count, generator=generator, device=generator.device) - 1


def _between(low: int, high: int, count: int, generator: torch.Generator) -> Tensor:
    """Whole draws (count,), both ends included."""
    return torch.randint(low, high + 1, (count,), generator=generator, device=generator.device)
