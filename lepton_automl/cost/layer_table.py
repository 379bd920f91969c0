"""Layers of any ONNX file: kind, shape, bytes, multiply-accumulates, feature maps alive.

A layer is an operator that computes. Conversions between float and integers belong to the layer
whose result they convert, or to the one that reads it; operators on constants alone are left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from lepton_automl.cost.memory_steps import MemoryStep
from lepton_automl.cost.onnx_cost import Shape, macs_of, memory_steps_of, shapes_of
from lepton_automl.models.front_end_onnx import ancestors, features_name
from lepton_automl.models.onnx_file import open_session

CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "Identity", "Dropout"})
_QUANTIZED = frozenset({"QLinearConv", "QLinearMatMul", "QGemm"})
"""Operators with weights whose inputs come with their scales and zero points."""
FRONT_END = "front end"
"""Name of the layer that stands for the operators that compute features of sound."""


@dataclass(frozen=True)
class LayerRow:
    """An operator that computes."""

    name: str
    """That of its node, or its kind and a number; no two layers have the same."""
    kind: str
    """`Conv 3x3/2 depthwise`."""
    reads: tuple[str, ...]
    """Names of the layers whose results it reads; empty text stands for the input of the net."""
    shape: tuple[int, ...]
    """Of its result, without the batch; empty where it is not known."""
    parameter_bytes: int
    """Of the constants that no layer before it reads."""
    macs: int
    """Multiply-accumulates a sample."""
    alive: tuple[tuple[str, int], ...] = ()
    """Feature maps in memory while it runs: the layer that made each, and bytes; none of a layer
    that copies nothing, such as Flatten."""
    is_in_place: bool = False
    """Whether its result is written over an input."""

    @property
    def ram_bytes(self) -> int:
        """Of the feature maps alive."""
        return sum(size for _, size in self.alive)


@dataclass(frozen=True)
class NodeNames:
    """Which node of a graph belongs to which layer."""

    layer_of: Mapping[int, str]
    """Number of each node that is a layer -> its name."""
    owner: Mapping[str, str]
    """Tensor, unless it is a constant -> name of the layer that computes it; empty: the input."""
    constants: frozenset[str]
    """Tensors that do not depend on the input."""


def fixed_batch(model: ModelProto) -> ModelProto:
    """A copy of a model for one sample, with the shapes of its tensors as far as they follow."""
    copy = ModelProto.FromString(model.SerializeToString())
    stored = {tensor.name for tensor in copy.graph.initializer}
    for value in copy.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in stored and len(dims) and not dims[0].dim_value:
            dims[0].dim_value = 1
    return onnx.shape_inference.infer_shapes(copy, data_prop=True)


def with_measured_shapes(model: ModelProto, feeds: Mapping[str, NDArray[Any]]) -> ModelProto:
    """A model of `fixed_batch` with the shapes that are not known, taken from one run of it.

    Shapes do not follow through operators that only ONNX Runtime knows. A model whose shapes are
    all known is returned as it is.
    """
    graph = model.graph
    known = {v.name for v in (*graph.input, *graph.value_info, *graph.output) if _has_shape(v)}
    missing = [y for node in graph.node for y in node.output if y and y not in known]
    if not missing:
        return model
    asked = ModelProto.FromString(model.SerializeToString())
    there = {value.name for value in asked.graph.output}
    asked.graph.output.extend(
        helper.make_empty_tensor_value_info(name) for name in missing if name not in there
    )
    found = open_session(asked.SerializeToString()).run(missing, dict(feeds))
    made: ModelProto = ModelProto.FromString(model.SerializeToString())
    places = {value.name: value for value in (*made.graph.output, *made.graph.value_info)}
    for name, array in zip(missing, found, strict=True):
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
        if name in places:
            places[name].CopyFrom(value)
        else:
            made.graph.value_info.append(value)
    return made


def _has_shape(value: ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return value.type.tensor_type.HasField("shape") and all(d.dim_value > 0 for d in dims)


def node_names(graph: GraphProto, front: frozenset[str] = frozenset()) -> NodeNames:
    """Name the layers of a graph whose nodes are in an order of computation.

    Parameters
    ----------
    graph : GraphProto
        The graph.
    front : frozenset of str
        Outputs of the nodes that belong to the front end.
    """
    constants = {tensor.name for tensor in graph.initializer}
    owner = {v.name: "" for v in graph.input if v.name not in constants}
    taken, layer_of = set[str](), dict[int, str]()
    kinds = Counter(node.op_type for node in graph.node)
    for number, node in enumerate(graph.node):
        inputs = [name for name in node.input if name and name not in constants]
        if not inputs:
            constants |= set(node.output)
            continue
        if node.output[0] in front:
            name = layer_of[number] = FRONT_END
        elif node.op_type in CONVERSIONS:
            name = owner.get(inputs[0], "")
        else:
            plain = node.op_type if kinds[node.op_type] == 1 else f"{node.op_type} {number}"
            wanted = node.name or plain
            name = wanted if wanted not in taken else f"{wanted} {number}"
            layer_of[number] = name
        taken.add(name)
        owner.update(dict.fromkeys(node.output, name))
    return NodeNames(layer_of, owner, frozenset(constants))


def front_outputs(model: ModelProto) -> frozenset[str]:
    """Outputs of the nodes of a front end of ours; empty where the file has none."""
    end = features_name(model)
    nodes = [] if end is None else ancestors(list(model.graph.node), end)
    return frozenset(node.output[0] for node in nodes)


def layer_table(model: ModelProto, value_bytes: int) -> list[LayerRow]:
    """The layers of a model in order.

    Parameters
    ----------
    model : ModelProto
        As `fixed_batch` gives it.
    value_bytes : int
        Bytes an element of a feature map: 1 in an int8 file, 4 in a float one.
    """
    graph = model.graph
    names = node_names(graph, front_outputs(model))
    shapes, sizes = shapes_of(graph), _constant_bytes(graph)
    known = {v.name for v in (*graph.input, *graph.value_info, *graph.output)}
    steps = {names.owner[step.name]: step for step in memory_steps_of(graph, shapes)[1:]}
    bytes_of = _bytes_by_layer(graph, names, sizes)
    found: dict[str, LayerRow] = {}
    for number, name in names.layer_of.items():
        node = graph.node[number]
        step = steps.get(name)
        is_front = name == FRONT_END
        found[name] = LayerRow(
            name=name,
            kind="log-mel features" if is_front else kind_text(node, shapes),
            reads=("",) if is_front else _reads(node, names),
            shape=shapes[node.output[0]][1:] if node.output[0] in known else (),
            parameter_bytes=bytes_of.get(name, 0),
            macs=0 if is_front else _macs(node, shapes),
            alive=() if step is None else _alive(step, names, value_bytes),
        )
    return list(found.values())


def kind_text(node: NodeProto, shapes: Mapping[str, Shape]) -> str:
    """`Conv 3x3/2 depthwise`, `MaxPool 2x2/2`, `Add`."""
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    shape = shapes.get(_weights_of(node), ())
    window = given.get("kernel_shape") or shape[2:]
    if "Conv" not in node.op_type and "kernel_shape" not in given:
        return node.op_type
    stride = [step for step in given.get("strides", ()) if step != 1]
    text = f"{node.op_type} {'x'.join(map(str, window))}" + (f"/{stride[0]}" if stride else "")
    groups = given.get("group", 1)
    if groups > 1:
        text += " depthwise" if shape and shape[1] == 1 else f" in {groups} groups"
    return text


def _macs(node: NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Multiply-accumulates of a node, also of those that hold integers and their scales."""
    weight = shapes.get(_weights_of(node), ())
    if node.op_type == "QLinearConv":
        return math.prod(shapes.get(node.output[0], (0,))) * math.prod(weight[1:])
    if node.op_type in _QUANTIZED:
        # Every output of a row takes one product with each weight of its column.
        rows = math.prod(shapes.get(node.input[0], (1,))[:-1])
        return rows * math.prod(weight)
    return macs_of(node, shapes)


