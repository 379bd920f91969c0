"""Open a data set: read and check its samples, assign them to parts, choose what a file reads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.config import BandMean, ChannelAxis, Channels, InputType
from lepton_automl.core import large_arrays
from lepton_automl.core.decisions import Decision
from lepton_automl.core.events import Emit, Event, silent
from lepton_automl.core.files import real_path
from lepton_automl.data import loading
from lepton_automl.data.audio import FRONT_END_SAMPLES, make_front_end, spaced
from lepton_automl.data.checked_samples import (
    CheckedSamples,
    check_pictures,
    choose_file_scale,
    with_channels,
)
from lepton_automl.data.dataset import PREPROCESSING_SAMPLES, Dataset, Part
from lepton_automl.data.decode_pool import ReadOptions, only_files
from lepton_automl.data.pictures import decode
from lepton_automl.data.pictures.picture_files import Pictures
from lepton_automl.data.pictures.pixel_scale import SIXTEEN_BIT, PixelScale
from lepton_automl.data.pictures.pixel_scale import parse as parse_scale
from lepton_automl.data.samples import PARTS, select
from lepton_automl.data.signals import (
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
from lepton_automl.errors import ConfigError
from lepton_automl.models.front_end import LogMel
from lepton_automl.models.front_end_onnx import compute_features
from lepton_automl.models.quantization import InputQuantization
from lepton_automl.option_texts import AUTO, column_names, part_folders

CODE = "torch_dataset"
"""Kind of data (`DataPlace.kind`) that code of the user makes."""

_AUDIO = ("audio_folder", "manifest")
"""Sources of sound."""
_FEW_GROUPED = 0.02
"""Share of the samples of a part up to which groups that were found do not count in statistics."""


@dataclass(frozen=True)
class DataPlace:
    """Where data are, in a form that means the same in every working directory."""

    place: str
    """Absolute path, or the name of data that are not a file, such as `digits`."""
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
    # The name of a built-in data set, such as `digits`, may be that of a file here too.
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
    reading: ReadOptions | None = None,
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
    reading : ReadOptions, optional
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
    if known_front_end is not None and locate_data(str(data)).kind in _AUDIO:
        options |= {name: getattr(known_front_end, name) for name in ("rate", "window", "stride")}
    options = {name: value for name, value in options.items() if value is not None}
    samples = loading.read_samples(str(data), test, options, stated, known_scale)
    # Before every picture is read, which may take minutes.
    stated_groups(samples, group)
    stated_times(samples, time)
    reading = ReadOptions(emit=emit) if reading is None else reading
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
    dataset = Dataset(
        name=loading.dataset_name(str(data)),
        class_names=checked.samples.class_names,
        channels=checked.channels,
        size=checked.size,
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
    emit(dataset.summary_event())
    return dataset


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
    stored, formats, what = checked.samples.uint16_pixels, checked.formats, ""
    if stored is not None and stored.shape[3] == checked.channels:
        what = "the arrays are uint16"
    elif formats is not None and stored is None and formats.are_16_bit(checked.channels):
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
    few = np.linspace(0, len(places) - 1, min(PREPROCESSING_SAMPLES, len(places)))
    limit = np.iinfo(kind).max + 1
    counts = np.zeros((checked.channels, limit), np.int64)
    for place in places[few.round().astype(np.int64)].tolist():
        pixels: NDArray[Any]
        if kind == "uint8":
            pixels = decode.decode(samples.only_pictures[place], checked.channels)
        elif samples.uint16_pixels is not None:
            pixels = samples.uint16_pixels[place]
        else:
            (file,) = only_files((samples.only_pictures[place],))
            pixels = decode.decode_16_bit(file, checked.channels)
        for channel in range(checked.channels):
            counts[channel] += np.bincount(pixels[..., channel].reshape(-1), minlength=limit)
    return counts


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
    is_16_bit = quantization is not None and quantization.dtype == "uint16"
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
        if checked.levels is None or is_16_bit
        else checked.levels.select(index).to_8_bit(scale),
        signals=signals,
        uint16_pixels=None if samples.uint16_pixels is None else samples.uint16_pixels[index],
        near_duplicates=None if checked.near_duplicates is None else checked.near_duplicates[index],
        are_groups_found=checked.are_groups_found,
        name_groups=None if checked.name_groups is None else checked.name_groups[index],
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
