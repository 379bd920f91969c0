"""Darkest and brightest value of every picture, and the pixel scale of files that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.decisions import Decision
from lepton_automl.data.pictures.pixel_scale import (
    NAMED,
    OPTION,
    SIXTEEN_BIT,
    PixelScale,
    decision,
    has_other_scale,
    smallest_bits,
)
from lepton_automl.errors import ConfigError, DataError

_BEYOND_SHARE = 0.2
"""Share of the pictures of a part that may have values above white; hot pixels are in few."""
_BLOCK_PIXELS = 1 << 22
"""Pixels that are compared at once."""


@dataclass(frozen=True)
class Levels:
    """Darkest and brightest stored value of a picture."""

    low: int
    high: int
    extreme_share: float
    """Share of the values that are one of these two, 0 to 1."""
    is_deep: bool = False
    """Whether the values have more than 8 bits, so that they need a pixel scale."""

    @classmethod
    def of(cls, values: NDArray[np.integer], *, is_deep: bool = False) -> Levels:
        """The levels of an array of values."""
        low, high = int(values.min()), int(values.max())
        share = float(((values == low) | (values == high)).mean())
        return cls(low, high, share, is_deep)


@dataclass(frozen=True, eq=False)
class LevelTable:
    """The levels of many pictures, a column a field of `Levels`."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    extreme_share: NDArray[np.float64]
    is_deep: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.low)

    @classmethod
    def of(cls, rows: Sequence[Levels]) -> Self:
        """From the levels of each picture."""
        return cls(
            np.array([row.low for row in rows], np.int64),
            np.array([row.high for row in rows], np.int64),
            np.array([row.extreme_share for row in rows], np.float64),
            np.array([row.is_deep for row in rows], np.bool_),
        )

    @classmethod
    def of_pixels(cls, pixels: NDArray[np.uint8]) -> Self:
        """From uint8 pixels (N, H, W, C)."""
        flat = pixels.reshape(len(pixels), -1)
        low, high = flat.min(1), flat.max(1)
        share, rows = np.empty(len(flat)), max(1, _BLOCK_PIXELS // max(1, flat.shape[1]))
        for start in range(0, len(flat), rows):
            block, chosen = flat[start : start + rows], slice(start, start + rows)
            is_extreme = (block == low[chosen, None]) | (block == high[chosen, None])
            share[chosen] = is_extreme.mean(1)
        none = np.zeros(len(flat), np.bool_)
        return cls(low.astype(np.int64), high.astype(np.int64), share, none)

    def select(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> LevelTable:
        """The rows at `places`."""
        return LevelTable(
            self.low[places], self.high[places], self.extreme_share[places], self.is_deep[places]
        )

    def to_8_bit(self, scale: PixelScale) -> LevelTable:
        """Copy in which values of more than 8 bits are converted by `scale`."""
        low, high = (
            np.where(self.is_deep, scale.to_uint8(column), column).astype(np.int64)
            for column in (self.low, self.high)
        )
        return LevelTable(low, high, self.extreme_share, np.zeros(len(self), np.bool_))


def scale_files(
    parts: Mapping[str, LevelTable],
    *,
    training_count: int,
    stated: PixelScale | None,
    known: PixelScale | None,
) -> tuple[PixelScale, Decision | None, tuple[str, ...]]:
    """Choose the scale of picture files with more than 8 bits from those of the training part.

    Parameters
    ----------
    parts : mapping of str to LevelTable
        Of the files with more than 8 bits in `train`, `validation` and `test`, where there are any;
        files without a part count as `train`.
    training_count : int
        Pictures of the training part, of any kind.
    stated, known : PixelScale or None
        As `given` and `known` in `pixel_scale.scale_arrays`.

    Returns
    -------
    scale : PixelScale
    decision : Decision or None
        None if the user states the scale.
    notes : tuple of str
        Remarks for the user.

    Raises
    ------
    DataError
        If a part has another scale than training.
    ConfigError
        If the stated scale does not fit.
    """
    training = parts.get("train")
    if stated is not None:
        for name, rows in parts.items():
            _check_stated(stated, name, rows)
        notes = [_clipped(name, rows, stated) for name, rows in parts.items()]
        return stated, None, tuple(filter(None, notes))
    highest = None if training is None else int(training.high.max())
    is_usable = known is not None and (known.is_deep or known not in NAMED.values())
    scale = known if known is not None and is_usable else None
    scale = scale or (SIXTEEN_BIT if highest is None else smallest_bits(highest)) or SIXTEEN_BIT
    reached = scale.white if highest is None else highest
    for name, rows in parts.items():
        beyond = float((rows.high > scale.white).mean())
        if beyond > _BEYOND_SHARE or has_other_scale(int(rows.high.max()), scale, reached):
            seen = "8-bit training pictures" if training is None else f"training up to {highest}"
            raise DataError(
                f"pictures with 16 bits a channel have different scales: {seen} ({scale}), but "
                f"{name} up to {rows.high.max()}",
                fix=f"give all parts in one scale, or state it with {OPTION}",
            )
    notes = [_clipped(name, rows, scale) for name, rows in parts.items()]
    if training is None:
        evidence = "no training picture has more than 8 bits a channel"
        return scale, decision(scale, evidence, certainty="assumed"), tuple(filter(None, notes))
    evidence = (
        f"{len(training)} of {training_count} training pictures have more than 8 bits a channel, "
        f"values {training.low.min()} to {highest}"
    )
    usual = smallest_bits(float(np.quantile(training.high, 0.9)))
    if usual is not None and usual.white * 15 < scale.white:
        evidence += f", 9 of 10 only up to {np.quantile(training.high, 0.9):.0f}"
        notes.append(
            f"few pictures reach {highest}, 9 of 10 stay within {usual.white:g}: if the others "
            f"hold marks or faults, state the scale: {OPTION}={usual.name}"
        )
    if len(training) < training_count:
        notes.append(
            f"{training_count - len(training)} of {training_count} training pictures have 8 bits a "
            f"channel and are read as 0 to 255, the others as {scale.black:g} to {scale.white:g}"
        )
    return scale, decision(scale, evidence), tuple(filter(None, notes))


def _check_stated(stated: PixelScale, name: str, rows: LevelTable) -> None:
    """Refuse a scale that would make files of a part black or white."""
    high, beyond = int(rows.high.max()), float((rows.high > stated.white).mean())
    is_named = stated in NAMED.values()
    is_black = high - stated.black < stated.width / 128
    is_white = stated.white <= 1 or int(rows.low.min()) >= stated.white
    if is_black or is_white or (is_named and beyond > _BEYOND_SHARE):
        raise ConfigError(
            f"{OPTION} {stated.name}: {stated.black:g} is black and {stated.white:g} white, but "
            f"{name} pictures with 16 bits a channel hold {rows.low.min()} to {high}",
            fix=f"leave {OPTION} out, or give the values of black and white in these files",
        )


def _clipped(name: str, rows: LevelTable, scale: PixelScale) -> str:
    count = int((rows.high > scale.white).sum())
    if not count:
        return ""
    return (
        f"{count} of {len(rows)} {name} pictures with 16 bits a channel have values above "
        f"{scale.white:g}, up to {rows.high.max()}, which become white"
    )
