"""Read the quantized net back from the ONNX int8 file that `models.onnx_export` wrote of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from lepton_automl.core import untrusted_files
from lepton_automl.errors import DataError, first_line
from lepton_automl.models.arch import Arch
from lepton_automl.models.front_end import FRONT_END
from lepton_automl.models.graph import Conv, Gate, Linear, MaxPool
from lepton_automl.models.onnx_file import ELEMENT_TYPES, read_metadata
from lepton_automl.models.quantization import (
    InputQuantization,
    Preprocessing,
    QParams,
    has_input_quantization,
)

_OWN = ("labels", "preprocessing", "lepton", FRONT_END)
"""Metadata that the writer itself adds."""
_FIX = "make the artifact again: lepton export RUN"
_MALFORMED = (LookupError, ValueError, TypeError, AttributeError, StopIteration)


@dataclass(frozen=True)
class WrittenNet:
    """A `QuantizedNet` as its int8 file holds it, and the texts beside it."""

    arch: Arch
    preprocessing: Preprocessing
    qparams: QParams
    class_names: tuple[str, ...]
    metadata: Mapping[str, str]
    """Without what the writer adds itself."""


def read_int8(file: bytes, arch: Arch) -> WrittenNet:
    """The net of an int8 file that `int8_onnx` wrote: written again it gives the same bytes.

    Parameters
    ----------
    file : bytes
        The ONNX file.
    arch : Arch
        Its architecture, which the file names operations after.

    Raises
    ------
    DataError
        If the file is not one of this architecture.
    """
    try:
        return _read(ModelProto.FromString(file), read_metadata(file), arch)
    except _MALFORMED as error:
        raise DataError(
            f"the int8 file is not of its architecture: {first_line(error)}",
            fix=_FIX,
        ) from error


def _read(model: ModelProto, words: Mapping[str, str], arch: Arch) -> WrittenNet:
    graph = _Graph(model.graph)
    about = _json(words, "preprocessing", dict)
    preprocessing = Preprocessing.from_fields(
        {"zero_point": about["zero_point"], "scale": about["scale"]}
        | {"input_quantization": _input_quantization(graph, arch)}
    )
    start = arch.graph.input.name
    found = QParams({start: preprocessing.scale}, {start: preprocessing.zero_point}, {}, {}, {})
    for op in arch.graph.ops:
        if isinstance(op, MaxPool):
            found.scales[op.y.name] = found.scales[op.x.name]
            found.zero_points[op.y.name] = found.zero_points[op.x.name]
            continue
        if isinstance(op, Gate) and op.kind == "hard_sigmoid":
            found.scales[op.y.name], found.zero_points[op.y.name] = float(np.float32(1 / 255)), 0
            continue
        node = graph.named[op.name]
        if isinstance(op, Conv | Linear):
            weights, bias = (graph.made[name] for name in node.input[1:3])
            found.weights[op.name] = graph.array(weights, 0).reshape(op.weight_shape)
            found.weight_scales[op.name] = graph.array(weights, 1)
            found.biases[op.name] = graph.array(bias, 0)
        if not isinstance(op, Linear):
            end = graph.read_by[node.output[0]]
            found.scales[op.y.name] = float(graph.array(end, 1))
            found.zero_points[op.y.name] = int(graph.array(end, 2))
    names = _json(words, "labels", list)
    return WrittenNet(
        arch,
        preprocessing,
        found,
        tuple(str(name) for name in names),
        {key: value for key, value in words.items() if key not in _OWN},
    )


def _json(words: Mapping[str, str], key: str, top: type) -> Any:
    return untrusted_files.parse_json(words[key], f"{key} in the metadata", fix=_FIX, top=top)


def _input_quantization(graph: _Graph, arch: Arch) -> dict[str, object] | None:
    """Fields of the `InputQuantization` that the first nodes compute; None where there is none."""
    if arch.front_end is not None or not has_input_quantization(arch):
        return None
    dtype = next(kind.name for kind, number in ELEMENT_TYPES.items() if number == graph.input_type)
    nodes, channels = graph.nodes, arch.channels
    offsets = graph.array(next(node for node in nodes if node.op_type == "Sub"), 1)
    divided = next((node for node in nodes if node.op_type == "Div"), None)
    quantized = next(node for node in nodes if node.op_type == "QuantizeLinear")
    scales = graph.array(quantized if divided is None else divided, 1)
    # Of pictures they are repeated for each pixel of a row.
    made = InputQuantization(
        tuple(np.ravel(offsets)[:channels].tolist()),
        tuple(np.ravel(scales)[:channels].tolist()),
        dtype,
    )
    return {"offsets": made.offsets, "scales": made.scales, "dtype": made.dtype}


class _Graph:
    """Nodes by what they make, what reads them and how they are named."""

    def __init__(self, graph: GraphProto) -> None:
        self.nodes = list(graph.node)
        self.input_type = graph.input[0].type.tensor_type.elem_type
        self.named = {node.name: node for node in self.nodes if node.name}
        self.made = {node.output[0]: node for node in self.nodes}
        self.read_by = {name: node for node in reversed(self.nodes) for name in node.input}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}

    def array(self, node: NodeProto, place: int) -> np.ndarray:
        """The constant that is the input of a node at a place."""
        return np.array(numpy_helper.to_array(self._constants[node.input[place]]))
