"""Labelled pictures as sources give them, before they are checked and split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import large_arrays
from lepton_automl.core.decisions import Decision
from lepton_automl.core.units import first_few
from lepton_automl.data.audio import AudioWindows
from lepton_automl.data.audio_files import Audio
from lepton_automl.data.pictures.picture_files import Pictures
from lepton_automl.data.pictures.pixel_scale import PixelScale, RawArray
from lepton_automl.data.signals import MAX_CHANNELS, Signals
from lepton_automl.errors import DataError
from lepton_automl.text import printable

PARTS = ("train", "validation", "test")
_COLUMNS = ("pictures", "ids", "parts", "groups", "recordings", "spans")


@dataclass(frozen=True)
class UnreadableFile:
    """A picture file or recording that cannot be read."""

    id: str
    """Name in messages, as `Samples.ids`."""
    class_name: str
    part: str
    """`train`, `validation` or `test`; empty where the data give no part."""
    error: str
    """Path and reason."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Labelled pictures or signals as a source reads them.

    Raises
    ------
    DataError
        On construction, if the fields are inconsistent.
    """

    pictures: Pictures | Signals | Audio
    labels: NDArray[np.int64]
    """(N,), indices into `class_names`."""
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    """Names of the samples in messages: a path below the data folder, `x_train[17]`."""
    parts: NDArray[np.str_] | None = None
    """(N,) of `train`, `validation`, `test`, or empty for samples without a part."""
    groups: NDArray[np.int64] | None = None
    """(N,): samples of one group (a person, a session) must stay in one part."""
    recordings: NDArray[np.int64] | None = None
    """(N,): recording that a sample is a window of, all of one label, whose answers are joined to
    one; None where samples are not windows of such recordings."""
    spans: NDArray[np.int64] | None = None
    """(N, 3): recording, first value in it, and end, of samples that are windows of recordings."""
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further columns, such as a site or a date: name -> N texts, empty where one is not known."""
    channel_names: tuple[str, ...] = ()
    """Of the channels of signals, such as the columns of a table; empty where they have none."""
    window_stride: int = 0
    """Values from the start of one window of a signal to the next; 0 where samples are not windows
    of recordings."""
    value_type: str = "float32"
    """Type in which signals are stored, `int16` or `float32`."""
    uint16_pixels: NDArray[np.uint16] | None = None
    """(N, H, W, C): pixels as they are stored, where they have 16 bits and `pictures` is an array
    of them in 8 bits; else None."""
    notes: tuple[str, ...] = ()
    """Remarks for the user, one line each."""
    decisions: tuple[Decision, ...] = ()
    """What the source decided for the user, such as the scale of the pixels."""
    pixel_scale: PixelScale | None = None
    """Scale of the stored pixels, where it is not that of 8 bits."""
    audio: AudioWindows | None = None
    """Of windows of sound, which are int16 (N, window); None for other samples."""
    unreadable: tuple[UnreadableFile, ...] = ()
    """Recordings that the source left out; picture files are read later."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def signals(self) -> Signals | None:
        """The measured values, where samples are signals; else None."""
        return cast(Signals, self.pictures) if _are_signals(self.pictures) else None

    @property
    def noun(self) -> str:
        """What the samples are called in messages: `pictures` or `windows`."""
        return "pictures" if self.are_pictures else "windows"

    @property
    def are_pictures(self) -> bool:
        """Whether samples are pictures, neither signals nor sound."""
        return self.audio is None and not _are_signals(self.pictures)

    @property
    def only_pictures(self) -> Pictures:
        """The pictures, where samples are not signals."""
        assert not _are_signals(self.pictures), "the samples are signals"
        assert self.audio is None, "the samples are audio"
        return cast(Pictures, self.pictures)

    @property
    def sound(self) -> Audio | None:
        """PCM samples int16 (N, window), where samples are windows of sound; else None."""
        return None if self.audio is None else cast(Audio, self.pictures)

    @property
    def missing_parts(self) -> list[str]:
        """Parts but training that the data do not give, which are to be drawn."""
        if self.parts is None:
            return list(PARTS[1:])
        return [part for part in PARTS[1:] if not (self.parts == part).any()]

    def __post_init__(self) -> None:
        columns = {name: getattr(self, name) for name in _COLUMNS}
        for name, column in (*columns.items(), *self.attributes.items()):
            if column is not None and len(column) != len(self.labels):
                raise _wrong(f"{len(self.labels)} labels but {len(column)} {name}")
        if len(self) and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise _wrong(f"labels that are not 0 to {len(self.class_names) - 1}")
        for name in self.class_names:
            if not name.strip() or not name.isprintable():
                raise DataError(
                    f"the class name {name!r} is empty or has characters that cannot be printed, "
                    "such as line breaks",
                    fix="rename the class: its folder, or its label in the table or file",
                )
        if len(set(self.class_names)) != len(self.class_names):
            raise _wrong(f"two classes of one name: {', '.join(self.class_names)}")
        _check_array(self.pictures, is_audio=self.audio is not None)
        if self.parts is not None and not set(np.unique(self.parts)) <= {"", *PARTS}:
            raise _wrong(f"parts {sorted(set(self.parts.tolist()))}")
        _check_one_label_each(self.recordings, self.labels)


@dataclass(frozen=True, eq=False)
class RawSamples:
    """Labelled pictures as arrays of any numeric type, whose pixel scale is still to be chosen."""

    arrays: tuple[RawArray, ...]
    """The pictures in the order of the labels, an array a part."""
    samples: Callable[[NDArray[np.uint8]], Samples]
    """Makes the samples from the converted pictures."""
    signals: Callable[[], Samples] | None = None
    """Makes the samples as signals, where the arrays are read as such unless a pixel scale is
    stated; None: they are pictures."""


def _check_one_label_each(recordings: NDArray[np.int64] | None, labels: NDArray[np.int64]) -> None:
    if recordings is not None:
        _, first, member = np.unique(recordings, return_index=True, return_inverse=True)
        if not (labels == labels[first][member]).all():
            raise _wrong("recordings with several labels")


def _are_signals(values: Pictures | Signals | Audio) -> bool:
    return isinstance(values, np.ndarray) and values.dtype == np.float32


def _check_array(values: Pictures | Signals | Audio, *, is_audio: bool) -> None:
    if not isinstance(values, np.ndarray):
        return
    is_right = (
        values.dtype == np.int16 and values.ndim == 2 if is_audio else _is_array_of_samples(values)
    )
    if not is_right:
        raise _wrong(f"pictures {values.dtype} {values.shape}")


def _is_array_of_samples(array: NDArray[np.generic]) -> bool:
    if array.dtype == np.float32:
        return array.ndim == 3 and array.shape[2] <= MAX_CHANNELS
    return array.dtype == np.uint8 and array.ndim == 4 and 1 <= array.shape[3] <= MAX_CHANNELS


def _wrong(what: str) -> DataError:
    return DataError(
        f"the source gave {what}",
        fix=f"labels are indices into class_names, pictures uint8 (N, H, W, 1 to {MAX_CHANNELS}) "
        f"or one a sample, signals float32 (N, length, 1 to {MAX_CHANNELS}), audio int16 (N, "
        "window)",
    )


def numbered(texts: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The different texts in their order, and the place of each text among them, int64 (N,).

    As `np.unique` does it, for which each text would take the memory of the longest.
    """
    known = sorted(set(texts))
    place = {text: n for n, text in enumerate(known)}
    return tuple(known), np.array([place[text] for text in texts], np.int64)


