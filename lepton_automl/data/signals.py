"""Signals: windows of measured values over time, as sensors give them, in 1 to 16 channels.

A net sees 8-bit samples of them (`models.quantization.InputQuantization`); the written file
quantizes the values itself, so that it reads what the sensor gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.decisions import Decision
from lepton_automl.core.units import counted
from lepton_automl.data.pictures.pixel_scale import OPTION, PixelScale
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.models.quantization import InputQuantization
from lepton_automl.option_texts import AUTO

Signals = NDArray[np.float32]
"""Measured values (N, length, C)."""

MAX_CHANNELS = 16
"""Channels of a signal."""

Layout = Literal["channels first", "channels last"]

_LONGER = 2
"""A signal is at least so many times as long as it has channels."""
_INSIDE = 0.999
"""Share of the training values of a channel that its 8-bit samples hold; the rest is clipped."""
_STEPS = 127
"""Steps of a sample above and below the offset."""
_LARGEST = 1e18
_BLOCK = 1 << 24
"""Values that are compared at once."""


def layout_of(shape: Sequence[int]) -> Layout | None:
    """Which axis of an array (N, A, B) is that of the channels.

    Returns
    -------
    str or None
        None where the shape alone does not say that it holds signals: neither axis, or both, could
        be channels, or it is too square.
    """
    if len(shape) != 3 or max(shape[1:]) <= MAX_CHANNELS or min(shape[1:]) > MAX_CHANNELS:
        return None
    if max(shape[1:]) < _LONGER * min(shape[1:]):
        return None
    return "channels first" if shape[1] < shape[2] else "channels last"


def to_signals(what: str, values: NDArray[Any], layout: Layout) -> Signals:
    """Measured values as float32 (N, length, channels).

    Parameters
    ----------
    what : str
        Name of the array in messages.
    values : ndarray
        (N, channels, length) or (N, length, channels), of any numeric type.
    layout : str
        Which of both: `channels first` or `channels last`.

    Raises
    ------
    DataError
        If a value is not finite, or too large for arithmetic in float32.
    """
    with np.errstate(over="ignore"):  # What becomes infinite is refused below.
        found = np.ascontiguousarray(
            np.moveaxis(values, 1, 2) if layout == "channels first" else values, np.float32
        )
    rows = max(1, _BLOCK // max(1, found[:1].size))
    for start in range(0, len(found), rows):
        fits = (np.abs(found[start : start + rows]) <= _LARGEST).all((1, 2))  # NaN does not fit.
        if not fits.all():
            place = start + int(np.flatnonzero(~fits)[0])
            raise DataError(
                f"{what}[{place}] has values that are NaN, infinite or beyond {_LARGEST:g}",
                fix="repair these windows or remove them, or give values in another unit",
            )
    return found


def quantization_of(values: Signals) -> tuple[InputQuantization, Decision]:
    """The range of values that 8-bit samples hold, channel by channel.

    Parameters
    ----------
    values : float32 array (N, length, channels)
        Of the training part only.

    Returns
    -------
    InputQuantization
        Offsets are the means; 127 steps reach as far as 99.9 % of the values lie from them.
    Decision
        With the ranges, and how many values are clipped.
    """
    offsets, scales, outside = [], [], 0
    for channel in range(values.shape[2]):
        one = values[:, :, channel]
        offset = np.float32(one.mean(dtype=np.float64))
        apart = np.abs(one.astype(np.float64) - offset)  # In float32 it may overflow.
        reach = float(np.quantile(apart, _INSIDE))
        if not reach > 0:
            reach = float(apart.max()) or 1.0  # A constant channel; any scale fits.
        scale = max(np.float32(reach / _STEPS), np.finfo(np.float32).tiny)
        outside += int((apart > (_STEPS + 0.5) * scale).sum())
        offsets.append(float(offset))
        scales.append(float(scale))
    made = InputQuantization(tuple(offsets), tuple(scales))
    shown = [
        f"{offset - _STEPS * scale:.4g} to {offset + _STEPS * scale:.4g}"
        for offset, scale in list(zip(offsets, scales, strict=True))[:3]
    ]
    more = ", ..." if len(scales) > len(shown) else ""
    return made, Decision(
        name="signal range",
        choice=f"8-bit samples of {', '.join(shown)}{more} (a range a channel); values outside are "
        "clipped",
        evidence=f"{_INSIDE:.1%} of the training values of each channel lie inside; "
        f"{outside / max(1, values.size):.2%} of all are clipped",
        certainty="measured",
        option="clip or rescale the values of the data",
        is_detail=True,
    )


def quantization_of_pixels(
    counts: NDArray[np.int64], dtype: str, stated: PixelScale | None = None
) -> tuple[InputQuantization, tuple[Decision, ...]]:
    """The range of pixel values that 8-bit samples hold, channel by channel.

    Parameters
    ----------
    counts : int64 array (channels, values)
        How often each value from 0 occurs in training pictures.
    dtype : str
        Type of the pixels.
    stated : PixelScale, optional
        Black and white where the user states them; they are the range of all channels.

    Returns
    -------
    InputQuantization
        256 steps from a lower to an upper bound, between which 99.9 % of the pixels lie.
    tuple of Decision
        What the range is, where it is not stated.
    """
    ranges = []
    for own in counts:
        below, used = np.cumsum(own), np.flatnonzero(own)
        ends = [(1 - _INSIDE) / 2 * below[-1], (1 + _INSIDE) / 2 * below[-1]]
        low, high = (float(np.searchsorted(below, end)) for end in ends)
        if not low < high:  # Nearly all pixels are equal.
            low, high = float(used[0]), float(max(used[-1], used[0] + 1))
        ranges.append((low, high) if stated is None else (stated.black, stated.white))
    made = InputQuantization(
        tuple(float(np.float32(low + (high - low) * 128 / 255)) for low, high in ranges),
        tuple(float(np.float32((high - low) / 255)) for low, high in ranges),
        dtype,
    )
    if stated is not None:
        return made, ()
    shown = ", ".join(f"{low:g} to {high:g}" for low, high in ranges[:3])
    decision = Decision(
        name="range of pixels",
        choice=f"8-bit samples of {shown}{', ...' if len(ranges) > 3 else ''}"
        f"{' (a range a channel)' if len(ranges) > 1 else ''}, in the file; others are clipped",
        evidence=f"{_INSIDE:.1%} of the training pixels of each channel lie inside",
        certainty="measured",
        option=OPTION if dtype == "uint16" else "clip or rescale the values of the data",
        is_detail=dtype == "uint8",
    )
    return made, (decision,)


def type_of_signals(arrays: Iterable[NDArray[Any]]) -> str:
    """Type of the values that a file reads for signals stored as these arrays."""
    return "int16" if all(array.dtype == np.int16 for array in arrays) else "float32"


def input_type_of(values: Signals, stored: str, stated: str) -> tuple[str, Decision | None]:
    """Type of the signals that a file reads.

    Parameters
    ----------
    values : float32 array (N, length, channels)
        All signals.
    stored : str
        Type in which they are stored: `int16` or `float32`.
    stated : str
        Value of `--input-type`, `auto` or a type.

    Returns
    -------
    str
    Decision or None
        Where it was inferred that the file reads integers.

    Raises
    ------
    ConfigError
        If the values cannot have the stated type.
    """
    option = "--input-type"
    if stated == AUTO and stored == "int16":
        evidence = "the values are stored as int16"
        choice = "int16 values, as they are stored"
        return stored, Decision(
            "input type", choice, evidence, "inferred", f"{option} float32", is_detail=True
        )
    if stated in (AUTO, "float32"):
        return "float32", None
    if stated != "int16":
        raise ConfigError(
            f"{option} {stated}: the data are signals", fix="give int16 or float32, or leave it out"
        )
    if stored != "int16":
        kind = np.iinfo(np.int16)
        bad = next((v for v in map(_no_int16, values) if v is not None), None)
        if bad is not None:
            raise ConfigError(
                f"{option} int16: the data have values such as {bad:g}, which are not whole "
                f"numbers from {kind.min} to {kind.max}",
                fix="leave it out: the file reads float32 values",
            )
    return "int16", None


def _no_int16(values: NDArray[np.float32]) -> float | None:
    """A value that is not a whole number of 16 bits; None where there is none."""
    kind = np.iinfo(np.int16)
    bad = (values != np.rint(values)) | (values < kind.min) | (values > kind.max)
    return float(values[bad][0]) if bad.any() else None


def to_int16(what: str, values: Signals) -> NDArray[np.int16]:
    """Measured values for a file that reads int16.

    Raises
    ------
    DataError
        If a value is not a whole number of 16 bits.
    """
    if (bad := _no_int16(values)) is not None:
        raise DataError(
            f"{what} has values such as {bad:g}; the net reads int16 values, as its data are",
            fix="give the values as the sensor gives them, without scaling",
        )
    return values.astype(np.int16)


def constant_channels(values: Signals) -> list[int]:
    """Channels in which all values are equal."""
    return [c for c in range(values.shape[2]) if np.ptp(values[:, :, c]) == 0]


def kind_decision(what: str, values: NDArray[Any], layout: Layout) -> Decision:
    """That an array is read as signals, because of its shape and type."""
    _, first, second = values.shape
    length, channels = (second, first) if layout == "channels first" else (first, second)
    return Decision(
        name="kind of data",
        choice=f"signals of {length} values in {counted(channels, 'channel')} "
        f"({layout}), not pictures of {first}x{second} pixels",
        evidence=f"{what} is {values.dtype} (N, {first}, {second})",
        certainty="inferred",
        option="--pixel-scale (then they are pictures), --channel-axis",
    )
