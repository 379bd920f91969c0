"""Pixel scale: which stored value is black and which is white.

Nets take uint8 pixels. Arrays of other numbers, and picture files with 16 bits a channel, are
mapped to them linearly. One scale holds for a whole data set: it follows from the training part
and is checked on every other part, so that no part becomes black or white without a word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import large_arrays
from lepton_automl.core.decisions import Certainty, Decision
from lepton_automl.errors import ConfigError, DataError

OPTION = "--pixel-scale"
_MOST, LEAST_WIDTH = 1e30, 1e-30
"""Largest black or white, and smallest distance between them, that float32 computes with."""
_EXACT = 1 << 54
"""White up to which 64-bit integers hold 255 times a value; above it float64 does."""
_BLOCK_VALUES = 1 << 22
"""Values that are converted or counted at once."""

# Enlarging random black and white pixels twice bicubically reaches 0.2 (Pillow) to 0.31 (torch) of
# the width beyond both ends, with up to 27 % of the values more than 1 % outside; Lanczos 0.46 and
# 31 %; handwritten digits enlarged four times 0.17 to 0.32 and 17 to 22 %.
_OVERSHOOT = 0.5
"""Distance beyond black or white, in widths, that resizing explains."""
_OVERSHOOT_SHARE = 0.4
"""Share of values beyond black or white that resizing explains."""
_NEGLIGIBLE = 0.01
"""Distance in widths that rounding explains; it counts as inside."""
_STRAY_SHARE = 0.001
"""Share of values (hot pixels, marks) that may lie anywhere and is clipped."""
_SYMMETRIC_REACH, _SYMMETRIC_HALF = 0.9, 0.5
"""Values from -1 to 1 must come as close as this to one end, and pass half of the other, to be
taken for a scale: subtracting a mean from 0 to 1 leaves a width of 1."""
_SYMMETRIC_END, _SYMMETRIC_SHARE = 1.25, 0.2
"""As for overshoot, but narrower: standardised pixels reach 1.7 with a third beyond 1."""
_DARKEST_FRACTION = 32
"""Fractions up to this are taken for no scale: read as 0 to 255 they are nearly black."""
_DARK_RATIO = 8
"""A part whose brightest value is this many times below that of training has another scale."""


@dataclass(frozen=True)
class PixelScale:
    """A linear map of stored values: `black` becomes 0 and `white` 255, rounded and clipped."""

    black: float
    white: float

    def __post_init__(self) -> None:
        if not max(abs(self.black), abs(self.white)) <= _MOST:  # NaN is not.
            raise ValueError(f"black and white are numbers up to {_MOST:g}")
        if self.white - self.black < LEAST_WIDTH:
            raise ValueError("black is below white")

    @property
    def width(self) -> float:
        """Distance from black to white."""
        return self.white - self.black

    @property
    def name(self) -> str:
        """Its name as the option takes it: `unit`, `12bit`, `0:3000`."""
        named = {scale: name for name, scale in NAMED.items()}
        return named.get(self, f"{self.black:.9g}:{self.white:.9g}")

    @property
    def is_above_8_bits(self) -> bool:
        """Whether it is for integers of more than 8 bits."""
        return self.white > 255 and self.black >= 0

    def __str__(self) -> str:
        return f"{self.black:.9g} is black, {self.white:.9g} white ({self.name})"

    def to_uint8(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Convert values of any shape."""
        if self in (NAMED["8bit"], NAMED["unit"]) and values.dtype.kind == "b":
            return values.astype(np.uint8) * np.uint8(255)
        is_whole = float(self.white).is_integer() and self.white <= _EXACT
        if values.dtype.kind in "ui" and self.black == 0 and is_whole:
            white = int(self.white)
            clipped = np.clip(values, 0, white).astype(np.int64)
            rounded: NDArray[np.uint8] = ((clipped * 255 + white // 2) // white).astype(np.uint8)
            return rounded
        reals: NDArray[Any] = values.astype(np.float32 if values.dtype.kind == "f" else np.float64)
        levels = np.rint(np.clip((reals - self.black) * (255 / self.width), 0, 255))
        pixels: NDArray[np.uint8] = levels.astype(np.uint8)
        return pixels

    @property
    def of_files(self) -> PixelScale:
        """The scale of picture files with more than 8 bits beside such pixels."""
        return SIXTEEN_BIT if self in (NAMED["unit"], NAMED["symmetric"]) else self


NAMED = {
    "unit": PixelScale(0.0, 1.0),
    "symmetric": PixelScale(-1.0, 1.0),
    **{f"{bits}bit": PixelScale(0.0, 2.0**bits - 1) for bits in (8, 10, 12, 14, 16)},
}
"""Scales that the option names."""
SIXTEEN_BIT = NAMED["16bit"]
EIGHT_BIT = NAMED["8bit"]
_UNIT, _SYMMETRIC = NAMED["unit"], NAMED["symmetric"]
_BITS = tuple(scale for name, scale in NAMED.items() if name.endswith("bit"))


def parse(text: str) -> PixelScale | None:
    """The scale that a value of `--pixel-scale` states; None for `auto`.

    Raises
    ------
    ConfigError
        If it states none.
    """
    if text == "auto" or text in NAMED:
        return NAMED.get(text)
    low, colon, high = text.partition(":")
    try:
        return PixelScale(float(low), float(high)) if colon else PixelScale(0.0, float(low))
    except ValueError as error:
        raise ConfigError(
            f"{OPTION} {text!r:.60}, the rule is auto, {', '.join(NAMED)}, WHITE or BLACK:WHITE "
            f"(numbers up to {_MOST:g}, black below white)",
            fix=f"give the stored values of black and white, such as {OPTION}=0:4095, or leave "
            f"{OPTION} out",
        ) from error


_NARROW = 16
"""Rows or columns up to which arrays (N, H, W) could be signals: these have so many channels."""


@dataclass(frozen=True, eq=False)
class RawArray:
    """Pictures of one part as they are stored."""

    name: str
    """In messages: `x_train`."""
    part: str
    """`train`, `validation`, `test`, or empty for pictures without a part."""
    values: NDArray[Any]
    """(N, H, W, C) of any numeric type."""

    @property
    def is_training(self) -> bool:
        """Whether it belongs to the training part, or is still to be split."""
        return self.part in ("", "train")


@dataclass(frozen=True)
class _Range:
    """Lowest and highest value of a part."""

    name: str
    low: float
    high: float
    kind: str
    """Kind of the dtype: b, u, i or f."""
    is_whole: bool
    is_uint8: bool

    @property
    def text(self) -> str:
        return f"{self.name} {self.low:.6g} to {self.high:.6g}"


@dataclass(frozen=True)
class _Reference:
    """What the scale comes from."""

    text: str
    training: _Range


def scale_arrays(
    data: str, arrays: Sequence[RawArray], given: PixelScale | None, known: PixelScale | None = None
) -> tuple[PixelScale, Decision | None, tuple[str, ...]]:
    """Choose the scale of arrays from their training part, and check it on every part.

    Parameters
    ----------
    data : str
        Name of the data in messages.
    arrays : sequence of RawArray
        All parts of one data set.
    given : PixelScale, optional
        The scale that the user states.
    known : PixelScale, optional
        The scale of other data that these must share: of the data that a net was trained on.

    Returns
    -------
    scale : PixelScale
    decision : Decision or None
        None if the user states the scale.
    notes : tuple of str
        What is clipped, one sentence a part.

    Raises
    ------
    DataError
        If the values are of no known scale, not finite, or a part has another scale than training.
    ConfigError
        If the stated scale does not fit the values.
    """
    for array in arrays:
        _check_finite(data, array)
    filled = [array for array in arrays if array.values.size]
    if not filled:
        raise DataError(
            f"{data} holds no pictures: {arrays[0].name} has length 0", fix="give pictures"
        )
    training = [array for array in filled if array.is_training] or filled[:1]
    ranges = {id(array): _range(array) for array in filled}
    seen = [ranges[id(array)] for array in training]
    whole = _joined(seen)
    shared = _shared(known, whole)
    scale = given or shared or _recognised(data, whole, training)
    source = f"{whole.text}, {scale}" if shared is None else f"the net was trained with {scale}"
    notes = []
    for array in filled:
        found = ranges[id(array)]
        note = _checked(data, array, found, scale, given, _Reference(source, whole))
        if note is not None:
            notes.append(note)
    if given is not None:
        return scale, None, tuple(notes)
    evidence = "; ".join([f"{whole.text}, {training[0].values.dtype}", *notes])
    return scale, decision(scale, evidence), tuple(notes)


def decision(scale: PixelScale, evidence: str, certainty: Certainty = "inferred") -> Decision:
    """The record of a scale that was chosen for the user."""
    return Decision("pixel scale", str(scale), evidence, certainty, OPTION)


def smallest_bits(highest: float) -> PixelScale | None:
    """The scale of the fewest bits (8, 10, 12, 14, 16) that holds a value; None if none does."""
    return next((scale for scale in _BITS if highest <= scale.white), None)


def has_other_scale(highest: float, scale: PixelScale, highest_training: float) -> bool:
    """Whether the brightest value of a part is so far below training's that its scale differs."""
    return (highest - scale.black) * _DARK_RATIO <= highest_training - scale.black


def convert(arrays: Sequence[RawArray], scale: PixelScale) -> NDArray[np.uint8]:
    """All pictures one after the other: uint8 (N, H, W, C)."""
    shape = arrays[0].values.shape[1:]
    count = sum(len(array.values) for array in arrays)
    pixels: NDArray[np.uint8] = large_arrays.empty((count, *shape), np.uint8)
    rows, place = max(1, _BLOCK_VALUES // max(1, math.prod(shape))), 0
    for array in arrays:
        for start in range(0, len(array.values), rows):
            block = array.values[start : start + rows]
            is_ready = block.dtype == np.uint8 and scale == EIGHT_BIT
            pixels[place : place + len(block)] = block if is_ready else scale.to_uint8(block)
            place += len(block)
    return pixels


def _check_finite(data: str, array: RawArray) -> None:
    if array.values.dtype.kind != "f":
        return
    x = array.values
    bad = np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(1))
    if len(bad):
        raise DataError(
            f"{data}: {array.name} has NaN or infinite pixels in {len(bad)} of {len(x)} pictures, "
            f"the first is {array.name}[{bad[0]}]",
            fix="repair these pictures or remove them",
        )


def _blocks(values: NDArray[Any]) -> list[NDArray[Any]]:
    count = max(1, math.ceil(values.size / _BLOCK_VALUES))
    return np.array_split(values, min(count, len(values)))


def _range(array: RawArray) -> _Range:
    values, kind = array.values, array.values.dtype.kind
    is_whole = kind != "f" or all((block == np.rint(block)).all() for block in _blocks(values))
    low, high = float(values.min()), float(values.max())
    return _Range(array.name, low, high, kind, is_whole, values.dtype == np.uint8)


def _joined(ranges: Sequence[_Range]) -> _Range:
    return _Range(
        " and ".join(each.name for each in ranges),
        min(each.low for each in ranges),
        max(each.high for each in ranges),
        ranges[0].kind,
        all(each.is_whole for each in ranges),
        all(each.is_uint8 for each in ranges),
    )


def _shared(known: PixelScale | None, found: _Range) -> PixelScale | None:
    """The scale of the data that a net was trained on, where these values may have it."""
    if known is None or found.is_uint8 or (found.high <= 1 and found.low >= -1):
        return None
    is_stated = known not in NAMED.values()
    return known if is_stated or (known.is_above_8_bits and found.is_whole) else None


def _recognised(data: str, found: _Range, arrays: Sequence[RawArray]) -> PixelScale:
    """The scale that the type and the range of the training values show."""
    if found.kind == "b" or (found.is_whole and found.low >= 0 and found.high == 1):
        return _UNIT
    if found.is_uint8:
        return EIGHT_BIT
    if found.is_whole and found.low >= 0:
        scale = smallest_bits(found.high)
    else:
        scale = _scale_of_fractions(found, arrays)
    if scale is None:
        raise DataError(
            f"{data}: pixels from {found.low:g} to {found.high:g} in {found.name}; recognised are "
            "whole numbers from 0 to at most 65535, and other numbers 0 to 1, -1 to 1, 0 to 255",
            fix=f"state what is black and white, such as {OPTION}={_suggestion(found)}, or give "
            f"raw pixels: lepton computes mean and deviation itself{_signal_hint(arrays)}",
        )
    return scale


def _signal_hint(arrays: Sequence[RawArray]) -> str:
    """What to do where arrays of a small side, taken for grey pictures, are windows of signals."""
    _, height, width, channels = arrays[0].values.shape
    if channels > 1 or min(height, width) > _NARROW:
        return ""
    return (
        f"; where x holds windows of signals: --channel-axis last for {height} values in {width} "
        f"channels, first for {width} values in {height}"
    )


def _scale_of_fractions(found: _Range, arrays: Sequence[RawArray]) -> PixelScale | None:
    """The scale of values that are not counts from 0: fractions, or below 0 after resizing."""
    if _is_overshoot(found, _UNIT, arrays):
        return _UNIT
    if found.high <= _DARKEST_FRACTION and _outside(arrays, _UNIT) <= _STRAY_SHARE:
        return _UNIT
    ends = sorted((-found.low, found.high))
    reaches = ends[0] >= _SYMMETRIC_HALF and ends[1] >= _SYMMETRIC_REACH
    is_near = max(-found.low, found.high) <= _SYMMETRIC_END
    if reaches and is_near and _outside(arrays, _SYMMETRIC) <= _SYMMETRIC_SHARE:
        return _SYMMETRIC
    if found.high <= _DARKEST_FRACTION and not found.is_whole:
        return None
    for scale in _BITS:
        above, below = found.high - scale.white, scale.black - found.low
        near = _NEGLIGIBLE * scale.width
        # Values above white but none below black are not overshoot: they have more bits.
        if max(above, below) <= _OVERSHOOT * scale.width and (above <= near or below > near):
            return scale if _is_overshoot(found, scale, arrays) else None
    return None


def _is_overshoot(found: _Range, scale: PixelScale, arrays: Sequence[RawArray]) -> bool:
    """Whether the values are of this scale, apart from what resizing adds at hard edges.

    Values far below black are only taken for overshoot where others reach white: subtracting a
    mean also makes values negative, but lowers the highest one.
    """
    above, below = found.high - scale.white, scale.black - found.low
    near = _NEGLIGIBLE * scale.width
    if max(above, below) > _OVERSHOOT * scale.width:
        return False
    if below > 5 * near and above < -below / 2:
        return False
    return max(above, below) <= near or _outside(arrays, scale) <= _OVERSHOOT_SHARE


def _outside(arrays: Sequence[RawArray], scale: PixelScale) -> float:
    """Share of the values that lie beyond black or white by more than rounding."""
    count = sum(_count_outside(array.values, scale, _NEGLIGIBLE) for array in arrays)
    return count / max(1, sum(array.values.size for array in arrays))


def _count_outside(values: NDArray[Any], scale: PixelScale, margin: float) -> int:
    low, high = scale.black - margin * scale.width, scale.white + margin * scale.width
    return sum(int(((block < low) | (block > high)).sum()) for block in _blocks(values))


def _checked(
    data: str,
    array: RawArray,
    found: _Range,
    scale: PixelScale,
    given: PixelScale | None,
    reference: _Reference,
) -> str | None:
    """Raise an error if a part is not of the scale; say what is clipped, or None."""
    low, high = scale.black, scale.white
    is_beyond = found.low < low or found.high > high
    share = _outside([array], scale) if is_beyond else 0.0
    extent = max(low - found.low, found.high - high) / scale.width
    is_near = extent <= _OVERSHOOT and share <= _OVERSHOOT_SHARE
    is_window = given is not None and given not in NAMED.values()
    is_constant = found.low == found.high
    fits = share <= _STRAY_SHARE or is_near or (is_window and share < 1)
    if scale == _SYMMETRIC and not is_constant:
        fits = fits and found.low < 0
    if given is not None:
        is_black = found.high - low < scale.width / 128
        if not fits or (is_black and not is_constant):
            what = "become nearly black" if is_black else f"lie outside, {100 * share:.1f} %"
            raise ConfigError(
                f"{OPTION} {given.name}: {low:g} is black and {high:g} white, but pixels of "
                f"{data}: {found.text} {what}",
                fix=f"leave {OPTION} out, or give the values of black and white in these data",
            )
    elif not fits or (not is_constant and _is_darker(found, scale, reference.training)):
        raise DataError(
            f"{data}: pixels have different scales: {reference.text}, but {found.text}",
            fix="give all parts in one scale, the same in training and test",
        )
    if not is_beyond:
        return None
    return (
        f"{_count_outside(array.values, scale, 0)} of {array.values.size} values of {array.name} "
        f"are clipped: they lie outside of {low:g} to {high:g}, from {found.low:.6g} to "
        f"{found.high:.6g}, as after resizing"
    )


def _is_darker(found: _Range, scale: PixelScale, training: _Range) -> bool:
    # Bytes are 0 to 255 by their type, so only those that are 0 or 1 are of another scale.
    if found.is_uint8 and training.is_uint8:
        return found.high <= 1 < training.high
    return has_other_scale(found.high, scale, training.high)


def _suggestion(found: _Range) -> str:
    return f"{found.low:.6g}:{found.high:.6g}"
