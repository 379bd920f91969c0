"""How much memory a training or an evaluation takes, and batches that fit into a given one.

The figures were measured with nets of `general` on pictures of 64 to 128 pixels ("Memory of a
training" in docs/decisions.md).
"""

from __future__ import annotations

from lepton_automl.models.graph import Graph

_FIXED = 60 << 20
"""Bytes that a training takes whatever its net."""
_PER_VALUE = 5.0
"""Bytes that a training takes for each byte of the values (float32) of its net."""
_LEAST_MICRO_BATCH = 8
"""Fewer samples make the statistics of batch normalisation too uncertain."""
_MOST_MICRO_BATCHES = 16
_INFERENCE_VALUE_BYTES = 32 << 20
"""Bytes of the largest value of a batch that is evaluated."""


def training_bytes(graph: Graph, batch: int) -> int:
    """Bytes that a training of a net takes beside the program, estimated.

    Parameters
    ----------
    graph : Graph
        The net.
    batch : int
        Samples of a batch, or of a micro-batch.
    """
    values = 4 * batch * sum(op.y.size for op in graph.ops)
    return round(_FIXED + _PER_VALUE * values)


def micro_batches(graph: Graph, batch: int, memory: int | None) -> int:
    """Micro-batches into which a batch is split to fit into memory; 1 where it fits whole.

    Parameters
    ----------
    graph : Graph
        The net.
    batch : int
        Samples of a batch.
    memory : int or None
        Bytes that the training may take; None: no limit. No more micro-batches are made than leave
        8 samples each, so that it may be exceeded.
    """
    count = 1
    most = min(_MOST_MICRO_BATCHES, batch // _LEAST_MICRO_BATCH)
    while (
        memory is not None
        and 2 * count <= most
        and training_bytes(graph, -(-batch // count)) > memory
    ):
        count *= 2
    return count


def evaluation_batch(graph: Graph, most: int) -> int:
    """Samples that are evaluated at once, at most `most`: fewer of large pictures, but 8.

    It follows from the net alone, so that results are the same whatever the memory.
    """
    largest = 4 * max(op.y.size for op in graph.ops)
    return min(most, max(8, _INFERENCE_VALUE_BYTES // largest))