def used_classes(
    names: Sequence[str], labels: NDArray[np.int64]
) -> tuple[tuple[str, ...], NDArray[np.int64], tuple[str, ...]]:
    """Names of the classes that have samples, labels as indices into them, and a note of the rest.

    A list of names may be that of a larger data set, of which these are some classes.

    Parameters
    ----------
    names : sequence of str
        Of all classes.
    labels : ndarray
        int (N,): indices into `names`.
    """
    used, places = np.unique(labels, return_inverse=True)
    if len(used) in (0, len(names)):
        return tuple(names), labels, ()
    kept = set(used.tolist())
    unused = [printable(name) for n, name in enumerate(names) if n not in kept]
    note = (
        f"{len(unused)} of {len(names)} classes in the list of names have no sample and are left "
        f"out: {first_few(unused)}"
    )
    return tuple(names[n] for n in used), places.astype(np.int64), (note,)


def select(pictures: Pictures, places: NDArray[np.int64]) -> Pictures:
    """The pictures at the indices `places`, in that order."""
    if isinstance(pictures, np.ndarray):
        return large_arrays.take(pictures, places)
    return tuple(pictures[place] for place in places)


def subset(samples: Samples, places: NDArray[np.int64]) -> Samples:
    """The samples at the indices `places`, in that order."""
    pictures = (
        select(samples.only_pictures, places)
        if samples.are_pictures
        else large_arrays.take(np.asanyarray(samples.pictures), places)
    )
    return dataclasses.replace(
        samples,
        pictures=pictures,
        uint16_pixels=None if samples.uint16_pixels is None else samples.uint16_pixels[places],
        labels=samples.labels[places],
        ids=tuple(samples.ids[place] for place in places),
        parts=None if samples.parts is None else samples.parts[places],
        groups=None if samples.groups is None else samples.groups[places],
        recordings=None if samples.recordings is None else samples.recordings[places],
        spans=None if samples.spans is None else samples.spans[places],
        attributes={
            name: tuple(column[place] for place in places)
            for name, column in samples.attributes.items()
        },
    )
