"""Windows of audio as samples, and the front end that makes features of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.decisions import Decision
from lepton_automl.data.audio_files import Audio
from lepton_automl.errors import ConfigError
from lepton_automl.models.front_end import MAX_MELS, LogMel, default_frame
from lepton_automl.models.front_end_onnx import compute_centred, compute_power

_MELS = 40
"""Filters where none are stated."""
_LOW_HZ = 60.0
"""Lower end of the filters: hum of the mains is below."""
_FLOOR_DB = 80.0
"""Powers so far below the loudest ones are compressed."""
_LOUDEST = _INSIDE = 0.999
"""Share of the training powers below the loudest ones, and of the features that 8 bits hold."""
_MEASURED = 1024
"""Training windows from which the range is measured, evenly spaced."""
_STEPS = 127
"""Steps of the features above and below their mean."""


@dataclass(frozen=True)
class AudioWindows:
    """What samples of audio have beside their PCM values."""

    rate: int
    """Samples a second, hertz."""
    stride: int
    """Samples from the start of one window to the next in longer recordings."""


def make_front_end(
    audio: Audio, windows: AudioWindows, mels: int | None
) -> tuple[LogMel, tuple[Decision, ...]]:
    """The front end for data, with the range of its features measured.

    Parameters
    ----------
    audio : int16 array (N, window)
        The training part.
    windows : AudioWindows
        Rate and stride.
    mels : int or None
        Filters as stated; None: 40.

    Returns
    -------
    LogMel
        Frames of about 32 ms every 20 ms; the floor is 80 dB below what 99.9 % of the powers are
        below, and 127 steps hold 99.9 % of the features.
    tuple of Decision
        What was chosen, and the option that overrules it.

    Raises
    ------
    ConfigError
        If there are more filters than the spectrum resolves, or the window is shorter than a frame.
    """
    frame, hop = default_frame(windows.rate)
    if audio.shape[1] < frame:
        raise ConfigError(
            f"a window of {audio.shape[1]} samples is shorter than a frame of the spectrum, "
            f"{frame} at {windows.rate} Hz",
            fix=f"give --window {frame} or more",
        )
    made = _unscaled(audio.shape[1], windows, frame, hop, _MELS if mels is None else mels)
    places = np.linspace(0, len(audio) - 1, min(_MEASURED, len(audio))).round().astype(np.int64)
    powers = compute_power(made, audio[places])
    loudest = float(np.quantile(powers, _LOUDEST)) or 1.0
    made = LogMel(**{**made.to_fields(), "floor": loudest / 10 ** (_FLOOR_DB / 10)})
    reach = float(np.quantile(np.abs(compute_centred(made, audio[places])), _INSIDE)) or 1.0
    front_end = LogMel(**{**made.to_fields(), "step": float(np.float32(reach / _STEPS))})
    return front_end, _decisions(front_end, mels)


def _unscaled(window: int, windows: AudioWindows, frame: int, hop: int, mels: int) -> LogMel:
    """A front end whose floor is 1."""
    rate, stride = windows.rate, windows.stride
    if 1 <= mels <= MAX_MELS:
        made = LogMel(
            rate, window, stride, frame, hop, mels, min(_LOW_HZ, rate / 8), rate / 2, 1.0, 1.0
        )
        if not made.empty_filters:
            return made
        most = next(
            n
            for n in range(mels, 0, -1)
            if not LogMel(**{**made.to_fields(), "mels": n}).empty_filters
        )
    else:
        most = MAX_MELS
    raise ConfigError(
        f"--mels {mels}: frames of {frame} samples at {rate} Hz resolve 1 to {most} bands",
        fix=f"give --mels {min(most, _MELS)}, or leave it out",
    )


def _decisions(front_end: LogMel, mels: int | None) -> tuple[Decision, ...]:
    option = "--rate" if mels is not None else "--rate, --mels"
    return (
        Decision(
            name="front end",
            choice=f"{front_end}; part of the file, which reads int16 samples",
            evidence="frames of about 32 ms, a power of two, every 20 ms; the mean of each band "
            f"over the window is subtracted; 8 bits hold {_INSIDE:.1%} of the training features",
            certainty="assumed",
            option=option,
        ),
    )


def silent_windows(audio: Audio) -> NDArray[np.bool_]:
    """Which windows have the same value throughout."""
    found: NDArray[np.bool_] = audio.max(1) == audio.min(1)
    return found
