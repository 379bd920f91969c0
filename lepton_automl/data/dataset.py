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
    AUTO,
    Balance,
    BandMean,
    ChannelAxis,
    Channels,
    InputType,
    column_names,
    part_folders,
)
from lepton_automl.core import large_arrays
from lepton_automl.core.decisions import Decision
from lepton_automl.core.events import Emit, Event, silent
from lepton_automl.core.files import real_path
from lepton_automl.data import decode_pool, loading, pixel_cache
from lepton_automl.data.audio import FRONT_END_SAMPLES, make_front_end, spaced
from lepton_automl.data.audio_files import Audio
from lepton_automl.data.checked_samples import (
    CheckedSamples,
    UnreadableFile,
    check_pictures,
    choose_file_scale,
    summary_event,
    with_channels,
)
from lepton_automl.data.decode_pool import Decoding, Reading, only_files
from lepton_automl.data.pictures import decode
from lepton_automl.data.pictures.formats import FormatTable
from lepton_automl.data.pictures.framing import Framing
from lepton_automl.data.pictures.levels import LevelTable
from lepton_automl.data.pictures.pixel_scale import SIXTEEN_BIT, PixelScale
from lepton_automl.data.pictures.pixel_scale import decision as pixel_scale_decision
from lepton_automl.data.pictures.pixel_scale import parse as parse_scale
from lepton_automl.data.samples import PARTS, Pictures, select
from lepton_automl.data.signals import (
    Signals,
    constant_channels,
    input_type_of,
    quantization_of,
    quantization_of_pixels,
)
from lepton_automl.data.splits.assign import (
    assign_parts,
    cut_through_for,
    stated_times,
    with_split_decision,
    with_time_decision,
)
from lepton_automl.data.splits.groups import stated_groups, with_groups
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.metrics.balanced import Strata, is_even, is_uneven
from lepton_automl.models.front_end import LogMel
from lepton_automl.models.front_end_onnx import compute_features
from lepton_automl.models.quantization import InputQuantization, Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

Size = tuple[int, int]
"""Height and width, pixels."""

CODE = "torch_dataset"
"""Kind of data (`DataPlace.kind`) that code of the user makes."""
AUDIO = ("audio_folder", "manifest")
"""Sources of sound."""

_FEW_GROUPED = 0.02
"""Share of the samples of a part up to which groups that were found do not count in statistics."""

