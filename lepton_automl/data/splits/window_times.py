"""Cut the parts of windows in the order of time, through recordings that are not kept whole."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from numpy.typing import NDArray

from lepton_automl.data.samples import PARTS, Samples
from lepton_automl.data.splits.split import split_by_time
from lepton_automl.errors import DataError

LEFT_OUT = "left out"
"""In place of a part: of windows that share values with an earlier part."""
_BLOCK = 4
"""Lengths of a window in a block of time, which intervals count as one sample."""
_SAME_START = 0.01
"""Share of the time of the longest recording within which all start where clocks restart."""


def cut_through(samples: Samples) -> Samples:
    """Samples whose recordings may be cut: those without groups, and windows of one recording."""
    if samples.spans is None:
        return samples
    if samples.groups is not None and len(np.unique(samples.spans[:, 0])) > 1:
        return samples
    return dataclasses.replace(samples, groups=None, recordings=None)


def is_cut_through(samples: Samples) -> bool:
    """Whether parts of these samples are cut through their recordings."""
    return samples.spans is not None and samples.groups is None


def blocks(samples: Samples, parts: NDArray[np.str_]) -> NDArray[np.int64]:
    """Group (N,) of each window of recordings that were cut: its part, recording and block of time.

    Neighbouring windows share values and are alike, so that they are not independent samples;
    blocks of `_BLOCK` windows nearly are.
    """
    assert samples.spans is not None, "samples are not windows of recordings"
    recording, start, end = samples.spans.T
    block = start // (_BLOCK * (end - start))
    part = np.unique(parts, return_inverse=True)[1]
    keys = np.stack([part, recording, block])
    groups: NDArray[np.int64] = np.unique(keys, axis=1, return_inverse=True)[1].reshape(-1)
    return groups.astype(np.int64)


def clocks_restart(samples: Samples, seconds: NDArray[np.float64]) -> bool:
    """Whether all recordings start at one time, so that each is cut by its own clock."""
    numbers, starts, ends = _clocks(samples, seconds)
    longest = float((ends - starts).max())
    return len(numbers) > 1 and float(np.ptp(starts)) <= _SAME_START * longest


def split_windows(samples: Samples, seconds: NDArray[np.float64]) -> NDArray[np.str_]:
    """Cut parts as `split_by_time`, through recordings; windows across a cut are left out.

    Where the clocks of all recordings start at one time, each recording is cut, by the share of its
    time; else all at the same moments.

    Parameters
    ----------
    samples : Samples
        With `spans` and without groups.
    seconds : ndarray
        float64 (N,): time of the last value of each window.

    Raises
    ------
    DataError
        As `split_by_time`, or if no window of a part is left.
    """
    assert samples.spans is not None, "samples are not windows of recordings"
    when = seconds
    if clocks_restart(samples, seconds):
        numbers, starts, ends = _clocks(samples, seconds)
        own = np.searchsorted(numbers, samples.spans[:, 0])
        when = (seconds - starts[own]) / np.maximum(ends - starts, 1e-12)[own]
    parts = split_by_time(
        samples.labels, samples.class_names, samples.parts, None, when, samples.noun
    )
    wanted = set(parts.tolist())
    ends_of = np.zeros(len(samples), np.int64)
    own = np.unique(samples.spans[:, 0], return_inverse=True)[1]
    for earlier, later in itertools.pairwise(PARTS):
        before = parts == earlier
        np.maximum.at(ends_of, own[before], samples.spans[before, 2])
        parts[(parts == later) & (samples.spans[:, 1] < ends_of[own])] = LEFT_OUT
        if later in wanted and not (parts == later).any():
            raise DataError(
                f"all windows of the {later} part share values with an earlier part",
                fix="give longer recordings, a shorter --window, or leave --time out",
            )
    return parts


def _clocks(
    samples: Samples, seconds: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Numbers of the recordings, and times of their first and last windows."""
    assert samples.spans is not None, "samples are not windows of recordings"
    numbers, member = np.unique(samples.spans[:, 0], return_inverse=True)
    starts, ends = np.full(len(numbers), np.inf), np.full(len(numbers), -np.inf)
    known = np.isfinite(seconds)  # Of samples of given parts no time is read.
    np.minimum.at(starts, member[known], seconds[known])
    np.maximum.at(ends, member[known], seconds[known])
    read = np.isfinite(starts)
    return numbers, np.where(read, starts, 0.0), np.where(read, ends, 0.0)
