"""Savings: what smaller widths save of bytes, and of milliseconds as measured or of MACs."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lepton_automl.arch import Arch
from lepton_automl.compress import Work
from lepton_automl.cost import Written
from lepton_automl.random_net import random_int8

CHANNEL_BYTES = 12
"""Bytes of an output channel besides its weights: int32 bias, two float32 scales."""
NOISE = 0.01
"""Of a net's time: what a cut must save to be told from a timer's noise."""

Milliseconds = Mapping[tuple[str, int], float]
"""What each smaller size of each width saves alone."""


class Savings:
    """How much of the cost of a net a smaller one of its widths saves, 0 to 1.

    Kernels take channels in blocks, so a step that saves multiply-accumulates often saves no time,
    and the next one twice as much: with `milliseconds` the sum of what each width alone saves
    counts, as a share of what all could save at most.

    Parameters
    ----------
    arch : Arch
        Before the cut.
    size, speed : float
        What bytes count and what speed counts, together 1.
    milliseconds : mapping, optional
        By width and size; without it multiply-accumulates stand for time.
    """

    def __init__(
        self, arch: Arch, size: float, speed: float, milliseconds: Milliseconds | None = None
    ) -> None:
        self._bytes, self._macs = _bytes(arch), arch.graph.macs
        self._milliseconds = milliseconds
        self._most = _most(milliseconds or {})
        is_blind = milliseconds is not None and not self._most
        self._size, self._speed = (1.0, 0.0) if is_blind and size else (size, speed)

    def of(self, smaller: Arch) -> float:
        """Of a net with the same widths, none of them larger."""
        saved = 0.0
        if self._size:
            saved += self._size * (1 - _bytes(smaller) / self._bytes)
        if self._speed:
            saved += self._speed * self._time(smaller)
        return saved

    def _time(self, smaller: Arch) -> float:
        if self._milliseconds is None:
            return 1 - smaller.graph.macs / self._macs
        sizes = ((width.name, width.size) for width in smaller.graph.widths)
        saved = sum(self._milliseconds.get(each, 0.0) for each in sizes)
        return saved / self._most if self._most else 0.0


def savings(arch: Arch, steps: Mapping[str, int], work: Work) -> Savings:
    """By what the stated limits ask to save: bytes, time, or both alike."""
    limits = work.limits
    wants_size = limits.max_size_bytes is not None
    wants_speed = limits.max_latency_ms is not None or limits.max_macs is not None
    shares = (0.5, 0.5) if wants_size == wants_speed else (float(wants_size), float(wants_speed))
    if work.measure is None or limits.max_macs is not None or not shares[1]:
        return Savings(arch, *shares)
    return Savings(arch, *shares, measured(arch, steps, work))


def measured(arch: Arch, steps: Mapping[str, int], work: Work) -> Milliseconds:
    """What each smaller size of each width saves alone; what noise could be counts as nothing."""
    assert work.measure is not None, "the caller has looked"
    limit = work.target.weight_limit
    nets = {"whole": arch} | {
        f"{width.name}={size}": arch.with_widths({width.name: size})
        for width in arch.graph.widths
        for size in smaller(width.size, steps[width.name])
    }
    files = {name: Written(net, random_int8(net, limit)) for name, net in nets.items()}
    times = dict(work.measure(files))
    whole = times.pop("whole")
    saved = {}
    for name, milliseconds in times.items():
        width, _, size = name.rpartition("=")
        is_noise = whole - milliseconds < NOISE * whole
        saved[width, int(size)] = 0.0 if is_noise else whole - milliseconds
    return saved


def smaller(size: int, step: int) -> list[int]:
    """Multiples of `step` below `size`, the largest first, without 0."""
    return [step * count for count in range(math.ceil(size / step) - 1, 0, -1)]


def _most(milliseconds: Milliseconds) -> float:
    """What all widths together could save."""
    best: dict[str, float] = {}
    for (width, _), saved in milliseconds.items():
        best[width] = max(best.get(width, 0.0), saved)
    return sum(best.values())


def _bytes(arch: Arch) -> int:
    """Of the parameters as int8."""
    return sum(
        math.prod(op.weight_shape) + CHANNEL_BYTES * op.y.channels for op in arch.graph.weighted
    )
