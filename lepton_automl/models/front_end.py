"""The log-mel front end of nets for audio: which features a file computes from PCM samples."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.field_types import check_finite, check_types

FRONT_END = "front_end"
"""Key of the metadata of files that read audio: `LogMel` as JSON."""
MAX_RATE, MAX_WINDOW, MAX_MELS = 192_000, 1 << 20, 256
_FRAMES = tuple(1 << power for power in range(4, 14))
_WHOLE = ("rate", "window", "stride", "frame", "hop", "mels")


@dataclass(frozen=True)
class LogMel:
    """Log-mel features of a window of PCM samples, as 8-bit integers.

    A frame is weighted by a Hann window (periodic) and its power spectrum summed by `mels`
    triangular filters of height 1, whose corners are evenly spaced on the mel scale of
    O'Shaughnessy 1987 (2595 log10(1 + f / 700)). With the power m of a filter, in squared steps of
    16-bit samples and v = ln(1 + m / floor):

        q = round half to even(v / step), or
        q = round half to even((v - mean of the filter over the window) / step) + 128

    clipped to 0 to 255. The difference removes what is constant in a window, such as loudness,
    microphone and part of the voice (cepstral mean subtraction: Atal 1974). Floor and step are
    fixed, so that a device that listens all the time computes the same.
    """

    rate: int
    """Samples a second, hertz."""
    window: int
    """Samples that a net reads at once."""
    stride: int
    """Samples from the start of one window to the next in recordings that are longer; the graph
    does not depend on it."""
    frame: int
    """Samples of a frame, a power of two: ONNX Runtime transforms other lengths more than 10 times
    slower (onnxruntime#32403)."""
    hop: int
    """Samples from the start of one frame to the next."""
    mels: int
    """Filters."""
    low_hz: float
    """Lower corner of the first filter."""
    high_hz: float
    """Upper corner of the last filter."""
    floor: float
    """Power of a filter to which quiet sounds are compressed; squared 16-bit steps."""
    step: float
    """Nepers of power a step of the features."""
    is_centred: bool = False
    """Whether the mean of each filter over the window is subtracted."""

    def __post_init__(self) -> None:
        for name in _WHOLE:
            check_finite(getattr(self, name), name, int)
        for name in ("low_hz", "high_hz", "floor", "step"):
            check_finite(getattr(self, name), name)
        rules = (
            (1 <= self.rate <= MAX_RATE, f"a rate from 1 to {MAX_RATE} Hz"),
            (self.frame in _FRAMES, f"frames of {_FRAMES[0]} to {_FRAMES[-1]}, a power of two"),
            (self.frame <= self.window <= MAX_WINDOW, f"a window of a frame to {MAX_WINDOW}"),
            (1 <= self.stride <= MAX_WINDOW, f"a stride from 1 to {MAX_WINDOW}"),
            (1 <= self.hop <= self.frame, "a hop of 1 to a frame"),
            (1 <= self.mels <= MAX_MELS, f"1 to {MAX_MELS} filters"),
            (
                0 <= self.low_hz < self.high_hz <= self.rate / 2,
                "filters from 0 Hz to half the rate",
            ),
            (self.floor > 0 and self.step > 0, "a floor and a step above 0"),
        )
        for holds, rule in rules:
            if not holds:
                raise ValueError(f"a front end has {rule}, this one is {self.to_fields()}")

    @property
    def zero_point(self) -> int:
        """Feature of silence, or of a filter that has its mean."""
        return 128 if self.is_centred else 0

    @property
    def frames(self) -> int:
        """Frames of a window."""
        return 1 + (self.window - self.frame) // self.hop

    @property
    def bins(self) -> int:
        """Frequencies of the power spectrum of a frame."""
        return self.frame // 2 + 1

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        """Frames, filters and 1: height, width and channels of a net's input."""
        return self.frames, self.mels, 1

    @property
    def scratch_bytes(self) -> int:
        """Memory that C needs while it computes features, beside them.

        A transform in float32, and of a front end with means 3 of 4 bytes of each logarithm.
        """
        frames, mels, _ = self.feature_shape
        return 4 * self.frame + (3 * frames * mels if self.is_centred else 0)

    @functools.cached_property
    def corners(self) -> NDArray[np.float64]:
        """Corners of the filters (mels + 2,), bins of the spectrum; filter k is 1 at k + 1."""
        low, high = (2595 * math.log10(1 + hz / 700) for hz in (self.low_hz, self.high_hz))
        hertz = 700 * (10 ** (np.linspace(low, high, self.mels + 2) / 2595) - 1)
        return np.asarray(hertz * self.frame / self.rate)

    @property
    def empty_filters(self) -> int:
        """Filters in which no bin of the spectrum lies, whose features are always 0."""
        inside = np.floor(np.nextafter(self.corners[2:], 0)) > np.floor(self.corners[:-2])
        return int((~inside).sum())

    def to_fields(self) -> dict[str, Any]:
        """Its fields as plain JSON values."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """One line of JSON, for the metadata of an ONNX file."""
        return json.dumps(self.to_fields(), separators=(",", ":"))

    @classmethod
    def from_fields(cls, fields: Any) -> Self:
        """From `to_fields`.

        Raises
        ------
        TypeError, ValueError
            If a field is missing, unknown or out of its range.
        """
        made = cls(**fields)
        check_types(made)
        return made

    def __str__(self) -> str:
        mean = " less their means over the window" if self.is_centred else ""
        return (
            f"{self.mels} log-mel bands of {self.low_hz:g} to {self.high_hz:g} Hz{mean}, "
            f"{self.frames} frames of {self.frame} samples every {self.hop}, at {self.rate} Hz"
        )


def default_frame(rate: int) -> tuple[int, int]:
    """Frame and hop for a sampling rate: the power of two nearest to 32 ms, and 20 ms."""
    frame = min(_FRAMES, key=lambda length: abs(math.log(length / (0.032 * rate))))
    return frame, max(1, min(frame, round(0.02 * rate)))
