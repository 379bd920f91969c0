"""Calibration of probabilities: temperature scaling and the expected calibration error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST, MOST = 0.1, 10.0
"""Range of temperatures."""
_PRECISION = 1e-4
"""Of the inverse of the temperature, relative."""
_BINS = 15
_TINY = 1e-12
_ROWS = 256
"""Samples at a time: with thousands of classes their probabilities take more than a cache."""


def tempered(probabilities: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Softmax of the logits divided by `temperature`, from the probabilities at temperature 1.

    Parameters
    ----------
    probabilities : float array (N, classes)
        Each row sums to 1.
    temperature : float
        Above 0; above 1 lowers the greatest probability, below 1 raises it.
    """
    # Logarithms of probabilities are logits but for a constant of each row, which cancels out.
    logits = np.log(np.maximum(np.asarray(probabilities, np.float64), _TINY)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def negative_log_likelihood(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.int64],
    weights: NDArray[np.floating] | None = None,
) -> float:
    """Mean of minus the logarithm of the probability of the right class, at least 0.

    Parameters
    ----------
    probabilities : float array (N, classes)
    labels : int array (N,)
    weights : float array (N,), optional
        Of the samples in the mean.
    """
    right = np.asarray(probabilities, np.float64)[np.arange(len(labels)), labels]
    return float(-np.average(np.log(np.maximum(right, _TINY)), weights=weights))


def best_temperature(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.int64],
    weights: NDArray[np.floating] | None = None,
) -> float:
    """The temperature with the least negative log-likelihood, `LEAST` to `MOST`.

    It changes no predicted class (Guo et al. 2017, section 4.2, arXiv:1706.04599). Of N samples
    the right class counts as one of probability (N + 1) / (N + 2), as in Platt 1999, section 2.2:
    samples that are all right do not show that errors never happen.

    Parameters
    ----------
    probabilities : float array (N, classes)
        At temperature 1.
    labels : int array (N,)
    weights : float array (N,), optional
        Of the samples.
    """
    from scipy.optimize import brentq  # Slow to import; workers do without.

    count, classes = probabilities.shape
    logits = np.log(np.maximum(probabilities, _TINY))
    logits -= logits.max(1, keepdims=True)
    doubt = 1 / (count + 2)
    right = logits[np.arange(count), labels]
    wrong = (logits.sum(1) - right) / max(1, classes - 1)
    wanted = (1 - doubt) * right + doubt * wrong

    def slope(inverse: float) -> float:
        """Derivative of the loss by the inverse of the temperature, in which it is convex."""
        expected = np.empty(count)
        for first in range(0, count, _ROWS):
            part = logits[first : first + _ROWS]
            powers = np.exp(inverse * part)
            expected[first : first + _ROWS] = np.einsum("nc,nc->n", powers, part) / powers.sum(1)
        return float(np.average(expected - wanted, weights=weights))

    low, high = 1 / MOST, 1 / LEAST
    if slope(low) >= 0:
        return MOST
    if slope(high) <= 0:
        return LEAST
    return float(1 / brentq(slope, low, high, rtol=_PRECISION))


def expected_calibration_error(greatest: NDArray[np.floating], correct: NDArray[np.bool_]) -> float:
    """Mean distance of the share of right predictions from their probability, in 15 bins; 0 to 1.

    Guo et al. 2017, section 2, arXiv:1706.04599. It is above 0 for a perfect model too, as a bin of
    few samples strays.

    Parameters
    ----------
    greatest : float array (N,)
        Probability of each predicted class.
    correct : bool array (N,)
        Whether it is right.
    """
    place = np.minimum((greatest * _BINS).astype(np.int64), _BINS - 1)
    counts = np.bincount(place, minlength=_BINS)
    probability = np.bincount(place, weights=greatest, minlength=_BINS)
    right = np.bincount(place, weights=correct.astype(np.float64), minlength=_BINS)
    return float(np.abs(probability - right).sum() / max(1, counts.sum()))
