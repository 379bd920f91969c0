"""Load training batches: gather, normalise and augment chunks of them on the device."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lepton_automl.models.quantization import Preprocessing
from lepton_automl.training import augmentation
from lepton_automl.training.distributed import SINGLE_PROCESS, ProcessGroup
from lepton_automl.training.recipe import Recipe
from lepton_automl.training.schedule import Schedule

if TYPE_CHECKING:
    from lepton_automl.data.dataset import LabelledTensors

_CHUNK_BYTES = {"cpu": 2 << 20, "cuda": 64 << 20}
"""Size of a chunk as float32: enough to hide Python's overhead, little enough for the cache. The
loss is checked once a chunk, which waits for a GPU, so a chunk there holds many steps."""
_RESIDENT_FRACTION = 0.5
"""Of a GPU's free memory, the most that the pixels of a data set take; larger ones stay in host
memory, often a mapped file, and are gathered and copied a chunk ahead."""


class Batch(NamedTuple):
    """Normalised pixels and their labels."""

    x: Tensor
    """float (B, C, H, W)."""
    labels: Tensor
    """int64 (B,)."""
    mixed_labels: Tensor | None = None
    """int64 (B,): labels of the samples mixed into these by mixup or CutMix; None without."""
    lam: Tensor | None = None
    """(B,): lambda of mixup and CutMix, the weight of a sample's own label, 0 to 1."""


