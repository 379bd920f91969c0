"""Cost of any ONNX file, computed from its graph: for nets without an `Arch`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
from onnx import GraphProto, NodeProto, numpy_helper

from lepton_automl.cost.cost import Cost
from lepton_automl.cost.memory_steps import MemoryStep, peak_step
from lepton_automl.models.front_end_onnx import ancestors, features_name
from lepton_automl.models.onnx_file import WEIGHTED

_VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"}
# These share the memory of their input.
_PASSING = {"DequantizeLinear", "Transpose", "Identity"}
# Nodes between stored weights and their consumers.

Shape = tuple[int, ...]


def onnx_cost(file: bytes, value_bytes: int) -> Cost:
    """Cost, without latency, of a file at batch 1.

    Parameters
    ----------
    file : bytes
        ONNX with one input whose first dimension is free.
    value_bytes : int
        Bytes per element of a feature map: 1 in an int8 file, 4 in a float one.
    """
    model = onnx.ModelProto.FromString(file)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = shapes_of(graph)
    weights, parameters = _sizes(graph)
    return Cost(
        size_bytes=len(file),
        weight_bytes=weights,
        parameter_bytes=parameters,
        macs=sum(macs_of(node, shapes) for node in net_nodes(model)),
        peak_ram_bytes=peak_step(memory_steps_of(graph, shapes)[1:]).size * value_bytes,
    )


def net_nodes(model: onnx.ModelProto) -> list[NodeProto]:
    """The nodes in order, without those of the front end of a file that reads audio."""
    nodes, end = list(model.graph.node), features_name(model)
    front = set() if end is None else {node.output[0] for node in ancestors(nodes, end)}
    return [node for node in nodes if node.output[0] not in front]


def shapes_of(graph: GraphProto) -> dict[str, Shape]:
    """Dimensions of each tensor whose shape is known; unknown dimensions count 1."""
    found = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        found[value.name] = tuple(max(1, dim.dim_value) for dim in dims)
    return found


def _sizes(graph: GraphProto) -> tuple[int, int]:
    """Bytes of convolution kernels and matrices, and of all constants."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    origin = {node.output[0]: node.input[0] for node in graph.node if node.op_type in _PASSING}
    heavy = set()
    for node in graph.node:
        place = WEIGHTED.get(node.op_type)
        if place is not None and len(node.input) > place:
            name = node.input[place]
            heavy.add(origin.get(name, name))
    every = {name: numpy_helper.to_array(tensor).nbytes for name, tensor in stored.items()}
    return sum(every[name] for name in heavy & every.keys()), sum(every.values())


def macs_of(node: NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Multiply-accumulates of a node: output elements times weights per output."""
    place = WEIGHTED.get(node.op_type)
    if place is None or node.output[0] not in shapes or node.input[place] not in shapes:
        return 0
    y, weight = shapes[node.output[0]], shapes[node.input[place]]
    if node.op_type == "Conv":
        return math.prod(y) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(shapes.get(node.input[0], ())) * math.prod(weight[1:])
    x = shapes.get(node.input[0], ())
    is_turned = node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
    depth = x[0 if is_turned else -1] if x else 0
    return math.prod(y) * depth


def memory_steps_of(graph: GraphProto, shapes: Mapping[str, Shape]) -> list[MemoryStep]:
    """Feature maps alive while nodes run in order; conversions and views count nothing.

    Steps are named as their outputs. Nothing is overwritten in place.
    """
    constant = {tensor.name for tensor in graph.initializer}
    same: dict[str, str] = {}
    steps: list[tuple[list[str], str]] = []
    for node in graph.node:
        inputs = [same.get(name, name) for name in node.input if name and name not in constant]
        if node.op_type in _VIEWS | {"QuantizeLinear", "DequantizeLinear", "Cast"} and inputs:
            same[node.output[0]] = inputs[0]
        elif inputs:
            steps.append((inputs, node.output[0]))
        else:
            constant |= set(node.output)
    last = {name: step for step, (inputs, _) in enumerate(steps) for name in inputs}
    size = {name: math.prod(shapes.get(name, (0,))) for inputs, y in steps for name in (*inputs, y)}
    alive = {graph.input[0].name: size.get(graph.input[0].name, 0)}
    found = [MemoryStep("", tuple(alive.items()))]
    for step, (inputs, y) in enumerate(steps):
        alive[y] = size[y]
        found.append(MemoryStep(y, tuple(alive.items())))
        for name in (*inputs, y):
            if last.get(name, -1) <= step and name != y:
                alive.pop(name, None)
    return found
