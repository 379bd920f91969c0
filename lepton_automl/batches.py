"""Batches: pictures gathered, normalised and changed on their device, a chunk at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lepton_automl import augment
from lepton_automl.model import Preprocessing
from lepton_automl.recipe import Recipe

if TYPE_CHECKING:
    from lepton_automl.dataset import Labelled

CHUNK_BYTES = 2 << 20
"""Pictures changed at once, as float32: enough to hide Python, little enough for the cache."""


class Batches:
    """Batches of normalised, randomly changed pictures, made a chunk at a time.

    The order is one random permutation of the data after the other, cut into batches of one
    size, so every sample is seen equally often and no batch is ever smaller than two. With
    `flip` half of the samples are mirrored in the first pass and the others in the next, in turn,
    so that both sides are seen equally often too (Jordan 2024, section 3.6, arXiv:2404.00498).
    """

    def __init__(
        self,
        data: Labelled,
        preprocessing: Preprocessing,
        recipe: Recipe,
        *,
        epochs: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.pixels, self.labels = data.pixels.to(device), data.labels.to(device)
        self.preprocessing, self.recipe = preprocessing, recipe
        samples = len(self.labels)
        self.size = max(2, min(recipe.batch_size, samples))
        self.count = max(1, math.ceil(epochs * samples / self.size))
        self.plain_from = math.ceil(self.count * (1 - recipe.plain_finish))
        self.per_chunk = max(1, CHUNK_BYTES // (4 * self.size * self.pixels[0].numel()))
        self._order_draws = torch.Generator().manual_seed(seed)
        self._change_draws = torch.Generator(device).manual_seed(seed + 1)
        self._order = torch.zeros(0, dtype=torch.int64)
        side_draws = torch.Generator().manual_seed(seed + 2)
        self._is_mirrored = torch.rand(samples, generator=side_draws) < 0.5
        self._mirrored = torch.zeros(0, dtype=torch.bool)
        self._first = self._end = 0
        self._x = self._y = torch.zeros(0)

    def take(self, step: int) -> tuple[Tensor, Tensor]:
        """Batch number `step`, to be asked for in order: pictures (B, C, H, W) and labels."""
        if step == self._end:
            self._first = step
            stops = (self.plain_from if step < self.plain_from else self.count, self.count)
            self._end = min(step + self.per_chunk, *stops)
            self._fill((self._end - step) * self.size, is_plain=step >= self.plain_from)
        start = (step - self._first) * self.size
        return self._x[start : start + self.size], self._y[start : start + self.size]

    def pieces(self, step: int, parts: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batch number `step` in at most `parts` pieces, none smaller than two."""
        parts = max(1, min(parts, self.size // 2))
        x, labels = (whole.tensor_split(parts) for whole in self.take(step))
        return zip(x, labels, strict=True)

    def is_last_of_chunk(self, step: int) -> bool:
        """Whether the batch after `step` starts a new chunk, or there is none."""
        return step + 1 == self._end

    def _fill(self, length: int, *, is_plain: bool) -> None:
        while len(self._order) < length:
            more = torch.randperm(len(self.labels), generator=self._order_draws)
            self._order = torch.cat([self._order, more])
            self._mirrored = torch.cat([self._mirrored, self._is_mirrored[more]])
            self._is_mirrored = ~self._is_mirrored
        device, recipe = self.pixels.device, self.recipe
        index, mirrored = (q[:length].to(device) for q in (self._order, self._mirrored))
        self._order, self._mirrored = self._order[length:], self._mirrored[length:]
        x = augment.changed(
            self.preprocessing.apply(self.pixels[index]),
            recipe.augment_kind,
            0.0 if is_plain else recipe.augment,
            mirrored=mirrored if recipe.flip else None,
            generator=self._change_draws,
        )
        self._x = x if is_plain else augment.cut_out(x, recipe.cutout, self._change_draws)
        self._y = self.labels[index]
