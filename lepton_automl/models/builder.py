"""Build the `Graph` of an architecture from the operations that its layers append."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lepton_automl.errors import ArchError
from lepton_automl.models.graph import (
    ACTIVATIONS,
    Add,
    Clamp,
    Conv,
    Gate,
    GateKind,
    GlobalPool,
    Graph,
    Linear,
    MaxPool,
    Mul,
    Op,
    Value,
    Width,
)


class Builder:
    """Collects operations and couples the channel axes that must keep one size (union-find).

    Parameters
    ----------
    height, width, channels : int
        Of the input; height 1 for signals, whose length is the width.
    spatial_axes : int
        1 for signals, 2 for pictures.
    """

    def __init__(self, height: int, width: int, channels: int, spatial_axes: int = 2) -> None:
        self.input = Value("input", channels, height, width, "input", spatial_axes)
        self._ops: list[Op] = []
        self._parent: dict[str, str] = {"input": "input"}
        self._fields: dict[str, tuple[int, str]] = {}
        self._sizes: dict[str, int] = {"input": channels}
        self._layer: Any = None
        self._index = -1

    def begin_layer(self, index: int, layer: Any) -> None:
        """Start layer number `index`; the operations that follow are named after it."""
        self._index, self._layer = index, layer

    def conv(
        self,
        x: Value,
        part: str,
        width: str,
        *,
        kernel: int = 1,
        stride: int = 1,
        activation: str = "none",
    ) -> Value:
        """Convolution to the number of channels in the layer's field `width`, then activation."""
        axis = self._new_axis(width)
        y = self._output(x, part, self._sizes[axis], stride, axis)
        return self._conv(x, y, part, kernel, stride, depthwise=False, activation=activation)

    def depthwise(
        self, x: Value, part: str, *, kernel: int, stride: int = 1, activation: str = "none"
    ) -> Value:
        """Depthwise convolution: one filter a channel, on the channel axis of the input."""
        y = self._output(x, part, x.channels, stride, x.axis)
        return self._conv(x, y, part, kernel, stride, depthwise=True, activation=activation)

    def max_pool(self, x: Value, part: str, *, kernel: int, stride: int) -> Value:
        """Maximum pooling."""
        if kernel % 2:
            y = self._output(x, part, x.channels, stride, x.axis)
        else:
            height, width = (
                max((n - side) // stride + 1, 0)
                for n, side in zip((x.height, x.width), x.window(kernel), strict=True)
            )
            y = replace(x, name=self._name(part), height=height, width=width)
        if min(y.height, y.width) < 1:
            raise ArchError(
                f"layer {self._index}: a {x.height}x{x.width} feature map is too small to pool "
                f"by {kernel}",
                fix="use fewer pooling layers or a larger input",
            )
        self._ops.append(MaxPool(y.name, x, y, kernel, stride))
        return y

    def global_pool(self, x: Value, part: str) -> Value:
        """Mean over all positions."""
        y = replace(x, name=self._name(part), height=1, width=1)
        self._ops.append(GlobalPool(y.name, x, y))
        return y

    def linear(self, x: Value, part: str, size: int) -> Value:
        """Matrix product with bias to `size` outputs, which pruning never removes."""
        axis = f"{self._name(part)}:outputs"
        self._parent[axis], self._sizes[axis] = axis, size
        y = Value(self._name(part), size, 1, 1, axis, x.spatial_axes)
        self._ops.append(Linear(y.name, x, y))
        return y

    def gate(self, x: Value, part: str, kind: GateKind) -> Value:
        """Sigmoid or hard sigmoid."""
        y = replace(x, name=self._name(part))
        self._ops.append(Gate(y.name, x, y, kind))
        return y

    def mul(self, x: Value, gate: Value, part: str) -> Value:
        """Scale `x` by `gate`, channel by channel or element by element."""
        self._couple(x, gate)
        y = replace(x, name=self._name(part))
        self._ops.append(Mul(y.name, x, gate, y))
        return y

    def add(self, a: Value, b: Value, part: str, *, activation: str = "none") -> Value:
        """Sum of two values, then activation."""
        if (a.channels, a.height, a.width) != (b.channels, b.height, b.width):
            raise ArchError(
                f"layer {self._index}: cannot add {a.channels}x{a.height}x{a.width} and "
                f"{b.channels}x{b.height}x{b.width}",
                fix="a skip connection needs stride 1 and as many channels out as in",
            )
        self._couple(a, b)
        clamp, gate = _clamp_and_gate(activation)
        y = replace(a, name=self._name(part))
        self._ops.append(Add(y.name, a, b, y, clamp))
        return self._append_gate(y, part, gate)

    def finish(self, output: Value) -> Graph:
        """Return the graph, with the channel groups that can be pruned."""
        members: dict[str, list[str]] = {}
        for axis in self._parent:
            members.setdefault(self._find(axis), []).append(axis)
        widths = []
        for axes in members.values():
            if all(axis in self._fields for axis in axes):
                fields = tuple(sorted(self._fields[axis] for axis in axes))
                widths.append(Width(axes[0], self._sizes[axes[0]], fields, frozenset(axes)))
        return Graph(self.input, output, tuple(self._ops), tuple(widths))

    def _conv(
        self,
        x: Value,
        y: Value,
        part: str,
        kernel: int,
        stride: int,
        *,
        depthwise: bool,
        activation: str,
    ) -> Value:
        clamp, gate = _clamp_and_gate(activation)
        self._ops.append(Conv(y.name, x, y, kernel, stride, depthwise, clamp))
        return self._append_gate(y, part, gate)

    def _append_gate(self, y: Value, part: str, gate: GateKind | None) -> Value:
        if gate is None:
            return y
        return self.mul(y, self.gate(y, f"{part}_gate", gate), f"{part}_act")

    def _output(self, x: Value, part: str, channels: int, stride: int, axis: str) -> Value:
        height, width = -(-x.height // stride), -(-x.width // stride)
        return Value(self._name(part), channels, height, width, axis, x.spatial_axes)

    def _name(self, part: str) -> str:
        return f"{self._index}/{part}"

    def _new_axis(self, field: str) -> str:
        size = int(getattr(self._layer, field))
        axis = f"{self._index}/{field}"
        if axis not in self._parent:
            self._parent[axis], self._sizes[axis] = axis, size
            self._fields[axis] = (self._index, field)
        return axis

    def _couple(self, a: Value, b: Value) -> None:
        if a.channels != b.channels:
            raise ArchError(
                f"layer {self._index}: {a.channels} and {b.channels} channels cannot be joined",
                fix="joined values need the same number of channels",
            )
        self._parent[self._find(b.axis)] = self._find(a.axis)

    def _find(self, axis: str) -> str:
        while self._parent[axis] != axis:
            axis = self._parent[axis]
        return axis


def _clamp_and_gate(activation: str) -> tuple[Clamp, GateKind | None]:
    """Clamp and gate of an activation.

    A clamp is free in int8, as the output range limits values; a gate is two more operations.
    """
    table: dict[str, tuple[Clamp, GateKind | None]] = {
        "none": ("none", None),
        "relu": ("relu", None),
        "relu6": ("relu6", None),
        "hswish": ("none", "hard_sigmoid"),
        "silu": ("none", "sigmoid"),
    }
    if activation not in table:
        raise ArchError(
            f"activation {activation!r} is unknown", fix=f"choose one of: {', '.join(ACTIVATIONS)}"
        )
    return table[activation]
