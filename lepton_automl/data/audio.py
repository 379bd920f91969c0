"""Windows of audio as samples, and the front end that makes features of them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_automl.config import BandMean
from lepton_automl.core.decisions import Decision
from lepton_automl.data.audio_files import Audio
from lepton_automl.errors import ConfigError
from lepton_automl.models.front_end import MAX_MELS, LogMel, default_frame
from lepton_automl.models.front_end_onnx import compute_logarithms, compute_power

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
FRONT_END_SAMPLES = 2048
"""Training windows that decide on a front end."""
_ALLOWED = 0.05
"""Share of right predictions that the quick classifier may lose by the subtraction of means."""
_SEGMENTS, _FOLDS, _RIDGE = 8, 5, 0.1


@dataclass(frozen=True)
class AudioWindows:
    """Sampling rate and stride of windows of audio."""

    rate: int
    """Samples a second, hertz."""
    stride: int
    """Samples from the start of one window to the next in longer recordings."""


def make_front_end(
    audio: Audio,
    windows: AudioWindows,
    labels: NDArray[np.int64],
    groups: NDArray[np.int64] | None,
    *,
    mels: int | None = None,
    band_mean: BandMean = "auto",
) -> tuple[LogMel, tuple[Decision, ...]]:
    """The front end for data, with the range of its features measured.

    Parameters
    ----------
    audio : int16 array (N, window)
        Of the training part, `FRONT_END_SAMPLES` at most.
    windows : AudioWindows
        Rate and stride.
    labels : ndarray
        int (N,): classes.
    groups : ndarray or None
        int (N,): windows of one group (a recording, a speaker) are not judged by each other.
    mels : int or None
        Filters as stated; None: 40.
    band_mean : str
        `subtract` the mean of each filter over the window, `keep` it, or `auto`: it is subtracted
        unless that costs a quick classifier more than 5 points on groups that it has not seen.

    Returns
    -------
    LogMel
        Frames of about 32 ms every 20 ms; the floor is 80 dB below what 99.9 % of the powers are
        below, and 8 bits hold 99.9 % of the features.
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
    places = spaced(len(audio), _MEASURED)
    loudest = float(np.quantile(compute_power(made, audio[places]), _LOUDEST)) or 1.0
    made = dataclasses.replace(made, floor=loudest / 10 ** (_FLOOR_DB / 10))
    decisions: tuple[Decision, ...] = ()
    is_centred = band_mean == "subtract"
    if band_mean == "auto":
        is_centred, decision = _compared(made, audio, labels, groups)
        decisions = (decision,)
    made = dataclasses.replace(made, is_centred=is_centred)
    if is_centred:
        reach = float(np.quantile(np.abs(compute_logarithms(made, audio[places])), _INSIDE)) / 127
    else:
        reach = math.log1p(10 ** (_FLOOR_DB / 10)) / 255
    front_end = dataclasses.replace(made, step=float(np.float32(reach or 1.0)))
    return front_end, (_decision(front_end, mels), *decisions)


def spaced(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` of `count` places, evenly spaced."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)


def _unscaled(window: int, windows: AudioWindows, frame: int, hop: int, mels: int) -> LogMel:
    """A front end whose floor is 1."""
    rate, stride = windows.rate, windows.stride
    most = MAX_MELS
    if 1 <= mels <= MAX_MELS:
        low = min(_LOW_HZ, rate / 8)
        made = LogMel(rate, window, stride, frame, hop, mels, low, rate / 2, 1.0, 1.0)
        if not made.empty_filters:
            return made
        fewer = (dataclasses.replace(made, mels=n) for n in range(mels - 1, 0, -1))
        most = next(each.mels for each in fewer if not each.empty_filters)
    raise ConfigError(
        f"--mels {mels}: frames of {frame} samples at {rate} Hz resolve 1 to {most} bands",
        fix=f"give --mels {min(most, _MELS)}, or leave it out",
    )


def _compared(
    front_end: LogMel, audio: Audio, labels: NDArray[np.int64], groups: NDArray[np.int64] | None
) -> tuple[bool, Decision]:
    """Whether means are subtracted, by a quick classifier on groups that it has not seen."""
    values = compute_logarithms(front_end, audio)
    member = np.arange(len(audio)) if groups is None else groups
    kept, centred = (
        _quick_accuracy(each, labels, member)
        for each in (values, values - values.mean(1, keepdims=True))
    )
    is_centred = not centred < kept - _ALLOWED
    what = "recordings" if groups is None else "groups"
    decision = Decision(
        name="means of bands",
        choice="subtracted over the window, which removes loudness and microphone"
        if is_centred
        else "kept: the classes differ in what lasts",
        evidence="the training part is of one group, so nothing is compared"
        if math.isnan(kept)
        else f"a quick classifier on {what} that it has not seen: {100 * centred:.0f} % right "
        f"without the means, {100 * kept:.0f} % with them (subtracted unless it loses more than "
        f"{100 * _ALLOWED:.0f} points)",
        certainty="assumed" if math.isnan(kept) else "measured",
        option=f"--band-mean {'keep' if is_centred else 'subtract'}",
    )
    return is_centred, decision


def _quick_accuracy(
    values: NDArray[np.float32], labels: NDArray[np.int64], groups: NDArray[np.int64]
) -> float:
    """Accuracy of a ridge regression on means of segments, by folds of whole groups."""
    segments = np.array_split(values, min(_SEGMENTS, values.shape[1]), axis=1)
    x = np.concatenate([each.mean(1) for each in segments], 1).astype(np.float64)
    classes = np.eye(int(labels.max()) + 1)[labels]
    fold = np.unique(groups, return_inverse=True)[1] % _FOLDS
    right = np.zeros(len(x), bool)
    for number in np.unique(fold):
        judged = fold == number
        if judged.all():
            return math.nan  # One group: nothing can be compared.
        mean, scale = x[~judged].mean(0), x[~judged].std(0) + 1e-6
        known, target = (x[~judged] - mean) / scale, classes[~judged] - classes[~judged].mean(0)
        square = known.T @ known + _RIDGE * len(known) * np.eye(known.shape[1])
        scores = ((x[judged] - mean) / scale) @ np.linalg.solve(square, known.T @ target)
        scores += classes[~judged].mean(0)
        right[judged] = scores.argmax(1) == labels[judged]
    return float(right.mean())


def _decision(front_end: LogMel, mels: int | None) -> Decision:
    return Decision(
        name="front end",
        choice=f"{front_end}; part of the file, which reads int16 samples",
        evidence=f"frames of about 32 ms, a power of two, every 20 ms; 8 bits hold {_INSIDE:.1%} "
        "of the training features",
        certainty="assumed",
        option="--rate" if mels is not None else "--rate, --mels",
    )


def silent_windows(audio: Audio) -> NDArray[np.bool_]:
    """Which windows have the same value throughout."""
    found: NDArray[np.bool_] = audio.max(1) == audio.min(1)
    return found
