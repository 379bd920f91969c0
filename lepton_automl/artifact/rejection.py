"""Rejection: below a probability, fitted on the validation part, a sample is of no class."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lepton_automl.artifact.manifest import FLOAT, INT8, REJECT_BELOW
from lepton_automl.artifact.verdict import RejectionFigures
from lepton_automl.core.decisions import Decision
from lepton_automl.data.dataset import LabelledFiles, map_labelled
from lepton_automl.metrics.intervals import accuracy_interval
from lepton_automl.metrics.rejection import rejection_threshold, samples_needed
from lepton_automl.models import onnx_file

DECISION = "none of these"
_MOST_SHUFFLED = 1000
"""Pictures at most that are classified with their pixels in random order."""


def fit_thresholds(
    files: Mapping[str, bytes],
    validation: LabelledFiles,
    rate: float,
    *,
    groups: int | None = None,
    refit: bool = False,
) -> tuple[dict[str, float], Decision]:
    """Fit a threshold for each file that may ship.

    Parameters
    ----------
    files : mapping of str to bytes
        ONNX files by name.
    validation : LabelledFiles
        Samples that the thresholds are fitted on.
    rate : float
        Share of new samples that may be rejected, between 0 and 1.
    groups : int, optional
        Number of groups of these samples; None: each is one of its own.
    refit : bool
        Whether the nets were trained on these samples too, so that nothing is fitted.

    Returns
    -------
    (dict of str to float, Decision)
        Threshold by name of the file, empty where the rate cannot be shown; and what was decided.
    """
    pixels, labels = map_labelled(validation)
    count = len(labels) if groups is None else groups
    kind = "samples" if groups is None else "groups"
    option = f"--reject {rate:g}"
    if refit:
        evidence = "the net was trained on the validation part too, no sample is left to fit it on"
        return {}, Decision(DECISION, "no threshold", evidence, "inferred", "--refit off")
    if count < (needed := samples_needed(rate)):
        evidence = f"{count} validation {kind}, {needed} are needed to show a share of {rate:g}"
        return {}, Decision(DECISION, "no threshold", evidence, "inferred", option)
    greatest = {
        name: onnx_file.onnx_probabilities(files[name], pixels).max(1) for name in (INT8, FLOAT)
    }
    found = {name: rejection_threshold(each, rate, count) for name, each in greatest.items()}
    share = float((greatest[INT8] < found[INT8]).mean())
    evidence = (
        f"{100 * share:.2f} % of the validation part are below it, {count} {kind}; with 95 % "
    )
    evidence += f"confidence at most {100 * rate:g} % of new samples like these"
    choice = f"below a probability of {found[INT8]:.4g}"
    return found, Decision(DECISION, choice, evidence, "measured", option)


def rejection_metadata(below: Mapping[str, float], file: str) -> dict[str, str]:
    """ONNX metadata for the threshold of a file; empty where it has none."""
    return {REJECT_BELOW: repr(below[file])} if file in below else {}


def measure_rejection(
    file: bytes,
    rate: float,
    below: float,
    pixels: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
) -> RejectionFigures:
    """What a threshold rejects of the test part, and of its pictures with shuffled pixels.

    Parameters
    ----------
    file : bytes
        The ONNX file that ships.
    rate, below : float
        As fitted.
    pixels : array (N, H, W, C)
        Test pictures.
    labels : int array (N,)
        Their classes.
    groups : int array (N,), optional
        Their groups.
    """
    probabilities = onnx_file.onnx_probabilities(file, pixels)
    is_rejected = probabilities.max(1) < below
    rest = ~is_rejected
    right = probabilities.argmax(1) == labels
    count = min(len(pixels), _MOST_SHUFFLED)
    chosen = np.array(pixels[np.linspace(0, len(pixels) - 1, count).astype(np.int64)])
    order = np.random.default_rng(0).permutation(chosen.shape[1] * chosen.shape[2])
    shuffled = chosen.reshape(count, -1, chosen.shape[3])[:, order].reshape(chosen.shape)
    others = onnx_file.onnx_probabilities(file, shuffled).max(1) < below
    return RejectionFigures(
        rate=rate,
        below=below,
        n_samples=len(pixels),
        share=float(is_rejected.mean()),
        interval=accuracy_interval(is_rejected, groups),
        accuracy_of_rest=float(right[rest].mean()) if rest.any() else None,
        n_shuffled=count,
        share_of_shuffled=float(others.mean()),
    )
