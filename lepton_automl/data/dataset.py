"""Dataset: labelled pictures in three parts, checked, decoded on demand."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lepton_automl.config import Balance
from lepton_automl.core.events import Emit, Event, silent
from lepton_automl.data import loading, pixel_cache
from lepton_automl.data.loading import CheckedSamples
from lepton_automl.data.sources import PARTS, Pictures
from lepton_automl.errors import ConfigError
from lepton_automl.metrics.balanced import Strata, is_even, is_uneven
from lepton_automl.models.model import Preprocessing

Size = tuple[int, int]
"""Height and width, pixels."""

_PREPROCESSING_SAMPLES = 4096
"""Preprocessing looks at so many training pictures, evenly spaced; more change nothing."""


@dataclass(frozen=True, eq=False)
class Part:
    """One of `train`, `validation`, `test`."""

    name: str
    labels: NDArray[np.int64]
    """(N,) places in the dataset's `class_names`."""
    groups: NDArray[np.int64] | None
    """(N,) or nothing where every sample stands alone."""
    ids: tuple[str, ...]
    """What messages call a sample."""
    pictures: Pictures
    """uint8 (N, H, W, C), or arrays and file paths one a sample."""
    digests: tuple[bytes, ...]
    """A hash of every picture's content."""
    is_balanced: bool = False
    """Every class counts alike, in training and in accuracy; else every sample does."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def strata(self) -> Strata:
        """(N,): what `balance` counts by."""
        return self.labels if self.is_balanced else None

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of pictures, labels and groups, in their order."""
        content = hashlib.sha256(self.labels.astype("<i8").tobytes())
        content.update(b"".join(self.digests))
        content.update(b"" if self.groups is None else self.groups.astype("<i8").tobytes())
        return content.hexdigest()[:16]


@dataclass(frozen=True)
class LabelledTensors:
    """Decoded pictures with their labels, as training and evaluation take them."""

    pixels: Tensor
    """uint8 (N, H, W, C)."""
    labels: Tensor
    """int64 (N,)."""
    is_balanced: bool = False
    """Every class counts alike; else every sample does."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def strata(self) -> Strata:
        """(N,): what `balance` counts by."""
        return self.labels.cpu().numpy() if self.is_balanced else None

    def first(self, count: int) -> LabelledTensors:
        """The first samples alone."""
        return dataclasses.replace(self, pixels=self.pixels[:count], labels=self.labels[:count])


@dataclass(frozen=True)
class LabelledFiles:
    """`Labelled` on disk, to be mapped by many processes."""

    pixels: Path
    """.npy, uint8 (N, H, W, C)."""
    labels: Path
    """.npy, int64 (N,)."""
    is_balanced: bool = False


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled pictures in three parts; made by `open_dataset`."""

    name: str
    """Short name after the data's place, fit for a folder."""
    class_names: tuple[str, ...]
    channels: int
    """1 for grey, 3 for RGB."""
    size: Size | None
    """Height and width where all pictures share them, else nothing."""
    train: Part
    validation: Part
    test: Part

    @property
    def parts(self) -> tuple[Part, Part, Part]:
        return self.train, self.validation, self.test

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of everything a run can see of the data, the split too."""
        return _digest(*self.class_names, *(part.fingerprint for part in self.parts))

    def part(self, name: str) -> Part:
        """The part called `train`, `validation` or `test`."""
        return dict(zip(PARTS, self.parts, strict=True))[name]

    def part_fingerprint(self, name: str) -> str:
        """Sixteen hexadecimal digits of a part's labelled pictures, whatever their order."""
        part = self.part(name)
        pairs = zip(part.digests, part.labels.tolist(), strict=True)
        content = b"".join(sorted(digest + b"%d," % label for digest, label in pairs))
        return _digest(*self.class_names, hashlib.sha256(content).hexdigest())

    def pixels(self, part: str, size: Size) -> NDArray[np.uint8]:
        """All pictures of a part, uint8 (N, H, W, C), in the part's order.

        Raises
        ------
        DataError
            If a picture file has gone or changed for the worse since the data were opened.
        """
        made = pixel_cache.decode_blocks(self.part(part).pictures, self.channels, size)
        return np.concatenate(list(made))

    def preprocessing(self, size: Size) -> Preprocessing:
        """Rounded mean and inverse standard deviation of the training pixels."""
        pictures = self.train.pictures
        places = np.linspace(0, len(self.train) - 1, min(_PREPROCESSING_SAMPLES, len(self.train)))
        chosen = loading.select(pictures, places.round().astype(np.int64))
        levels, counts = np.arange(256), np.zeros(256, np.int64)
        for block in pixel_cache.decode_blocks(chosen, self.channels, size):
            counts += np.bincount(block.reshape(-1), minlength=256)
        mean = float((levels * counts).sum() / counts.sum())
        variance = float(((levels - mean) ** 2 * counts).sum() / counts.sum())
        # Pictures of one grey all over have no deviation; one step is the least there is.
        return Preprocessing(round(mean), float(np.float32(1 / max(variance**0.5, 1.0))))

    def matched_to(self, class_names: Sequence[str], channels: int) -> Dataset:
        """The same pictures for a net with its own order of the same classes, and channels."""
        if (self.class_names, self.channels) == (tuple(class_names), channels):
            return self
        place = np.array([class_names.index(name) for name in self.class_names], np.int64)
        train, validation, test = (
            dataclasses.replace(part, labels=place[part.labels]) for part in self.parts
        )
        return Dataset(self.name, tuple(class_names), channels, self.size, train, validation, test)

    def decoded_files(self, part: str, size: Size, cache: Path) -> LabelledFiles:
        """A part decoded into `cache`, once: files already there are given back.

        Raises
        ------
        DataError
            As `pixels`.
        MachineError
            If the cache cannot be written.
        """
        source = self.part(part)
        stem = f"{part}-{size[0]}x{size[1]}x{self.channels}-{source.fingerprint}"
        pixels, labels = cache / f"{stem}.pixels.npy", cache / f"{stem}.labels.npy"
        shape = (len(source), *size, self.channels)
        made = functools.partial(pixel_cache.decode_blocks, source.pictures, self.channels, size)
        pixel_cache.cache_array(pixels, shape, np.dtype(np.uint8), made)
        pixel_cache.cache_array(labels, shape[:1], np.dtype(np.int64), lambda: [source.labels])
        return LabelledFiles(pixels, labels, source.is_balanced)

    def with_balance(self, balance: Balance) -> Dataset:
        """These data where every class counts alike, if that is asked for; else as they are.

        Raises
        ------
        ConfigError
            If it is the same who counts alike.
        """
        if balance == "on" and all(is_even(part.labels) for part in self.parts):
            raise ConfigError(
                "--balance on has no effect: all classes have as many pictures",
                fix="leave it out",
            )
        if balance == "off" or (balance == "auto" and not is_uneven(self.train.labels)):
            return self
        train, validation, test = (dataclasses.replace(p, is_balanced=True) for p in self.parts)
        return dataclasses.replace(self, train=train, validation=validation, test=test)


