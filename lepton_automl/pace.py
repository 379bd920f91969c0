"""Pace: how fast a training went, and how much of what its device can do that is."""

from __future__ import annotations

import functools
import time

import torch

from lepton_automl.arithmetic import number_type

SIDES = {"cpu": 512, "cuda": 8192}
"""Of the square matrices whose product is the yardstick; large enough to keep the device busy."""
PRODUCTS = 4
LEAST_SECONDS = 1.0
"""Shorter trainings are not worth the yardstick's time."""
PASSES = 3
"""Forward, and backward to the inputs and to the weights, as many multiply-accumulates each."""


class Pace:
    """Told after every batch; what went before the first one does not count.

    Parameters
    ----------
    batch : int
        Pictures a batch.
    """

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._first = self._last = (0, 0.0)

    def told(self, done: int, total: int) -> None:
        """So many batches are done."""
        del total
        self._last = (done, time.perf_counter())
        if not self._first[0]:
            self._first = self._last

    @property
    def seconds(self) -> float:
        """From the first batch to the last one."""
        return self._last[1] - self._first[1]

    @property
    def pictures_per_second(self) -> float:
        """0 where there were not two batches."""
        pictures = (self._last[0] - self._first[0]) * self._batch
        return pictures / self.seconds if pictures else 0.0


def utilisation(pace: Pace, macs: int, device: torch.device) -> float:
    """Share of the device's matrix peak that a training used; 0 where it was too short to tell.

    Parameters
    ----------
    pace : Pace
        Of the training.
    macs : int
        Multiply-accumulates of the net for one picture.
    device : torch.device
        Where it ran; one thread of a CPU.
    """
    if pace.seconds < LEAST_SECONDS:
        return 0.0
    return PASSES * macs * pace.pictures_per_second / peak_macs_per_second(device.type)


@functools.cache
def peak_macs_per_second(device: str) -> float:
    """Multiply-accumulates a second of a large matrix product, the best of a few.

    In the numbers that trainings multiply there; on one thread of a CPU.
    """
    side = SIDES[device]
    square = torch.ones(side, side, device=device, dtype=number_type(torch.device(device)))
    best = 0.0
    for _ in range(PRODUCTS + 1):
        start = time.perf_counter()
        (square @ square)[0, 0].item()  # Waits for the device.
        best = max(best, side**3 / (time.perf_counter() - start))
    return best
