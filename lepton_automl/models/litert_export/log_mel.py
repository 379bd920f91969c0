"""Write the log-mel front end of nets for sound as builtin float operators of LiteRT."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lepton_automl.models.front_end import LogMel
from lepton_automl.models.litert_export.flatbuffer import (
    MEAN_OPTIONS,
    MUL_OPTIONS,
    NO_OPTIONS,
    SUB_OPTIONS,
    Activation,
    Code,
    LiteRtWriter,
    Options,
    add_options,
    gather_options,
    reshape_options,
)


def append_front_end(writer: LiteRtWriter, front_end: LogMel, samples: int) -> int:
    """Append what computes logarithms of float32 samples (n, window).

    The triangles are computed from four numbers each in every call: as a matrix they would take
    as much space as a net. Frames are gathered in parts of the greatest length that frames,
    hops and the window have in common.

    Returns
    -------
    int
        Number of a float32 tensor (n, frames, mels, 1).
    """
    chain = _Chain(writer)
    frames, frame, bins = front_end.frames, front_end.frame, front_end.bins
    part = math.gcd(frame, front_end.hop, front_end.window)
    x = chain.reshaped(samples, (front_end.window // part, part))
    starts = (np.arange(frames) * (front_end.hop // part))[:, None]
    steps = np.arange(frame // part)[None]
    ends = [writer.constant(each.astype(np.int32)) for each in (starts, steps)]
    rows, none = (frames, frame // part), add_options(Activation.NONE)
    places = chain(Code.ADD, ends, rows, none, "int32")
    x = chain(Code.GATHER, [x, places], (1, *rows, part), gather_options(1))
    x = chain.reshaped(x, (frames, 1, frame))
    turn = 2 * np.pi * np.arange(frame) / frame
    hann = writer.constant((0.5 - 0.5 * np.cos(turn)).astype(np.float32))
    x = chain(Code.MUL, [x, hann], (1, frames, 1, frame), MUL_OPTIONS)
    sizes = writer.constant(np.array([1, frame], np.int32))
    x = chain(Code.RFFT2D, [x, sizes], (1, frames, 1, bins), dtype="complex64")
    parts = [chain(code, [x], (1, frames, 1, bins)) for code in (Code.REAL, Code.IMAG)]
    squares = [chain(Code.MUL, [y, y], (1, frames, 1, bins), MUL_OPTIONS) for y in parts]
    x = chain(Code.ADD, squares, (1, frames, 1, bins), none)
    x = chain.reshaped(x, (frames, bins))
    x = chain(Code.BATCH_MATMUL, [x, _triangles(chain, front_end)], (1, frames, front_end.mels))
    one = writer.constant(np.ones(1, np.float32))
    shape = (1, frames, front_end.mels)
    x = chain(Code.ADD, [x, one], shape, none)
    x = chain(Code.LOG, [x], shape)
    if front_end.is_centred:
        axes = writer.constant(np.array([1], np.int32))
        mean = chain(Code.MEAN, [x, axes], (1, 1, front_end.mels), MEAN_OPTIONS)
        x = chain(Code.SUB, [x, mean], shape, SUB_OPTIONS)
    return chain.reshaped(x, front_end.feature_shape)


def _triangles(chain: _Chain, front_end: LogMel) -> int:
    """Append the filters (bins, mels), of which each takes the lesser of two lines, above 0."""
    start, top, end = (front_end.corners[n : front_end.mels + n] for n in range(3))
    lines = (1 / (top - start), -start / (top - start), -1 / (end - top), end / (end - top))
    rise, from_start, fall, from_end = (
        chain.writer.constant((line / front_end.floor).astype(np.float32)[None]) for line in lines
    )
    n = chain.writer.constant(np.arange(front_end.bins, dtype=np.float32)[:, None])
    shape = (front_end.bins, front_end.mels)
    none = add_options(Activation.NONE)
    sides = [
        chain(Code.ADD, [chain(Code.MUL, [n, slope], shape, MUL_OPTIONS), value], shape, none)
        for slope, value in ((rise, from_start), (fall, from_end))
    ]
    return chain(Code.RELU, [chain(Code.MINIMUM, sides, shape)], shape)


class _Chain:
    """Appends operators with new float tensors as outputs."""

    def __init__(self, writer: LiteRtWriter) -> None:
        self.writer = writer

    def __call__(
        self,
        code: Code,
        inputs: Sequence[int],
        shape: Sequence[int],
        options: Options = NO_OPTIONS,
        dtype: str = "float32",
    ) -> int:
        return self.writer.operator(code, inputs, self.writer.value(shape, dtype), options)

    def reshaped(self, x: int, shape: tuple[int, ...]) -> int:
        """(n, *any) as (n, *shape)."""
        return self(Code.RESHAPE, [x], (1, *shape), reshape_options((-1, *shape)))
