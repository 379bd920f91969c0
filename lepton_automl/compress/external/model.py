"""Models made elsewhere: read with care, given our interface, quantized and proven like ours."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import GraphProto, NodeProto


@dataclass(frozen=True)
class ExternalModel:
    """A float classifier in the form our own files have."""

    file: bytes
    """ONNX: uint8 `pixels` (n, H, W, C) in, float32 `probabilities` (n, classes) out."""
    shape: tuple[int, int, int]
    """Height, width, channels of the pictures."""
    class_names: tuple[str, ...]
    """In the order of the outputs."""
    kept_float: tuple[str, ...]
    """Nodes that are never quantized: what was put around the model."""
    seen_as: str
    """How its pictures are prepared, in words."""


def last_softmax(graph: GraphProto, output: str) -> NodeProto | None:
    """The softmax that gives `output`, other names of it aside; None if something else does."""
    makers = {value: node for node in graph.node for value in node.output}
    node = makers.get(output)
    while node is not None and node.op_type == "Identity":
        node = makers.get(node.input[0])
    return node if node is not None and node.op_type == "Softmax" else None