_PREPROCESSING_SAMPLES = 4096
"""Training pictures from which mean and deviation are computed, evenly spaced."""

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
    deep: NDArray[np.uint16] | None = None
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
    """1 for grey, 3 for RGB; 2 and 4 to 16 are no colours."""
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
    """Values from the start of one window of a signal to the next; 0 where samples are no windows
    of recordings."""
    front_end: LogMel | None = None
    """How sound becomes the features that nets see; None for other samples."""
    notes: tuple[str, ...] = ()
    """Remarks of the source for the user."""
    unreadable: tuple[UnreadableFile, ...] = ()
    """Picture files that were left out."""
    reading: Reading = field(default_factory=Reading)
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
    def is_audio(self) -> bool:
        """Whether samples are windows of sound, whose features nets see."""
        return self.front_end is not None

    @property
    def parts(self) -> tuple[Part, Part, Part]:
        return self.train, self.validation, self.test

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
        if source.deep is not None:
            deep = source.deep if places is None else source.deep[places]
            return pixel_cache.decode_deep_blocks(deep, self.channels, size)
        files = only_files(source.pictures)
        some = files if places is None else [files[place] for place in places.tolist()]
        return pixel_cache.decode_deep_blocks(some, self.channels, size)

    def _samples(self, blocks: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.uint8]]:
        """What nets see of pictures, block by block."""
        quantization = None if self.is_signal else self.input_quantization
        for block in blocks:
            yield block if quantization is None else quantization.quantize(block)

    def preprocessing(self, size: Size) -> Preprocessing:
        """Rounded mean and inverse standard deviation of the training pixels."""
        places = np.linspace(0, len(self.train) - 1, min(_PREPROCESSING_SAMPLES, len(self.train)))
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
        return (
            Decision(
                name="class weights",
                choice="classes have equal weight in training and accuracy (balanced accuracy)"
                if is_balanced
                else "samples have equal weight",
                evidence=f"{self.class_names[rare]} has {counts[rare]} training samples, "
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


@dataclass(frozen=True)
class DataPlace:
    """Where data are, in a form that means the same in every working directory."""

    place: str
    """Absolute path, or the name of data that are no file, such as `digits`."""
    kind: str
    """Name of the source that reads them; empty where no source does."""


def locate_data(data: str) -> DataPlace:
    """Find the source of data, and their absolute path if the source reads a path.

    Parameters
    ----------
    data : str
        As `open_dataset` takes it.
    """
    found = loading.find_source(data)
    if found is None:
        return DataPlace(data, "")
    kind, source = found
    # A name may be that of a file in the working directory too: the built-in `digits` is no path.
    path = str(real_path(data))
    is_path = Path(data).exists() and source().accepts(path)
    return DataPlace(path if is_path else data, kind)


def open_dataset(
    data: str | Path,
    *,
    test: Path | None = None,
    seed: int = 0,
    skip_corrupt: bool = False,
    group: str | None = None,
    time: str | None = None,
    part_names: str | None = None,
    columns: str | None = None,
    root: Path | None = None,
    channel_axis: ChannelAxis = "auto",
    window: int | None = None,
    stride: int | None = None,
    rate: int | None = None,
    mels: int | None = None,
    band_mean: BandMean = "auto",
    known_front_end: LogMel | None = None,
    quarantine: Path | None = None,
    channels: Channels = "auto",
    pixel_scale: str = "auto",
    known_scale: PixelScale | None = None,
    input_type: InputType = "auto",
    data_object: object | None = None,
    reading: Reading | None = None,
    emit: Emit = silent,
) -> Dataset:
    """Read and check labelled pictures, and split them where the data give no split.

    Parameters
    ----------
    data : str or Path
        Accepted by one of the `sources`: `digits`, a folder with one sub-folder per class, a table
        of paths and labels, a `.npz` file.
    test : Path, optional
        Labelled pictures of the same classes to use as the test part.
    seed : int
        Of the split.
    skip_corrupt : bool
        Ignore files of pictures and recordings that are not there or cannot be read instead of
        raising an error.
    group : str, optional
        Name of an attribute whose values are the groups, a regular expression whose match in a
        sample's path is its group, or `none`.
    time : str, optional
        Name of an attribute with times, in whose order the parts are cut.
    part_names : str, optional
        Folders of the parts, as `train=NAME,test=NAME`, or `none`: every folder is a class. In a
        table: values of the column of the parts, `none`: that column is left out.
    columns : str, optional
        What columns of a table or arrays of a file hold, as `path=NAME,label=NAME`.
    root : Path, optional
        Folder of the pictures that a table names.
    channel_axis : str
        Whether channels in arrays come `first` or `last`; `auto`: by the shape.
    window, stride : int, optional
        Values of a window of a recording, and from the start of one to the next.
    rate, mels : int, optional
        Sampling rate of sound in hertz, and bands of its features.
    band_mean : str
        Whether the mean of each band over the window is subtracted (`data.audio.make_front_end`).
    known_front_end : LogMel, optional
        The front end of a net, which other sound is read for; other data ignore it.
    quarantine : Path, optional
        Text file to which the ignored files are written, a line each.
    channels : str
        Channels that nets see: `1` for grey, `3` for RGB, `auto`: those that the pictures have.
    pixel_scale : str
        Black and white of the stored pixels as `--pixel-scale` states them, or `auto`.
    known_scale : PixelScale, optional
        The scale of the data that a net was trained on, for other data of that net.
    input_type : str
        Type of the values that a written file reads; `auto`: as they are stored, where it can.
    data_object : object, optional
        A data set object from Python, for which `data` stands (`sources.torch_dataset`).
    reading : Reading, optional
        How picture files are read; by default in one process a CPU core where they are many.
    emit : callable
        Receives progress, remarks of the source and the summary of the data.

    Raises
    ------
    DataError, ConfigError, MachineError
        If the data cannot be used, have a test part of their own besides `test`, or `quarantine`
        cannot be written.
    """
    stated = parse_scale(pixel_scale)
    options = {
        "parts": part_folders(part_names),
        "columns": column_names(columns),
        "root": root,
        "channel_axis": None if channel_axis == AUTO else channel_axis,
        "window": window,
        "stride": stride,
        "dataset": data_object,
        "skip_corrupt": skip_corrupt or None,
        "rate": rate,
        "mels": mels,
        "band_mean": None if band_mean == AUTO else band_mean,
    }
    if known_front_end is not None and locate_data(str(data)).kind in AUDIO:
        options |= {name: getattr(known_front_end, name) for name in ("rate", "window", "stride")}
    options = {name: value for name, value in options.items() if value is not None}
    samples = loading.read_samples(str(data), test, options, stated, known_scale)
    # Before every picture is read, which may take minutes.
    stated_groups(samples, group)
    stated_times(samples, time)
    reading = Reading(emit=emit) if reading is None else reading
    place = "\0".join(str(real_path(each)) for each in (data, test) if each is not None)
    checked = check_pictures(samples, skip_corrupt, quarantine, emit, reading, place)
    checked = choose_file_scale(checked, stated, known_scale)
    checked = with_channels(checked, channels)
    for note in checked.samples.notes:
        emit(Event("data", note))
    checked = with_groups(checked, group, emit, by_names=time is None)
    times = stated_times(checked.samples, time)
    checked = cut_through_for(checked, times)
    parts = assign_parts(checked, seed, times)
    if times is None:
        checked = with_split_decision(checked, parts, seed)
    else:
        checked = with_time_decision(checked, times, parts)
    checked, quantization = _quantized(checked, parts, input_type, stated, emit)
    checked, front_end = _with_front_end(
        checked, parts, known_front_end, mels=mels, band_mean=band_mean
    )
    train, validation, test_part = (
        _with_features(_part(checked, parts, name, quantization), front_end) for name in PARTS
    )
    name, size = loading.dataset_name(str(data)), checked.size
    emit(summary_event(name, checked, (len(train), len(validation), len(test_part))))
    return Dataset(
        name=name,
        class_names=checked.samples.class_names,
        channels=checked.channels,
        size=size,
        train=train,
        validation=validation,
        test=test_part,
        decisions=checked.samples.decisions,
        pixel_scale=checked.samples.pixel_scale,
        input_quantization=quantization,
        channel_names=checked.samples.channel_names,
        window_stride=checked.samples.window_stride,
        front_end=front_end,
        notes=checked.samples.notes,
        unreadable=checked.unreadable,
        reading=reading,
    )


def _quantized(
    checked: CheckedSamples,
    parts: NDArray[np.str_],
    input_type: InputType,
    stated: PixelScale | None,
    emit: Emit,
) -> tuple[CheckedSamples, InputQuantization | None]:
    """How what a file reads becomes 8-bit samples, by the training part; None: it is these."""
    samples = checked.samples
    if samples.sound is not None:
        if input_type not in ("auto", "int16"):
            raise ConfigError(
                f"--input-type {input_type}: the file reads audio as int16 samples",
                fix="leave it out",
            )
        return checked, None
    decisions: tuple[Decision, ...]
    if samples.signals is None:
        kind, made = _pixel_type(checked, input_type)
        if kind == "uint8" and checked.channels in (1, 3):
            return checked, None
        counts = _value_counts(checked, np.flatnonzero(parts == "train"), kind)
        scale = stated if kind == "uint16" else None
        quantization, decisions = quantization_of_pixels(counts, kind, scale)
    else:
        training = samples.signals[parts == "train"]
        quantization, decision = quantization_of(training)
        for channel in constant_channels(training):
            text = f"channel {channel} (of 0 to {training.shape[2] - 1}) has the same value "
            emit(Event("data", f"{text}throughout the training part: it has no information"))
        kind, made = input_type_of(samples.signals, samples.value_type, input_type)
        quantization = dataclasses.replace(quantization, dtype=kind)
        decisions = (decision,)
    decisions = decisions if made is None else (*decisions, made)
    # What black and white are is said once: by the range of the values that the file reads.
    kept = [
        d for d in samples.decisions if d.name != "pixel scale" or quantization.dtype != "uint16"
    ]
    changed = dataclasses.replace(samples, decisions=(*kept, *decisions))
    return dataclasses.replace(checked, samples=changed), quantization


def _pixel_type(checked: CheckedSamples, stated: InputType) -> tuple[str, Decision | None]:
    """Type of the pixels that a file reads, and the decision where it was inferred to be uint16.

    Raises
    ------
    ConfigError
        If the pictures cannot have the stated type.
    """
    deep, formats, what = checked.samples.deep, checked.formats, ""
    if deep is not None and deep.shape[3] == checked.channels:
        what = "the arrays are uint16"
    elif formats is not None and deep is None and formats.are_deep(checked.channels):
        what = f"all pictures are files of 16 bits {'of grey' if checked.channels == 1 else 'RGB'}"
    if stated == "auto" and what:
        choice = "uint16 pixels, as they are stored"
        return "uint16", Decision("input type", choice, what, "inferred", "--input-type uint8")
    if stated not in ("auto", "uint8") and not (stated == "uint16" and what):
        rule = "uint8 or uint16" if what else "uint8"
        raise ConfigError(
            f"--input-type {stated}: the file reads these pictures as {rule} pixels",
            fix="leave it out",
        )
    return ("uint16" if stated == "uint16" else "uint8"), None


def _value_counts(
    checked: CheckedSamples, places: NDArray[np.int64], kind: str
) -> NDArray[np.int64]:
    """How often each value occurs in each channel of some training pictures: (channels, values)."""
    samples = checked.samples
    few = np.linspace(0, len(places) - 1, min(_PREPROCESSING_SAMPLES, len(places)))
    limit = np.iinfo(kind).max + 1
    counts = np.zeros((checked.channels, limit), np.int64)
    for place in places[few.round().astype(np.int64)].tolist():
        pixels: NDArray[Any]
        if kind == "uint8":
            pixels = decode.decode(samples.only_pictures[place], checked.channels)
        elif samples.deep is not None:
            pixels = samples.deep[place]
        else:
            (file,) = only_files((samples.only_pictures[place],))
            pixels = decode.decode_deep(file, checked.channels)
        for channel in range(checked.channels):
            counts[channel] += np.bincount(pixels[..., channel].reshape(-1), minlength=limit)
    return counts


def _converted(values: NDArray[Any], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """The values in another type, block by block."""
    rows = max(1, _COUNTED // max(1, values[:1].size))
    for start in range(0, len(values), rows):
        yield values[start : start + rows].astype(dtype, copy=False)


def _with_front_end(
    checked: CheckedSamples,
    parts: NDArray[np.str_],
    known: LogMel | None,
    *,
    mels: int | None,
    band_mean: BandMean,
) -> tuple[CheckedSamples, LogMel | None]:
    """The front end for sound, by the training part unless it is known; None for other samples."""
    samples = checked.samples
    if samples.sound is None or samples.audio is None:
        return checked, None
    if known is not None:
        return dataclasses.replace(checked, size=known.feature_shape[:2]), known
    training = np.flatnonzero(parts == "train")
    places = training[spaced(len(training), FRONT_END_SAMPLES)]
    front_end, made = make_front_end(
        samples.sound[places],
        samples.audio,
        samples.labels[places],
        None if samples.groups is None else samples.groups[places],
        mels=mels,
        band_mean=band_mean,
    )
    changed = dataclasses.replace(samples, decisions=(*samples.decisions, *made))
    return (
        dataclasses.replace(checked, samples=changed, size=front_end.feature_shape[:2]),
        front_end,
    )


def _with_features(part: Part, front_end: LogMel | None) -> Part:
    """A part of sound with its features as pictures; another part as it is."""
    if front_end is None or part.audio is None:
        return part
    return dataclasses.replace(part, pictures=compute_features(front_end, part.audio))


def _part(
    checked: CheckedSamples,
    parts: NDArray[np.str_],
    name: str,
    quantization: InputQuantization | None,
) -> Part:
    samples, index = checked.samples, np.flatnonzero(parts == name)
    scale = SIXTEEN_BIT if samples.pixel_scale is None else samples.pixel_scale
    signals, audio = None, None
    pictures: Pictures
    if samples.sound is not None and samples.audio is not None:
        audio = large_arrays.take(samples.sound, index)
        pictures = np.zeros((len(index), 0, 0, 1), np.uint8)  # `_with_features` replaces it.
    elif quantization is None or samples.signals is None:
        pictures = select(samples.only_pictures, index)  # Quantized when decoded.
    else:
        signals = large_arrays.take(samples.signals, index)
        pictures = large_arrays.convert(signals, np.uint8, quantization.quantize)[:, None]
    # Nets see no levels of 16 bits.
    is_deep = quantization is not None and quantization.dtype == "uint16"
    groups = None
    if samples.groups is not None:
        sizes = np.bincount(samples.groups)[samples.groups[index]]
        # A few near duplicates do not change an interval, but each one would take longer.
        few = _FEW_GROUPED if checked.are_groups_found else 0.0
        groups = None if (sizes > 1).mean() <= few else samples.groups[index]
    return Part(
        name=name,
        labels=samples.labels[index],
        groups=groups,
        ids=tuple(samples.ids[place] for place in index),
        pictures=pictures,
        digests=tuple(checked.digests[place] for place in index),
        levels=None
        if checked.levels is None or is_deep
        else checked.levels.select(index).to_8_bit(scale),
        signals=signals,
        deep=None if samples.deep is None else samples.deep[index],
        near_duplicates=None if checked.near_duplicates is None else checked.near_duplicates[index],
        formats=None if checked.formats is None else checked.formats.select(index),
        recordings=_shared(samples.recordings, index),
        audio=audio,
    )


def _shared(
    recordings: NDArray[np.int64] | None, index: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Recordings of a part; None where each of its samples is one of its own."""
    own = None if recordings is None else recordings[index]
    return None if own is None or len(np.unique(own)) == len(own) else own


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogateescape")).hexdigest()[:16]
