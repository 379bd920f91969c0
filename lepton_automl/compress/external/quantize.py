"""Correcting: the mean error that rounding leaves in the logits is taken out of the last bias."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from lepton_automl import __version__
from lepton_automl.compress.evaluation import kl_divergence
from lepton_automl.compress.external.equalization import equalized
from lepton_automl.compress.external.model import ExternalModel, last_softmax
from lepton_automl.core import files
from lepton_automl.cost.onnx_cost import WEIGHTED
from lepton_automl.models import onnx_file

TINY = 1e-30
NAME = "lepton_correction"
EXACT_EVERYWHERE = 64
"""Weights up to this never overflow the 16 bits that older processors add in."""
BATCH = 16
VERSIONS = (__version__, onnxruntime.__version__)
RANGES = {"ranges of all pictures": False, "ranges averaged over batches": True}
"""Ways to calibrate, and whether they average."""


def corrected(file: bytes, wanted: NDArray[np.float32], given: NDArray[np.float32]) -> bytes:
    """The file with the mean difference of its logits from the float model's taken out.

    Rounding moves the mean of a value as well as each of them, layer upon layer, and what arrives
    at the logits favours a class on every picture. No label is needed (the last layer's part of
    Nagel et al. 2019, section 4.2, arXiv:1906.04721).

    Parameters
    ----------
    file : bytes
        ONNX whose last operator but names of values is a softmax; any other is given back.
    wanted, given : float32 array (N, classes)
        Probabilities of the float model and of `file` on the same training pictures.
    """
    model = ModelProto.FromString(file)
    softmax = last_softmax(model.graph, model.graph.output[0].name)
    if softmax is None:
        return file
    # Of logits no more than differences between classes can be told from probabilities.
    apart = (np.log(np.maximum(p, TINY)) for p in (wanted, given))
    shift = np.subtract(*(each - each.mean(1, keepdims=True) for each in apart)).mean(0)
    if not _in_bias(model.graph, softmax, shift.astype(np.float32)):
        _in_node(model.graph, softmax, shift.astype(np.float32))
    return bytes(model.SerializeToString(deterministic=True))


def _in_bias(graph: GraphProto, softmax: NodeProto, shift: NDArray[np.float32]) -> bool:
    """Change the bias of the matrix product before it, if it has one of its own."""
    makers = {value: node for node in graph.node for value in node.output}
    layer = makers.get(softmax.input[0])
    if layer is None or layer.op_type != "Gemm" or len(layer.input) < 3:
        return False
    stored = {tensor.name: tensor for tensor in graph.initializer}
    name, scale = layer.input[2], np.ones((), np.float32)
    source = makers.get(name)
    if source is not None and source.op_type == "DequantizeLinear":
        name, scale = source.input[0], numpy_helper.to_array(stored[source.input[1]])
    readers = [node for node in graph.node if name in node.input]
    if name not in stored or len(readers) != 1:
        return False
    bias = numpy_helper.to_array(stored[name])
    steps = shift / scale
    moved = bias + (np.rint(steps) if bias.dtype == np.int32 else steps)
    stored[name].CopyFrom(numpy_helper.from_array(moved.astype(bias.dtype), name))
    return True


def _in_node(graph: GraphProto, softmax: NodeProto, shift: NDArray[np.float32]) -> None:
    """Add it before the softmax."""
    graph.initializer.append(numpy_helper.from_array(shift, NAME))
    add = helper.make_node("Add", [softmax.input[0], NAME], [f"{NAME}/logits"], NAME)
    place = list(graph.node).index(softmax)
    softmax.input[0] = add.output[0]
    graph.node.insert(place, add)


@dataclass(frozen=True)
class Quantized:
    """An int8 file and how it came about."""

    file: bytes
    method: str
    kl_divergence: float
    """Of its answers from the float model's on the calibration pictures, nats."""
    source: ExternalModel
    """The float model it was made of, equalised or not."""
    averages: bool
    kept_float: tuple[str, ...] = ()
    """Nodes of the model that stay float, by repair."""