def _weights_of(node: NodeProto) -> str:
    place = 3 if node.op_type in _QUANTIZED else 1
    return str(node.input[place]) if len(node.input) > place else ""


def _reads(node: NodeProto, names: NodeNames) -> tuple[str, ...]:
    """Layers that a node reads, each once."""
    found = (names.owner[name] for name in node.input if name in names.owner)
    return tuple(dict.fromkeys(found))


def _alive(step: MemoryStep, names: NodeNames, value_bytes: int) -> tuple[tuple[str, int], ...]:
    return tuple((names.owner.get(name, name), size * value_bytes) for name, size in step.alive)


def _constant_bytes(graph: GraphProto) -> dict[str, int]:
    return {
        tensor.name: math.prod(tensor.dims)
        * np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
        for tensor in graph.initializer
    }


def _bytes_by_layer(
    graph: GraphProto, names: NodeNames, sizes: Mapping[str, int]
) -> dict[str, int]:
    """Bytes of constants by layer; each constant belongs to the first layer that needs it."""
    readers = _first_readers(graph, names)
    found: dict[str, int] = {}
    for name, size in sizes.items():
        layer = readers.get(name)
        if layer is not None:
            found[layer] = found.get(layer, 0) + size
    return found


def _first_readers(graph: GraphProto, names: NodeNames) -> dict[str, str]:
    """Constant -> the first layer that reads it, also through operators on constants alone."""
    found: dict[str, str] = {}
    made: dict[str, Iterable[str]] = {}
    for node in graph.node:
        layer = next((names.owner[y] for y in node.output if y in names.owner), None)
        if layer is None:
            made.update((output, node.input) for output in node.output)
            continue
        waiting = [name for name in node.input if name in names.constants]
        while waiting:
            name = waiting.pop()
            if name in made:
                waiting += made.pop(name)
            else:
                found.setdefault(name, layer)
    return found
