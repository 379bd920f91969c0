"""Estimate the cost of an architecture from its graph alone, to rank candidates."""

from __future__ import annotations

import math

from lepton_automl.cost.cost import Cost, peak_ram_bytes
from lepton_automl.cost.latency_model import LatencyModel
from lepton_automl.models.arch import Arch

FILE_BYTES, OPERATION_BYTES, WEIGHTED_BYTES = 220, 114, 200
"""Text of a file, of each operation, and what more a convolution has: fitted to 60 files of the
shipped spaces, 75 bytes off at the most."""


class Guess:
    """Costs in a tenth of a millisecond; each one found corrects the next.

    Multiply-accumulates and peak memory are exact, size and latency are corrected by what the
    last net that was checked cost: those tried after it are its neighbours.

    Parameters
    ----------
    label_bytes : int
        What class names and metadata add to a file.
    prices : LatencyModel or None
        Tells latencies; None where nobody asks for them.
    """

    def __init__(self, label_bytes: int, prices: LatencyModel | None) -> None:
        self._label_bytes, self._prices = label_bytes, prices
        self.forget()

    def forget(self) -> None:
        """Guess as if nothing had been found yet."""
        self._more_bytes, self._slower = 0, 1.0

    @property
    def tells_latency(self) -> bool:
        """Whether costs have a latency."""
        return self._prices is not None

    def __call__(self, arch: Arch) -> Cost:
        """The guessed cost of the int8 file."""
        weights, parameters = _weights(arch)
        return Cost(
            size_bytes=self._size(arch, parameters) + self._more_bytes,
            weight_bytes=weights,
            parameter_bytes=parameters,
            macs=arch.graph.macs,
            peak_ram_bytes=peak_ram_bytes(arch.graph),
            latency_ms=self._latency(arch) * self._slower if self._prices else None,
        )

    def learn(self, arch: Arch, cost: Cost) -> None:
        """What a net was found to cost."""
        self._more_bytes = cost.size_bytes - self._size(arch, _weights(arch)[1])
        if cost.latency_ms is not None and self._prices is not None:
            self._slower = cost.latency_ms / self._latency(arch)

    def _size(self, arch: Arch, parameters: int) -> int:
        graph = arch.graph
        text = OPERATION_BYTES * len(graph.ops) + WEIGHTED_BYTES * len(list(graph.weighted_ops))
        return parameters + FILE_BYTES + text + self._label_bytes

    def _latency(self, arch: Arch) -> float:
        assert self._prices is not None
        return self._prices.latency(arch.graph).milliseconds


def _weights(arch: Arch) -> tuple[int, int]:
    """Bytes of the weights, and with biases and scales."""
    shapes = [op.weight_shape for op in arch.graph.weighted_ops]
    weights = sum(math.prod(shape) for shape in shapes)
    return weights, weights + 12 * sum(shape[0] for shape in shapes)