class Pictures(CalibrationDataReader):  # type: ignore[misc]
    """Hands out a batch at a time, so that memory holds no more."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = (
            np.ascontiguousarray(pixels[start : start + BATCH])
            for start in range(0, len(pixels), BATCH)
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {onnx_file.INPUT_NAME: batch}


class Quantizer:
    """Quantizes on the same pictures for the same target, and remembers every file it made.

    Parameters
    ----------
    pixels : uint8 array (N, H, W, C)
        Training pictures; no label is needed.
    weight_limit : int
        Largest weight, 1 to 127.
    memory : Path, optional
        A folder in which the files outlive this process, so that nothing is made twice after it
        was killed.
    """

    def __init__(
        self, pixels: NDArray[np.uint8], weight_limit: int, memory: Path | None = None
    ) -> None:
        self.pixels, self._limit, self._memory = pixels, weight_limit, memory
        self._about = hashlib.sha256(pixels.tobytes() + bytes([weight_limit])).hexdigest()

    def __call__(
        self,
        model: ExternalModel,
        *,
        averages: bool = False,
        kept_float: Sequence[str] = (),
        only: Sequence[str] = (),
    ) -> bytes:
        """The int8 file of a wrapped model, some of its nodes left in float, or all but `only`."""
        how = (averages, [*model.kept_float, *kept_float], list(only))
        if self._memory is None:
            return self._quantized(model.file, *how)
        parts = repr((hashlib.sha256(model.file).hexdigest(), self._about, how, VERSIONS))
        place = self._memory / f"{hashlib.sha256(parts.encode()).hexdigest()[:32]}.onnx"
        if not place.is_file():
            files.write(place, self._quantized(model.file, *how))
        return place.read_bytes()

    def _quantized(
        self, file: bytes, averages: bool, excluded: list[str], only: list[str]
    ) -> bytes:
        with tempfile.TemporaryDirectory() as folder, unlogged():
            out = Path(folder) / "int8.onnx"
            quantize_static(
                ModelProto.FromString(file),
                out,
                Pictures(self.pixels),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=self._limit <= EXACT_EVERYWHERE,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                nodes_to_exclude=excluded,
                nodes_to_quantize=only,
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


def closest(model: ExternalModel, quantizer: Quantizer) -> Quantized:
    """Of all ways to quantize a float model, the one whose file answers most like it."""
    wanted = answers(model.file, quantizer.pixels)
    even = dataclasses.replace(model, file=equalized(model.file, quantizer.pixels))
    sources = {"plain": model} | ({"equalized": even} if even.file != model.file else {})
    found = []
    for name, source in sources.items():
        for how, averages in RANGES.items():
            file, apart, is_corrected = nearer(
                quantizer(source, averages=averages), wanted, quantizer
            )
            method = f"{name}, {how}" + ", corrected" * is_corrected
            found.append(Quantized(file, method, apart, source, averages))
    return min(found, key=lambda one: one.kl_divergence)


def nearer(
    file: bytes, wanted: NDArray[np.float32], quantizer: Quantizer
) -> tuple[bytes, float, bool]:
    """The file or the corrected one, how far it is from `wanted` in nats, and which it is."""
    found = []
    for is_corrected in (False, True):
        given = answers(file, quantizer.pixels)
        found.append((file, kl_divergence(wanted, given), is_corrected))
        file = corrected(file, wanted, given)
    return min(found, key=lambda one: one[1])


def _leave_logits(graph: GraphProto) -> None:
    """Take away the rounding of what the last matrix gives: its kernel can answer in float."""
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
def unlogged() -> Iterator[None]:
    """It advises, on the root logger, what `wrapping` has done already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def answers(file: bytes, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities (N, classes) in ONNX Runtime."""
    return onnx_file.predict_probabilities(onnx_file.open_session(file), pixels)
