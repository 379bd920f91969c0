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
_ROUNDED, _BOTH_SIDES, _REACH, _DARK = 0.01, 0.5, 0.9, 32
"""Of floating-point pixels: what rounding adds beyond 0 to 1; what values on both sides of 0 must
pass, and one of them reach, to be taken for -1 to 1; values up to this are not counts."""
_BLOCK_PIXELS = 1 << 22
"""Pixels that are compared at once."""


@dataclass(frozen=True)
class Levels:
    """Darkest and brightest stored value of a picture."""

    low: float
    high: float
    extreme_share: float
    """Share of the values that are one of these two, 0 to 1."""
    is_above_8_bits: bool = False
    """Whether the values have more than 8 bits, so that they need a pixel scale."""
    is_float: bool = False
    """Whether they are floating-point numbers; `is_above_8_bits` is true then."""

    @classmethod
    def of(
        cls, values: NDArray[np.integer] | NDArray[np.floating], *, is_above_8_bits: bool = False
    ) -> Levels:
        """The levels of an array of values."""
        low, high = float(values.min()), float(values.max())
        share = float(((values == low) | (values == high)).mean())
        return cls(low, high, share, is_above_8_bits, values.dtype.kind == "f")


@dataclass(frozen=True, eq=False)
class LevelTable:
    """The levels of many pictures, a column a field of `Levels`."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    extreme_share: NDArray[np.float64]
    is_above_8_bits: NDArray[np.bool_]
    is_float: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.low)

    @classmethod
    def of(cls, rows: Sequence[Levels]) -> Self:
        """From the levels of each picture."""
        return cls(
            np.array([row.low for row in rows], np.float64),
            np.array([row.high for row in rows], np.float64),
            np.array([row.extreme_share for row in rows], np.float64),
            np.array([row.is_above_8_bits for row in rows], np.bool_),
            np.array([row.is_float for row in rows], np.bool_),
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
        return cls(low.astype(np.float64), high.astype(np.float64), share, none, none)

    def select(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> LevelTable:
        """The rows at `places`."""
        return LevelTable(
            self.low[places],
            self.high[places],
            self.extreme_share[places],
            self.is_above_8_bits[places],
            self.is_float[places],
        )

    def to_8_bit(self, scale: PixelScale) -> LevelTable:
        """Copy in which values of more than 8 bits are converted, as by `decode.decode`."""
        low, high = (
            np.where(
                self.is_float,
                scale.to_uint8(column),
                np.where(self.is_above_8_bits, scale.of_files.to_uint8(column), column),
            ).astype(np.float64)
            for column in (self.low, self.high)
        )
        none = np.zeros(len(self), np.bool_)
        return LevelTable(low, high, self.extreme_share, none, none)


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
    are_floats = _are_floats(parts)
    if stated is not None:
        for name, rows in parts.items():
            _check_stated(stated, name, rows)
        notes = [_clipped(name, rows, stated) for name, rows in parts.items()]
        return stated, None, tuple(filter(None, notes))
    highest = None if training is None else float(training.high.max())
    scale = _chosen(parts, known, are_floats=are_floats)
    reached = scale.white if highest is None else highest
    for name, rows in parts.items():
        beyond = float((rows.high > scale.white).mean())
        if beyond > _BEYOND_SHARE or has_other_scale(float(rows.high.max()), scale, reached):
            seen = "8-bit training pictures" if training is None else f"training up to {highest:g}"
            raise DataError(
                f"pictures with 16 bits a channel have different scales: {seen} ({scale}), but "
                f"{name} up to {rows.high.max():g}",
                fix=f"give all parts in one scale, or state it with {OPTION}",
            )
    notes = [_clipped(name, rows, scale) for name, rows in parts.items()]
    if training is None:
        evidence = "no training picture has more than 8 bits a channel"
        return scale, decision(scale, evidence, certainty="assumed"), tuple(filter(None, notes))
    kind = "floating-point pixels" if are_floats else "more than 8 bits a channel"
    evidence = (
        f"{len(training)} of {training_count} training pictures have {kind}, values "
        f"{training.low.min():g} to {highest:g}"
    )
    usual = None if are_floats else smallest_bits(float(np.quantile(training.high, 0.9)))
    if usual is not None and usual.white * 15 < scale.white:
        evidence += f", 9 of 10 only up to {np.quantile(training.high, 0.9):.0f}"
        notes.append(
            f"few pictures reach {highest:g}, 9 of 10 stay within {usual.white:g}: if the others "
            f"hold marks or faults, state the scale: {OPTION}={usual.name}"
        )
    if len(training) < training_count:
        notes.append(
            f"{training_count - len(training)} of {training_count} training pictures have 8 bits a "
            f"channel and are read as 0 to 255, the others as {scale.black:g} to {scale.white:g}"
        )
    return scale, decision(scale, evidence), tuple(filter(None, notes))


def _chosen(
    parts: Mapping[str, LevelTable], known: PixelScale | None, *, are_floats: bool
) -> PixelScale:
    """The scale of the data that a net was trained on, where files may have it; else their own."""
    if known is not None and (are_floats or known.is_above_8_bits or known not in NAMED.values()):
        return known
    training = parts.get("train")
    if are_floats:
        return _scale_of_floats(training or next(iter(parts.values())))
    found = None if training is None else smallest_bits(float(training.high.max()))
    return found or SIXTEEN_BIT


def _are_floats(parts: Mapping[str, LevelTable]) -> bool:
    """Whether pictures of more than 8 bits are floating-point numbers, all or none.

    Raises
    ------
    DataError
        If only some are.
    """
    found = np.concatenate([rows.is_float for rows in parts.values()])
    if found.any() and not found.all():
        raise DataError(
            f"{found.sum()} pictures have floating-point pixels, {(~found).sum()} 16 bits a "
            "channel: one scale cannot hold for both",
            fix="convert one kind into the other",
        )
    return bool(found.all())


def _scale_of_floats(training: LevelTable) -> PixelScale:
    """The scale of floating-point pictures: 0 to 1, -1 to 1, or whole numbers' of 8 to 16 bits.

    Raises
    ------
    DataError
        If their range shows none.
    """
    low, high = float(training.low.min()), float(training.high.max())
    if low >= -_ROUNDED and 0 < high <= 1 + _ROUNDED:
        return NAMED["unit"]
    reaches = -1 - _ROUNDED <= low <= -_BOTH_SIDES and _BOTH_SIDES <= high <= 1 + _ROUNDED
    if reaches and max(-low, high) >= _REACH:
        return NAMED["symmetric"]
    found = smallest_bits(high) if low >= 0 and high > _DARK else None
    if found is None:
        raise DataError(
            f"pictures have floating-point pixels from {low:g} to {high:g} in training; recognised "
            "are 0 to 1, -1 to 1, and 0 to 255 or what 10 to 16 bits hold",
            fix=f"state what is black and white, such as {OPTION}={low:.6g}:{high:.6g}",
        )
    return found


def _check_stated(stated: PixelScale, name: str, rows: LevelTable) -> None:
    """Refuse a scale that would make files of a part black or white."""
    high, beyond = float(rows.high.max()), float((rows.high > stated.white).mean())
    is_named = stated in NAMED.values()
    is_black = high - stated.black < stated.width / 128
    is_white = bool(stated.white <= 1 and not rows.is_float.any()) or rows.low.min() >= stated.white
    if is_black or is_white or (is_named and beyond > _BEYOND_SHARE):
        raise ConfigError(
            f"{OPTION} {stated.name}: {stated.black:g} is black and {stated.white:g} white, but "
            f"{name} pictures with more than 8 bits a channel hold {rows.low.min():g} to {high:g}",
            fix=f"leave {OPTION} out, or give the values of black and white in these files",
        )


def _clipped(name: str, rows: LevelTable, scale: PixelScale) -> str:
    count = int((rows.high > scale.white).sum())
    if not count:
        return ""
    return (
        f"{count} of {len(rows)} {name} pictures with 16 bits a channel have values above "
        f"{scale.white:g}, up to {rows.high.max():g}, which become white"
    )
