"""Which operators of a file ONNX Runtime leaves in float, read from the graph it really runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto

from lepton_automl.onnxfile import open_session

_ELSEWHERE = frozenset(
    {"Softmax", "Flatten", "Transpose", "ReorderInput", "ReorderOutput"}
    | {"QuantizeLinear", "DequantizeLinear"}
)
"""The end of every file, moves of data, and the borders of what is left in float."""


def optimized(file: bytes) -> ModelProto:
    """The graph ONNX Runtime makes of `file` on this machine with every optimisation on."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimized.onnx")
        open_session(file, optimized_to=str(path))
        return onnx.load_model(path)


def float_nodes(file: bytes) -> list[str]:
    """Operators left in float, as `name (kind)`; empty if all arithmetic is integer.

    In an int8 file such a node is a missing kernel or a pattern that did not fuse; names are
    those of the operations of the `Arch`. A float file has all its operators here.
    """
    return [
        f"{node.name or node.output[0]} ({node.op_type})"
        for node in optimized(file).graph.node
        if node.op_type not in _ELSEWHERE and not _is_integer(node.op_type)
    ]


def _is_integer(kind: str) -> bool:
    # Integer max-pooling keeps its name where it is not moved to channels last.
    return kind.startswith(("QLinear", "QGemm")) or kind in {"NhwcMaxPool", "MaxPool"}
