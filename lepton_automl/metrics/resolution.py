"""What a test part of a given size can show about accuracies and drops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_automl.metrics.balanced import Groups, Strata
from lepton_automl.metrics.bootstrap import Interval
from lepton_automl.metrics.intervals import ONE_SIDED_LEVEL, wilson_interval
from lepton_automl.metrics.paired import paired_drop, tango_interval

_ACCURACY = 0.9
"""Accuracy whose interval is given as an example."""


@dataclass(frozen=True)
class Resolution:
    """Differences below which a test part shows nothing, in accuracy points (0 to 100)."""

    samples: int
    independent: int
    """Groups, or samples where there are no groups."""
    smallest_limit: float
    """A limit on the drop below this cannot hold: two files that are right and wrong on the same
    samples are only known to differ by less than this. Paired, one-sided 95 % bound of Tango, with
    groups and class weights as in a verification."""
    smallest_drop: float | None
    """A drop below this cannot be shown to be one. Paired, one-sided 95 % bound of Tango, where the
    file wins no sample and groups count as one sample each; None where no drop can be shown."""
    accuracy: float
    """Accuracy, 0 to 1, to which `interval` belongs."""
    interval: Interval
    """Wilson's 95 % interval of that accuracy of one file, with independent samples."""


def resolution(samples: int, groups: Groups = None, strata: Strata = None) -> Resolution:
    """What a part of `samples` samples can show at best.

    Parameters
    ----------
    samples : int
        At least 1.
    groups, strata : ndarray, optional
        (samples,), as in `intervals.accuracy_interval`.
    """
    same = np.ones(samples, bool)
    independent = samples if groups is None else len(np.unique(groups))
    lost = next((k for k in range(1, independent + 1) if _is_shown(k, independent)), None)
    return Resolution(
        samples,
        independent,
        paired_drop(same, same, groups, strata).upper,
        None if lost is None else 100 * lost / independent,
        _ACCURACY,
        wilson_interval(_ACCURACY * independent, independent),
    )


def _is_shown(lost: int, samples: int) -> bool:
    return tango_interval(lost, 0, samples, ONE_SIDED_LEVEL)[0] > 0
