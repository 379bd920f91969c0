"""Quantizing a foreign model: ONNX Runtime's quantizer, told what its own kernels are good at.

uint8 values and int8 weights with a scale a channel, the only pair its kernels take throughout.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from lepton_automl import onnxfile
from lepton_automl.compress.scoring import divergence
from lepton_automl.foreign import Foreign
from lepton_automl.foreign.equalizing import equalized

EXACT_EVERYWHERE = 64
"""Weights up to this never overflow the 16 bits that older processors add in."""
BATCH = 16
RANGES = {"ranges of all pictures": False, "ranges averaged over batches": True}
"""Ways to calibrate, and whether they average."""


@dataclass(frozen=True)
class Quantized:
    """An int8 file and how it came about."""

    file: bytes
    method: str
    divergence: float
    """Of its answers from the float model's on the calibration pictures, nats."""
    source: Foreign
    """The float model it was made of, equalised or not."""
    averages: bool
    kept_float: tuple[str, ...] = ()
    """Nodes of the model that stay float, by repair."""


class _Pictures(CalibrationDataReader):  # type: ignore[misc]
    """Hands out a batch at a time, so that memory holds no more."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = (
            np.ascontiguousarray(pixels[start : start + BATCH])
            for start in range(0, len(pixels), BATCH)
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {onnxfile.INPUT: batch}


def closest(model: Foreign, pixels: NDArray[np.uint8], weight_limit: int) -> Quantized:
    """Of all ways to quantize, the one whose file answers most like the float model.

    Parameters
    ----------
    model : Foreign
        Float.
    pixels : uint8 array (N, H, W, C)
        Training pictures; no label is needed.
    weight_limit : int
        Largest weight, 1 to 127.
    """
    wanted = answers(model.file, pixels)
    even = Foreign(
        equalized(model.file, pixels),
        model.shape,
        model.class_names,
        model.kept_float,
        model.seen_as,
    )
    sources = {"plain": model} | ({"equalized": even} if even.file != model.file else {})
    found = []
    for name, source in sources.items():
        for how, averages in RANGES.items():
            file = quantized(source, pixels, weight_limit, averages=averages)
            apart = divergence(wanted, answers(file, pixels))
            found.append(Quantized(file, f"{name}, {how}", apart, source, averages))
    return min(found, key=lambda one: one.divergence)


def quantized(
    model: Foreign,
    pixels: NDArray[np.uint8],
    weight_limit: int,
    *,
    averages: bool = False,
    kept_float: Sequence[str] = (),
    only: Sequence[str] = (),
) -> bytes:
    """The int8 file of a wrapped model, some of its nodes left in float, or all but `only`."""
    more: dict[str, Any] = {"CalibMovingAverage": averages}
    with tempfile.TemporaryDirectory() as folder, _unlogged():
        out = Path(folder) / "int8.onnx"
        quantize_static(
            ModelProto.FromString(model.file),
            out,
            _Pictures(pixels),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=weight_limit <= EXACT_EVERYWHERE,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=[*model.kept_float, *kept_float],
            nodes_to_quantize=list(only),
            extra_options=more,
        )
        made = ModelProto.FromString(out.read_bytes())
    kept = [item for item in made.opset_import if item.domain in ("", "ai.onnx")]
    del made.opset_import[:]
    made.opset_import.extend(kept)
    source = ModelProto.FromString(model.file)
    del made.metadata_props[:]
    made.metadata_props.extend(source.metadata_props)
    return bytes(made.SerializeToString(deterministic=True))


@contextmanager
def _unlogged() -> Iterator[None]:
    """It advises, on the root logger, what `wrapping` has done already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def answers(file: bytes, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities (N, classes) in ONNX Runtime."""
    return onnxfile.probabilities(onnxfile.session(file), pixels)
