"""Share of a net's cost that smaller widths or a missing layer save: bytes, time or MACs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.pruning.cut import arch_without_layer, removable_layers
from lepton_automl.config import Limits
from lepton_automl.cost.cost import peak_ram_bytes
from lepton_automl.cost.flash import most_flash_bytes
from lepton_automl.cost.latency import NetFile
from lepton_automl.models.arch import Arch
from lepton_automl.models.random_weights import random_int8_onnx

_CHANNEL_BYTES = 12
"""Bytes of an output channel besides its weights: int32 bias, two float32 scales."""
LIMIT_MARGIN = 0.97
"""A net counts as within a limit on bytes or time at this share of it: class names and timer
noise take the rest."""
_MIN_SAVING = 0.03
"""A cut that saves a smaller share of the cost does not pay for its recovery."""
_TIMER_NOISE = 0.01
"""Measured savings below this share of the latency count as 0."""


@dataclass(frozen=True)
class LatencySavings:
    """Milliseconds saved by each single change of a net, each measured or predicted alone."""

    total: float
    """Latency of the unchanged net."""
    widths: Mapping[tuple[str, int], float]
    """(width name, smaller size) -> milliseconds saved."""
    layers: Mapping[int, float] = field(default_factory=dict)
    """Removed layer -> milliseconds saved."""


class Savings:
    """Share of the cost that a net with smaller widths saves, 0 to 1.

    Kernels take channels in blocks, so a step that saves multiply-accumulates often saves no time,
    and the next one twice as much: with `latency` the savings of the single widths are added up
    and counted as a share of what all widths could save at most.

    Parameters
    ----------
    arch : Arch
        Before the cut.
    size, speed : float
        Weights of bytes and of speed, together 1.
    latency : LatencySavings, optional
        Without it multiply-accumulates stand for time.
    """

    def __init__(
        self, arch: Arch, size: float, speed: float, latency: LatencySavings | None = None
    ) -> None:
        self._bytes, self._macs = _parameter_bytes(arch), arch.graph.macs
        self._latency = latency
        self._max_saving = _max_saving(latency.widths) if latency else 0.0
        saves_no_time = latency is not None and not self._max_saving
        self._size, self._speed = (1.0, 0.0) if saves_no_time and size else (size, speed)

    def of(self, smaller: Arch) -> float:
        """Saving of a net with the same widths, none of them larger."""
        return self._weighted(smaller, None, self._max_saving)

    def of_layer(self, layer: int, shorter: Arch) -> float:
        """Saving of the net without one layer."""
        return self._weighted(shorter, layer, self._max_saving)

    def pays(self, context: CompressionContext, smaller: Arch, layer: int | None = None) -> bool:
        """Whether a net saves enough of the whole cost, or reaches the cost limits."""
        saving = self._weighted(smaller, layer)
        return saving >= _MIN_SAVING or self.reaches_limits(context, layer)(smaller)

    def reaches_limits(
        self, context: CompressionContext, layer: int | None = None
    ) -> Callable[[Arch], bool]:
        """A predicate: whether a net keeps the cost limits, where these are the aim.

        It takes a net with smaller widths, or the one without `layer`.
        """

        def is_reached(smaller: Arch) -> bool:
            if not context.is_aim:
                return False
            size = len(random_int8_onnx(smaller, context.target.weight_limit))
            milliseconds = None
            if self._latency is not None:
                milliseconds = self._latency.total - self._saved_milliseconds(smaller, layer)
            return is_within(context.limits, smaller, size, milliseconds)

        return is_reached

    def _weighted(self, smaller: Arch, layer: int | None, max_saving: float = 0.0) -> float:
        """Milliseconds count as a share of `max_saving`, or of the whole latency if that is 0."""
        saving = 0.0
        if self._size:
            saving += self._size * (1 - _parameter_bytes(smaller) / self._bytes)
        if self._speed and self._latency is None:
            saving += self._speed * (1 - smaller.graph.macs / self._macs)
        elif self._speed and self._latency:
            milliseconds = self._saved_milliseconds(smaller, layer)
            if milliseconds:
                saving += self._speed * milliseconds / (max_saving or self._latency.total)
        return saving

    def _saved_milliseconds(self, smaller: Arch, layer: int | None) -> float:
        assert self._latency is not None, "checked by the caller"
        if layer is not None:
            return self._latency.layers.get(layer, 0.0)
        sizes = ((width.name, width.size) for width in smaller.graph.widths)
        return sum(self._latency.widths.get(each, 0.0) for each in sizes)


def is_within(limits: Limits, arch: Arch, size_bytes: int, milliseconds: float | None) -> bool:
    """Whether a net keeps every stated cost limit, with a margin for noise and class names.

    Parameters
    ----------
    limits : Limits
        Those on accuracy are ignored.
    arch : Arch
        Of the net.
    size_bytes : int
        Of its int8 file.
    milliseconds : float or None
        Of its int8 file; None breaks any limit on latency.
    """
    costs = {
        "max_size_bytes": size_bytes,
        "max_latency_ms": milliseconds,
        "max_flash_bytes": most_flash_bytes(arch.graph, arch.front_end),
        "max_macs": arch.graph.macs,
        "max_peak_ram_bytes": peak_ram_bytes(arch.graph, arch.front_end),
    }
    exact = {"max_macs", "max_peak_ram_bytes", "max_flash_bytes"}  # Flash has its own margin.
    for name, cost in costs.items():
        limit = limits.stated.get(name)
        margin = 1.0 if name in exact else LIMIT_MARGIN
        if limit is not None and (cost is None or cost > margin * limit):
            return False
    return True


def savings_for_limits(
    arch: Arch, steps: Mapping[str, int], context: CompressionContext
) -> Savings:
    """Savings by bytes, time or both alike, as the stated limits need."""
    limits = context.limits
    wants_size = limits.max_size_bytes is not None or limits.max_flash_bytes is not None
    wants_speed = limits.max_latency_ms is not None or limits.max_macs is not None
    shares = (0.5, 0.5) if wants_size == wants_speed else (float(wants_size), float(wants_speed))
    if context.measure is None or limits.max_macs is not None or not shares[1]:
        return Savings(arch, *shares)
    return Savings(arch, *shares, measure_savings(arch, steps, context))


def measure_savings(
    arch: Arch, steps: Mapping[str, int], context: CompressionContext
) -> LatencySavings:
    """Measure what each smaller size of each width, and each missing layer, saves alone."""
    assert context.measure is not None, "checked by the caller"
    limit = context.target.weight_limit
    nets = {"whole": arch}
    widths = {
        f"{width.name}={size}": (width.name, size)
        for width in arch.graph.widths
        for size in smaller_sizes(width.size, steps[width.name])
    }
    layers = {f"without {layer}": layer for layer in removable_layers(arch)}
    nets |= {key: arch.with_widths({name: size}) for key, (name, size) in widths.items()}
    nets |= {key: arch_without_layer(arch, layer) for key, layer in layers.items()}
    # A known file is not timed again, so the whole net gets other weights here: it must take turns
    # with the smaller ones, because a machine drifts by more than a width saves.
    files = {key: random_int8_onnx(net, limit, int(net is arch)) for key, net in nets.items()}
    times = context.measure({key: NetFile(net, files[key]) for key, net in nets.items()})
    total = times["whole"]

    def saved(key: str) -> float:
        milliseconds = total - times[key]
        return 0.0 if milliseconds < _TIMER_NOISE * total else milliseconds

    return LatencySavings(
        total,
        {each: saved(key) for key, each in widths.items()},
        {layer: saved(key) for key, layer in layers.items()},
    )


def smaller_sizes(size: int, step: int) -> list[int]:
    """Multiples of `step` below `size`, the largest first, without 0."""
    return [step * count for count in range(math.ceil(size / step) - 1, 0, -1)]


def _max_saving(widths: Mapping[tuple[str, int], float]) -> float:
    """Milliseconds that all widths together could save."""
    best: dict[str, float] = {}
    for (width, _), saved in widths.items():
        best[width] = max(best.get(width, 0.0), saved)
    return sum(best.values())


def _parameter_bytes(arch: Arch) -> int:
    return sum(
        math.prod(op.weight_shape) + _CHANNEL_BYTES * op.y.channels
        for op in arch.graph.weighted_ops
    )
