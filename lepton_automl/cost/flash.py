"""Predict the flash memory that the C files of a net take on a microcontroller."""

from __future__ import annotations

import math
from collections import Counter

from lepton_automl.models.graph import Conv, Graph, Op

SHARE = 0.05
"""Largest relative error on the nets that the constants were fitted to, and that interval."""
_CHANNEL_BYTES = 8
"""int32 bias and float32 factor of an output channel."""
_BASE_BYTES = 2400.0
_KIND_BYTES = {
    "Conv": 500.0,
    "depthwise": 400.0,
    "Linear": 200.0,
    "MaxPool": 150.0,
    "GlobalPool": 150.0,
    "Gate": 100.0,
    "Mul": 150.0,
    "Add": 250.0,
}
"""Code of a kernel, once a net has an operation of the kind."""
_CALL_BYTES = {
    "Conv": 60.0,
    "depthwise": 60.0,
    "Linear": 40.0,
    "MaxPool": 40.0,
    "GlobalPool": 30.0,
    "Gate": 290.0,
    "Mul": 40.0,
    "Add": 50.0,
}
"""Code of a call and its small constants, an operation."""


def flash_bytes(graph: Graph) -> int:
    """Predicted text and data of `net.c`, compiled for a Cortex-M by gcc -Os."""
    total = _BASE_BYTES + constant_bytes(graph)
    for kind, count in Counter(map(kind_of, graph.ops)).items():
        total += _KIND_BYTES[kind] + _CALL_BYTES[kind] * count
    return round(total)


def constant_bytes(graph: Graph) -> int:
    """Bytes of weights and of what each output channel has beside them."""
    shapes = [op.weight_shape for op in graph.weighted_ops]
    return sum(math.prod(shape) + _CHANNEL_BYTES * shape[0] for shape in shapes)


def kind_of(op: Op) -> str:
    """Kind of an operation: the name of its class, or `depthwise`."""
    return "depthwise" if isinstance(op, Conv) and op.depthwise else type(op).__name__
