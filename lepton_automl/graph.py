"""The few operations every layer is written in; torch, ONNX, int8, cost and pruning read these.

A layer lowers itself once. Everything else that must know what a layer computes (the float
network, the int8 file, the integer reference, multiply-accumulates, peak memory, which channels
are coupled) walks the resulting `Graph`, so a new layer is one file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from lepton_automl.errors import ArchError

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
    """Label of the channel axis; axes that must be cut together share a `Width`."""

    @property
    def size(self) -> int:
        """Elements per sample; bytes per sample once it is int8."""
        return self.channels * self.height * self.width


@dataclass(frozen=True)
class Conv:
    """Convolution, batch normalisation, clamp. Padding is `kernel // 2` on every side."""

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
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of `{name}.weight`: (out, in or 1, kernel, kernel)."""
        fan_in = 1 if self.depthwise else self.x.channels
        return (self.y.channels, fan_in, self.kernel, self.kernel)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per sample."""
        out, fan_in, kernel, _ = self.weight_shape
        return out * fan_in * kernel * kernel * self.y.height * self.y.width


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
    """Maximum over `kernel` x `kernel`, padding `kernel // 2` of minus infinity if odd, else 0."""

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
    def padding(self) -> int:
        """Rows and columns added on every side."""
        return self.kernel // 2 if self.kernel % 2 else 0


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
    """Channels that can only be cut together.

    `fields` are the (layer index, field name) that store the size; `axes` are the labels of the
    channel axes that carry it.
    """

    name: str
    size: int
    fields: tuple[tuple[int, str], ...]
    axes: frozenset[str]


@dataclass(frozen=True)
class Graph:
    """Operations in the order they run, and the widths that pruning may change."""

    input: Value
    output: Value
    ops: tuple[Op, ...]
    widths: tuple[Width, ...]

    @property
    def weighted(self) -> Iterator[Conv | Linear]:
        """The operations that own weights, in order."""
        return (op for op in self.ops if isinstance(op, (Conv, Linear)))

    @property
    def macs(self) -> int:
        """Multiply-accumulates per sample."""
        return sum(op.macs for op in self.weighted)

    def readers(self, value: Value) -> list[Op]:
        """Operations that read `value`."""
        return [op for op in self.ops if any(v.name == value.name for v in op.inputs)]


class Builder:
    """Collects the operations while the layers of an architecture lower themselves."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        self.input = Value("input", channels, height, width, "input")
        self._ops: list[Op] = []
        self._parent: dict[str, str] = {"input": "input"}
        self._fields: dict[str, tuple[int, str]] = {}
        self._sizes: dict[str, int] = {"input": channels}
        self._layer: Any = None
        self._index = -1

    def enter(self, index: int, layer: Any) -> None:
        """Name what follows after layer number `index`."""
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
        """Convolution to as many channels as the layer's field `width` says, then activation."""
        axis = self._new_axis(width)
        y = self._after(x, part, self._sizes[axis], stride, axis)
        return self._conv(x, y, part, kernel, stride, depthwise=False, activation=activation)

    def depthwise(
        self, x: Value, part: str, *, kernel: int, stride: int = 1, activation: str = "none"
    ) -> Value:
        """Depthwise convolution: one filter a channel, so its output shares the input's width."""
        y = self._after(x, part, x.channels, stride, x.axis)
        return self._conv(x, y, part, kernel, stride, depthwise=True, activation=activation)

    def max_pool(self, x: Value, part: str, *, kernel: int, stride: int) -> Value:
        """Maximum pooling."""
        if kernel % 2:
            y = self._after(x, part, x.channels, stride, x.axis)
        else:
            height, width = (max((n - kernel) // stride + 1, 0) for n in (x.height, x.width))
            y = Value(self._name(part), x.channels, height, width, x.axis)
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
        y = Value(self._name(part), x.channels, 1, 1, x.axis)
        self._ops.append(GlobalPool(y.name, x, y))
        return y

    def linear(self, x: Value, part: str, size: int) -> Value:
        """Matrix product with bias to `size` outputs, which pruning never cuts."""
        axis = f"{self._name(part)}:outputs"
        self._parent[axis], self._sizes[axis] = axis, size
        y = Value(self._name(part), size, 1, 1, axis)
        self._ops.append(Linear(y.name, x, y))
        return y

    def gate(self, x: Value, part: str, kind: GateKind) -> Value:
        """Sigmoid or hard sigmoid."""
        y = Value(self._name(part), x.channels, x.height, x.width, x.axis)
        self._ops.append(Gate(y.name, x, y, kind))
        return y

    def mul(self, x: Value, gate: Value, part: str) -> Value:
        """Scale `x` by `gate`, channel by channel or element by element."""
        self._join(x, gate)
        y = Value(self._name(part), x.channels, x.height, x.width, x.axis)
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
        self._join(a, b)
        clamp, gate = _split(activation)
        y = Value(self._name(part), a.channels, a.height, a.width, a.axis)
        self._ops.append(Add(y.name, a, b, y, clamp))
        return self._gated(y, part, gate)

    def finish(self, output: Value) -> Graph:
        """The graph, with the widths that may be cut."""
        members: dict[str, list[str]] = {}
        for axis in self._parent:
            members.setdefault(self._root(axis), []).append(axis)
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
        clamp, gate = _split(activation)
        self._ops.append(Conv(y.name, x, y, kernel, stride, depthwise, clamp))
        return self._gated(y, part, gate)

    def _gated(self, y: Value, part: str, gate: GateKind | None) -> Value:
        if gate is None:
            return y
        return self.mul(y, self.gate(y, f"{part}_gate", gate), f"{part}_act")

    def _after(self, x: Value, part: str, channels: int, stride: int, axis: str) -> Value:
        height, width = -(-x.height // stride), -(-x.width // stride)
        return Value(self._name(part), channels, height, width, axis)

    def _name(self, part: str) -> str:
        return f"{self._index}/{part}"

    def _new_axis(self, field: str) -> str:
        size = int(getattr(self._layer, field))
        axis = f"{self._index}/{field}"
        if axis not in self._parent:
            self._parent[axis], self._sizes[axis] = axis, size
            self._fields[axis] = (self._index, field)
        return axis

    def _join(self, a: Value, b: Value) -> None:
        if a.channels != b.channels:
            raise ArchError(
                f"layer {self._index}: {a.channels} and {b.channels} channels cannot be joined",
                fix="joined values need the same number of channels",
            )
        self._parent[self._root(b.axis)] = self._root(a.axis)

    def _root(self, axis: str) -> str:
        while self._parent[axis] != axis:
            axis = self._parent[axis]
        return axis


def _split(activation: str) -> tuple[Clamp, GateKind | None]:
    """A clamp costs nothing in int8 (the output range does it); a gate is two operations more."""
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
