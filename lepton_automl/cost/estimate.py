"""Estimate the cost of an architecture from its graph alone, to rank candidates."""

from __future__ import annotations

import math

from lepton_automl.cost.cost import Cost, peak_ram_bytes
from lepton_automl.cost.flash import most_flash_bytes
from lepton_automl.cost.latency_model import LatencyModel
from lepton_automl.models.arch import Arch

_FILE_BYTES, _OPERATION_BYTES, _WEIGHTED_BYTES = 220, 114, 200
"""Bytes of a file beside its parameters: per file, per operation, and more per convolution; fitted
to 60 files of the shipped spaces, largest error 75 bytes."""


class CostEstimator:
    """Estimates costs in about 0.1 ms; the exact cost of one net corrects the next estimates.

    Multiply-accumulates and peak memory are exact. Size and latency are corrected by the error on
    the last net whose cost was checked, as the nets that are estimated after it are similar.

    Parameters
    ----------
    label_bytes : int
        What class names and metadata add to a file.
    latency_model : LatencyModel or None
        Predicts latencies; None where none are needed.
    """

    def __init__(self, label_bytes: int, latency_model: LatencyModel | None) -> None:
        self._label_bytes, self._latency_model = label_bytes, latency_model
        self.reset()

    def reset(self) -> None:
        """Remove the correction."""
        self._extra_bytes, self._latency_factor = 0, 1.0

    @property
    def has_latency(self) -> bool:
        """Whether estimated costs have a latency."""
        return self._latency_model is not None

    def __call__(self, arch: Arch) -> Cost:
        """The estimated cost of the int8 file."""
        weight_bytes, parameter_bytes = _weight_bytes(arch)
        latency_ms = self._latency(arch) * self._latency_factor if self.has_latency else None
        return Cost(
            size_bytes=self._size(arch, parameter_bytes) + self._extra_bytes,
            weight_bytes=weight_bytes,
            parameter_bytes=parameter_bytes,
            macs=arch.graph.macs,
            peak_ram_bytes=peak_ram_bytes(arch.graph, arch.front_end),
            flash_bytes=most_flash_bytes(arch.graph, arch.front_end),
            latency_ms=latency_ms,
        )

    def correct(self, arch: Arch, cost: Cost) -> None:
        """Correct later estimates by the exact cost of a net."""
        self._extra_bytes = cost.size_bytes - self._size(arch, _weight_bytes(arch)[1])
        if cost.latency_ms is not None and self.has_latency:
            self._latency_factor = cost.latency_ms / self._latency(arch)

    def _size(self, arch: Arch, parameter_bytes: int) -> int:
        graph = arch.graph
        operations, weighted = len(graph.ops), len(list(graph.weighted_ops))
        text = _FILE_BYTES + _OPERATION_BYTES * operations + _WEIGHTED_BYTES * weighted
        return parameter_bytes + text + self._label_bytes

    def _latency(self, arch: Arch) -> float:
        assert self._latency_model is not None
        return self._latency_model.latency(arch.graph).milliseconds


def _weight_bytes(arch: Arch) -> tuple[int, int]:
    """Bytes of the weights, and of weights, biases and scales."""
    shapes = [op.weight_shape for op in arch.graph.weighted_ops]
    weights = sum(math.prod(shape) for shape in shapes)
    return weights, weights + 12 * sum(shape[0] for shape in shapes)
