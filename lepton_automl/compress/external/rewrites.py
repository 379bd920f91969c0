"""Rewrite ONNX graphs of any exporter as plain float32 graphs: order, precision, quantization."""

from __future__ import annotations

import heapq

import numpy as np
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from lepton_automl.models.untrusted.onnx_graph import tensors

_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
"""Types of values that become float32."""
_LEVELS: dict[int, tuple[int, int]] = {
    TensorProto.UINT8: (0, 255),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT16: (0, 65535),
    TensorProto.INT16: (-32768, 32767),
}
"""Type of a quantized value -> its least and greatest level."""


class Unsupported(Exception):
    """A graph that these rewrites do not cover."""


def sort_nodes(graph: GraphProto) -> None:
    """Sort nodes topologically; their order is kept where it is valid.

    Converters to float16 append Cast nodes at the end of the list, which ONNX forbids.
    """
    nodes = list(graph.node)
    makers = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    needs = [{makers[name] for name in node.input if name in makers} for node in nodes]
    users: list[list[int]] = [[] for _ in nodes]
    for place, sources in enumerate(needs):
        for source in sources:
            users[source].append(place)
    ready = [place for place, sources in enumerate(needs) if not sources]
    order = []
    heapq.heapify(ready)
    while ready:
        place = heapq.heappop(ready)
        order.append(place)
        for user in users[place]:
            needs[user].discard(place)
            if not needs[user]:
                heapq.heappush(ready, user)
    if len(order) < len(nodes):
        raise Unsupported("its operators form a cycle")
    if order != list(range(len(nodes))):
        del graph.node[:]
        graph.node.extend(nodes[place] for place in order)


def to_float32(model: ModelProto) -> bool:
    """Make every float16, bfloat16 and float64 value float32; whether there was any."""
    graph = model.graph
    found = False
    values: list[ValueInfoProto] = [*graph.input, *graph.output]
    for kind in (value.type.tensor_type for value in values):
        if kind.elem_type in _FLOATS:
            kind.elem_type, found = TensorProto.FLOAT, True
    for tensor in tensors(graph):
        if tensor.data_type in _FLOATS:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            found = True
    for attribute in (each for node in graph.node for each in node.attribute):
        if attribute.name in ("to", "dtype") and attribute.i in _FLOATS:
            attribute.i, found = TensorProto.FLOAT, True
    if found:
        del graph.value_info[:]
    return found


def without_quantization(model: ModelProto) -> bool:
    """Replace QuantizeLinear and DequantizeLinear by float values; whether there were any.

    Stored weights become the float values that their levels stand for. A rounded activation
    becomes a Clip to its range: quantizers remove activations such as ReLU whose range does the
    same.

    Raises
    ------
    Unsupported
        If a pair is not QuantizeLinear followed by DequantizeLinear with constant parameters.
    """
    graph = model.graph
    if not any(n.op_type in ("QuantizeLinear", "DequantizeLinear") for n in graph.node):
        return False
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    stored |= {
        node.output[0]: numpy_helper.to_array(attribute.t)
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    roundings = {n.output[0]: n for n in graph.node if n.op_type == "QuantizeLinear"}
    kept: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            continue
        if node.op_type == "DequantizeLinear":
            node = _float_value(graph, node, roundings, stored)
        kept.append(node)
    if any(name in roundings for node in kept for name in node.input):
        raise Unsupported("an operator reads quantized values")
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    remove_unused(graph)
    return True


def _float_value(
    graph: GraphProto,
    node: NodeProto,
    roundings: dict[str, NodeProto],
    stored: dict[str, np.ndarray],
) -> NodeProto:
    """The node that replaces a DequantizeLinear."""
    name = node.input[0]
    scale, zero = _parameters(node, stored)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    if name in stored:
        levels = stored[name]
        if scale.ndim and scale.size > 1:
            shape = [1] * levels.ndim
            shape[axis if axis < levels.ndim else 0] = -1
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        value = ((levels.astype(np.int64) - zero) * scale.astype(np.float64)).astype(np.float32)
        return helper.make_node(
            "Constant", [], [node.output[0]], node.name, value=numpy_helper.from_array(value)
        )
    rounding = roundings.get(name)
    if rounding is None or scale.size != 1:
        raise Unsupported(f"DequantizeLinear {node.name} reads no stored or rounded value")
    own_scale, own_zero = _parameters(rounding, stored)
    if own_scale.size != 1 or own_scale.item() != scale.item() or own_zero.item() != zero.item():
        raise Unsupported(f"{node.name} does not undo {rounding.name}")
    kind = next((a.i for a in rounding.attribute if a.name == "output_dtype"), 0)
    if len(rounding.input) > 2:
        kind = helper.np_dtype_to_tensor_dtype(stored[rounding.input[2]].dtype)
    if (kind or TensorProto.UINT8) not in _LEVELS:
        raise Unsupported(f"{rounding.name} rounds to a type that is not 8 or 16 bits")
    low, high = (
        np.float32((level - int(zero.item())) * float(scale.item()))
        for level in _LEVELS[kind or TensorProto.UINT8]
    )
    names = [f"{node.output[0]}/{side}" for side in ("low", "high")]
    graph.initializer.extend(
        numpy_helper.from_array(np.array(end, np.float32), end_name)
        for end, end_name in zip((low, high), names, strict=True)
    )
    return helper.make_node("Clip", [rounding.input[0], *names], [node.output[0]], node.name)


def _parameters(node: NodeProto, stored: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of a QuantizeLinear or DequantizeLinear."""
    if any(name and name not in stored for name in node.input[1:]):
        raise Unsupported(f"{node.name} computes its scale")
    scale = stored[node.input[1]]
    has_zero = len(node.input) > 2 and node.input[2]
    zero = stored[node.input[2]].astype(np.int64) if has_zero else np.zeros_like(scale, np.int64)
    return scale, zero


def remove_unused(graph: GraphProto) -> None:
    """Remove stored tensors that no node reads."""
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