class Loader:
    """Training batches in random order, augmented on the device a chunk of batches at a time.

    The order is one random permutation of the data after the other, cut into batches of one
    size, so every sample is seen equally often and no batch is ever smaller than two. With
    `flip` half of the samples are mirrored in the first pass and the others in the next, in turn,
    so that both sides are seen equally often too (Jordan 2024, section 3.6, arXiv:2404.00498).
    In a data-parallel training each process gets its slice of every batch. A `schedule` that is
    passed through faster has fewer batches, the last ones of them as they are without augmentation.
    """

    def __init__(
        self,
        data: LabelledTensors,
        preprocessing: Preprocessing,
        recipe: Recipe,
        epochs: int,
        seed: int,
        device: torch.device,
        process_group: ProcessGroup = SINGLE_PROCESS,
        schedule: Schedule | None = None,
    ) -> None:
        self.device, self.labels = device, data.labels.to(device)
        is_resident = fits_on_device(data.pixels, device)
        self.pixels = data.pixels.to(device) if is_resident else data.pixels
        self.preprocessing, self.recipe = preprocessing, recipe
        samples = len(self.labels)
        self.batch_size = max(2, min(recipe.batch_size, samples))
        self.steps = max(1, math.ceil(epochs * samples / self.batch_size))
        self.schedule = schedule or Schedule()
        self.schedule.begin(self.steps)
        self.plain_from = math.ceil(self.steps * (1 - recipe.plain_finish))
        self._rank, self._seed = process_group.rank, seed
        self._local = process_group.local_slice(self.batch_size)
        self.per_rank_batch = self._local.stop - self._local.start
        self.mean_per_rank_batch = self.batch_size / process_group.world_size
        bytes_per_batch = 4 * math.ceil(self.mean_per_rank_batch) * self.pixels[0].numel()
        self.steps_per_chunk = max(1, _CHUNK_BYTES[device.type] // bytes_per_batch)
        self._order_rng = torch.Generator().manual_seed(seed)
        self._augment_rng = torch.Generator(device)
        self._order = torch.zeros(0, dtype=torch.int64)
        flip_rng = torch.Generator().manual_seed(seed + 2)
        self._flip_next = torch.rand(samples, generator=flip_rng) < 0.5
        self._flipped = torch.zeros(0, dtype=torch.bool)
        self._gatherer = None if is_resident else _Gatherer(self.pixels, device)
        self._chunk_start = self._chunk_end = 0
        self._chunk = Batch(torch.zeros(0), torch.zeros(0))

    def batch(self, step: int) -> Batch:
        """Return the batch of `step`, this process's slice of it; steps must come in order."""
        if step == self._chunk_end:
            self._chunk_start, self._chunk_end = step, self._end_of_chunk(step)
            samples = (self._chunk_end - step) * self.batch_size
            self._load_chunk(samples, is_plain=not self._batches_before(self.plain_from, step))
            following = (self._end_of_chunk(self._chunk_end) - self._chunk_end) * self.batch_size
            # Behind the last whole chunk of an epoch the order is not drawn yet.
            if self._gatherer is not None and 0 < following <= len(self._order):
                self._gatherer.start(self._local_part(self._order[:following]))
        start = (step - self._chunk_start) * self.per_rank_batch
        return _cut(self._chunk, start, start + self.per_rank_batch)

    def _end_of_chunk(self, step: int) -> int:
        """The step after the last one of the chunk that begins with `step`."""
        before_plain = self._batches_before(self.plain_from, step)
        following = before_plain or self._batches_before(self.steps, step)
        return step + min(self.steps_per_chunk, following)

    def _batches_before(self, mark: int, step: int) -> int:
        """Batches from that of `step` to the first one at or behind step `mark` of the schedule."""
        return self.schedule.batches_before(mark, step - self.schedule.batches)

    def micro_batches(self, step: int, count: int) -> Iterator[Batch]:
        """The batch of `step` in at most `count` parts of at least two samples each."""
        whole, count = self.batch(step), max(1, min(count, self.per_rank_batch // 2))
        sizes = [len(part) for part in whole.labels.tensor_split(count)]
        starts = [sum(sizes[:number]) for number in range(count)]
        return (_cut(whole, a, a + n) for a, n in zip(starts, sizes, strict=True))

    @property
    def chunk_length(self) -> int:
        """Batches in the current chunk."""
        return self._chunk_end - self._chunk_start

    def is_last_of_chunk(self, step: int) -> bool:
        """Whether the batch of `step` is the last one of its chunk."""
        return step + 1 == self._chunk_end

    def state_dict(self) -> dict[str, Tensor]:
        """State that decides the next batches, by name; valid after the last batch of a chunk."""
        return {
            "order rng": self._order_rng.get_state(),
            "order": self._order,
            "flipped": self._flipped,
            "flip next": self._flip_next,
            "end": torch.tensor(self._chunk_end),
        }

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned."""
        self._order_rng.set_state(state_dict["order rng"])
        self._order, self._flipped = state_dict["order"], state_dict["flipped"]
        self._flip_next, self._chunk_end = state_dict["flip next"], int(state_dict["end"])

    def _load_chunk(self, samples: int, *, is_plain: bool) -> None:
        while len(self._order) < samples:
            more = torch.randperm(len(self.labels), generator=self._order_rng)
            self._order = torch.cat([self._order, more])
            self._flipped = torch.cat([self._flipped, self._flip_next[more]])
            self._flip_next = ~self._flip_next
        recipe, index = self.recipe, self._local_part(self._order[:samples])
        flipped = self._local_part(self._flipped[:samples]).to(self.device)
        self._order, self._flipped = self._order[samples:], self._flipped[samples:]
        # A seed of its own for every chunk, so that a checkpoint needs no state of this generator.
        self._augment_rng.manual_seed(_hash(self._seed, self._chunk_start, self._rank))
        if self._gatherer is None:
            pixels = self.pixels[index.to(self.pixels.device)]
        else:
            pixels = self._gatherer.take(index)
        labels = self.labels[index.to(self.device)]
        x = augmentation.random_augment(
            self.preprocessing.apply(pixels),
            recipe.augment_kind,
            0.0 if is_plain else recipe.augment,
            flipped=flipped if recipe.flip else None,
            generator=self._augment_rng,
        )
        self._chunk = Batch(x, labels)
        if not is_plain:
            x = augmentation.colour_jitter(x, recipe.colour, self._augment_rng)
            x = augmentation.cutout(x, recipe.cutout, self._augment_rng)
            self._chunk = Batch(x, labels)
            if recipe.mixup or recipe.cutmix:
                x, lam = augmentation.mixup_cutmix(
                    x, recipe.mixup, recipe.cutmix, self._augment_rng
                )
                self._chunk = Batch(x, labels, labels.flip(0), lam)

    def _local_part(self, values: Tensor) -> Tensor:
        """Slice every batch in `values` (steps * batch_size,) for this process."""
        return values.reshape(-1, self.batch_size)[:, self._local].reshape(-1)


class _Gatherer:
    """Gathers the pixels of the next chunk in a thread, while a GPU works on this one.

    They are gathered into pinned memory, from which a GPU copies by itself.

    Parameters
    ----------
    pixels : Tensor
        uint8 (N, H, W, C) in host memory.
    device : torch.device
        Where batches are computed.
    """

    def __init__(self, pixels: Tensor, device: torch.device) -> None:
        self._pixels, self._device = pixels, device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gather")
        self._index = torch.zeros(0, dtype=torch.int64)
        self._rows: Future[Tensor] | None = None

    def start(self, index: Tensor) -> None:
        """Begin to gather the pixels at `index`, which are probably taken next."""
        self._index = index.clone()
        self._rows = self._thread.submit(self._gathered, self._index)

    def take(self, index: Tensor) -> Tensor:
        """The pixels at `index` on the device."""
        rows, self._rows = self._rows, None
        if rows is None or not torch.equal(index, self._index):
            return self._gathered(index).to(self._device, non_blocking=True)
        return rows.result().to(self._device, non_blocking=True)

    def _gathered(self, index: Tensor) -> Tensor:
        shape, is_pinned = (len(index), *self._pixels.shape[1:]), self._device.type == "cuda"
        rows = torch.empty(shape, dtype=self._pixels.dtype, pin_memory=is_pinned)
        return torch.index_select(self._pixels, 0, index, out=rows)


def _hash(*numbers: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7])


def fits_on_device(pixels: Tensor, device: torch.device) -> bool:
    """Whether pixels can stay in the device's memory for the whole training."""
    if device.type != "cuda":
        return True  # Mapped files are in memory already, and read a page at a time.
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return pixels.nbytes <= _RESIDENT_FRACTION * free_bytes


def _cut(batch: Batch, start: int, stop: int) -> Batch:
    here = slice(start, stop)
    if batch.mixed_labels is None or batch.lam is None:
        return Batch(batch.x[here], batch.labels[here])
    return Batch(batch.x[here], batch.labels[here], batch.mixed_labels[here], batch.lam[here])