def load_labelled(files: LabelledFiles) -> LabelledTensors:
    """The pictures and labels of `files`, mapped into memory rather than read.

    The tensors may be written to; that changes neither the files nor other processes.
    """
    # Mode c: pages are shared until somebody writes to them.
    pixels, labels = (np.load(path, mmap_mode="c") for path in (files.pixels, files.labels))
    return LabelledTensors(torch.from_numpy(pixels), torch.from_numpy(labels), files.is_balanced)


def open_dataset(
    data: str | Path,
    *,
    test: Path | None = None,
    seed: int = 0,
    skip_corrupt: bool = False,
    quarantine: Path | None = None,
    emit: Emit = silent,
) -> Dataset:
    """Read labelled pictures, check every one, and divide what is not divided.

    Parameters
    ----------
    data : str or Path
        What one of the `sources` accepts: `digits`, a folder with one sub-folder per class, a
        `.npz` file.
    test : Path, optional
        More labelled pictures, of the same classes: the test part.
    seed : int
        Of the split.
    skip_corrupt : bool
        Leave out picture files that cannot be read, instead of refusing the data.
    quarantine : Path, optional
        Text file that names what was left out, a line each.

    Raises
    ------
    DataError, ConfigError, MachineError
        If the data cannot be used, have a test part beside `test`, or `quarantine` is read-only.
    """
    samples = loading.read_samples(str(data), test)
    for note in samples.notes:
        emit(Event("intake", note))
    content = loading.check_pictures(samples, skip_corrupt, quarantine, emit)
    drawn = loading.assign_parts(content, seed)
    train, validation, test_part = (_part(content, drawn, name) for name in PARTS)
    name, size = loading.dataset_name(str(data)), content.size
    emit(loading.summary_event(name, content, (len(train), len(validation), len(test_part))))
    class_names = content.samples.class_names
    return Dataset(name, class_names, content.channels, size, train, validation, test_part)


def _part(content: CheckedSamples, drawn: NDArray[np.str_], name: str) -> Part:
    samples, places = content.samples, np.flatnonzero(drawn == name)
    groups = None
    if samples.groups is not None:
        sizes = np.bincount(samples.groups)[samples.groups[places]]
        groups = None if (sizes == 1).all() else samples.groups[places]
    return Part(
        name=name,
        labels=samples.labels[places],
        groups=groups,
        ids=tuple(samples.ids[place] for place in places),
        pictures=loading.select(samples.pictures, places),
        digests=tuple(content.digests[place] for place in places),
    )


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogateescape")).hexdigest()[:16]
