"""What a model gets right, and how far its int8 file is from the float net."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from lepton_automl.artifact.limits import worst_class_drop
from lepton_automl.compress.context import Work
from lepton_automl.metrics import balanced
from lepton_automl.metrics.paired import Evidence
from lepton_automl.models.model import Model
from lepton_automl.models.onnx_export import int8_onnx
from lepton_automl.models.onnx_file import onnx_probabilities
from lepton_automl.training.evaluate import is_correct, predict_logits


def int8_file(model: Model) -> bytes:
    """The int8 file with numbers for labels: the same arithmetic as the one that ships."""
    return int8_onnx(model, [str(number) for number in range(model.arch.classes)], {})


def validation_accuracy(model: Model, work: Work) -> float:
    """Share of validation pictures that are right, 0 to 1; of the int8 file if quantized.

    Of each class, on average, where these count alike.
    """
    return balanced.balanced_mean(validation_right(model, work), work.validation.strata)


def validation_right(model: Model, work: Work) -> np.ndarray:
    """Which validation pictures are right, bool (N,); of the int8 file if quantized."""
    data = work.validation
    if model.qparams is None:
        return is_correct(model, data, device=work.device)
    answers = onnx_probabilities(int8_file(model), data.pixels).argmax(1)
    right: np.ndarray = answers == data.labels.cpu().numpy()
    return right


def keeps_classes(model: Model, work: Work, share: float = 1.0) -> bool:
    """Whether no class loses more on validation than `share` of what it may; any where none may."""
    limit = work.limits.max_class_drop
    if limit is None:
        return True
    labels = work.validation.labels.cpu().numpy()
    before, after = (
        Evidence(validation_right(m, work), labels=labels) for m in (work.reference, model)
    )
    return worst_class_drop(before, after) <= share * limit + 1e-9


def float_probabilities(model: Model, pixels: Tensor) -> np.ndarray:
    """float32 (N, classes) of the float network, for uint8 pixels (N, H, W, C)."""
    result: np.ndarray = predict_logits(model, pixels).softmax(1).numpy()
    return result


def divergence(wanted: np.ndarray, given: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of probabilities (N, classes), in nats.

    It needs no labels and shows differences long before a picture changes its class.
    """
    tiny = 1e-9
    return float((wanted * (np.log(wanted + tiny) - np.log(given + tiny))).sum(1).mean())
