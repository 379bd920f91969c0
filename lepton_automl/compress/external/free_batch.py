"""Make the batch dimension of an ONNX graph free where the exporter fixed it.

Exporters that trace one picture store the batch size in constants: targets of Reshape, sizes of
Resize, tensors that were expanded. The position of the batch is followed from the input to the
output, and each such constant is replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

Shape = tuple[int, ...]
Array = NDArray[np.generic]


class UnsupportedBatch(Exception):
    """The graph mixes the batch with other dimensions, or an operator is not supported."""


@dataclass(frozen=True)
class BatchPlace:
    """Where the batch lies in a tensor: dimension `axis` is (outer, batch, inner), row-major."""

    axis: int
    outer: int = 1
    """Other elements of that dimension that vary slower than the batch."""


def free_batch(model: ModelProto, shapes: dict[str, Shape]) -> ModelProto:
    """A copy of the model whose first input dimension is free.

    Parameters
    ----------
    model : ModelProto
        One input with the batch first; constants folded, so that shapes are initializers.
    shapes : dict of str to tuple of int
        Shape of the input and of every node's output at the batch size of the file.

    Raises
    ------
    UnsupportedBatch
        If an operator takes the batch apart.
    """
    made = ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    entry = next(value for value in graph.input if value.name not in stored)
    work = _Work(graph, stored, dict(shapes), shapes[entry.name][0], {entry.name: BatchPlace(0)})
    for node in list(graph.node):
        work.follow(node)
    entry.type.tensor_type.shape.dim[0].dim_param = "n"
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    return made


class _Work:
    """The state of one rewrite: constants, shapes at the fixed batch, and where the batch lies."""

    def __init__(
        self,
        graph: GraphProto,
        stored: dict[str, Array],
        shapes: dict[str, Shape],
        batch: int,
        places: dict[str, BatchPlace],
    ) -> None:
        self._graph, self._stored, self._shapes, self._batch = graph, stored, shapes, batch
        self.places = places
        self._count = 0

    def follow(self, node: NodeProto) -> None:
        """Find the batch in the outputs of a node, and free the constants of the node."""
        sources = [name for name in node.input if name in self.places]
        if not sources:
            return
        rule = _RULES.get(node.op_type)
        place = self._same_axis(node) if rule is None else rule(self, node, sources[0])
        for output in node.output:
            self.places[output] = place

    def _same_axis(self, node: NodeProto) -> BatchPlace:
        """Elementwise and spatial operators; broadcasting aligns the last dimensions."""
        ranks = {name: len(self._shapes[name]) for name in node.input if name in self.places}
        rank = len(self._shapes[node.output[0]])
        widest = max(ranks, key=lambda name: ranks[name])
        place = self.places[widest]
        return BatchPlace(max(0, place.axis + rank - ranks[widest]), place.outer)

    def _matmul(self, node: NodeProto, source: str) -> BatchPlace:
        return self._shifted(source, node)

    def _shifted(self, source: str, node: NodeProto) -> BatchPlace:
        """Leading dimensions are added."""
        place = self.places[source]
        shift = len(self._shapes[node.output[0]]) - len(self._shapes[source])
        return BatchPlace(place.axis + shift, place.outer)

    def _gemm(self, node: NodeProto, source: str) -> BatchPlace:
        place = self.places[source]
        if place.axis != 0 or _attribute(node, "transA", 0):
            raise UnsupportedBatch(f"{node.op_type} {node.name} multiplies over the batch")
        return place

    def _transpose(self, node: NodeProto, source: str) -> BatchPlace:
        place, rank = self.places[source], len(self._shapes[source])
        order = list(_attribute(node, "perm", list(range(rank))[::-1]))
        return BatchPlace(order.index(place.axis), place.outer)

    def _reshape(self, node: NodeProto, source: str) -> BatchPlace:
        wanted = self._shapes[node.output[0]]
        place = self._reshaped(node, source, wanted)
        if node.op_type != "Reshape":
            return place
        target = self._stored.get(node.input[1])
        if target is None:
            raise UnsupportedBatch(f"Reshape {node.name} computes its shape")
        new = [-1 if axis == place.axis else size for axis, size in enumerate(wanted)]
        node.input[1] = self._constant(np.array(new, np.int64))
        _remove_attribute(node, "allowzero")
        return place

    def _reshaped(self, node: NodeProto, source: str, wanted: Shape) -> BatchPlace:
        """Where the batch lies after the elements are read as `wanted`, row-major."""
        place, shape = self.places[source], self._shapes[source]
        start = math.prod(shape[: place.axis]) * place.outer
        end = start * self._batch
        found: list[tuple[int, BatchPlace]] = []
        before = 1
        for axis, size in enumerate(wanted):
            after = before * size
            if before <= start and end <= after and not start % before and not after % end:
                is_last = axis == len(wanted) - 1 and axis > 0
                rank = 3
                if (before, after) == (start, end):
                    rank = 0
                elif before == start:
                    # The last dimension holds features, which the next layer counts.
                    rank = 2 if is_last else 1
                elif after == end:
                    rank = 1 if axis == len(wanted) - 2 else 2
                found.append((rank, BatchPlace(axis, start // before)))
            before = after
        if not found:
            raise UnsupportedBatch(f"{node.op_type} {node.name} splits the batch")
        return min(found, key=lambda pair: (pair[0], pair[1].axis))[1]

    def _squeeze(self, node: NodeProto, source: str) -> BatchPlace:
        place, shape = self.places[source], self._shapes[source]
        axes = self._axes(node, len(shape))
        if axes is None:
            axes = [n for n, size in enumerate(shape) if size == 1]
        if place.axis in axes:
            axes.remove(place.axis)
            node.input[:] = [node.input[0], self._constant(np.array(axes, np.int64))]
            for name in node.output:
                self._shapes[name] = tuple(s for n, s in enumerate(shape) if n not in axes)
        return BatchPlace(place.axis - sum(axis < place.axis for axis in axes), place.outer)

    def _unsqueeze(self, node: NodeProto, source: str) -> BatchPlace:
        place, rank = self.places[source], len(self._shapes[node.output[0]])
        axes = self._axes(node, rank) or []
        kept = [axis for axis in range(rank) if axis not in axes]
        return BatchPlace(kept[place.axis], place.outer)

    def _reduce(self, node: NodeProto, source: str) -> BatchPlace:
        place, shape = self.places[source], self._shapes[source]
        axes = self._axes(node, len(shape))
        if axes is None or place.axis in axes:
            raise UnsupportedBatch(f"{node.op_type} {node.name} reduces over the batch")
        kept = bool(_attribute(node, "keepdims", 1))
        gone = 0 if kept else sum(axis < place.axis for axis in axes)
        return BatchPlace(place.axis - gone, place.outer)

    def _gather(self, node: NodeProto, source: str) -> BatchPlace:
        place, rank = self.places[source], len(self._shapes[source])
        axis = int(_attribute(node, "axis", 0)) % rank
        if axis == place.axis or source != node.input[0]:
            raise UnsupportedBatch(f"Gather {node.name} selects from the batch")
        added = len(self._shapes[node.output[0]]) - rank
        return BatchPlace(place.axis + (added if axis < place.axis else 0), place.outer)

    def _concat(self, node: NodeProto, source: str) -> BatchPlace:
        place, rank = self.places[source], len(self._shapes[source])
        axis = int(_attribute(node, "axis", 0)) % rank
        if axis == place.axis:
            raise UnsupportedBatch(f"Concat {node.name} joins along the batch")
        for number, name in enumerate(node.input):
            if name not in self.places:
                node.input[number] = self._expanded(name, source, place, node)
        return place

    def _expanded(self, name: str, source: str, place: BatchPlace, node: NodeProto) -> str:
        """A constant repeated along the batch of `source`."""
        array = self._stored.get(name)
        if array is None or place.outer != 1 or (array != array.take([0], place.axis)).any():
            raise UnsupportedBatch(f"{node.op_type} {node.name} joins a constant to the batch")
        once = array.take([0], place.axis)
        parts = [np.array(once.shape[: place.axis], np.int64), None]
        parts.append(np.array(once.shape[place.axis + 1 :], np.int64))
        size = self._name()
        axis = place.axis
        nodes = [helper.make_node("Shape", [source], [size], size, start=axis, end=axis + 1)]
        sizes = [size if part is None else self._constant(part) for part in parts]
        joined, out = self._name(), self._name()
        nodes.append(helper.make_node("Concat", sizes, [joined], joined, axis=0))
        nodes.append(helper.make_node("Expand", [self._constant(once), joined], [out], out))
        at = next(n for n, each in enumerate(self._graph.node) if each is node or each == node)
        for offset, each in enumerate(nodes):
            self._graph.node.insert(at + offset, each)
        return out

    def _expand(self, node: NodeProto, source: str) -> BatchPlace:
        place = self._shifted(source, node)
        target = self._stored.get(node.input[1])
        if target is None:
            raise UnsupportedBatch(f"Expand {node.name} computes its shape")
        new = np.array(self._shapes[node.output[0]], np.int64)
        new[place.axis] = 1
        node.input[1] = self._constant(new)
        return place

    def _resize(self, node: NodeProto, source: str) -> BatchPlace:
        """Scales instead of sizes, which would name the batch."""
        place = self.places[source]
        if len(node.input) > 3 and node.input[3] and not _attribute(node, "axes", None):
            before, after = self._shapes[source], self._shapes[node.output[0]]
            scales = [_scale(old, new) for old, new in zip(before, after, strict=True)]
            scales[place.axis] = np.float32(1)
            scale = self._constant(np.array(scales, np.float32))
            node.input[:] = [node.input[0], node.input[1], scale]
            _remove_attribute(node, "keep_aspect_ratio_policy")
        return place

    def _einsum(self, node: NodeProto, source: str) -> BatchPlace:
        place = self.places[source]
        text = _attribute(node, "equation", b"").decode().replace(" ", "")
        left, _, right = text.partition("->")
        letter = left.split(",")[list(node.input).index(source)][place.axis : place.axis + 1]
        if "." in text or not letter or letter not in right:
            raise UnsupportedBatch(f"Einsum {node.name} sums over the batch")
        return BatchPlace(right.index(letter), place.outer)

    def _axes(self, node: NodeProto, rank: int) -> list[int] | None:
        axes = _attribute(node, "axes", None)
        if axes is None and len(node.input) > 1 and node.input[1]:
            array = self._stored.get(node.input[1])
            if array is None:
                raise UnsupportedBatch(f"{node.op_type} {node.name} computes its axes")
            axes = array.reshape(-1).tolist()
        return None if axes is None else [int(axis) % rank for axis in axes]

    def _constant(self, array: Array) -> str:
        name = self._name()
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        self._stored[name] = array
        return name

    def _name(self) -> str:
        self._count += 1
        return f"free_batch_{self._count}"


Rule = Callable[[_Work, NodeProto, str], BatchPlace]
_REDUCTIONS = (
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare "
    "ReduceLogSum ReduceLogSumExp"
)
_RULES: dict[str, Rule] = {
    "MatMul": _Work._matmul,
    "Gemm": _Work._gemm,
    "Transpose": _Work._transpose,
    "Reshape": _Work._reshape,
    "Flatten": _Work._reshape,
    "Squeeze": _Work._squeeze,
    "Unsqueeze": _Work._unsqueeze,
    "Gather": _Work._gather,
    "Concat": _Work._concat,
    "Expand": _Work._expand,
    "Resize": _Work._resize,
    "Einsum": _Work._einsum,
    **dict.fromkeys(_REDUCTIONS.split(), _Work._reduce),
}
"""Operator -> rule; all others keep the batch where it is (`_Work._same_axis`)."""


def _scale(old: int, new: int) -> np.float32:
    """The scale with which ONNX Runtime's floor(old * scale) is `new`."""
    scale = np.float32(new / old)
    while math.floor(np.float32(old) * scale) < new:
        scale = np.nextafter(scale, np.float32(np.inf))
    return scale


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    return next(
        (helper.get_attribute_value(each) for each in node.attribute if each.name == name), default
    )


def _remove_attribute(node: NodeProto, name: str) -> None:
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
