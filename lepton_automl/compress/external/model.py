"""A float ONNX classifier that lepton did not make, after wrapping."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import GraphProto, NodeProto

from lepton_automl.compress.external.class_order import ClassOrder
from lepton_automl.compress.external.preprocessing import ExternalPreprocessing


@dataclass(frozen=True)
class ExternalModel:
    """A float classifier with the input and output of lepton's own files."""

    file: bytes
    """ONNX: uint8 `pixels` (n, H, W, C) in, float32 `probabilities` (n, classes) out."""
    shape: tuple[int, int, int]
    """Height, width, channels of the pictures."""
    class_names: tuple[str, ...]
    """In the order of the outputs."""
    kept_float: tuple[str, ...]
    """Names of nodes that are never quantized: around the model, and after its last layer."""
    preprocessing: str
    """How its pictures are preprocessed, in words."""
    pixels: ExternalPreprocessing | None = None
    """The same as numbers; None: it takes uint8 pixels."""
    order: ClassOrder | None = None
    """Where the order of the classes is stated."""
    changes: tuple[str, ...] = ()
    """What was rewritten in its graph, in words."""
    promises: tuple[tuple[str, float], ...] = ()
    """Accuracy (0 to 1) that its metadata or files beside it state, with their place."""


def last_softmax(graph: GraphProto, output: str) -> NodeProto | None:
    """The softmax that computes `output`, Identity nodes skipped; None if another node does."""
    makers = {value: node for node in graph.node for value in node.output}
    node = makers.get(output)
    while node is not None and node.op_type == "Identity":
        node = makers.get(node.input[0])
    return node if node is not None and node.op_type == "Softmax" else None
