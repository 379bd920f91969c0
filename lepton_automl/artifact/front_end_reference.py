"""Log-mel features in float64 arithmetic, from what the metadata of a file say of its front end.

It shares no code with what wrote the operators of the file.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from lepton_automl.models.front_end import LogMel


def reference_features(about: LogMel, audio: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Features (N, frames, mels) of PCM samples (N, window), as `LogMel` defines them."""
    frames = sliding_window_view(audio, about.frame, 1)[:, :: about.hop].astype(np.float64)
    turn = 2 * np.pi * np.arange(about.frame) / about.frame
    spectrum = np.fft.rfft(frames * (0.5 - 0.5 * np.cos(turn)))
    hertz = np.arange(about.frame // 2 + 1) * about.rate / about.frame
    low, high = (2595 * np.log10(1 + end / 700) for end in (about.low_hz, about.high_hz))
    corners = 700 * (10 ** (np.linspace(low, high, about.mels + 2) / 2595) - 1)
    heights = np.array([[0.0], [1.0], [0.0]]) * np.ones(about.mels)
    filters = np.stack(
        [np.interp(hertz, corners[n : n + 3], heights[:, n]) for n in range(about.mels)]
    )
    powers = (np.abs(spectrum) ** 2) @ filters.T
    values = np.log1p(powers / about.floor)
    middle = 0
    if about.is_centred:
        values, middle = values - values.mean(1, keepdims=True), 128
    steps = np.rint(values / about.step) + middle
    found: NDArray[np.uint8] = np.clip(steps, 0, 255).astype(np.uint8)
    return found
