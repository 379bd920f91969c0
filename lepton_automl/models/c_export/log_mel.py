"""The log-mel front end in C: its tables, and its arithmetic in numpy, bit for bit.

Operations are those of `kernels.c` in their order: float32, each product and sum rounded, and
logarithms in whole numbers. They differ from those of ONNX Runtime, whose features may be a step
apart where a value is almost half of one.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_automl.models.front_end import LogMel

Floats = NDArray[np.float32]

_TERMS = (
    *(3496510, 21375151, 61272219, 113969799, 164409878),
    *(211292175, 267947536, 357878193, 536869881, 1073741819),
)
"""Of the polynomial ln(1 + t) / t on 0 to 1, degree 9, from the last one on; signs alternate. Its
error is below 4e-9."""
_LN_2 = 2977044472
"""ln 2 * 2^32."""
_BATCH = 16


@dataclass(frozen=True)
class Tables:
    """Constants of a front end."""

    cosines: Floats
    """cos(2 pi n / frame), n from 0 to frame / 4."""
    lines: Floats
    """(mels, 4): slope and value at 0 of the rising and the falling side of each triangle, which
    has the height 1 / floor."""
    spans: NDArray[np.int64]
    """(mels, 2): the first frequency under each triangle, and the one behind the last."""


def tables(front_end: LogMel) -> Tables:
    """The constants of `front_end`; the triangles are those of its ONNX operators."""
    quarter = np.arange(front_end.frame // 4 + 1)
    cosines = np.cos(2 * np.pi * quarter / front_end.frame)
    cosines[-1] = 0.0
    start, top, end = (front_end.corners[n : front_end.mels + n] for n in range(3))
    lines = (1 / (top - start), -start / (top - start), -1 / (end - top), end / (end - top))
    found = np.stack([(line / front_end.floor).astype(np.float32) for line in lines], 1)
    under = np.greater(_heights(found, np.arange(front_end.bins)), 0)
    first, last = under.argmax(1), front_end.bins - under[:, ::-1].argmax(1)
    is_any = np.any(under, axis=1, keepdims=True)
    spans = np.where(is_any, np.stack([first, last], 1), 0)
    return Tables(cosines.astype(np.float32), found, spans)


def c_features(front_end: LogMel, audio: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Features (N, frames, mels, 1) of PCM samples (N, window), as the C files compute them."""
    made = tables(front_end)
    starts = np.arange(front_end.frames) * front_end.hop
    found = np.zeros((len(audio), *front_end.feature_shape), np.uint8)
    for at in range(0, len(audio), _BATCH):
        frames = audio[at : at + _BATCH, starts[:, None] + np.arange(front_end.frame)]
        found[at : at + _BATCH, ..., 0] = _quantized(front_end, _logarithms(made, frames))
    return found


def _logarithms(made: Tables, frames: NDArray[np.int16]) -> NDArray[np.int64]:
    """ln(1 + power) * 2^24 of each triangle, (n, frames, mels)."""
    powers = _spectrum(made.cosines, frames.reshape(-1, frames.shape[-1]))
    found = np.zeros((len(powers), len(made.lines)), np.int64)
    for m, (low, high) in enumerate(made.spans):
        heights, total = _heights(made.lines, np.arange(low, high))[m], np.zeros(1, np.float32)
        for n, height in zip(range(low, high), heights, strict=True):
            total = total + height * powers[:, n]
        found[:, m] = _ln(total + np.float32(1))
    return found.reshape(*frames.shape[:2], -1)


def _heights(lines: Floats, bins: NDArray[np.int64]) -> Floats:
    """(mels, bins) heights of triangles, below 0 outside of them."""
    n = bins.astype(np.float32)
    up = n * lines[:, 0:1] + lines[:, 1:2]
    down = n * lines[:, 2:3] + lines[:, 3:4]
    return np.where(up < down, up, down)


def _spectrum(cosines: Floats, frames: NDArray[np.int16]) -> Floats:
    """Power spectrum (n, frame / 2 + 1) of frames (n, frame), by a transform of half of it."""
    count, length = frames.shape
    half = length // 2
    cos, sin = _circle(cosines)
    turn = cos[np.minimum(np.arange(length), length - np.arange(length))]
    values = frames.astype(np.float32) * (np.float32(0.5) - np.float32(0.5) * turn)
    order = _bit_reversed(half)
    re, im = values[:, 0::2][:, order], values[:, 1::2][:, order]
    size = 1
    while size < half:
        c, s = (each[np.arange(size) * (half // size)] for each in (cos, sin))
        shape = (count, half // (2 * size), 2, size)
        re, im = re.reshape(shape), im.reshape(shape)
        (are, bre), (aim, bim) = (np.moveaxis(each, 2, 0) for each in (re, im))
        tre, tim = bre * c + bim * s, bim * c - bre * s
        re, im = np.stack([are + tre, are - tre], 2), np.stack([aim + tim, aim - tim], 2)
        size *= 2
    re, im = re.reshape(count, half), im.reshape(count, half)
    found = np.zeros((count, half + 1), np.float32)
    found[:, 0], found[:, half] = (re + im)[:, 0] ** 2, (re - im)[:, 0] ** 2
    n = np.arange(1, half // 2 + 1)
    are, aim, bre, bim = re[:, n], im[:, n], re[:, half - n], im[:, half - n]
    a_half = np.float32(0.5)
    ere, eim = a_half * (are + bre), a_half * (aim - bim)
    ore, oim = a_half * (aim + bim), a_half * (bre - are)
    tre, tim = ore * cos[n] + oim * sin[n], oim * cos[n] - ore * sin[n]
    found[:, half - n] = (ere - tre) ** 2 + (eim - tim) ** 2
    found[:, n] = (ere + tre) ** 2 + (eim + tim) ** 2
    return found


def _circle(cosines: Floats) -> tuple[Floats, Floats]:
    """Cosine and sine of 2 pi n / frame, n from 0 to frame / 2, from a quarter of the circle."""
    cos = np.concatenate([cosines, -cosines[-2::-1]])
    return cos, np.concatenate([cosines[::-1], cosines[1:]])


@functools.cache
def _bit_reversed(length: int) -> NDArray[np.int64]:
    bits = length.bit_length() - 1
    n, found = np.arange(length), np.zeros(length, np.int64)
    for bit in range(bits):
        found |= (n >> bit & 1) << (bits - 1 - bit)
    return found


def _ln(x: Floats) -> NDArray[np.int64]:
    """ln(x) * 2^24 of numbers from 1 on."""
    bits = np.ascontiguousarray(x).view(np.uint32).astype(np.int64)
    power, part = (bits >> 23) - 127, (bits & 0x7FFFFF) << 7
    y = np.full_like(part, _TERMS[0])
    for term in _TERMS[1:]:
        y = term - (y * part >> 30)
    return np.asarray(((power * _LN_2 >> 2) + (y * part >> 30) + 32) >> 6, np.int64)


def _quantized(front_end: LogMel, values: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Bytes of logarithms (n, frames, mels)."""
    if front_end.is_centred:
        values = values - values.sum(1, keepdims=True) // front_end.frames
    real = values.astype(np.float32) * np.float32(2**-24) / np.float32(front_end.step)
    return np.asarray(np.clip(np.rint(real) + front_end.zero_point, 0, 255), np.uint8)
