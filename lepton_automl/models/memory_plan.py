"""Where feature maps lie in one block of memory, by the time that each is needed.

One byte a value, one sample. An addition, product or table may overwrite an input of its own size
that is not read later. An activation of the form x * gate(x) is a table of 256 values, so its gate
is never stored (`steps`). Logits are the caller's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lepton_automl.models.graph import Add, Gate, Graph, Mul, Op, Value

_ORDERS = 300
"""Random orders that are tried before a layout above the lower bound is accepted."""


@dataclass(frozen=True)
class Swish:
    """x * gate(x), which is a function of one byte."""

    gate: Gate
    mul: Mul

    @property
    def name(self) -> str:
        """That of the product."""
        return self.mul.name

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The value read."""
        return (self.gate.x,)

    @property
    def y(self) -> Value:
        """The product."""
        return self.mul.y


Step: TypeAlias = Op | Swish


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets of feature maps in one block."""

    size: int
    """Bytes of the block; at least those of the input."""
    offsets: dict[str, int]
    """Name of each value but the logits -> offset of its first byte."""
    scratch: int = 0
    """Offset of the scratch memory."""


def steps(graph: Graph) -> tuple[Step, ...]:
    """The operations in order, with each gate and its product by its own input as one step."""
    found: list[Step] = []
    ops = list(graph.ops)
    while ops:
        op = ops.pop(0)
        following = ops[0] if ops else None
        if (
            isinstance(op, Gate)
            and isinstance(following, Mul)
            and (following.x.name, following.gate.name) == (op.x.name, op.y.name)
            and len(graph.consumers(op.y)) == 1
        ):
            ops.pop(0)
            found.append(Swish(op, following))
        else:
            found.append(op)
    return tuple(found)


@dataclass
class _Block:
    """Bytes that hold one value, or several in turn."""

    size: int
    first: int
    last: int

    def overlaps(self, other: _Block) -> bool:
        return self.first <= other.last and other.first <= self.last


def plan_memory(graph: Graph, scratch_bytes: int = 0) -> MemoryPlan:
    """Place the feature maps of `graph` in a block as small as possible.

    With `scratch_bytes`, so many bytes beside the input are free while it is computed.
    The block is as large as the largest sum of values that are needed at once, wherever a layout
    of that size is found (in all nets of our layers; the problem is NP-hard in general).
    """
    blocks, of = _blocks(graph)
    if scratch_bytes:
        blocks[0].first = -1
        blocks.append(_Block(scratch_bytes, -1, -1))
    bound = max(
        sum(block.size for block in blocks if block.first <= at <= block.last)
        for at in range(-1, max(block.last for block in blocks) + 1)
    )
    rng = random.Random(0)
    orders = [
        sorted(range(len(blocks)), key=lambda n: -blocks[n].size),
        sorted(range(len(blocks)), key=lambda n: blocks[n].first),
        sorted(range(len(blocks)), key=lambda n: blocks[n].first - blocks[n].last),
    ]
    best: tuple[int, list[int]] | None = None
    for number in range(len(orders) + _ORDERS):
        order = (
            orders[number] if number < len(orders) else rng.sample(range(len(blocks)), len(blocks))
        )
        found = _layout(blocks, order)
        if best is None or found[0] < best[0]:
            best = found
        if best[0] == bound:
            break
    assert best is not None
    size, offsets = best
    places = {name: offsets[number] for name, number in of.items()}
    return MemoryPlan(size, places, offsets[-1] if scratch_bytes else 0)


def _blocks(graph: Graph) -> tuple[list[_Block], dict[str, int]]:
    """Blocks with their first and last step, and the block of each value."""
    order = steps(graph)
    last = {value.name: at for at, step in enumerate(order) for value in step.inputs}
    blocks = [_Block(graph.input.size, 0, last.get(graph.input.name, 0))]
    of = {graph.input.name: 0}
    for at, step in enumerate(order):
        y = step.y
        if y.name == graph.output.name:
            continue
        reused = [
            of[value.name]
            for value in step.inputs
            if isinstance(step, (Add, Mul, Gate, Swish))
            and value.size == y.size
            and last[value.name] == at
            # The input may be the caller's, and is never written.
            and value.name != graph.input.name
        ]
        if reused:
            of[y.name] = reused[0]
            blocks[reused[0]].last = last.get(y.name, at)
        else:
            of[y.name] = len(blocks)
            blocks.append(_Block(y.size, at, last.get(y.name, at)))
    return blocks, of


def _layout(blocks: Sequence[_Block], order: Sequence[int]) -> tuple[int, list[int]]:
    """Size and offsets if blocks are placed in this order, each as low as possible."""
    offsets, size = [0] * len(blocks), 0
    placed: list[int] = []
    for number in order:
        block, offset = blocks[number], 0
        for other in sorted(placed, key=offsets.__getitem__):
            if not block.overlaps(blocks[other]):
                continue
            if offset + block.size <= offsets[other]:
                break
            offset = max(offset, offsets[other] + blocks[other].size)
        offsets[number] = offset
        placed.append(number)
        size = max(size, offset + block.size)
    return size, offsets
