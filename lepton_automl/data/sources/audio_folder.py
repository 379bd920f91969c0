"""A folder with one sub-folder of recordings of sound a class: `.wav`, `.flac` or `.ogg` files.

Recordings are brought to one sampling rate and cut into windows; windows of one recording stay in
one part, and their answers are joined.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lepton_automl.core.decisions import Decision
from lepton_automl.data import audio_files
from lepton_automl.data.audio import AudioWindows
from lepton_automl.data.audio_files import SUFFIXES, Audio
from lepton_automl.data.decode import map_in_threads
from lepton_automl.data.folder_kinds import folder_kind
from lepton_automl.data.part_names import parts_named
from lepton_automl.data.sources import Samples, Source
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.models.front_end import MAX_WINDOW, default_frame

_LARGEST_RATE = 16_000
"""Rate in hertz above which recordings are resampled to it unless one is stated."""
_WHOLE, _SECONDS = 0.95, 2.0
"""A window holds this share of the training recordings whole, if that takes no more than this; else
a second."""
_BACKGROUND_FOLDERS = frozenset({"_background_noise_", "background_noise", "_background_"})
_BACKGROUND = "background"
_LAYOUT = "give DATA/CLASS/RECORDING.wav, or DATA/train/CLASS/... and DATA/test/CLASS/..."


@dataclass(frozen=True)
class _File:
    path: Path
    id: str
    """Its path below the data folder."""
    part: str
    label: str
    is_noise: bool


class AudioFolder(Source):
    """Recordings of sound (`data.audio_files.read_audio`), in folders that name their classes.

    A folder `_background_noise_`, as Speech Commands has it, holds a class `background`.

    Parameters
    ----------
    window : int, optional
        Samples of a window, at the rate to which recordings are brought.
    stride : int, optional
        Samples from the start of one window to the next; None: half a window.
    rate : int, optional
        Sampling rate in hertz; None: the most frequent one of the training recordings, at most
        16,000.
    """

    uses = frozenset({"window", "stride", "rate", "mels", "band_mean"})

    def __init__(
        self,
        window: int | None = None,
        stride: int | None = None,
        rate: int | None = None,
        **_: object,  # `mels` and `band_mean`, with which the data are opened.
    ) -> None:
        self._window, self._stride, self._rate = window, stride, rate

    def accepts(self, data: str) -> bool:
        return folder_kind(data) == "audio_folder"

    def read(self, data: str) -> Samples:
        files = list(_files(Path(data)))
        if not files:
            raise DataError(f"{data} holds no recordings", fix=_LAYOUT)
        read = _read_all([file.path for file in files])
        is_training = np.array([file.part in ("", "train") for file in files])
        rate, decisions = self._choose_rate([rate for _, rate in read], is_training)
        pairs = list(zip([file.path for file in files], read, strict=True))
        clips = map_in_threads(lambda each: audio_files.to_rate(each[0], *each[1], rate), pairs)
        lengths = np.array([len(clip) for clip in clips])
        window, stride, decision = self._choose_window(lengths, is_training, rate)
        cut = [
            audio_files.cut(clip, window, window if file.is_noise else stride)
            for file, clip in zip(files, clips, strict=True)
        ]
        counts = [len(each) for each in cut]
        class_names = tuple(sorted({file.label for file in files}))
        parts = np.repeat(np.array([file.part for file in files], "<U10"), counts)
        noise = [file for file in files if file.is_noise]
        return Samples(
            pictures=np.concatenate(cut),
            labels=np.repeat([class_names.index(file.label) for file in files], counts),
            class_names=class_names,
            ids=tuple(
                f"{file.id}[{number}]" if count > 1 else file.id
                for file, count in zip(files, counts, strict=True)
                for number in range(count)
            ),
            parts=parts if (parts != "").any() else None,
            groups=np.repeat(np.arange(len(files)), counts) if max(counts) > 1 else None,
            decisions=(*decisions, decision, *_background_decisions(noise, class_names)),
            recordings=_recordings_of(files, counts),
            audio=AudioWindows(rate, stride),
        )

    def _choose_rate(
        self, rates: list[int], is_training: np.ndarray
    ) -> tuple[int, tuple[Decision, ...]]:
        own = Counter(rate for rate, used in zip(rates, is_training, strict=True) if used)
        own = own or Counter(rates)
        rate = self._rate or min(_LARGEST_RATE, max(own, key=lambda each: (own[each], each)))
        others = sum(each != rate for each in rates)
        shown = ", ".join(f"{each} Hz ({n})" for each, n in Counter(rates).most_common(3))
        if not others or self._rate is not None:
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
        self, lengths: np.ndarray, is_training: np.ndarray, rate: int
    ) -> tuple[int, int, Decision]:
        own = lengths[is_training] if is_training.any() else lengths
        window = self._window or _default_window(own, rate)
        if window > MAX_WINDOW:
            raise ConfigError(
                f"--window {window}, at most {MAX_WINDOW} samples", fix="give a smaller number"
            )
        stride = self._stride or max(1, window // 2)
        shorter, longer = int((lengths < window).sum()), int((lengths > window).sum())
        choice = f"windows of {window} samples ({window / rate:.2f} s)"
        if longer:
            choice += f", one every {stride}; answers of one recording are joined"
        evidence = (
            f"{len(lengths)} recordings of {lengths.min() / rate:.2f} to "
            f"{lengths.max() / rate:.2f} s; {longer} are cut, {shorter} end with zeros"
        )
        is_stated = self._window is not None
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


def _recordings_of(files: list[_File], counts: list[int]) -> np.ndarray:
    """Number of the recording of each window; windows of background noise are each their own."""
    found, number = [], 0
    for file, count in zip(files, counts, strict=True):
        found.append(number + np.arange(count) if file.is_noise else np.full(count, number))
        number += count if file.is_noise else 1
    return np.concatenate(found).astype(np.int64)


def _read_all(paths: list[Path]) -> list[tuple[Audio, int]]:
    """Samples and rate of every file; one error names those that cannot be read."""

    def read(path: Path) -> tuple[Audio, int] | DataError:
        try:
            return audio_files.read_audio(path)
        except DataError as error:
            return error

    found = map_in_threads(read, paths)
    bad = [each for each in found if isinstance(each, DataError)]
    if bad:
        more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
        shown = "; ".join(error.what for error in bad[:3])
        raise DataError(
            f"{len(bad)} of {len(paths)} recordings cannot be read: {shown}{more}", fix=bad[0].fix
        )
    return [each for each in found if not isinstance(each, DataError)]


def _files(root: Path) -> Iterator[_File]:
    """The recordings below a folder, in the order of their paths."""
    folders = [path for path in sorted(root.iterdir()) if _is_folder(path)]
    parts = parts_named(path.name for path in folders)
    if len(parts) == len(folders) > 0 and "train" in parts.values():
        for folder in folders:
            for inner in sorted(folder.iterdir()):
                if _is_folder(inner):
                    yield from _recordings(root, inner, parts[folder.name])
        return
    for folder in folders:
        yield from _recordings(root, folder, "")


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _recordings(root: Path, folder: Path, part: str) -> Iterator[_File]:
    is_noise = folder.name.lower() in _BACKGROUND_FOLDERS
    label = _BACKGROUND if is_noise else folder.name
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            yield _File(path, path.relative_to(root).as_posix(), part, label, is_noise)


def _background_decisions(noise: list[_File], class_names: tuple[str, ...]) -> Iterator[Decision]:
    if noise:
        yield Decision(
            name="background class",
            choice=f"recordings in {noise[0].path.parent.name} are a class {_BACKGROUND!r}, "
            "each window of them alone",
            evidence=f"{len(noise)} recordings beside {len(class_names) - 1} classes",
            certainty="assumed",
            option="remove that folder",
        )
