"""Random changes of training pictures, a whole chunk of batches at a time."""

from __future__ import annotations

import torch
from torch import Tensor


def gathered(
    pixels: Tensor,
    index: Tensor,
    *,
    strength: float,
    flip: bool,
    generator: torch.Generator,
) -> Tensor:
    """Pictures `index` of `pixels`, each shifted by a few pixels and perhaps mirrored.

    Picking, shifting (pad by reflection, then crop) and mirroring are one gather of bytes.

    Parameters
    ----------
    pixels : Tensor
        uint8 (N, H, W, C).
    index : Tensor
        int64 (B,), on the device of `pixels`.
    strength : float
        0 (none) to 1: shifts up to an eighth of the side.
    flip : bool
        Mirror half of the pictures left to right.
    generator : torch.Generator
        Of the device of `pixels`.

    Returns
    -------
    Tensor
        uint8 (B, H, W, C).
    """
    _, height, width, channels = pixels.shape
    if not (strength or flip):
        return pixels.index_select(0, index)
    rows = _shifted(len(index), height, strength, generator)
    columns = _shifted(len(index), width, strength, generator)
    if flip:
        mirrored = torch.rand(len(index), 1, generator=generator, device=index.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    places = (index[:, None] * height + rows)[:, :, None] * width + columns[:, None, :]
    flat = pixels.reshape(-1, channels)
    return flat.index_select(0, places.reshape(-1)).reshape(-1, height, width, channels)


def _shifted(count: int, size: int, strength: float, generator: torch.Generator) -> Tensor:
    """Source positions (count, size) of a random shift, reflected at the edges."""
    most = min(round(strength * size / 8), size - 1)
    device = generator.device
    shift = torch.randint(-most, most + 1, (count, 1), generator=generator, device=device)
    place = (torch.arange(size, device=device) + shift).abs()
    return torch.where(place >= size, 2 * (size - 1) - place, place)
