"""Quantize a float model to int8 by the closest of three methods, then by QAT if needed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.evaluation import (
    float_probabilities,
    int8_probabilities,
    keeps_class_limit,
    kl_divergence,
    validation_accuracy,
)
from lepton_automl.compress.quantization.calibration import calibrate, clip_ranges
from lepton_automl.compress.quantization.equalization import equalize, fold_batchnorm
from lepton_automl.compress.quantization.qat import finetune
from lepton_automl.compress.quantization.rounding import quantize, round_by_gptq
from lepton_automl.compress.recovery import OutOfTime, recovery_budget
from lepton_automl.core.events import Event
from lepton_automl.data.sampling import PICTURES, balanced
from lepton_automl.models.model import Model
from lepton_automl.training.loop import Diverged

NEAREST = "rounding to nearest"
"""Plain post-training quantization: the baseline that the report compares with."""


@dataclass(frozen=True)
class QuantizationMethod:
    """A way to quantize one float model."""

    name: str
    """For the report, such as `equalization and GPTQ rounding`."""
    quantize: Callable[[], Model]


@dataclass(frozen=True)
class MethodResult:
    """How close one method comes to the float model; size and speed of the file do not differ."""

    method: str
    kl_divergence: float
    """From the float model's probabilities on the calibration pictures, nats."""
    seconds: float
    """To quantize, and to run the int8 file on these pictures."""
    accuracy: float | None = None
    """On validation pictures, 0 to 1; None where it was not evaluated."""

    def __str__(self) -> str:
        accuracy = "" if self.accuracy is None else f"{self.accuracy:.2%} on validation, "
        return (
            f"{self.method}: {accuracy}KL divergence from float {self.kl_divergence:.2g}, "
            f"{self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class QuantizationResult:
    """An int8 model, and the results of every method that was tried."""

    model: Model
    method: str
    calibration_ids: tuple[int, ...]
    """Indices of the training pictures used for calibration."""
    kl_divergence: float
    """From the float model's probabilities on those pictures, nats."""
    accuracy: float
    """Share of validation pictures that are right, 0 to 1."""
    results: tuple[MethodResult, ...]
    """Of every method, `NEAREST` first."""


def quantize_model(model: Model, context: CompressionContext) -> QuantizationResult:
    """Quantize after training; fine-tune with quantization only if validation loses too much.

    Parameters
    ----------
    model : Model
        Float, batch normalisation folded or not.
    context : CompressionContext
        Its `allowed_drop` is relative to `context.reference`.
    """
    min_accuracy = validation_accuracy(context.reference, context) - context.allowed_drop / 100
    result = _closest(fold_batchnorm(model), context, min_accuracy)
    if result.accuracy >= min_accuracy and keeps_class_limit(result.model, context):
        return result
    return _fine_tuned(result, context, min_accuracy)


def _closest(model: Model, context: CompressionContext, min_accuracy: float) -> QuantizationResult:
    """Result of the method whose int8 file has the least KL divergence from the float model.

    Methods are compared on training pictures, where no label is needed. Where rounding to nearest
    stays below `min_accuracy`, all are evaluated on validation too, for the report.
    """
    ids = balanced(context.train.labels, PICTURES, context.seed)
    pixels = context.train.pixels[ids]
    expected = float_probabilities(model, pixels)
    models: dict[str, Model] = {}
    results: list[MethodResult] = []
    for method in _methods(model, context, pixels):
        started = time.monotonic()
        models[method.name] = method.quantize()
        kl_divergence = _divergence(models[method.name], pixels, expected)
        results.append(MethodResult(method.name, kl_divergence, time.monotonic() - started))
    best = min(results, key=lambda result: result.kl_divergence)
    accuracy = {name: validation_accuracy(models[name], context) for name in (NEAREST, best.method)}
    if accuracy[NEAREST] < min_accuracy:
        for name in models.keys() - accuracy.keys():
            accuracy[name] = validation_accuracy(models[name], context)
    results = [dataclasses.replace(each, accuracy=accuracy.get(each.method)) for each in results]
    for result in results if len(accuracy) == len(results) else ():
        context.emit(Event("compress", f"int8 {result}", is_detail=True))
    return QuantizationResult(
        models[best.method],
        best.method,
        tuple(ids.tolist()),
        best.kl_divergence,
        accuracy[best.method],
        tuple(results),
    )


def _methods(model: Model, context: CompressionContext, pixels: Tensor) -> list[QuantizationMethod]:
    """Rounding to nearest, then GPTQ rounding without and with equalization.

    Combinations with rounding to nearest were never closer than GPTQ rounding ("Reconstructed
    rounding" in docs/decisions.md). Equalization helps nets with uneven channels and slightly harms
    some others.
    """
    limit, scale_of = context.target.weight_limit, context.target.weight_scales
    calibration = calibrate(model, pixels, device=context.device)

    def reconstructed(source: Model) -> Model:
        ranges = calibrate(source, pixels, device=context.device)
        clipped = clip_ranges(source, ranges, pixels, device=context.device)
        return round_by_gptq(quantize(source, clipped, limit, scale_of=scale_of), pixels, limit)

    return [
        QuantizationMethod(
            NEAREST,
            lambda: quantize(
                model, calibration, limit, clip=False, correct=False, scale_of=scale_of
            ),
        ),
        QuantizationMethod("GPTQ rounding", lambda: reconstructed(model)),
        QuantizationMethod(
            "equalization and GPTQ rounding",
            lambda: reconstructed(equalize(model, calibration)),
        ),
    ]


def _divergence(quantized: Model, pixels: Tensor, expected: np.ndarray) -> float:
    return kl_divergence(expected, int8_probabilities(quantized, pixels))


def _fine_tuned(
    result: QuantizationResult, context: CompressionContext, min_accuracy: float
) -> QuantizationResult:
    """`result` after quantization-aware fine-tuning, if that is better on validation."""
    started = time.monotonic()
    budget = recovery_budget(result.model, context, context.refit_seconds)
    if budget is None:
        return result
    context.emit(
        Event(
            "compress",
            f"int8 reaches {result.accuracy:.2%} on validation, {min_accuracy:.2%} are wanted (the "
            "float net's less the allowed drop): quantization-aware fine-tuning",
        )
    )
    try:
        tuned = finetune(result.model, context, budget)
    except (Diverged, OutOfTime):
        return result
    accuracy = validation_accuracy(tuned, context)
    method = f"{result.method}, then quantization-aware fine-tuning"
    pixels = context.train.pixels[list(result.calibration_ids)]
    kl_divergence = _divergence(tuned, pixels, float_probabilities(context.reference, pixels))
    entry = MethodResult(method, kl_divergence, time.monotonic() - started, accuracy)
    result = dataclasses.replace(result, results=(*result.results, entry))
    repairs_classes = keeps_class_limit(tuned, context) and not keeps_class_limit(
        result.model, context
    )
    if accuracy <= result.accuracy and not repairs_classes:
        return result
    return dataclasses.replace(result, model=tuned, method=method, accuracy=accuracy)
