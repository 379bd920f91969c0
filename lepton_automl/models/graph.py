"""Intermediate representation of a net: the operations that every layer is lowered to.

A layer lowers itself once. Everything else that depends on what a layer computes (the float
network, the int8 file, the integer reference, multiply-accumulates, peak memory, coupled
channels) is derived from the resulting `Graph`, so a new layer is one file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

Clamp = Literal["none", "relu", "relu6"]
GateKind = Literal["sigmoid", "hard_sigmoid"]
ACTIVATIONS = ("relu", "relu6", "hswish", "silu", "none")


@dataclass(frozen=True)
class Value:
    """A feature map between two operations, shape (N, channels, height, width)."""

    name: str
    channels: int
    height: int
    width: int
    axis: str
    """Label of the channel axis; axes that must be pruned together share a `Width`."""
    spatial_axes: int = 2
    """1 for a map of a signal, whose height is 1: windows and ONNX tensors have no height then."""

    @property
    def size(self) -> int:
        """Elements per sample; bytes per sample once it is int8."""
        return self.channels * self.height * self.width

    def window(self, side: int) -> tuple[int, int]:
        """Height and width of a window with `side` positions along each spatial axis."""
        return (side if self.spatial_axes == 2 else 1, side)


@dataclass(frozen=True)
class Conv:
    """Convolution, batch normalisation, clamp. Padding is half of the window on every side."""

    name: str
    x: Value
    y: Value
    kernel: int
    stride: int
    depthwise: bool
    clamp: Clamp

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Values read."""
        return (self.x,)

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the kernel: (1, kernel) for signals."""
        return self.x.window(self.kernel)

    @property
    def padding(self) -> tuple[int, int]:
        """Rows added above and below, columns added left and right."""
        height, width = self.window
        return (height // 2, width // 2)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of `{name}.weight`: (out, in or 1, *window)."""
        fan_in = 1 if self.depthwise else self.x.channels
        return (self.y.channels, fan_in, *self.window)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per sample."""
        return math.prod(self.weight_shape) * self.y.height * self.y.width


@dataclass(frozen=True)
class Linear:
    """Matrix product with bias on a (N, channels, 1, 1) value; `{name}.weight` is (out, in)."""

    name: str
    x: Value
    y: Value

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Values read."""
        return (self.x,)

    @property
    def weight_shape(self) -> tuple[int, int]:
        """Shape of `{name}.weight`."""
        return (self.y.channels, self.x.channels)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per sample."""
        return self.y.channels * self.x.channels


@dataclass(frozen=True)
class MaxPool:
    """Maximum over a window, padding half of it with minus infinity if `kernel` is odd, else 0."""

    name: str
    x: Value
    y: Value
    kernel: int
    stride: int

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Values read."""
        return (self.x,)

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the window: (1, kernel) for signals."""
        return self.x.window(self.kernel)

    @property
    def padding(self) -> tuple[int, int]:
        """Rows added above and below, columns added left and right."""
        height, width = self.window
        return (height // 2, width // 2) if self.kernel % 2 else (0, 0)


@dataclass(frozen=True)
class GlobalPool:
    """Mean over all positions, (N, C, H, W) -> (N, C, 1, 1)."""

    name: str
    x: Value
    y: Value

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Values read."""
        return (self.x,)


@dataclass(frozen=True)
class Gate:
    """Sigmoid (`1 / (1 + exp(-x))`) or hard sigmoid (`clip(x / 6 + 0.5, 0, 1)`)."""

    name: str
    x: Value
    y: Value
    kind: GateKind

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Values read."""
        return (self.x,)


@dataclass(frozen=True)
class Mul:
    """Product of `x` and `gate`; the gate may be (N, C, 1, 1)."""

    name: str
    x: Value
    gate: Value
    y: Value

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Values read."""
        return (self.x, self.gate)


@dataclass(frozen=True)
class Add:
    """Sum of two values of one shape, then a clamp."""

    name: str
    a: Value
    b: Value
    y: Value
    clamp: Clamp

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Values read."""
        return (self.a, self.b)


Op: TypeAlias = Conv | Linear | MaxPool | GlobalPool | Gate | Mul | Add


@dataclass(frozen=True)
class Width:
    """A group of coupled channels, which pruning removes together.

    `fields` are the (layer index, field name) that store its size; `axes` are the labels of the
    channel axes in the group.
    """

    name: str
    size: int
    fields: tuple[tuple[int, str], ...]
    axes: frozenset[str]


@dataclass(frozen=True)
class Graph:
    """Operations in execution order, and the channel groups that can be pruned."""

    input: Value
    output: Value
    ops: tuple[Op, ...]
    widths: tuple[Width, ...]

    @property
    def weighted_ops(self) -> Iterator[Conv | Linear]:
        """The operations with weights, in order."""
        return (op for op in self.ops if isinstance(op, (Conv, Linear)))

    @property
    def macs(self) -> int:
        """Multiply-accumulates per sample."""
        return sum(op.macs for op in self.weighted_ops)

    def consumers(self, value: Value) -> list[Op]:
        """Operations that read `value`."""
        return [op for op in self.ops if any(v.name == value.name for v in op.inputs)]
