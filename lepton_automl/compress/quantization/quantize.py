"""Quantization: of all ways to integers the one closest to the float net, trained if it must."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lepton_automl.compress.context import Work
from lepton_automl.compress.evaluation import (
    divergence,
    float_probabilities,
    int8_file,
    keeps_classes,
    validation_accuracy,
)
from lepton_automl.compress.quantization.calibration import calibrate, narrowed
from lepton_automl.compress.quantization.equalization import equalize, fold
from lepton_automl.compress.quantization.qat import finetune
from lepton_automl.compress.quantization.rounding import quantize, reconstruct
from lepton_automl.compress.recovery import OutOfTime, effort
from lepton_automl.core.events import Event
from lepton_automl.data.sampling import PICTURES, balanced
from lepton_automl.models.model import Model
from lepton_automl.models.onnx_file import onnx_probabilities
from lepton_automl.training.loop import Diverged


@dataclass(frozen=True)
class Quantized:
    """An int8 model and how it came about."""

    model: Model
    method: str
    """In words, such as `equalized, corrected`."""
    pictures: tuple[int, ...]
    """Indices of the training pictures it was calibrated on."""
    divergence: float
    """Of its answers from the float net's on those pictures, nats."""
    accuracy: float
    """Share of validation pictures that are right, 0 to 1."""
    prices: tuple[Price, ...]
    """Of every way that was tried."""


@dataclass(frozen=True)
class Price:
    """What one way costs; none of them costs bytes or time of the file."""

    method: str
    nats_from_float: float
    """Of its answers from the float net's, on training pictures."""
    seconds: float
    """To make it and to answer these pictures."""
    accuracy: float | None = None
    """On validation pictures, 0 to 1, if it was judged there."""

    def __str__(self) -> str:
        right = "" if self.accuracy is None else f"{self.accuracy:.2%} on validation, "
        far = f"{self.nats_from_float:.2g} nats from float"
        return f"{self.method}: {right}{far}, made in {self.seconds:.1f} s"


def to_int8(model: Model, work: Work) -> Quantized:
    """Equalise, calibrate, round; train with rounding only if validation loses too much.

    The loss, `work.allowed_drop` at most, counts from `work.reference`; `model` is not changed.
    """
    allowed = validation_accuracy(work.reference, work) - work.allowed_drop / 100
    made = _closest(fold(model), work, allowed)
    holds = made.accuracy >= allowed and keeps_classes(made.model, work)
    return made if holds else _trained(made, work)


@dataclass(frozen=True)
class Way:
    """One way to quantize a net."""

    method: str
    model: Model
    divergence: float
    """Of its answers from the float net's, nats."""
    seconds: float


def _closest(model: Model, work: Work, allowed: float) -> Quantized:
    """Of all ways to quantize, the one whose file answers most like the float net.

    All are tried because none is always best: equalisation saves nets with uneven channels and
    slightly harms others. They are compared on training pictures, where no label is needed. Where
    plain rounding gives less than the `allowed` accuracy, all are judged on validation too, so
    that one can see what each mends.
    """
    ids = balanced(work.train.labels, PICTURES, work.seed)
    ways = _ways(model, work, work.train.pixels[ids])
    best, plain = min(ways, key=_divergence), ways[0]
    accuracy = {way.method: validation_accuracy(way.model, work) for way in (plain, best)}
    if accuracy[plain.method] < allowed:
        accuracy |= {w.method: validation_accuracy(w.model, work) for w in ways if w is not plain}
    prices = [Price(w.method, w.divergence, w.seconds, accuracy.get(w.method)) for w in ways]
    for price in prices if len(accuracy) == len(ways) else ():
        work.emit(Event("compress", f"int8 {price}"))
    reached = accuracy[best.method]
    return Quantized(
        best.model, best.method, tuple(ids.tolist()), best.divergence, reached, tuple(prices)
    )


def _ways(model: Model, work: Work, pixels: Tensor) -> list[Way]:
    """Plain rounding first."""
    limit, wanted = work.target.weight_limit, float_probabilities(model, pixels)
    even = equalize(model, calibrate(model, pixels, device=work.device))
    ways = []
    for name, source in {"plain": model, "equalized": even}.items():
        whole = calibrate(source, pixels, device=work.device)
        narrow = narrowed(source, whole, pixels, device=work.device)
        for ends, clip, correct in itertools.product((whole, narrow), (False, True), (False, True)):
            make = functools.partial(quantize, source, ends, limit, clip=clip, correct=correct)
            told = {"narrowed": ends is narrow, "clipped": clip, "corrected": correct}
            words = ", ".join([name, *(word for word, is_so in told.items() if is_so)])
            ways.append(_way(words, make, pixels, wanted))
        # Learning the rounding takes the longest; from narrowed ranges it ended closest on every
        # net that was measured.
        start = quantize(source, narrow, limit, correct=False)
        make = functools.partial(reconstruct, start, pixels, limit)
        ways.append(_way(f"{name}, narrowed, clipped, reconstructed", make, pixels, wanted))
    return ways


def _way(method: str, make: Callable[[], Model], pixels: Tensor, wanted: np.ndarray) -> Way:
    begun = time.monotonic()
    made = make()
    given = onnx_probabilities(int8_file(made), pixels)
    return Way(method, made, divergence(wanted, given), time.monotonic() - begun)


def _divergence(way: Way) -> float:
    return way.divergence


def _trained(made: Quantized, work: Work) -> Quantized:
    """`made` fine-tuned with rounding if that is better on validation."""
    begun, share = time.monotonic(), effort(made.model, work)
    if share is None:
        return made
    work.emit(Event("compress", f"int8 reaches {made.accuracy:.2%} only: training with rounding"))
    try:
        tuned = finetune(made.model, work, share)
    except (Diverged, OutOfTime):
        return made
    accuracy, method = validation_accuracy(tuned, work), f"{made.method}, trained with rounding"
    pixels = work.train.pixels[list(made.pictures)]
    wanted = float_probabilities(work.reference, pixels)
    nats = divergence(wanted, onnx_probabilities(int8_file(tuned), pixels))
    price = Price(method, nats, time.monotonic() - begun, accuracy)
    made = dataclasses.replace(made, prices=(*made.prices, price))
    mends = keeps_classes(tuned, work) and not keeps_classes(made.model, work)
    if accuracy <= made.accuracy and not mends:
        return made
    return dataclasses.replace(made, model=tuned, method=method, accuracy=accuracy)
