"""A data set: checked labelled samples in three parts, decoded on demand."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lepton_automl.config import (
    Balance,
)
from lepton_automl.core.decisions import Decision
from lepton_automl.core.events import Event
from lepton_automl.core.units import counted
from lepton_automl.data import decode_pool, pixel_cache
from lepton_automl.data.audio_files import Audio
from lepton_automl.data.decode_pool import Decoding, ReadOptions, only_files
from lepton_automl.data.pictures import decode
from lepton_automl.data.pictures.formats import FormatTable
from lepton_automl.data.pictures.framing import Framing
from lepton_automl.data.pictures.levels import LevelTable
from lepton_automl.data.pictures.picture_files import Pictures
from lepton_automl.data.pictures.pixel_scale import SIXTEEN_BIT, PixelScale
from lepton_automl.data.pictures.pixel_scale import decision as pixel_scale_decision
from lepton_automl.data.samples import PARTS, UnreadableFile, select
from lepton_automl.data.signals import (
    Signals,
)
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.metrics.balanced import Strata, is_even, is_uneven
from lepton_automl.models.front_end import LogMel
from lepton_automl.models.quantization import InputQuantization, Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

Size = tuple[int, int]
"""Height and width, pixels."""

PREPROCESSING_SAMPLES = 4096
"""Training pictures from which means and ranges are computed, evenly spaced."""

_SMALL_PICTURE = 256 * 256
"""Pixels of pictures of one size up to which they are kept as they are for several sizes."""
_COUNTED = 1 << 20
"""Pixels that are counted at once."""


@dataclass(frozen=True, eq=False)
class Part:
    """The train, validation or test part of a data set."""

    name: str
    labels: NDArray[np.int64]
    """(N,): indices into the class names of the data set."""
    groups: NDArray[np.int64] | None
    """(N,): group of each sample; None if no two samples share a group."""
    ids: tuple[str, ...]
    """Names of the samples in messages."""
    pictures: Pictures
    """uint8 (N, H, W, C), or one array or file path a sample."""
    digests: tuple[bytes, ...]
    """Hash of each picture's content."""
    near_duplicates: NDArray[np.int64] | None = None
    """(N,): number of the near duplicates that a sample belongs to, the same in all parts."""
    are_groups_found: bool = False
    """Whether groups were found in pictures or names: unrelated pictures may share one then."""
    name_groups: NDArray[np.int64] | None = None
    """(N,): of groups that were found those that file names count; None: these count nothing."""
    is_balanced: bool = False
    """Whether classes have equal weight in loss and accuracy (balanced accuracy)."""
    levels: LevelTable | None = None
    """Darkest and brightest pixel of each picture, 0 to 255; None: not known."""
    signals: Signals | None = None
    """float32 (N, length, C): measured values, of which `pictures` are the 8-bit samples; None for
    pictures."""
    formats: FormatTable | None = None
    """Size and kind of each picture as it is stored; None for signals."""
    recordings: NDArray[np.int64] | None = None
    """(N,): recording that a sample is a window of; None where no two samples are of one."""
    uint16_pixels: NDArray[np.uint16] | None = None
    """(N, H, W, C): pixels as they are stored, where they are an array of 16 bits; else None."""
    audio: Audio | None = None
    """int16 (N, window): sound, of which `pictures` are the features; None for other samples."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def raw(self) -> NDArray[Any] | None:
        """What a written file reads where that is not pixels: signals or sound; else None."""
        return self.signals if self.audio is None else self.audio

    @property
    def certain_groups(self) -> NDArray[np.int64] | None:
        """Groups (N,) that are stated, or that file names count."""
        return self.name_groups if self.are_groups_found else self.groups

    @property
    def strata(self) -> Strata:
        """Classes (N,) for balanced statistics; None if not balanced."""
        return self.labels if self.is_balanced else None

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of a hash of pictures, labels and groups, in their order."""
        content = hashlib.sha256(self.labels.astype("<i8").tobytes())
        content.update(b"".join(self.digests))
        content.update(b"" if self.groups is None else self.groups.astype("<i8").tobytes())
        return content.hexdigest()[:16]


