"""Augment training pictures at random: a whole chunk of batches at a time, on the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_ROTATION = math.radians(15)
_LOG_ZOOM = 0.15
_SHEAR = 0.1
_SHIFT = 0.125
_BRIGHTNESS = 0.2
"""At strength 1: rotation (radians), log zoom, shear, shift as a share of the side, contrast and
brightness in standard deviations. Each is drawn uniformly from minus to plus this."""
_GAIN, _NOISE = 0.2, 0.1
"""At strength 1, of signals: gain and offset (standard deviations), likewise; deviation of the
noise."""
_SPEED, _START, _WIDTH, _PITCH = 0.15, 0.1, 0.08, 0.04
_MASKED = 0.25
"""At strength 1, of features of sound: log speed, start as a share of the frames, log width and
position as a share of the bands, likewise; share of the frames and of the bands that are masked at
most."""
_HUE, _SATURATION = 0.2, 0.5
"""At strength 1, likewise: hue, and contrast and brightness of one channel; saturation."""


def random_augment(
    x: Tensor,
    kind: str,
    strength: float,
    *,
    flipped: Tensor | None = None,
    generator: torch.Generator,
) -> Tensor:
    """Apply a random affine transform or crop to every picture; edges are filled by reflection.

    Parameters
    ----------
    x : Tensor
        float (B, C, H, W), normalised.
    kind : str
        `affine` rotates, zooms, shears, shifts, and changes contrast and brightness; `crop` shifts
        by whole pixels; `signal` shifts in time, changes gain and offset of each channel and adds
        noise; `audio` is for log-mel features (see `_disturbed_audio`).
    strength : float
        0 (none) to 1.
    flipped : Tensor, optional
        bool (B,): the pictures to mirror left to right; None mirrors none.
    generator : torch.Generator
        Of the device of `x`.

    Returns
    -------
    Tensor
        Of the shape of `x`, channels last in memory.
    """
    if not strength:
        return x if flipped is None else torch.where(flipped[:, None, None, None], x.flip(3), x)
    if kind == "crop":
        return _random_crop(x, strength, flipped, generator)
    if kind == "signal":
        return _disturbed(_random_crop(x, strength, flipped, generator), strength, generator)
    if kind == "audio":
        return _disturbed_audio(x, strength, generator)
    sign = torch.ones(len(x), device=x.device) if flipped is None else 1 - 2 * flipped.float()
    grid = _affine_grid(sign, x.shape[2], x.shape[3], strength, generator)
    # Kernels for sampling are fast on channels first, those for training on channels last.
    y = F.grid_sample(x.contiguous(), grid, padding_mode="reflection", align_corners=False)
    draws = strength * _BRIGHTNESS * _uniform(2, len(x), generator)
    contrast, brightness = draws[..., None, None, None]
    y.mul_(1 + contrast).add_(brightness)
    return y.contiguous(memory_format=torch.channels_last)


def cutout(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Set a random square of every picture to grey (DeVries and Taylor 2017, arXiv:1708.04552).

    In a signal a random stretch of time is set to its mean (Park et al. 2019, arXiv:1904.08779,
    section 2).

    Parameters
    ----------
    x : Tensor
        float (B, C, H, W), normalised, so that 0 is the mean.
    share : float
        Side of the square as a share of the shorter side of the picture, or of the length of the
        signal, 0 to 1.
    generator : torch.Generator
        Of the device of `x`.
    """
    side = round(share * (x.shape[3] if x.shape[2] == 1 else min(x.shape[2:])))
    if not side:
        return x
    top, left = (
        _randint(-(side // 2), size - (side + 1) // 2, len(x), generator) for size in x.shape[2:]
    )
    rows, columns = (
        (index >= first[:, None]) & (index < first[:, None] + side)
        for first, index in zip((top, left), _row_and_column_indices(x), strict=True)
    )
    return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def colour_jitter(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Change hue, saturation and the brightness of each channel of RGB pictures, in place.

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
    saturation, *rest = strength * _uniform(8, len(x), generator)
    contrast, brightness = torch.stack(rest[:3], 1), torch.stack(rest[3:6], 1)
    grey = x.mean(1, keepdim=True)
    # A small rotation about the grey axis adds to each channel a share of the difference of the
    # other two.
    hue = (_HUE * rest[6])[:, None, None, None] * (x.roll(1, 1) - x.roll(2, 1))
    x = x.add_(hue).lerp_(grey.expand_as(x), (_SATURATION * saturation)[:, None, None, None])
    contrast, brightness = (_HUE * each[..., None, None] for each in (contrast, brightness))
    return x.mul_(1 + contrast).add_(brightness)


def mixup_cutmix(
    x: Tensor, mixup: float, cutmix: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mix some samples with another one; sample i is paired with sample B - 1 - i.

    Parameters
    ----------
    x : Tensor
        float (B, C, H, W).
    mixup, cutmix : float
        Shares of the samples that are blended (Zhang et al. 2018, arXiv:1710.09412, with alpha 1)
        and that get a rectangle of the other one (Yun et al. 2019, arXiv:1905.04899).
    generator : torch.Generator
        Of the device of `x`.

    Returns
    -------
    tuple of Tensor
        The mixed pixels, and lambda, the weight of each sample's own label: (B,), 0 to 1.
    """
    height, width = x.shape[2:]
    kind, share, down, across = torch.rand(4, len(x), generator=generator, device=x.device)
    lam = torch.where(kind < mixup, share, 1.0)
    # A stretch of a signal has all of its one row.
    side = 1 - share if height == 1 else (1 - share).sqrt()
    sides = (torch.ones_like(side) if height == 1 else side, side)
    inside = [
        (index + 0.5 > (1 - side[:, None]) * first[:, None] * size)
        & (index + 0.5 < ((1 - side[:, None]) * first[:, None] + side[:, None]) * size)
        for side, first, index, size in zip(
            sides, (down, across), _row_and_column_indices(x), (height, width), strict=True
        )
    ]
    is_cut = (kind >= mixup) & (kind < mixup + cutmix)
    rectangle = inside[0][:, :, None] & inside[1][:, None, :] & is_cut[:, None, None]
    weight = lam[:, None, None] * (~rectangle)
    return torch.lerp(x.flip(0), x, weight[:, None]), weight.mean((1, 2))


def _disturbed(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Change gain and offset of each channel of signals (B, C, 1, length) and add noise, in place.

    Um et al. 2017 (arXiv:1706.00527, section 3) call the first two scaling and jittering.
    """
    draws = strength * _GAIN * _uniform(2, x.shape[0] * x.shape[1], generator)
    gain, offset = draws.reshape(2, x.shape[0], x.shape[1], 1, 1)
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    return x.mul_(1 + gain).add_(offset).add_(noise, alpha=strength * _NOISE)


def _disturbed_audio(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Change log-mel features (B, 1, frames, bands) as another voice and another place would.

    Speed and start in time, and along the bands position and width (another vocal tract: Jaitly and
    Hinton 2013), by resampling; noise; a mask in time and one of bands, set to the mean
    (SpecAugment: Park et al. 2019, arXiv:1904.08779). A gain changes nothing, as the front end
    subtracts the mean of each band.
    """
    draws = strength * _uniform(4, len(x), generator)
    y, across = (
        torch.exp(zoom * draw)[:, None] * ((torch.arange(1 - n, n, 2, device=x.device)) / n)
        + shift * other[:, None]
        for n, zoom, shift, draw, other in (
            (x.shape[2], _SPEED, 2 * _START, draws[0], draws[1]),
            (x.shape[3], _WIDTH, 2 * _PITCH, draws[2], draws[3]),
        )
    )
    grid = torch.empty(len(x), *x.shape[2:], 2, device=x.device)
    grid[..., 0], grid[..., 1] = across[:, None], y[:, :, None]
    x = F.grid_sample(x.contiguous(), grid, padding_mode="border", align_corners=False)
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    x = x.add_(noise, alpha=strength * _NOISE)
    for axis in (2, 3):
        x = _masked(x, axis, strength * _MASKED, generator)
    return x.contiguous(memory_format=torch.channels_last)


def _masked(x: Tensor, axis: int, share: float, generator: torch.Generator) -> Tensor:
    """Set a stretch of an axis, at most this share of it, to 0 in every sample."""
    size, index = x.shape[axis], torch.arange(x.shape[axis], device=x.device)
    length, start = torch.rand(2, len(x), 1, generator=generator, device=x.device)
    length = share * size * length
    start = start * (size - length)
    inside = (index >= start) & (index < start + length)
    shape = [len(x), 1, 1, 1]
    shape[axis] = size
    return x.masked_fill_(inside.reshape(shape), 0.0)


def _random_crop(
    x: Tensor, strength: float, flipped: Tensor | None, generator: torch.Generator
) -> Tensor:
    """Shift each picture by up to `_SHIFT` of its side, and mirror those in `flipped`."""
    sources = []
    for size, index in zip(x.shape[2:], _row_and_column_indices(x), strict=True):
        limit = round(strength * _SHIFT * size)
        shifted = index + _randint(-limit, limit, len(x), generator)[:, None]
        sources.append(size - 1 - (size - 1 - shifted.abs()).abs())
    rows, columns = sources
    if flipped is not None:
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
    samples = torch.arange(len(x), device=x.device)
    # Indexed channels last, a pixel is read in one piece.
    y = x.permute(0, 2, 3, 1)[samples[:, None, None], rows[:, :, None], columns[:, None, :]]
    return y.permute(0, 3, 1, 2)


def _affine_grid(
    sign: Tensor, height: int, width: int, strength: float, generator: torch.Generator
) -> Tensor:
    """Sampling grid of `F.grid_sample`: source positions (B, H, W, 2) as (x, y), -1 to 1.

    `sign` (B,) is -1 for pictures to mirror, else 1.
    """
    turn, zoom, stretch, shear, right, down = (
        strength * _uniform(6, len(sign), generator)[..., None]
    )
    zoom, stretch = torch.exp(_LOG_ZOOM * zoom), torch.exp(_LOG_ZOOM / 2 * stretch)
    cosine, sine = torch.cos(_ROTATION * turn) * zoom, torch.sin(_ROTATION * turn) * zoom
    y, x = (torch.arange(1 - n, n, 2, device=sign.device) / n for n in (height, width))
    x = x * sign[:, None]
    # An affine map is a sum of a row and a column: far faster than torch's affine_grid.
    grid = torch.empty(len(sign), height, width, 2, device=sign.device)
    x_from_rows = (_SHEAR * shear - sine) * y + 2 * _SHIFT * right
    y_from_rows = cosine / stretch * y + 2 * _SHIFT * down
    torch.add((cosine * stretch * x)[:, None], x_from_rows[:, :, None], out=grid[..., 0])
    torch.add((sine * x)[:, None], y_from_rows[:, :, None], out=grid[..., 1])
    return grid


def _row_and_column_indices(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.arange(x.shape[2], device=x.device), torch.arange(x.shape[3], device=x.device)


def _uniform(kinds: int, count: int, generator: torch.Generator) -> Tensor:
    """Uniform draws (kinds, count) from -1 to 1."""
    return 2 * torch.rand(kinds, count, generator=generator, device=generator.device) - 1


def _randint(low: int, high: int, count: int, generator: torch.Generator) -> Tensor:
    """Integer draws (count,), both ends included."""
    return torch.randint(low, high + 1, (count,), generator=generator, device=generator.device)
