"""Correcting: the mean error that rounding leaves in the logits is taken out of the last bias."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

TINY = 1e-30
NAME = "lepton_correction"


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


def last_softmax(graph: GraphProto, output: str) -> NodeProto | None:
    """The softmax that gives `output`, other names of it aside; None if something else does."""
    makers = {value: node for node in graph.node for value in node.output}
    node = makers.get(output)
    while node is not None and node.op_type == "Identity":
        node = makers.get(node.input[0])
    return node if node is not None and node.op_type == "Softmax" else None


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
