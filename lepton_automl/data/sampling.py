"""Class-balanced subsets of labelled samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

PICTURES = 512
"""Training pictures used for calibration; 32 suffice for most nets, one costs milliseconds."""


def first_balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of the first `count` samples, the classes taking turns."""
    turn = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        found = np.flatnonzero(labels == label)
        turn[found] = np.arange(len(found))
    order: np.ndarray = np.lexsort((labels, turn))[:count]
    return order


def balanced(labels: Tensor, count: int, seed: int) -> NDArray[np.int64]:
    """Indices of at most `count` samples, drawn from all classes in turn.

    Parameters
    ----------
    labels : Tensor
        int64 (N,).
    count : int
        Number of samples; all of them where there are fewer.
    seed : int
        Of the draw within each class.

    Returns
    -------
    ndarray
        int64, increasing, no index twice.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    classes = labels.cpu().numpy()[order]
    turn = np.zeros(len(order), dtype=np.int64)
    for label in np.unique(classes):
        own = classes == label
        turn[own] = np.arange(own.sum())
    chosen = order[np.argsort(turn, kind="stable")[:count]]
    chosen.sort()
    return chosen
