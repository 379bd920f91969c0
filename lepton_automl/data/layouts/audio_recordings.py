"""Recordings of sound as samples: one sampling rate, windows of one length."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lepton_automl.core import large_arrays
from lepton_automl.core.decisions import Decision
from lepton_automl.data import audio_files
from lepton_automl.data.audio import AudioWindows
from lepton_automl.data.audio_files import Audio, AudioFile
from lepton_automl.data.pictures.decode import map_in_threads
from lepton_automl.data.samples import Samples, UnreadableFile
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.models.front_end import MAX_WINDOW, default_frame

BACKGROUND = "background"
"""Class of recordings of noise."""
_BLOCK = 256
"""Windows that are cut at once."""
_BACKGROUND_FOLDERS = frozenset({"_background_noise_", "background_noise", "_background_"})
_LARGEST_RATE = 16_000
"""Rate in hertz above which recordings are resampled to it unless one is stated."""
_WHOLE, _SECONDS = 0.95, 2.0
"""A window holds this share of the training recordings whole, if that takes no more than this; else
a second."""


@dataclass(frozen=True)
class AudioRecording:
    """A file with a recording of sound, and its label."""

    path: AudioFile
    id: str
    """Its name in messages, such as its path below the data folder."""
    label: str
    part: str = ""
    group: str = ""
    """What it shares with other recordings, such as a speaker; empty where it is alone."""
    is_noise: bool = False
    """Whether its windows do not overlap and are classified one by one."""
    attributes: Mapping[str, str] = field(default_factory=dict)


def in_class_folder(path: AudioFile, name: str, folder: str, part: str) -> AudioRecording:
    """A recording in a folder that names its class, or in one of background noise."""
    is_noise = folder.lower() in _BACKGROUND_FOLDERS
    label = BACKGROUND if is_noise else folder
    return AudioRecording(path, name, label, part, is_noise=is_noise)


def cut_audio(
    recordings: Sequence[AudioRecording],
    *,
    window: int | None,
    stride: int | None,
    rate: int | None,
    skip_corrupt: bool,
) -> Samples:
    """Read recordings, bring them to one sampling rate and cut them into windows.

    Parameters
    ----------
    recordings : sequence of AudioRecording
        At least one.
    window : int or None
        Samples of a window; None: as many as 95 % of the training recordings have, if that is 2 s
        at most, else a second.
    stride : int or None
        Samples from the start of one window to the next; None: half a window.
    rate : int or None
        Sampling rate in hertz; None: the most frequent one of the training part, at most 16,000.
    skip_corrupt : bool
        Whether recordings that cannot be read are left out.

    Raises
    ------
    DataError
        If one cannot be read and `skip_corrupt` is false, or none can.
    ConfigError
        If the window is too long.
    """
    files, read, notes, unreadable = _read_all(recordings, skip_corrupt=skip_corrupt)
    is_training = np.array([file.part in ("", "train") for file in files])
    rate, decisions = _choose_rate(rate, [own for _, own in read], is_training)
    pairs = list(zip([file.path for file in files], read, strict=True))
    clips = map_in_threads(lambda each: audio_files.to_rate(each[0], *each[1], rate), pairs)
    read.clear()
    pairs.clear()
    lengths = np.array([len(clip) for clip in clips])
    window, stride, decision = _choose_window(window, stride, lengths, is_training, rate)
    strides = [window if file.is_noise else stride for file in files]
    counts = [
        audio_files.window_count(clip, window, step)
        for clip, step in zip(clips, strides, strict=True)
    ]
    sound, place = large_arrays.empty((sum(counts), window), np.int16), 0
    for n, step in enumerate(strides):
        for block in audio_files.cut_in_blocks(clips[n], window, step, _BLOCK):
            sound[place : place + len(block)] = block
            place += len(block)
        clips[n] = np.empty(0, np.int16)  # Memory is not held twice.
    class_names = tuple(sorted({file.label for file in files}))
    parts = np.repeat(np.array([file.part for file in files], "<U10"), counts)
    names = dict.fromkeys(name for file in files for name in file.attributes)
    return Samples(
        pictures=sound,
        labels=np.repeat([class_names.index(file.label) for file in files], counts),
        class_names=class_names,
        ids=tuple(
            f"{file.id}[{number}]" if count > 1 else file.id
            for file, count in zip(files, counts, strict=True)
            for number in range(count)
        ),
        parts=parts if (parts != "").any() else None,
        groups=_groups(files, counts),
        attributes={
            name: tuple(
                text
                for file, count in zip(files, counts, strict=True)
                for text in [file.attributes.get(name, "")] * count
            )
            for name in names
        },
        notes=notes,
        decisions=(*decisions, decision, *_background_decisions(files, class_names)),
        recordings=_recordings_of(files, counts),
        audio=AudioWindows(rate, stride),
        unreadable=unreadable,
    )


def _groups(files: Sequence[AudioRecording], counts: list[int]) -> np.ndarray | None:
    """Groups of the windows, recordings where none is stated; None where all are alone."""
    known: dict[str, int] = {}
    keys = [f"={file.group}" if file.group else f"#{n}" for n, file in enumerate(files)]
    groups = np.repeat([known.setdefault(key, len(known)) for key in keys], counts)
    return groups if len(np.unique(groups)) < len(groups) else None


def _read_all(
    files: Sequence[AudioRecording], *, skip_corrupt: bool
) -> tuple[
    list[AudioRecording], list[tuple[Audio, int]], tuple[str, ...], tuple[UnreadableFile, ...]
]:
    """Recordings that can be read, samples and rate of each; a note on the others, and these."""

    def read(file: AudioRecording) -> tuple[Audio, int] | DataError:
        try:
            return audio_files.read_audio(file.path)
        except DataError as error:
            return error

    found = map_in_threads(read, files)
    bad = [each for each in found if isinstance(each, DataError)]
    good = [n for n, each in enumerate(found) if not isinstance(each, DataError)]
    values = [each for each in found if not isinstance(each, DataError)]
    if not bad:
        return list(files), values, (), ()
    more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
    shown = f"{'; '.join(error.what for error in bad[:3])}{more}"
    if not skip_corrupt or not good:
        more = "" if skip_corrupt else "; --skip-corrupt ignores files that cannot be read"
        raise DataError(
            f"{len(bad)} of {len(files)} recordings cannot be read: {shown}",
            fix=f"{bad[0].fix}{more}",
        )
    note = f"ignored {len(bad)} of {len(files)} recordings that cannot be read: {shown}"
    unreadable = tuple(
        UnreadableFile(file.id, file.label, file.part, each.what)
        for file, each in zip(files, found, strict=True)
        if isinstance(each, DataError)
    )
    return [files[n] for n in good], values, (note,), unreadable


def _choose_rate(
    stated: int | None, rates: list[int], is_training: np.ndarray
) -> tuple[int, tuple[Decision, ...]]:
    own = Counter(rate for rate, used in zip(rates, is_training, strict=True) if used)
    own = own or Counter(rates)
    rate = stated or min(_LARGEST_RATE, max(own, key=lambda each: (own[each], each)))
    others = sum(each != rate for each in rates)
    shown = ", ".join(f"{each} Hz ({n})" for each, n in Counter(rates).most_common(3))
    if not others or stated is not None:
        return rate, ()
    return rate, (
        Decision(
            name="sampling rate",
            choice=f"{rate} Hz; {others} of {len(rates)} recordings are resampled",
            evidence=f"recordings have {shown}; rates above {_LARGEST_RATE} Hz are lowered",
            certainty="inferred" if len(own) == 1 else "assumed",
            option="--rate",
        ),
    )


def _choose_window(
    stated: int | None,
    stated_stride: int | None,
    lengths: np.ndarray,
    is_training: np.ndarray,
    rate: int,
) -> tuple[int, int, Decision]:
    own = lengths[is_training] if is_training.any() else lengths
    window = stated or _default_window(own, rate)
    if window > MAX_WINDOW:
        raise ConfigError(
            f"--window {window}, at most {MAX_WINDOW} samples", fix="give a smaller number"
        )
    stride = stated_stride or max(1, window // 2)
    shorter, longer = int((lengths < window).sum()), int((lengths > window).sum())
    choice = f"windows of {window} samples ({window / rate:.2f} s)"
    if longer:
        choice += f", one every {stride}; predictions of one recording are joined"
    evidence = (
        f"{len(lengths)} recordings of {lengths.min() / rate:.2f} to "
        f"{lengths.max() / rate:.2f} s; {longer} are cut, {shorter} end with zeros"
    )
    is_stated = stated is not None
    return (
        window,
        stride,
        Decision(
            name="windows",
            choice=choice,
            evidence=evidence,
            certainty="measured" if is_stated else "inferred",
            option="--window, --stride",
        ),
    )


def _default_window(lengths: np.ndarray, rate: int) -> int:
    """Samples of a window for recordings of these lengths."""
    if lengths.min() == lengths.max() <= _SECONDS * rate:
        return max(int(lengths[0]), default_frame(rate)[0])
    whole = float(np.quantile(lengths, _WHOLE))
    length = whole if whole <= _SECONDS * rate else rate
    frame, hop = default_frame(rate)
    # A multiple of four frames: two strides of a net divide it without a rest.
    frames = 4 * math.ceil((1 + max(0.0, length - frame) / hop) / 4)
    return frame + (frames - 1) * hop


def _recordings_of(files: Sequence[AudioRecording], counts: list[int]) -> np.ndarray:
    """Number of the recording of each window; windows of background noise are each their own."""
    found, number = [], 0
    for file, count in zip(files, counts, strict=True):
        found.append(number + np.arange(count) if file.is_noise else np.full(count, number))
        number += count if file.is_noise else 1
    return np.concatenate(found).astype(np.int64)


def _background_decisions(
    files: Sequence[AudioRecording], class_names: tuple[str, ...]
) -> Iterator[Decision]:
    if noise := [file for file in files if file.is_noise]:
        yield Decision(
            name="background class",
            choice=f"recordings such as {noise[0].id} are a class {BACKGROUND!r}, each window of "
            "them alone",
            evidence=f"{len(noise)} recordings beside {len(class_names) - 1} classes",
            certainty="assumed",
            option="remove that folder",
        )
