"""Accuracy on validation of float and int8 models, and the KL divergence between two."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lepton_automl.compress.context import CompressionContext, HeldOutPictures
from lepton_automl.metrics import balanced
from lepton_automl.metrics.paired import (
    Evidence,
    SmoothedDrop,
    class_margins,
    smoothed_drop,
    worst_class_drop,
)
from lepton_automl.models.model import Model
from lepton_automl.models.onnx_export import int8_onnx
from lepton_automl.models.onnx_file import onnx_probabilities
from lepton_automl.training.evaluate import is_correct, predict_logits


def int8_file(model: Model) -> bytes:
    """The int8 ONNX file of a quantized model, with numbers as class names."""
    return int8_onnx(model, [str(number) for number in range(model.arch.classes)], {})


def int8_probabilities(model: Model, pixels: Tensor) -> np.ndarray:
    """Class probabilities (N, classes) of a quantized model's file for pixels (N, H, W, C).

    Features of audio are given to the file without its front end, which computed them.
    """
    given = model.preprocessing.file_input(pixels.cpu().numpy())
    given = given[:, 0] if model.arch.is_signal else given
    net = dataclasses.replace(model, arch=dataclasses.replace(model.arch, front_end=None))
    return onnx_probabilities(int8_file(net), given)


def validation_accuracy(model: Model, context: CompressionContext) -> float:
    """Share of the acceptance pictures that are right, 0 to 1; of the int8 file if quantized.

    Balanced accuracy where the data ask for it.
    """
    strata = context.acceptance.data.strata
    return balanced.balanced_mean(validation_correct(model, context, context.acceptance), strata)


def validation_correct(
    model: Model, context: CompressionContext, pictures: HeldOutPictures
) -> np.ndarray:
    """Which of the pictures are right, bool (N,); of the int8 file if quantized."""
    data = pictures.data
    if model.qparams is None:
        return is_correct(model, data, device=context.device)
    predicted = int8_probabilities(model, data.pixels).argmax(1)
    correct: np.ndarray = predicted == data.labels.cpu().numpy()
    return correct


def measured_drop(
    model: Model, context: CompressionContext, pictures: HeldOutPictures
) -> SmoothedDrop:
    """What `model`, or its int8 file, loses against the reference on the same pictures."""
    return pooled_drop([paired_margins(model, context, pictures)])


@dataclass(frozen=True, eq=False)
class PairedMargins:
    """Margins of two nets on the same N pictures, which neither was trained on."""

    before: np.ndarray
    """(N,): `metrics.paired.class_margins` of the reference."""
    after: np.ndarray
    """(N,): those of the net that is judged."""
    labels: np.ndarray
    """int64 (N,)."""
    groups: np.ndarray | None
    """int64 (N,); None: pictures are independent."""
    is_balanced: bool
    """Whether classes have equal weight."""


def paired_margins(
    model: Model, context: CompressionContext, pictures: HeldOutPictures
) -> PairedMargins:
    """Margins of the reference of `context` and of `model`, or of its int8 file."""
    data = pictures.data
    labels = data.labels.cpu().numpy()
    before, after = (
        class_margins(_scores(each, context, data.pixels), labels)
        for each in (context.reference, model)
    )
    return PairedMargins(before, after, labels, pictures.groups, data.is_balanced)


def pooled_drop(parts: Sequence[PairedMargins]) -> SmoothedDrop:
    """The drop over the pictures of all parts together; group numbers are common to them."""
    before, after, labels = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("before", "after", "labels")
    )
    groups = [part.groups for part in parts if part.groups is not None]
    assert len(groups) in {0, len(parts)}, "either all parts have groups or none has"
    return smoothed_drop(
        before,
        after,
        np.concatenate(groups) if groups else None,
        labels if parts[0].is_balanced else None,
    )


def _scores(model: Model, context: CompressionContext, pixels: Tensor) -> np.ndarray:
    """Logits of a float model, log-probabilities of an int8 file, (N, classes)."""
    if model.qparams is None:
        logits: np.ndarray = predict_logits(model, pixels, device=context.device).numpy()
        return logits
    probabilities = int8_probabilities(model, pixels).astype(np.float64)
    scores: np.ndarray = np.log(np.maximum(probabilities, 1e-30))
    return scores


def keeps_class_limit(model: Model, context: CompressionContext, share: float = 1.0) -> bool:
    """Whether no class drops on validation by more than `share` of `max_class_drop`, if stated."""
    limit = context.limits.max_class_drop
    if limit is None:
        return True
    labels = context.acceptance.data.labels.cpu().numpy()
    before, after = (
        Evidence(validation_correct(m, context, context.acceptance), labels=labels)
        for m in (context.reference, model)
    )
    return worst_class_drop(before, after) <= share * limit + 1e-9


def float_probabilities(model: Model, pixels: Tensor) -> np.ndarray:
    """float32 (N, classes) of the float network, for uint8 pixels (N, H, W, C)."""
    result: np.ndarray = predict_logits(model, pixels).softmax(1).numpy()
    return result


def kl_divergence(expected: np.ndarray, actual: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of probabilities (N, classes), in nats.

    It needs no labels and shows differences that do not yet change a prediction.
    """
    tiny = 1e-9
    return float((expected * (np.log(expected + tiny) - np.log(actual + tiny))).sum(1).mean())
