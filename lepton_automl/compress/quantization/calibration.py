"""Calibration: what values a folded net takes on training pictures, in constant memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lepton_automl.models.graph import Gate, Graph, Linear, MaxPool, Mul, Op
from lepton_automl.models.model import Model, Preprocessing

BINS = 4096
"""Of a histogram: sixteen a step, so that errors of rounding are seen."""
SHUT = {"hard_sigmoid": -3.0, "sigmoid": -8.0}
"""Where a gate is shut, exactly or to within a step of what it gives."""


@dataclass(frozen=True)
class Calibration:
    """Statistics of every stored value over the pictures seen."""

    low: Mapping[str, float]
    """Value name -> smallest number seen."""
    high: Mapping[str, float]
    """Value name -> largest number seen."""
    peaks: Mapping[str, Tensor]
    """Value name -> largest magnitude of each channel, (channels,)."""
    means: Mapping[str, Tensor]
    """Value name -> mean over the pictures, (channels, height, width)."""


def calibrate(
    model: Model, pixels: Tensor, *, batch: int = 64, device: torch.device | None = None
) -> Calibration:
    """Run `model` over pictures and keep extremes and means of every stored value.

    Parameters
    ----------
    model : Model
        Folded.
    pixels : Tensor
        uint8 (N, H, W, C), training pictures.
    batch : int
        Pictures at once; it bounds the memory.
    device : torch.device, optional
        Where to compute; the CPU by default.
    """
    device = device or torch.device("cpu")
    network = model.network().to(device)
    statistics = _Statistics(len(pixels))
    with torch.inference_mode():
        for part in torch.split(pixels, batch):
            x = model.preprocessing.apply(part.to(device))
            network(statistics(model.arch.graph.input.name, x), statistics)
    return statistics.result()


def stored(graph: Graph) -> list[str]:
    """Names of the values that have a scale of their own, in order.

    Neither the pixels, whose scale is given, nor the logits, which stay float32, nor what
    maximum pooling gives, which keeps the scale of what it takes.
    """
    return [op.y.name for op in graph.ops if not isinstance(op, (Linear, MaxPool))]


class _Statistics:
    """Sees every value of every batch and forgets it again."""

    def __init__(self, pictures: int) -> None:
        self._pictures = pictures
        self._low: dict[str, Tensor] = {}
        self._high: dict[str, Tensor] = {}
        self._mean: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if value.ndim == 4:
            low, high = value.amin((0, 2, 3)), value.amax((0, 2, 3))
            mean = value.sum(0) / self._pictures
            if name in self._low:
                low, high = (
                    torch.minimum(low, self._low[name]),
                    torch.maximum(high, self._high[name]),
                )
                mean = mean + self._mean[name]
            self._low[name], self._high[name], self._mean[name] = low, high, mean
        return value

    def result(self) -> Calibration:
        """Everything seen so far."""
        return Calibration(
            {name: float(low.min()) for name, low in self._low.items()},
            {name: float(high.max()) for name, high in self._high.items()},
            {
                name: torch.maximum(low.abs(), self._high[name].abs()).cpu()
                for name, low in self._low.items()
            },
            {name: mean.contiguous().cpu() for name, mean in self._mean.items()},
        )


SHARES = np.arange(20, 5, -1) / 20
"""Of a value's extremes, what is tried as the ends of its range: 1 to 0.3."""


def arithmetic(
    graph: Graph, preprocessing: Preprocessing, calibration: Calibration
) -> tuple[dict[str, float], dict[str, int]]:
    """Scale and zero point of every value but the logits, by name."""
    scales = {graph.input.name: float(np.float32(preprocessing.scale))}
    zero_points = {graph.input.name: preprocessing.zero_point}
    for op in graph.ops:
        match op:
            case Linear():
                continue
            case MaxPool():
                scales[op.y.name] = scales[op.x.name]
                zero_points[op.y.name] = zero_points[op.x.name]
            case _:
                made = _steps(*_ends(graph, op, calibration))
                scales[op.y.name], zero_points[op.y.name] = made
    return scales, zero_points


def narrowed(
    model: Model,
    calibration: Calibration,
    pixels: Tensor,
    *,
    batch: int = 64,
    device: torch.device | None = None,
) -> Calibration:
    """`calibration` with the extremes between which 256 steps err least, in the mean square.

    A few large values make all others coarse; cut off, they cost less than they did. Histograms
    are all that is kept, so the memory does not grow with the pictures.

    Parameters
    ----------
    model : Model
        Folded.
    calibration : Calibration
        Of this very model and these pictures.
    pixels : Tensor
        uint8 (N, H, W, C), training pictures.
    batch : int
        Pictures at once; it bounds the memory.
    device : torch.device, optional
        Where to compute; the CPU by default.
    """
    device, graph = device or torch.device("cpu"), model.arch.graph
    own = set(stored(graph))
    # A gate's range is known: 0 to 1.
    ops = [op for op in graph.ops if op.y.name in own and not isinstance(op, Gate)]
    ends = {op.y.name: _ends(graph, op, calibration) for op in ops}
    counts = dict.fromkeys(ends, np.zeros(BINS))

    def count(name: str, value: Tensor) -> Tensor:
        if name in ends:
            low, high = ends[name]
            seen = torch.histc(value.float().clamp(low, high), BINS, low, max(high, low + 1e-4))
            counts[name] = counts[name] + seen.cpu().double().numpy()
        return value

    network = model.network().to(device)
    with torch.inference_mode():
        for part in torch.split(pixels, batch):
            network(model.preprocessing.apply(part.to(device)), count)
    best = {name: _best(*ends[name], counts[name]) for name in ends}
    low = {name: share * ends[name][0] for name, share in best.items()}
    high = {name: share * ends[name][1] for name, share in best.items()}
    return dataclasses.replace(
        calibration, low={**calibration.low, **low}, high={**calibration.high, **high}
    )


def _best(low: float, high: float, counts: np.ndarray) -> float:
    """The share of the extremes at which the values counted are stored with the least error."""
    width = max(high - low, 1e-4) / BINS
    values = low + width * (np.arange(BINS) + 0.5)
    errors = []
    for share in SHARES:
        scale, zero_point = _steps(share * low, share * high)
        stored_as = np.clip(np.rint(values / scale) + zero_point, 0, 255)
        errors.append(counts @ (scale * (stored_as - zero_point) - values) ** 2)
    return float(SHARES[int(np.argmin(errors))])


def _ends(graph: Graph, op: Op, calibration: Calibration) -> tuple[float, float]:
    """What is to be told apart of the value that `op` gives; 0 is always within."""
    if isinstance(op, Gate):
        return 0.0, 1.0
    low = max(_floor(graph, op), min(0.0, calibration.low[op.y.name]))
    return low, max(0.0, calibration.high[op.y.name])


def _steps(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point; 0 is always met exactly."""
    # A value that is always 0 still needs a scale, and one far from denormal numbers.
    scale = np.float32(max(high - low, 1e-4) / 255)
    return float(scale), int(np.clip(np.rint(-low / scale), 0, 255))


def _floor(graph: Graph, op: Op) -> float:
    """Below this the value that `op` gives makes no difference: its gate is shut."""
    readers = graph.consumers(op.y)
    gates = [reader for reader in readers if isinstance(reader, Gate)]
    gated = {gate.y.name for gate in gates}
    for reader in readers:
        if isinstance(reader, Mul) and reader.x.name == op.y.name and reader.gate.name in gated:
            continue
        if not isinstance(reader, Gate):
            return -np.inf
    return min((SHUT[gate.kind] for gate in gates), default=-np.inf)
