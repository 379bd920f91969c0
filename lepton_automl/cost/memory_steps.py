"""Which feature maps are alive at each step of a net, one byte a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lepton_automl.models.graph import Add, Gate, Graph, Mul
from lepton_automl.models.memory_plan import Swish, steps


@dataclass(frozen=True)
class MemoryStep:
    """Feature maps that are alive while one operation runs."""

    name: str
    """Of the operation; empty of the input before the first."""
    alive: tuple[tuple[str, int], ...]
    """Name and values of each feature map, in the order in which they were made."""
    is_in_place: bool = False
    """Whether the result is written over an input of the same size that is not read later."""

    @property
    def size(self) -> int:
        """Values of all of them."""
        return sum(size for _, size in self.alive)


def memory_steps(graph: Graph) -> list[MemoryStep]:
    """The steps of a net whose operations run in order, under the rules of `models.memory_plan`.

    Alive are the inputs and the output of the running operation and every value read later; the
    logits are the caller's. An input that is written over is left out.
    """
    order = steps(graph)
    last = {value.name: n for n, op in enumerate(order) for value in op.inputs}
    alive = {graph.input.name: graph.input.size}
    found = [MemoryStep("", tuple(alive.items()))]
    for number, op in enumerate(order):
        dying = {v.name: v.size for v in op.inputs if last[v.name] == number}
        over = [
            name
            for name, size in dying.items()
            if isinstance(op, (Add, Mul, Gate, Swish))
            and size == op.y.size
            and name != graph.input.name
        ][:1]
        if op.y.name != graph.output.name:
            alive[op.y.name] = op.y.size
        now = tuple((name, size) for name, size in alive.items() if name not in over)
        found.append(MemoryStep(op.name, now, is_in_place=bool(over)))
        for name in dying:
            del alive[name]
    return found


def peak_step(found: Sequence[MemoryStep]) -> MemoryStep:
    """The first of the steps with the most values."""
    return max(found, key=lambda step: step.size)
