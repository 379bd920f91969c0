"""Memory that LiteRT for Microcontrollers plans for feature maps."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_ALIGNMENT = 16
_BYTES = {0: 4, 2: 4, 3: 1, 4: 8, 7: 2, 8: 8, 9: 1, 16: 2}
"""`TensorType` -> bytes of an element."""


class Buffer(NamedTuple):
    """A tensor that is computed or read, and the operators between which it is held."""

    size: int
    """Bytes."""
    first: int
    """Number of the operator that computes it; -1 of the input."""
    last: int
    """Number of the last operator that reads it."""


def planned_bytes(buffers: Sequence[Buffer]) -> int:
    """Bytes of the non-persistent part of an arena, as `GreedyMemoryPlanner` lays it out.

    The largest buffer is placed first, of equal ones the last, each into the first gap among
    those that are held at the same time.
    """
    order = sorted(range(len(buffers)), key=lambda n: (-_aligned(buffers[n].size), -n))
    placed: list[tuple[int, int, Buffer]] = []
    for number in order:
        buffer = buffers[number]
        start, size = 0, _aligned(buffer.size)
        for other_start, other_end, other in sorted(placed, key=lambda each: each[0]):
            if other.first > buffer.last or other.last < buffer.first:
                continue
            if other_start - start >= size:
                break
            start = max(start, other_end)
        placed.append((start, start + size, buffer))
    return max((end for _, end, _ in placed), default=0)


def buffers_of(
    sizes: Sequence[int],
    operators: Iterable[tuple[Sequence[int], Sequence[int]]],
    given: Iterable[int],
) -> list[Buffer]:
    """Buffers of a graph, in the order of their tensors' numbers.

    Parameters
    ----------
    sizes : sequence of int
        Bytes of each tensor; those of constants are not used.
    operators : iterable of pairs
        Numbers of the tensors that an operator reads and writes.
    given : iterable of int
        Numbers of the inputs.
    """
    first = dict.fromkeys(given, -1)
    last = dict(first)
    for number, (inputs, outputs) in enumerate(operators):
        for tensor in outputs:
            first[tensor] = last[tensor] = number
        for tensor in inputs:
            if tensor in first:
                last[tensor] = number
    return [Buffer(sizes[tensor], first[tensor], last[tensor]) for tensor in sorted(first)]


def arena_bytes(file: bytes) -> int:
    """Bytes of the feature maps of a `.tflite` file in an arena; needs ai-edge-litert."""
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")  # An extra.
    graph = schema.Model.GetRootAs(file, 0).Subgraphs(0)
    tensors = [graph.Tensors(number) for number in range(graph.TensorsLength())]
    sizes = [
        math.prod(int(n) for n in each.ShapeAsNumpy()) * _BYTES[each.Type()] for each in tensors
    ]
    operators = [graph.Operators(number) for number in range(graph.OperatorsLength())]
    ends = [(each.InputsAsNumpy(), each.OutputsAsNumpy()) for each in operators]
    return planned_bytes(buffers_of(sizes, ends, graph.InputsAsNumpy()))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
