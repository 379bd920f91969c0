"""ONNX Runtime's static quantizer; it runs the graph, so only `graph_process` calls it."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from lepton_automl.core.scratch import scratch_folder
from lepton_automl.models import onnx_file
from lepton_automl.models.onnx_file import WEIGHTED

MAX_EXACT_WEIGHT = 64
"""Largest weight whose products cannot overflow the 16-bit sums of older processors."""
_BATCH_SIZE = 16


class CalibrationPictures(CalibrationDataReader):  # type: ignore[misc]
    """Feeds calibration pictures to ONNX Runtime batch by batch."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = (
            np.ascontiguousarray(pixels[start : start + _BATCH_SIZE])
            for start in range(0, len(pixels), _BATCH_SIZE)
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {onnx_file.INPUT_NAME: batch}


def quantize_onnx(
    file: bytes,
    pixels: NDArray[np.uint8],
    weight_limit: int,
    averages: bool,
    excluded: Sequence[str],
    only: Sequence[str],
) -> bytes:
    """The int8 file (QDQ) of a wrapped model.

    Parameters
    ----------
    file : bytes
        The wrapped float model.
    pixels : uint8 array (N, H, W, C)
        Calibration pictures.
    weight_limit : int
        Largest weight, 1 to 127.
    averages : bool
        Whether the extremes of batches are averaged.
    excluded, only : sequence of str
        Names of nodes that stay in float; names of the only nodes that do not, empty for all.
    """
    with scratch_folder() as folder, silenced(), _temporary_files_in(folder):
        out = folder / "int8.onnx"
        quantize_static(
            ModelProto.FromString(file),
            out,
            CalibrationPictures(pixels),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=weight_limit <= MAX_EXACT_WEIGHT,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=list(excluded),
            nodes_to_quantize=list(only),
            extra_options={"CalibMovingAverage": averages},
        )
        made = ModelProto.FromString(out.read_bytes())
    kept = [item for item in made.opset_import if item.domain in ("", "ai.onnx")]
    del made.opset_import[:]
    made.opset_import.extend(kept)
    del made.metadata_props[:]
    made.metadata_props.extend(ModelProto.FromString(file).metadata_props)
    _leave_logits(made.graph)
    return bytes(made.SerializeToString(deterministic=True))


def _leave_logits(graph: GraphProto) -> None:
    """Remove the quantization of the logits: the kernel of the last layer can return float."""
    makers = {value: node for node in graph.node for value in node.output}
    node = makers[graph.output[0].name]
    while node.op_type not in WEIGHTED and node.input and node.input[0] in makers:
        before = makers[node.input[0]]
        if before.op_type != "DequantizeLinear":
            node = before
            continue
        rounding = makers.get(before.input[0])
        layer = None if rounding is None else makers.get(rounding.input[0])
        if rounding is None or layer is None or layer.op_type not in ("Gemm", "MatMul"):
            return
        node.input[0] = rounding.input[0]
        for gone in (before, rounding):
            if not any(gone.output[0] in other.input for other in graph.node):
                graph.node.remove(gone)
        return


@contextmanager
def silenced() -> Iterator[None]:
    """Silence the quantizer: it recommends, on the root logger, what `wrap` has done already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let ONNX Runtime make its temporary folders in this one, which is deleted at any end."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
