"""Batches: pictures gathered, normalised and changed on their device, a chunk at a time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lepton_automl import augment
from lepton_automl.model import Preprocessing
from lepton_automl.parallel import ALONE, Ranks
from lepton_automl.recipe import Recipe

if TYPE_CHECKING:
    from lepton_automl.dataset import Labelled

CHUNK_BYTES = {"cpu": 2 << 20, "cuda": 64 << 20}
"""Pictures changed at once, as float32: enough to hide Python, little enough for the cache. A GPU
is waited for once a chunk, to see that the loss is finite, so there are many steps between."""
RESIDENT_SHARE = 0.5
"""Of a GPU's free memory, what pictures may take; more stay where they are, often a mapped file,
and come to it a chunk at a time."""


class Batch(NamedTuple):
    """Some pictures and what they show."""

    x: Tensor
    """float (B, C, H, W), normalised."""
    labels: Tensor
    """int64 (B,)."""
    others: Tensor | None = None
    """int64 (B,): labels of the pictures that were mixed into these; None where none was."""
    kept: Tensor | None = None
    """(B,): share of each picture that is still its own."""


class Batches:
    """Batches of normalised, randomly changed pictures, made a chunk at a time.

    The order is one random permutation of the data after the other, cut into batches of one
    size, so every sample is seen equally often and no batch is ever smaller than two. With
    `flip` half of the samples are mirrored in the first pass and the others in the next, in turn,
    so that both sides are seen equally often too (Jordan 2024, section 3.6, arXiv:2404.00498).
    Of several processes each gets its share of every batch.
    """

    def __init__(
        self,
        data: Labelled,
        preprocessing: Preprocessing,
        recipe: Recipe,
        epochs: int,
        seed: int,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self.device, self.labels = device, data.labels.to(device)
        self.pixels = data.pixels.to(device) if fits(data.pixels, device) else data.pixels
        self.preprocessing, self.recipe = preprocessing, recipe
        samples = len(self.labels)
        self.size = max(2, min(recipe.batch_size, samples))
        self.count = max(1, math.ceil(epochs * samples / self.size))
        self.plain_from = math.ceil(self.count * (1 - recipe.plain_finish))
        self._ranks, self._own, self._seed = ranks, ranks.share(self.size), seed
        self.width = self._own.stop - self._own.start
        self.mean = self.size / ranks.count  # Of the widths of all processes.
        most = math.ceil(self.size / ranks.count)
        self.per_chunk = max(1, CHUNK_BYTES[device.type] // (4 * most * self.pixels[0].numel()))
        self._order_draws = torch.Generator().manual_seed(seed)
        self._change_draws = torch.Generator(device)
        self._order = torch.zeros(0, dtype=torch.int64)
        side_draws = torch.Generator().manual_seed(seed + 2)
        self._is_mirrored = torch.rand(samples, generator=side_draws) < 0.5
        self._mirrored = torch.zeros(0, dtype=torch.bool)
        self._first = self._end = 0
        self._chunk = Batch(torch.zeros(0), torch.zeros(0))

    def take(self, step: int) -> Batch:
        """The share of this process of batch number `step`, to be asked for in order."""
        if step == self._end:
            self._first = step
            stops = (self.plain_from if step < self.plain_from else self.count, self.count)
            self._end = min(step + self.per_chunk, *stops)
            self._fill((self._end - step) * self.size, is_plain=step >= self.plain_from)
        start = (step - self._first) * self.width
        return _cut(self._chunk, start, start + self.width)

    def pieces(self, step: int, parts: int) -> Iterator[Batch]:
        """Batch number `step` in at most `parts` pieces, none smaller than two."""
        whole, parts = self.take(step), max(1, min(parts, self.width // 2))
        ends = [len(part) for part in whole.labels.tensor_split(parts)]
        starts = [sum(ends[:number]) for number in range(parts)]
        return (_cut(whole, a, a + n) for a, n in zip(starts, ends, strict=True))

    @property
    def chunk_length(self) -> int:
        """Batches in the chunk that is at work."""
        return self._end - self._first

    def is_last_of_chunk(self, step: int) -> bool:
        """Whether the batch after `step` starts a new chunk, or there is none."""
        return step + 1 == self._end

    def state(self) -> dict[str, Tensor]:
        """What decides the batches still to come, by name; after the last batch of a chunk."""
        return {
            "order draws": self._order_draws.get_state(),
            "order": self._order,
            "mirrored": self._mirrored,
            "is mirrored": self._is_mirrored,
            "end": torch.tensor(self._end),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self._order_draws.set_state(state["order draws"])
        self._order, self._mirrored = state["order"], state["mirrored"]
        self._is_mirrored, self._end = state["is mirrored"], int(state["end"])

    def _fill(self, length: int, *, is_plain: bool) -> None:
        while len(self._order) < length:
            more = torch.randperm(len(self.labels), generator=self._order_draws)
            self._order = torch.cat([self._order, more])
            self._mirrored = torch.cat([self._mirrored, self._is_mirrored[more]])
            self._is_mirrored = ~self._is_mirrored
        recipe, index = self.recipe, self._shared(self._order[:length])
        mirrored = self._shared(self._mirrored[:length]).to(self.device)
        self._change_draws.manual_seed(_seed(self._seed, self._first, self._ranks.rank))
        pixels = self.pixels[index.to(self.pixels.device)].to(self.device)
        labels = self.labels[index.to(self.device)]
        self._order, self._mirrored = self._order[length:], self._mirrored[length:]
        x = augment.changed(
            self.preprocessing.apply(pixels),
            recipe.augment_kind,
            0.0 if is_plain else recipe.augment,
            mirrored=mirrored if recipe.flip else None,
            generator=self._change_draws,
        )
        self._chunk = Batch(x, labels)
        if not is_plain:
            x = augment.coloured(x, recipe.colour, self._change_draws)
            x = augment.cut_out(x, recipe.cutout, self._change_draws)
            self._chunk = self._mixed(x, labels)

    def _shared(self, whole: Tensor) -> Tensor:
        """What is this process's of every batch."""
        return whole.reshape(-1, self.size)[:, self._own].reshape(-1)

    def _mixed(self, x: Tensor, labels: Tensor) -> Batch:
        mixup, cutmix = self.recipe.mixup, self.recipe.cutmix
        if not mixup and not cutmix:
            return Batch(x, labels)
        x, kept = augment.mixed(x, mixup, cutmix, self._change_draws)
        return Batch(x, labels, labels.flip(0), kept)


def _seed(*numbers: int) -> int:
    """Of the changes of one chunk, so that a resumed training needs no state of them."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7])


def fits(pixels: Tensor, device: torch.device) -> bool:
    """Whether pictures may be kept on the device for the whole training."""
    if device.type != "cuda":
        return True  # Mapped files are memory already, and read a page at a time.
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return pixels.nbytes <= RESIDENT_SHARE * free_bytes


def _cut(whole: Batch, start: int, stop: int) -> Batch:
    here = slice(start, stop)
    if whole.others is None or whole.kept is None:
        return Batch(whole.x[here], whole.labels[here])
    return Batch(whole.x[here], whole.labels[here], whole.others[here], whole.kept[here])
