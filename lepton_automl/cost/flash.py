"""Predict the flash memory that the C files of a net take on a microcontroller."""

from __future__ import annotations

import math
from collections import Counter

from lepton_automl.models.front_end import LogMel
from lepton_automl.models.graph import Conv, Graph, Linear
from lepton_automl.models.memory_plan import Step, steps

SHARE = 0.05
"""Half the width of the interval of a prediction, relative ("Flash" in docs/decisions.md)."""
_CHANNEL_BYTES, _BLOCK = 8, 4
"""int32 bias and float32 factor of an output channel; arrays of fewer than 4 are filled up."""
_KIND_BYTES = {"Conv": 1670.7, "depthwise": 408.4, "Mul": 45.6, "Add": 5.5, "input": 117.3}
"""Code of a kernel, once a net has a step of the kind."""
_CALL_BYTES = {
    "Conv": 100.6,
    "depthwise": 238.9,
    "MaxPool": 190.3,
    "GlobalPool": 149.9,
    "Swish": 18.7,
    "Add": 37.2,
}
"""Code of a call and its structure, a step; what is once in every net counts anywhere."""


_FRONT_END_BYTES, _MEANS_BYTES = 980, 170
"""Code of the log-mel front end, and what the means of its bands add ("Flash" in
docs/decisions.md)."""


def flash_bytes(graph: Graph, front_end: LogMel | None = None) -> int:
    """Predicted text and data of `net.c`, compiled by gcc -Os for a Cortex-M4 and linked.

    `front_end` is that of a net for sound. An addition whose scales have no constants in whole
    numbers brings double arithmetic with it, 1.7 kB once, which is not predicted.
    """
    total = float(constant_bytes(graph))
    if front_end is not None:
        total += _FRONT_END_BYTES + _MEANS_BYTES * front_end.is_centred + table_bytes(front_end)
    for kind, count in kinds_of(graph).items():
        total += _KIND_BYTES.get(kind, 0.0) + _CALL_BYTES.get(kind, 0.0) * count
    return round(total)


def most_flash_bytes(graph: Graph, front_end: LogMel | None = None) -> int:
    """Upper end of the interval of `flash_bytes`, so that a net that is within a limit stays so."""
    return math.ceil((1 + SHARE) * flash_bytes(graph, front_end))


def table_bytes(front_end: LogMel) -> int:
    """Bytes of the tables of a front end: a quarter of a cosine, and five numbers a triangle."""
    return 4 * (front_end.frame // 4 + 1) + (4 * 4 + 2 * 2) * front_end.mels


def constant_bytes(graph: Graph) -> int:
    """Bytes of the arrays of weights, biases, factors and tables, which are exact."""
    total = 0
    for step in steps(graph):
        kind = _kind(step)
        if kind == "depthwise":
            total += _weights(step) + _CHANNEL_BYTES * step.y.channels
        elif isinstance(step, Conv | Linear):
            total += _weights(step) + _CHANNEL_BYTES * max(step.y.channels, _BLOCK)
        elif kind in ("Gate", "Swish"):
            total += 256
    return total


def _weights(step: Step) -> int:
    """Bytes of weights: those of a row of the window are filled up to whole quads."""
    if isinstance(step, Linear):
        return -(-step.x.channels // 4) * 4 * max(step.y.channels, _BLOCK)
    assert isinstance(step, Conv)
    rows, columns = step.window
    if step.depthwise:
        return rows * columns * step.y.channels
    return rows * (-(-columns * step.x.channels // 4) * 4) * max(step.y.channels, _BLOCK)


def kinds_of(graph: Graph) -> Counter[str]:
    """How many steps of each kind there are; `input` where values are quantized first."""
    found = Counter(map(_kind, steps(graph)))
    if graph.input.spatial_axes == 1 or graph.input.channels not in (1, 3):
        found["input"] = 1
    return found


def _kind(step: Step) -> str:
    """Kind of a step: the name of its class, or `depthwise`."""
    return "depthwise" if isinstance(step, Conv) and step.depthwise else type(step).__name__