@dataclass(frozen=True)
class LabelledTensors:
    """Decoded pictures with their labels, input of training and evaluation."""

    pixels: Tensor
    """uint8 (N, H, W, C)."""
    labels: Tensor
    """int64 (N,)."""
    is_balanced: bool = False
    """Whether classes have equal weight in loss and accuracy."""
    folder: Path | None = None
    """Where selections that are large are stored until they are no longer used; None: where large
    temporary files are."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def strata(self) -> Strata:
        """Classes (N,) for balanced statistics; None if not balanced."""
        return self.labels.cpu().numpy() if self.is_balanced else None

    def first(self, count: int) -> LabelledTensors:
        """The first `count` samples."""
        return dataclasses.replace(self, pixels=self.pixels[:count], labels=self.labels[:count])


@dataclass(frozen=True)
class LabelledFiles:
    """`LabelledTensors` as files, which several processes map into memory."""

    pixels: Path
    """.npy, uint8 (N, H, W, C)."""
    labels: Path
    """.npy, int64 (N,)."""
    is_balanced: bool = False
    states: tuple[str, str] = ("", "")
    """States of the two files when their content was checked (`pixel_cache.file_state`); empty for
    files that are not of the cache."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled pictures in three parts; made by `open_dataset`."""

    name: str
    """Short name from the path of the data, valid as a folder name."""
    class_names: tuple[str, ...]
    channels: int
    """1 for grey, 3 for RGB; 2 and 4 to 16 are not colours."""
    size: Size | None
    """Height and width if all pictures share them, else None."""
    train: Part
    validation: Part
    test: Part
    decisions: tuple[Decision, ...] = ()
    """What was decided for the user while the data were opened."""
    pixel_scale: PixelScale | None = None
    """Black and white of the stored pixels; None where all have 8 bits."""
    framing: Framing | None = None
    """How pictures get the size of a net; None: resized without regard to their shape."""
    input_quantization: InputQuantization | None = None
    """How the values that a file reads become the samples that nets see; None: they are these."""
    channel_names: tuple[str, ...] = ()
    """Of the channels of signals; empty where they have none."""
    window_stride: int = 0
    """Values from the start of one window of a signal to the next; 0 where samples are not windows
    of recordings."""
    front_end: LogMel | None = None
    """How sound becomes the features that nets see; None for other samples."""
    notes: tuple[str, ...] = ()
    """Remarks of the source for the user."""
    unreadable: tuple[UnreadableFile, ...] = ()
    """Picture files and recordings that were left out."""
    reading: ReadOptions = field(default_factory=ReadOptions)
    """How picture files are read."""

    @property
    def file_scale(self) -> PixelScale:
        """Black and white of picture files, as `decode.decode` takes them."""
        return SIXTEEN_BIT if self.pixel_scale is None else self.pixel_scale

    @property
    def is_signal(self) -> bool:
        """Whether samples are signals, whose size is (1, length)."""
        return self.train.signals is not None

    @property
    def noun(self) -> str:
        """What the samples are called in messages: `pictures` or `windows`."""
        return "windows" if self.kind != "pictures" else "pictures"

    @property
    def kind(self) -> Literal["pictures", "signals", "audio"]:
        """What the samples are."""
        return "audio" if self.is_audio else "signals" if self.is_signal else "pictures"

    @property
    def samples_text(self) -> str:
        """What the samples are, such as `grey pictures of 28x28 pixels`."""
        channels = counted(self.channels, "channel")
        if self.is_signal and self.size is not None:
            return f"signals of {self.size[1]} values in {channels}"
        if self.front_end is not None:
            return f"windows of {self.front_end.window} audio samples at {self.front_end.rate} Hz"
        kinds = {1: "grey pictures", 3: "RGB pictures"}
        kind = kinds.get(self.channels, f"pictures with {channels}")
        sizes = "several sizes" if self.size is None else "{}x{} pixels".format(*self.size)
        return f"{kind} of {sizes}"

    @property
    def is_audio(self) -> bool:
        """Whether samples are windows of sound, whose features nets see."""
        return self.front_end is not None

    @property
    def parts(self) -> tuple[Part, Part, Part]:
        return self.train, self.validation, self.test

    def summary_event(self) -> Event:
        """The event that summarises the data in one line."""
        train, validation, test = map(len, self.parts)
        return Event(
            "data",
            f"{self.name}: {train + validation + test} {self.samples_text}, "
            f"{len(self.class_names)} classes; "
            f"{train} train, {validation} validation, {test} test",
            data={"train": train, "validation": validation, "test": test},
        )

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of a hash of the data with their split."""
        return _digest(*self.class_names, *(part.fingerprint for part in self.parts))

    def part(self, name: str) -> Part:
        """The part named `train`, `validation` or `test`."""
        return dict(zip(PARTS, self.parts, strict=True))[name]

    def part_fingerprint(self, name: str) -> str:
        """Sixteen hexadecimal digits of a hash of a part's labelled pictures, in any order."""
        part = self.part(name)
        pairs = zip(part.digests, part.labels.tolist(), strict=True)
        content = b"".join(sorted(digest + b"%d," % label for digest, label in pairs))
        return _digest(*self.class_names, hashlib.sha256(content).hexdigest())

    def pixels(
        self, part: str, size: Size, places: NDArray[np.int64] | None = None
    ) -> NDArray[np.uint8]:
        """Decode pictures of a part: (N, H, W, C), all in the part's order, or `places`.

        They are 8-bit pixels before any quantization of channels; of 16 bits the samples that nets
        see, since scaling to 8 bits may leave no contrast.

        Raises
        ------
        DataError
            If a picture file was removed or damaged since the data were opened.
        """
        if self.input_type == "uint16":
            return np.concatenate(
                list(self._samples(self._stored_blocks(self.part(part), size, places)))
            )
        pictures = self.part(part).pictures
        chosen = pictures if places is None else select(pictures, places)
        made = pixel_cache.decode_blocks(chosen, self.channels, size, self.file_scale, self.framing)
        return np.concatenate(list(made))

    def own_size_pictures(
        self, part: str, places: NDArray[np.int64]
    ) -> Iterator[NDArray[np.uint8]]:
        """Decode pictures of a part at `places` one by one in their own sizes: (H, W, C).

        Raises
        ------
        DataError
            If a picture file was removed or damaged since the data were opened.
        """
        for picture in select(self.part(part).pictures, places):
            yield decode.decode(picture, self.channels, scale=self.file_scale)

    @property
    def input_type(self) -> str:
        """Type of the values that a written file reads."""
        if self.is_audio:
            return "int16"
        return "uint8" if self.input_quantization is None else self.input_quantization.dtype

    def _stored_blocks(
        self, source: Part, size: Size, places: NDArray[np.int64] | None = None
    ) -> Iterator[NDArray[Any]]:
        """Pixels that a written file reads for a part, or for samples at `places`, in blocks."""
        if self.input_type != "uint16":
            chosen = source.pictures if places is None else select(source.pictures, places)
            return pixel_cache.decode_blocks(
                chosen, self.channels, size, self.file_scale, self.framing
            )
        if source.uint16_pixels is not None:
            stored = source.uint16_pixels if places is None else source.uint16_pixels[places]
            return pixel_cache.decode_16_bit_blocks(stored, self.channels, size)
        files = only_files(source.pictures)
        some = files if places is None else [files[place] for place in places.tolist()]
        return pixel_cache.decode_16_bit_blocks(some, self.channels, size)

    def _samples(self, blocks: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.uint8]]:
        """What nets see of pictures, block by block."""
        quantization = None if self.is_signal else self.input_quantization
        for block in blocks:
            yield block if quantization is None else quantization.quantize(block)

    def preprocessing(self, size: Size) -> Preprocessing:
        """Rounded mean and inverse standard deviation of the training pixels."""
        places = np.linspace(0, len(self.train) - 1, min(PREPROCESSING_SAMPLES, len(self.train)))
        plain = dataclasses.replace(self, framing=None)
        blocks = plain._stored_blocks(self.train, size, places.round().astype(np.int64))
        levels, counts = np.arange(256), np.zeros(256, np.int64)
        for block in self._samples(blocks):
            flat = block.reshape(-1)
            for start in range(0, len(flat), _COUNTED):  # Each value takes 8 bytes meanwhile.
                counts += np.bincount(flat[start : start + _COUNTED], minlength=256)
        mean = float((levels * counts).sum() / counts.sum())
        variance = float(((levels - mean) ** 2 * counts).sum() / counts.sum())
        # The deviation of uniformly grey pictures is 0; at least 1 avoids a division by it.
        scale = float(np.float32(1 / max(variance**0.5, 1.0)))
        return Preprocessing(round(mean), scale, self.input_quantization)

    def with_inputs(self, quantization: InputQuantization | None) -> Dataset:
        """Copy with the samples of a net that reads its input with this quantization.

        Raises
        ------
        DataError
            If the data have values of another type.
        """
        if quantization == self.input_quantization:
            return self
        if quantization is None:
            return self.with_8_bits()
        needed = quantization.dtype if quantization.dtype in ("int16", "uint16") else ""
        if needed and self.input_type != needed:
            raise DataError(
                f"the net reads {needed} values, the data are read as {self.input_type}",
                fix="give data that are stored as those that the net was trained on",
            )
        made = dataclasses.replace(self, input_quantization=quantization)
        if not self.is_signal:
            return made
        train, validation, test = (
            dataclasses.replace(part, pictures=quantization.quantize(part.signals)[:, None])
            if part.signals is not None
            else part
            for part in self.parts
        )
        return dataclasses.replace(made, train=train, validation=validation, test=test)

    def with_8_bits(self) -> Dataset:
        """Copy for a net that reads uint8 grey or RGB pixels: those of 16 bits are scaled."""
        if self.input_quantization is None or self.is_signal:
            return self
        kept = [d for d in self.decisions if d.name not in ("input type", "range of pixels")]
        if self.pixel_scale is not None:
            kept.append(pixel_scale_decision(self.pixel_scale, "the net reads 8-bit pixels"))
        return dataclasses.replace(self, input_quantization=None, decisions=tuple(kept))

    def matched_to(self, class_names: Sequence[str], channels: int) -> Dataset:
        """Copy for a net with `channels` that orders the same classes as `class_names`."""
        if (self.class_names, self.channels) == (tuple(class_names), channels):
            return self
        index = np.array([class_names.index(name) for name in self.class_names], np.int64)
        train, validation, test = (
            dataclasses.replace(part, labels=index[part.labels]) for part in self.parts
        )
        return dataclasses.replace(
            self,
            class_names=tuple(class_names),
            channels=channels,
            train=train,
            validation=validation,
            test=test,
        )

    def decoded_files(self, part: str, size: Size, cache: Path) -> LabelledFiles:
        """Samples of a part as files in the folder `cache`, made unless they are there and intact.

        Raises
        ------
        DataError
            As `pixels`.
        MachineError
            If the cache cannot be written.
        """
        return self._picture_files(part, size, cache, is_raw=False)

    def _picture_files(self, part: str, size: Size, cache: Path, *, is_raw: bool) -> LabelledFiles:
        """Samples of pictures, or where `is_raw` the pixels that a written file reads."""
        source = self.part(part)
        is_quantized = self.input_quantization is not None and not self.is_signal and not is_raw
        stem = self._stem(source, size, is_quantized=is_quantized)
        pixels, labels = cache / f"{stem}.pixels.npy", cache / f"{stem}.labels.npy"
        shape = (len(source), *size, self.channels)
        label_state = pixel_cache.cache_array(
            labels, shape[:1], np.dtype(np.int64), lambda: [source.labels]
        )
        files = only_files(source.pictures)
        is_many = len(files) >= decode_pool.MANY and self.input_type != "uint16"
        is_kept = is_many and self._is_kept(size)
        if is_many and not is_kept and not is_quantized:
            how, text = self._decoding(size), f"{part} pictures"
            state = pixel_cache.cache_pictures(pixels, files, how, self.reading, text)
            return LabelledFiles(pixels, labels, source.is_balanced, (state, label_state))

        def made() -> Iterator[NDArray[Any]]:
            blocks: Iterator[NDArray[Any]] = self._stored_blocks(source, size)
            if is_kept:
                blocks = pixel_cache.decode_blocks(
                    self._kept_pixels(part, cache),
                    self.channels,
                    size,
                    self.file_scale,
                    self.framing,
                )
            return self._samples(blocks) if is_quantized else blocks

        kind = np.dtype(self.input_type if is_raw and not self.is_audio else np.uint8)
        state = pixel_cache.cache_array(pixels, shape, kind, made, is_forced=self.reading.is_forced)
        return LabelledFiles(pixels, labels, source.is_balanced, (state, label_state))

    def _stem(self, source: Part, size: Size, *, is_quantized: bool) -> str:
        """Name of the files of a part, which tells all that decides their content."""
        stem = f"{source.name}-{size[0]}x{size[1]}x{self.channels}-{source.fingerprint}"
        if is_quantized:
            stem += f"-{_digest(repr(self.input_quantization))[:8]}"
        elif self.input_type == "uint16":
            stem += "-uint16"
        if self.file_scale != SIXTEEN_BIT:
            stem += f"-{self.file_scale.black:g}-{self.file_scale.white:g}"
        if self.framing is not None:
            stem += f"-{_digest(self.framing.to_json())[:8]}"
        if self.front_end is not None:
            stem += f"-{_digest(self.front_end.to_json())[:8]}"
        return stem

    def _decoding(self, size: Size) -> Decoding:
        return Decoding(self.channels, size, self.file_scale, self.framing)

    def _is_kept(self, size: Size) -> bool:
        """Whether pictures are kept in their own size too, from which they get the size of a net.

        So files of small pictures are decoded once for all sizes.
        """
        is_small = self.size is not None and math.prod(self.size) <= _SMALL_PICTURE
        is_other = size != self.size or self.framing is not None
        return is_small and is_other and (self.input_quantization is None or self.is_signal)

    def _kept_pixels(self, part: str, cache: Path) -> NDArray[np.uint8]:
        assert self.size is not None, "`_is_kept` is asked before"
        whole = dataclasses.replace(self, framing=None)
        return map_labelled(whole.decoded_files(part, self.size, cache))[0]

    def file_input_files(self, part: str, size: Size, cache: Path) -> LabelledFiles:
        """What a written file reads for the samples of a part, and the labels, as files in `cache`.

        These are the pixels, as `decoded_files`; of signals the measured values, float32
        (N, length, C); of sound its samples, int16 (N, window).

        Raises
        ------
        DataError, MachineError
            As `decoded_files`.
        """
        source = self.part(part)
        raw = source.raw
        if raw is None:
            return self._picture_files(part, size, cache, is_raw=True)
        values_kind = np.dtype(self.input_type)
        kind = "signals" if self.is_signal else "audio"
        if self.is_signal and values_kind != np.float32:
            kind = f"{values_kind.name}-{kind}"
        values, labels = (
            cache / f"{part}-{source.fingerprint}.{name}.npy" for name in (kind, "labels")
        )
        states = (
            pixel_cache.cache_array(
                values, raw.shape, values_kind, lambda: _converted(raw, values_kind)
            ),
            pixel_cache.cache_array(
                labels, (len(source),), np.dtype(np.int64), lambda: [source.labels]
            ),
        )
        return LabelledFiles(values, labels, source.is_balanced, states)

    def with_balance(self, balance: Balance) -> Dataset:
        """Copy with balanced accuracy if `balance` is on, or auto and classes are uneven.

        Raises
        ------
        ConfigError
            If `balance` is on and all classes have equally many samples.
        """
        if balance == "on" and all(is_even(part.labels) for part in self.parts):
            raise ConfigError(
                "--balance on has no effect: all classes have as many samples",
                fix="leave it out",
            )
        is_balanced = balance == "on" or (balance == "auto" and is_uneven(self.train.labels))
        train, validation, test = (
            dataclasses.replace(part, is_balanced=is_balanced) for part in self.parts
        )
        made = self._balance_decision(is_balanced) if balance == "auto" else ()
        if not is_balanced and not made:
            return self
        return dataclasses.replace(
            self, train=train, validation=validation, test=test, decisions=self.decisions + made
        )

    def _balance_decision(self, is_balanced: bool) -> tuple[Decision, ...]:
        """How classes are weighted; none where all classes have as many training samples."""
        if is_even(self.train.labels):
            return ()
        counts = np.bincount(self.train.labels, minlength=len(self.class_names))
        rare, common = int(counts.argmin()), int(counts.argmax())
        few = counted(int(counts[rare]), "training sample")
        return (
            Decision(
                name="class weights",
                choice="classes have equal weight in training and accuracy (balanced accuracy)"
                if is_balanced
                else "samples have equal weight",
                evidence=f"{self.class_names[rare]} has {few}, "
                f"{self.class_names[common]} {counts[common]}",
                certainty="inferred",
                option=f"--balance {'off' if is_balanced else 'on'}",
            ),
        )


def map_labelled(files: LabelledFiles) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Map the pictures and labels of `files` into memory.

    Writing to the arrays changes neither the files nor other processes.

    Raises
    ------
    DataError
        If a file of the cache has changed since it was written.
    """
    # Mode c is copy-on-write: pages are shared until they are written to.
    pixels, labels = (
        pixel_cache.map_array(path, state=state, mode="c")
        for path, state in zip((files.pixels, files.labels), files.states, strict=True)
    )
    return pixels, labels


def _converted(values: NDArray[Any], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """The values in another type, block by block."""
    rows = max(1, _COUNTED // max(1, values[:1].size))
    for start in range(0, len(values), rows):
        yield values[start : start + rows].astype(dtype, copy=False)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogateescape")).hexdigest()[:16]
