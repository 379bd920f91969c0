"""One prediction for a recording, from those for the windows or clips that were cut from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_automl.metrics.paired import Evidence

_LEAST = 1e-6
"""Least probability that counts, so that a single window with 0 does not rule a class out."""


def join_predictions(
    probabilities: NDArray[np.floating], recordings: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Join the predictions for samples of one recording: normalised mean of log probabilities.

    Parameters
    ----------
    probabilities : ndarray
        float (N, classes), of each sample.
    recordings : ndarray
        int (N,): number of the recording that a sample was cut from.

    Returns
    -------
    joined : ndarray
        float64 (R, classes): probabilities of each recording, in the order of their first samples.
    first : ndarray
        int64 (R,): place of the first sample of each recording, which has its label and its group.

    Source: Kittler, Hatef, Duin and Matas 1998, IEEE Trans. PAMI 20, 226 (product rule); the mean
    in place of the sum keeps the prediction from growing certain with the length of a recording.
    """
    _, first, member, counts = np.unique(
        recordings, return_index=True, return_inverse=True, return_counts=True
    )
    logs = np.log(np.maximum(probabilities.astype(np.float64), _LEAST))
    sums = np.zeros((len(first), probabilities.shape[1]))
    np.add.at(sums, member, logs)
    means = sums / counts[:, None]
    joined = np.exp(means - means.max(1, keepdims=True))
    joined /= joined.sum(1, keepdims=True)
    order = np.argsort(first)
    return joined[order], first[order].astype(np.int64)


def recording_evidence(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.int64],
    recordings: NDArray[np.int64],
    groups: NDArray[np.int64] | None,
    *,
    is_balanced: bool,
) -> Evidence:
    """Which recordings are classified correctly, as evidence of an accuracy of whole recordings.

    Parameters
    ----------
    probabilities, recordings
        As in `join_predictions`.
    labels : ndarray
        int (N,): class of each sample, the same in all samples of a recording.
    groups : ndarray or None
        (N,): group of each sample; those of which each is one recording do not count.
    is_balanced : bool
        Whether every class has equal weight.
    """
    joined, first = join_predictions(probabilities, recordings)
    own = labels[first]
    shared = None if groups is None else groups[first]
    if shared is not None and len(np.unique(shared)) == len(shared):
        shared = None
    return Evidence(joined.argmax(1) == own, shared, own if is_balanced else None, own)
