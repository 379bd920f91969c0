"""Savings: what smaller widths save of bytes, and of milliseconds as measured or of MACs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lepton_automl.compress.context import Work
from lepton_automl.compress.pruning.cut import shortened, spare
from lepton_automl.config import Limits
from lepton_automl.cost.cost import peak_ram_bytes
from lepton_automl.cost.latency import Written
from lepton_automl.models.arch import Arch
from lepton_automl.models.random_weights import random_int8_onnx

CHANNEL_BYTES = 12
"""Bytes of an output channel besides its weights: int32 bias, two float32 scales."""
ROOM = 0.97
"""Of a limit on bytes or time, what a net may take to count as within it: labels, and a timer."""
LEAST = 0.03
"""Of the whole net's cost: what a cut must save to be worth a recovery, unless it is enough."""
NOISE = 0.01
"""Of a net's time: what a cut must save to be told from a timer's noise."""


@dataclass(frozen=True)
class Milliseconds:
    """What was measured of a net and of smaller ones."""

    whole: float
    """Of the net itself."""
    widths: Mapping[tuple[str, int], float]
    """What each smaller size of each width saves alone."""
    layers: Mapping[int, float] = field(default_factory=dict)
    """What it saves to leave a layer out."""


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
    milliseconds : Milliseconds, optional
        Without it multiply-accumulates stand for time.
    """

    def __init__(
        self, arch: Arch, size: float, speed: float, milliseconds: Milliseconds | None = None
    ) -> None:
        self._bytes, self._macs = _bytes(arch), arch.graph.macs
        self._milliseconds = milliseconds
        self._most = _most(milliseconds.widths) if milliseconds else 0.0
        is_blind = milliseconds is not None and not self._most
        self._size, self._speed = (1.0, 0.0) if is_blind and size else (size, speed)

    def of(self, smaller: Arch) -> float:
        """Of a net with the same widths, none of them larger."""
        return self._together(smaller, None, self._most)

    def of_layer(self, layer: int, shorter: Arch) -> float:
        """Of the net without a layer."""
        return self._together(shorter, layer, self._most)

    def pays(self, work: Work, smaller: Arch, layer: int | None = None) -> bool:
        """Whether a net saves enough of the whole cost, or keeps the limits that are the aim."""
        return self._together(smaller, layer) >= LEAST or self.is_enough(work, layer)(smaller)

    def is_enough(self, work: Work, layer: int | None = None) -> Callable[[Arch], bool]:
        """Whether a net keeps the limits that the ladder is to reach.

        One with smaller widths, or the one without `layer`.
        """
        limits, weights = work.limits, work.target.weight_limit

        def told(smaller: Arch) -> bool:
            if not work.is_aim:
                return False
            size = len(random_int8_onnx(smaller, weights))
            milliseconds = None
            if self._milliseconds is not None:
                milliseconds = self._milliseconds.whole - self._saved(smaller, layer)
            return is_within(limits, smaller, size, milliseconds)

        return told

    def _together(self, smaller: Arch, layer: int | None, most: float = 0.0) -> float:
        """Of `most` milliseconds, or of the whole net's."""
        saved = 0.0
        if self._size:
            saved += self._size * (1 - _bytes(smaller) / self._bytes)
        if self._speed and self._milliseconds is None:
            saved += self._speed * (1 - smaller.graph.macs / self._macs)
        elif self._speed and self._milliseconds and (less := self._saved(smaller, layer)):
            saved += self._speed * less / (most or self._milliseconds.whole)
        return saved

    def _saved(self, smaller: Arch, layer: int | None) -> float:
        """Milliseconds."""
        assert self._milliseconds is not None, "the caller has looked"
        if layer is not None:
            return self._milliseconds.layers.get(layer, 0.0)
        sizes = ((width.name, width.size) for width in smaller.graph.widths)
        return sum(self._milliseconds.widths.get(each, 0.0) for each in sizes)


def is_within(limits: Limits, arch: Arch, size_bytes: int, milliseconds: float | None) -> bool:
    """Whether a net keeps every stated limit on its costs, with some room for noise and labels.

    Parameters
    ----------
    limits : Limits
        Those on accuracy do not matter here.
    arch : Arch
        Of the net.
    size_bytes : int
        Of its int8 file.
    milliseconds : float or None
        Of its int8 file; None keeps no limit on latency.
    """
    costs = {
        "max_size_bytes": size_bytes,
        "max_latency_ms": milliseconds,
        "max_macs": arch.graph.macs,
        "max_peak_ram_bytes": peak_ram_bytes(arch.graph),
    }
    exact = {"max_macs", "max_peak_ram_bytes"}
    for name, cost in costs.items():
        limit = limits.stated.get(name)
        room = 1.0 if name in exact else ROOM
        if limit is not None and (cost is None or cost > room * limit):
            return False
    return True


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
    nets = {"whole": arch}
    widths = {
        f"{width.name}={size}": (width.name, size)
        for width in arch.graph.widths
        for size in smaller(width.size, steps[width.name])
    }
    layers = {f"without {layer}": layer for layer in spare(arch)}
    nets |= {key: arch.with_widths({name: size}) for key, (name, size) in widths.items()}
    nets |= {key: shortened(arch, layer) for key, layer in layers.items()}
    # A file that was timed before is not timed again, so the whole one is another here: it is to
    # take turns with the smaller ones, because a machine drifts by more than a width saves.
    files = {k: random_int8_onnx(net, limit, int(net is arch)) for k, net in nets.items()}
    times = work.measure({k: Written(net, files[k]) for k, net in nets.items()})
    whole = times["whole"]

    def saved(key: str) -> float:
        less = whole - times[key]
        return 0.0 if less < NOISE * whole else less

    return Milliseconds(
        whole,
        {each: saved(key) for key, each in widths.items()},
        {layer: saved(key) for key, layer in layers.items()},
    )


def smaller(size: int, step: int) -> list[int]:
    """Multiples of `step` below `size`, the largest first, without 0."""
    return [step * count for count in range(math.ceil(size / step) - 1, 0, -1)]


def _most(milliseconds: Mapping[tuple[str, int], float]) -> float:
    """What all widths together could save."""
    best: dict[str, float] = {}
    for (width, _), saved in milliseconds.items():
        best[width] = max(best.get(width, 0.0), saved)
    return sum(best.values())


def _bytes(arch: Arch) -> int:
    """Of the parameters as int8."""
    return sum(
        math.prod(op.weight_shape) + CHANNEL_BYTES * op.y.channels for op in arch.graph.weighted_ops
    )
