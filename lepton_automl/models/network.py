"""Build the float network of an `Arch` in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lepton_automl.models.arch import Arch
from lepton_automl.models.graph import (
    Add,
    Clamp,
    Conv,
    Gate,
    GlobalPool,
    Graph,
    Linear,
    MaxPool,
    Mul,
    Op,
)

Weights = Mapping[str, Tensor]
ValueHook = Callable[[str, Tensor], Tensor]
_COUNTER = "num_batches_tracked"
"""State of batch normalisation that is unused with a fixed momentum; it is not saved."""


class Network(nn.Module):
    """A torch module that runs the operations of a graph.

    Parameters
    ----------
    graph : Graph
        The operations.
    folded : bool
        Convolutions have a bias and no batch normalisation (the form that is quantized).
    """

    def __init__(self, graph: Graph, *, folded: bool = False) -> None:
        super().__init__()
        self.graph = graph
        self.modules_by_op = nn.ModuleDict()
        for op in graph.weighted_ops:
            self.modules_by_op[op.name] = (
                ConvNormAct(op, folded) if isinstance(op, Conv) else FlattenLinear(op)
            )
        self._last_read = _last_read(graph)

    def forward(self, x: Tensor, value_hook: ValueHook | None = None) -> Tensor:
        """Logits (N, classes) of normalised pixels (N, C, H, W).

        `value_hook(name, tensor)` receives every value that is quantized in int8 and may
        replace it.
        """
        values = {self.graph.input.name: x}
        for _ in self.iter_ops(values, value_hook):
            pass
        return values[self.graph.output.name]

    def iter_ops(
        self, values: dict[str, Tensor], value_hook: ValueHook | None = None
    ) -> Iterator[Op]:
        """Yield each operation before running it on `values`, where its output is added.

        Values without further consumers are deleted. `value_hook` as in `forward`.
        """
        for number, op in enumerate(self.graph.ops):
            yield op
            y = self._run(op, values)
            values[op.y.name] = value_hook(op.y.name, y) if value_hook else y
            for name in self._last_read[number]:
                del values[name]

    def _run(self, op: Op, values: dict[str, Tensor]) -> Tensor:
        match op:
            case Conv() | Linear():
                y: Tensor = self.modules_by_op[op.name](values[op.x.name])
                return y
            case MaxPool():
                return F.max_pool2d(values[op.x.name], op.window, op.stride, op.padding)
            case GlobalPool():
                return values[op.x.name].mean((2, 3), keepdim=True)
            case Gate():
                gate = torch.sigmoid if op.kind == "sigmoid" else F.hardsigmoid
                return gate(values[op.x.name])
            case Mul():
                return values[op.x.name] * values[op.gate.name]
            case Add():
                return apply_clamp(values[op.a.name] + values[op.b.name], op.clamp)


class ConvNormAct(nn.Module):
    """Convolution, batch normalisation unless folded, clamp."""

    def __init__(self, op: Conv, folded: bool) -> None:
        super().__init__()
        self.op = op
        self.weight = nn.Parameter(torch.empty(op.weight_shape))
        nn.init.kaiming_normal_(self.weight, mode="fan_out" if not op.depthwise else "fan_in")
        self.bias = nn.Parameter(torch.zeros(op.y.channels)) if folded else None
        self.norm = None if folded else nn.BatchNorm2d(op.y.channels)

    def forward(self, x: Tensor) -> Tensor:
        """Clamped convolution of `x`."""
        op = self.op
        groups = op.x.channels if op.depthwise else 1
        y = F.conv2d(x, self.weight, self.bias, op.stride, op.padding, 1, groups)
        return apply_clamp(y if self.norm is None else self.norm(y), op.clamp)


class FlattenLinear(nn.Linear):
    """Matrix product with bias of a (N, C, 1, 1) value."""

    def __init__(self, op: Linear) -> None:
        super().__init__(op.x.channels, op.y.channels)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, out)."""
        return super().forward(x.flatten(1))


def apply_clamp(x: Tensor, clamp: Clamp) -> Tensor:
    """Apply no activation, ReLU or ReLU6, in place to save memory."""
    if clamp == "none":
        return x
    return F.relu(x, inplace=True) if clamp == "relu" else F.relu6(x, inplace=True)


def build_network(arch: Arch, weights: Weights | None = None, *, seed: int = 0) -> Network:
    """Build the network of `arch` with `weights`, or initialised from `seed` without."""
    folded = weights is not None and not any(".norm." in name for name in weights)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` formats a stack a device
        network = Network(arch.graph, folded=folded)
    if weights is not None:
        counters = {k: v for k, v in network.state_dict().items() if k.endswith(_COUNTER)}
        network.load_state_dict(counters | {f"modules_by_op.{k}": v for k, v in weights.items()})
    return network


def extract_weights(network: Network) -> dict[str, Tensor]:
    """Copy the weights to the CPU, by the names of `Model.weights`."""
    return {
        name.removeprefix("modules_by_op."): tensor.detach().cpu().clone().contiguous()
        for name, tensor in network.state_dict().items()
        if not name.endswith(_COUNTER)
    }


def _last_read(graph: Graph) -> list[list[str]]:
    """For each operation the values without later consumers, so that memory is freed early."""
    last = {v.name: n for n, op in enumerate(graph.ops) for v in op.inputs}
    return [[name for name, n in last.items() if n == number] for number in range(len(graph.ops))]
