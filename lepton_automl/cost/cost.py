"""Cost of a net as an int8 file: size, MACs, peak RAM, latency; known before training."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lepton_automl.config import LIMITS, Limits
from lepton_automl.cost.flash import most_flash_bytes
from lepton_automl.cost.latency import Latency
from lepton_automl.cost.latency_model import Basis, LatencyModel
from lepton_automl.models.arch import Arch
from lepton_automl.models.front_end import LogMel
from lepton_automl.models.graph import Graph
from lepton_automl.models.memory_plan import plan_memory
from lepton_automl.models.random_weights import random_int8_onnx


@dataclass(frozen=True)
class Cost:
    """Cost of one file at batch 1."""

    size_bytes: int
    """The file."""
    weight_bytes: int
    """Its weights: int8 in an int8 file, float32 in a float file."""
    parameter_bytes: int
    """Weights, biases and the scales of weights and biases."""
    macs: int
    """Multiply-accumulates a sample."""
    peak_ram_bytes: int
    """Largest sum of live feature maps (see `peak_ram_bytes`)."""
    latency_ms: float | None = None
    """Milliseconds a call on one thread of a quiet machine; None where not measured."""
    latency_low_ms: float | None = None
    latency_high_ms: float | None = None
    latency_basis: Basis = "measured"
    """How the latency was obtained, if there is one."""
    flash_bytes: int | None = None
    """Most that the C files are predicted to take on a microcontroller (`cost.flash`); None of a
    float net."""

    def with_measured_latency(self, latency: Latency, quiet_ms: float) -> Cost:
        """A copy with a measured latency; `quiet_ms` as returned by `quiet_reference_ms`."""
        low, middle, high = (
            ratio * quiet_ms for ratio in (latency.ratio_low, latency.ratio, latency.ratio_high)
        )
        return replace(self, latency_ms=middle, latency_low_ms=low, latency_high_ms=high)

    def with_predicted_latency(self, model: LatencyModel, arch: Arch) -> Cost:
        """A copy with the latency that `model` predicts for `arch`."""
        predicted = model.latency(arch.graph)
        return replace(
            self,
            latency_ms=predicted.milliseconds,
            latency_low_ms=predicted.low,
            latency_high_ms=predicted.high,
            latency_basis=model.basis,
        )


def static_cost(arch: Arch, weight_limit: int) -> Cost:
    """Cost, without latency, of `arch` as an int8 file with random weights.

    The size is that of a file with short labels and no further metadata; the shipped one adds
    its class names and the fingerprint of the data.

    Parameters
    ----------
    arch : Arch
        Any legal architecture.
    weight_limit : int
        Largest weight, 1 to 127 (see the targets).
    """
    return file_cost(arch, random_int8_onnx(arch, weight_limit))


def file_cost(arch: Arch, file: bytes, value_bytes: int = 1) -> Cost:
    """Cost, without latency, of a `file` of `arch`; `value_bytes` is 1 for int8, 4 for float32."""
    graph = arch.graph
    weights = sum(int(np.prod(op.weight_shape)) for op in graph.weighted_ops)
    outputs = sum(op.weight_shape[0] for op in graph.weighted_ops)
    # An int8 channel has an int32 bias and the float32 scales of weight and bias.
    bias_bytes = 4 * outputs * (3 if value_bytes == 1 else 1)
    return Cost(
        size_bytes=len(file),
        weight_bytes=weights * value_bytes,
        parameter_bytes=weights * value_bytes + bias_bytes,
        macs=graph.macs,
        peak_ram_bytes=peak_ram_bytes(graph, arch.front_end)
        if value_bytes == 1
        else peak_ram_bytes(graph) * value_bytes,
        flash_bytes=most_flash_bytes(graph, arch.front_end) if value_bytes == 1 else None,
    )


def peak_ram_bytes(graph: Graph, front_end: LogMel | None = None) -> int:
    """Memory that feature maps need while operations run in order, one byte a value.

    It is the arena of the C files (`models.memory_plan`), with the input in it. Live are the inputs
    and the output of the running operation and every value read later. An addition, product or
    table may overwrite an input of its own size that is not read later. What a front end for sound
    needs in C is live before the first operation, beside the features.
    """
    return plan_memory(graph, 0 if front_end is None else front_end.scratch_bytes).size


def violations(cost: Cost, limits: Limits) -> dict[str, float]:
    """Broken cost limits: name -> cost / limit - 1, above 0.

    A cost that was not measured breaks no limit.
    """
    found = {}
    for limit, stated in limits.costs.items():
        value = LIMITS[limit].measured(cost)
        if value is not None and value > stated:
            found[limit] = value / stated - 1
    return found
