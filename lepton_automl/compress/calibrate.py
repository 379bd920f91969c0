"""Calibration: what values a folded net takes on training pictures, in constant memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lepton_automl.graph import Graph, Linear, MaxPool
from lepton_automl.model import Model

PICTURES = 512
"""Training pictures looked at; 32 are enough for a normal net, these cost milliseconds each."""


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


def balanced(labels: Tensor, count: int, seed: int) -> Tensor:
    """Indices of at most `count` samples, drawn from all classes in turn.

    Parameters
    ----------
    labels : Tensor
        int64 (N,).
    count : int
        Samples wanted; fewer come back only where there are fewer.
    seed : int
        Of the draw within each class.

    Returns
    -------
    Tensor
        int64, increasing, no index twice.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    classes = labels.cpu().numpy()[order]
    turn = np.zeros(len(order), dtype=np.int64)
    for label in np.unique(classes):
        own = classes == label
        turn[own] = np.arange(own.sum())
    chosen = order[np.argsort(turn, kind="stable")[:count]]
    return torch.from_numpy(np.sort(chosen))


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
