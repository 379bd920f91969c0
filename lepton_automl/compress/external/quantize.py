"""Quantize an external model with ONNX Runtime's quantizer, by the closest of several methods."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from lepton_automl.compress.evaluation import kl_divergence
from lepton_automl.compress.external.graph_process import (
    equalize_graph,
    predict_file,
    quantize_graph,
)
from lepton_automl.compress.external.model import ExternalModel, last_softmax
from lepton_automl.core import files, untrusted_files
from lepton_automl.core.untrusted_files import MODEL
from lepton_automl.core.version import __version__

_TINY = 1e-30
_CORRECTION = "lepton_correction"
_VERSIONS = (__version__, onnxruntime.__version__)
_CALIBRATIONS = {"min-max ranges": False, "min-max ranges averaged over batches": True}
"""Name of a calibration method -> whether it averages the extremes of batches."""


def correct_bias(file: bytes, wanted: NDArray[np.float32], given: NDArray[np.float32]) -> bytes:
    """Bias correction of the last layer (Nagel et al. 2019, section 4.2, arXiv:1906.04721).

    Rounding errors shift the mean of the logits, which favours a class on every picture. The mean
    difference from the float model's logits is subtracted; no label is needed.

    Parameters
    ----------
    file : bytes
        ONNX that ends in a softmax, Identity nodes aside; any other is returned unchanged.
    wanted, given : float32 array (N, classes)
        Probabilities of the float model and of `file` on the same training pictures.
    """
    model = ModelProto.FromString(file)
    softmax = last_softmax(model.graph, model.graph.output[0].name)
    if softmax is None:
        return file
    # Probabilities determine logits up to a constant per picture.
    apart = (np.log(np.maximum(p, _TINY)) for p in (wanted, given))
    shift = np.subtract(*(each - each.mean(1, keepdims=True) for each in apart)).mean(0)
    if not _in_bias(model.graph, softmax, shift.astype(np.float32)):
        _in_node(model.graph, softmax, shift.astype(np.float32))
    return bytes(model.SerializeToString(deterministic=True))


def _in_bias(graph: GraphProto, softmax: NodeProto, shift: NDArray[np.float32]) -> bool:
    """Add `shift` to the bias of the matrix product before the softmax; False if it has none."""
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
    """Add `shift` in a node of its own before the softmax."""
    graph.initializer.append(numpy_helper.from_array(shift, _CORRECTION))
    add = helper.make_node(
        "Add", [softmax.input[0], _CORRECTION], [f"{_CORRECTION}/logits"], _CORRECTION
    )
    place = list(graph.node).index(softmax)
    softmax.input[0] = add.output[0]
    graph.node.insert(place, add)


@dataclass(frozen=True)
class ExternalQuantization:
    """An int8 file, and how it was quantized."""

    file: bytes
    method: str
    kl_divergence: float
    """From the float model's probabilities on the calibration pictures, nats."""
    source: ExternalModel
    """The float model it was quantized from, equalized or not."""
    averages: bool
    kept_float: tuple[str, ...] = ()
    """Layers kept in float for accuracy (mixed precision)."""


class Quantizer:
    """ONNX Runtime's static quantizer with fixed pictures and target; files are cached.

    Parameters
    ----------
    pixels : uint8 array (N, H, W, C)
        Training pictures; no label is needed.
    weight_limit : int
        Largest weight, 1 to 127.
    memory : Path, optional
        Folder of the cached files, so that a resumed compression repeats nothing.
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
        """The int8 file of a wrapped model, `kept_float` or all nodes but `only` left in float."""
        how = (averages, [*model.kept_float, *kept_float], list(only))
        if self._memory is None:
            return quantize_graph(model.file, self.pixels, self._limit, *how)
        parts = repr((hashlib.sha256(model.file).hexdigest(), self._about, how, _VERSIONS))
        place = self._memory / f"{hashlib.sha256(parts.encode()).hexdigest()[:32]}.onnx"
        if not place.is_file():
            files.write(place, quantize_graph(model.file, self.pixels, self._limit, *how))
        return untrusted_files.read_bytes(place, MODEL, fix="remove that file")


def quantize_external(model: ExternalModel, quantizer: Quantizer) -> ExternalQuantization:
    """Quantize by every method; the result with the least KL divergence from the float model."""
    wanted = predict_file(model.file, quantizer.pixels)
    equalized = dataclasses.replace(model, file=equalize_graph(model.file, quantizer.pixels))
    sources = {"plain": model} | (
        {"equalization": equalized} if equalized.file != model.file else {}
    )
    found = []
    for name, source in sources.items():
        for how, averages in _CALIBRATIONS.items():
            file, apart, is_corrected = best_bias_correction(
                quantizer(source, averages=averages), wanted, quantizer
            )
            method = f"{name}, {how}" + ", bias correction" * is_corrected
            found.append(ExternalQuantization(file, method, apart, source, averages))
    return min(found, key=lambda one: one.kl_divergence)


def best_bias_correction(
    file: bytes, wanted: NDArray[np.float32], quantizer: Quantizer
) -> tuple[bytes, float, bool]:
    """The file or its bias-corrected version, KL divergence from `wanted`, and which one it is."""
    found = []
    for is_corrected in (False, True):
        given = predict_file(file, quantizer.pixels)
        found.append((file, kl_divergence(wanted, given), is_corrected))
        file = correct_bias(file, wanted, given)
    return min(found, key=lambda one: one[1])
