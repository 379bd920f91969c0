"""Calibrate activation ranges on training pictures, and clip them by mean squared error."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lepton_automl.models.graph import Gate, Graph, Linear, MaxPool, Mul, Op
from lepton_automl.models.model import Model
from lepton_automl.models.quantization import Preprocessing

_BINS = 4096
"""Of a histogram: 16 per quantization step, fine enough to show rounding errors."""
_CLOSED_BELOW = {"hard_sigmoid": -3.0, "sigmoid": -8.0}
"""Gate -> input below which its output is 0, exactly or within one quantization step."""


@dataclass(frozen=True)
class Calibration:
    """Statistics of every quantized value over the calibration pictures."""

    low: Mapping[str, float]
    """Value name -> minimum."""
    high: Mapping[str, float]
    """Value name -> maximum."""
    peaks: Mapping[str, Tensor]
    """Value name -> maximum magnitude of each channel, (channels,)."""
    means: Mapping[str, Tensor]
    """Value name -> mean over the pictures, (channels, height, width)."""


def calibrate(
    model: Model, pixels: Tensor, *, batch: int = 64, device: torch.device | None = None
) -> Calibration:
    """Run `model` over pictures and collect extremes and means of every value.

    Memory does not grow with the number of pictures.

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


def quantized_values(graph: Graph) -> list[str]:
    """Names of the values with a scale of their own, in order.

    Not the pixels, whose scale is given, nor the logits, which stay float32, nor the output of
    maximum pooling, which keeps the scale of its input.
    """
    return [op.y.name for op in graph.ops if not isinstance(op, (Linear, MaxPool))]


class _Statistics:
    """A hook that accumulates extremes and means of every value, batch by batch."""

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
        return Calibration(
            {name: float(low.min()) for name, low in self._low.items()},
            {name: float(high.max()) for name, high in self._high.items()},
            {
                name: torch.maximum(low.abs(), self._high[name].abs()).cpu()
                for name, low in self._low.items()
            },
            {name: mean.contiguous().cpu() for name, mean in self._mean.items()},
        )


CLIP_SHARES = np.arange(20, 5, -1) / 20
"""Shares of a value's extremes that are tried as its range: 1 to 0.3."""


def activation_qparams(
    graph: Graph, preprocessing: Preprocessing, calibration: Calibration
) -> tuple[dict[str, float], dict[str, int]]:
    """Scales and zero points of all values but the logits, by value name."""
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
                scale, zero_point = _scale_and_zero_point(*_range(graph, op, calibration))
                scales[op.y.name], zero_points[op.y.name] = scale, zero_point
    return scales, zero_points


def clip_ranges(
    model: Model,
    calibration: Calibration,
    pixels: Tensor,
    *,
    batch: int = 64,
    device: torch.device | None = None,
) -> Calibration:
    """Clip the range of every value where the mean squared quantization error is least.

    A few large values make all others coarse; clipping them can cost less. Only histograms are
    kept, so memory does not grow with the number of pictures.

    Parameters
    ----------
    model : Model
        Folded.
    calibration : Calibration
        Of the same model and pictures.
    pixels : Tensor
        uint8 (N, H, W, C), training pictures.
    batch : int
        Pictures at once; it bounds the memory.
    device : torch.device, optional
        Where to compute; the CPU by default.
    """
    device, graph = device or torch.device("cpu"), model.arch.graph
    names = set(quantized_values(graph))
    # The range of a gate is fixed: 0 to 1.
    ops = [op for op in graph.ops if op.y.name in names and not isinstance(op, Gate)]
    ranges = {op.y.name: _range(graph, op, calibration) for op in ops}
    counts = dict.fromkeys(ranges, np.zeros(_BINS))

    def add_to_histogram(name: str, value: Tensor) -> Tensor:
        if name in ranges:
            low, high = ranges[name]
            clamped = value.float().clamp(low, high)
            added = torch.histc(clamped, _BINS, low, max(high, low + 1e-4))
            counts[name] = counts[name] + added.cpu().double().numpy()
        return value

    network = model.network().to(device)
    with torch.inference_mode():
        for part in torch.split(pixels, batch):
            network(model.preprocessing.apply(part.to(device)), add_to_histogram)
    best = {name: _best_share(*ranges[name], counts[name]) for name in ranges}
    low = {name: share * ranges[name][0] for name, share in best.items()}
    high = {name: share * ranges[name][1] for name, share in best.items()}
    return dataclasses.replace(
        calibration, low={**calibration.low, **low}, high={**calibration.high, **high}
    )


def _best_share(low: float, high: float, counts: np.ndarray) -> float:
    """The share of the extremes with the least squared error over a histogram of (_BINS,)."""
    width = max(high - low, 1e-4) / _BINS
    values = low + width * (np.arange(_BINS) + 0.5)
    errors = []
    for share in CLIP_SHARES:
        scale, zero_point = _scale_and_zero_point(share * low, share * high)
        integers = np.clip(np.rint(values / scale) + zero_point, 0, 255)
        errors.append(counts @ (scale * (integers - zero_point) - values) ** 2)
    return float(CLIP_SHARES[int(np.argmin(errors))])


def _range(graph: Graph, op: Op, calibration: Calibration) -> tuple[float, float]:
    """Low and high end of the output of `op`; 0 always lies within."""
    if isinstance(op, Gate):
        return 0.0, 1.0
    low = max(_lower_bound(graph, op), min(0.0, calibration.low[op.y.name]))
    return low, max(0.0, calibration.high[op.y.name])


def _scale_and_zero_point(low: float, high: float) -> tuple[float, int]:
    """Affine uint8 quantization of a range; 0 is represented exactly."""
    # A value that is always 0 still needs a scale, and not a denormal one.
    scale = np.float32(max(high - low, 1e-4) / 255)
    return float(scale), int(np.clip(np.rint(-low / scale), 0, 255))


def _lower_bound(graph: Graph, op: Op) -> float:
    """Values of `op` below this have no effect, because the gate they feed is closed."""
    readers = graph.consumers(op.y)
    gates = [reader for reader in readers if isinstance(reader, Gate)]
    gated = {gate.y.name for gate in gates}
    for reader in readers:
        if isinstance(reader, Mul) and reader.x.name == op.y.name and reader.gate.name in gated:
            continue
        if not isinstance(reader, Gate):
            return -np.inf
    return min((_CLOSED_BELOW[gate.kind] for gate in gates), default=-np.inf)
