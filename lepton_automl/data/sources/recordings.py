"""A folder with one sub-folder of recordings a class: `.csv` or `.npy` files of sensor values.

Each recording is cut into windows; windows of one recording stay in one part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lepton_automl.core.decisions import Decision
from lepton_automl.data.folder_kinds import folder_kind
from lepton_automl.data.part_names import parts_named
from lepton_automl.data.signal_files import SUFFIXES, Recording, read_recording, window_starts
from lepton_automl.data.signals import MAX_CHANNELS, Signals, to_signals
from lepton_automl.data.sources import Samples, Source
from lepton_automl.errors import ConfigError, DataError

_WINDOW = 128
"""Values of a window where recordings differ in length and none is stated."""
_MOST_WHOLE = 4096
"""Values up to which recordings of one length are taken whole."""
_LAYOUT = "give DATA/CLASS/RECORDING.csv, or DATA/train/CLASS/... and DATA/test/CLASS/..."


@dataclass(frozen=True)
class _File:
    path: Path
    id: str
    """Its path below the data folder."""
    part: str
    label: str


class Recordings(Source):
    """Recordings as files (`data.signal_files.read_recording`), in folders that name their classes.

    Parameters
    ----------
    window : int, optional
        Values of a window; None: whole recordings where all have one length, else 128.
    stride : int, optional
        Values from the start of one window to the next; None: half a window.
    """

    uses = frozenset({"window", "stride"})

    def __init__(self, window: int | None = None, stride: int | None = None) -> None:
        self._window, self._stride = window, stride

    def accepts(self, data: str) -> bool:
        return folder_kind(data) == "recordings"

    def read(self, data: str) -> Samples:
        files = list(_files(Path(data)))
        read = [read_recording(file.path) for file in files]
        _check_alike(files, read)
        lengths = [len(recording.values) for recording in read]
        window, stride, decision = self._windows(lengths)
        starts = [window_starts(length, window, stride) for length in lengths]
        counts = [len(each) for each in starts]
        if not sum(counts):
            raise ConfigError(
                f"--window {window} is longer than all recordings of {data} (up to {max(lengths)})",
                fix="give a smaller number, or leave it out",
            )
        class_names = tuple(sorted({file.label for file in files}))
        parts = np.repeat(np.array([file.part for file in files], "<U10"), counts)
        numbers = np.repeat(np.arange(len(files)), counts) if max(counts) > 1 else None
        return Samples(
            pictures=_cut(files, read, starts, window),
            labels=np.repeat([class_names.index(file.label) for file in files], counts),
            class_names=class_names,
            ids=tuple(
                f"{file.id}[{start}:{start + window}]" if len(each) > 1 else file.id
                for file, each in zip(files, starts, strict=True)
                for start in each
            ),
            parts=parts if (parts != "").any() else None,
            groups=numbers,
            recordings=numbers,
            channel_names=next((each.names for each in read if each.names), ()),
            notes=_notes(files, counts, window),
            decisions=(*decision, *_column_decisions(files, read)),
        )

    def _windows(self, lengths: list[int]) -> tuple[int, int, tuple[Decision, ...]]:
        """Window and stride, and the decision on them where they are not stated."""
        shortest, longest = min(lengths), max(lengths)
        window = self._window
        if window is None:
            is_whole = shortest == longest <= _MOST_WHOLE
            window = shortest if is_whole else min(_WINDOW, longest)
        stride = self._stride or max(1, window // 2)
        if self._window is not None and self._stride is not None:
            return window, stride, ()
        span = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
        choice = f"windows of {window} values"
        if longest > window:
            choice += f", one every {stride}; those of one recording stay in one part"
        return (
            window,
            stride,
            (
                Decision(
                    name="windows",
                    choice=choice,
                    evidence=f"{len(lengths)} recordings of {span} values",
                    certainty="inferred" if shortest == longest == window else "assumed",
                    option="--window, --stride",
                ),
            ),
        )


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
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            yield _File(path, path.relative_to(root).as_posix(), part, folder.name)


def _check_alike(files: list[_File], read: list[Recording]) -> None:
    """Check that recordings have the same channels, by number and by name."""
    if not read:
        raise DataError("the folder holds no recordings", fix=_LAYOUT)
    first, channels = read[0], read[0].values.shape[1]
    if channels > MAX_CHANNELS:
        raise DataError(
            f"{files[0].path} has {channels} channels, at most {MAX_CHANNELS} are read",
            fix="keep the columns that matter",
        )
    for file, recording in zip(files, read, strict=True):
        if recording.values.shape[1] != channels:
            raise DataError(
                f"{file.path} has {recording.values.shape[1]} channels, {files[0].path} has "
                f"{channels}",
                fix="give recordings with the same columns",
            )
        if recording.names and first.names and recording.names != first.names:
            raise DataError(
                f"{file.path} has the columns {', '.join(recording.names)}, {files[0].path} has "
                f"{', '.join(first.names)}",
                fix="give recordings with the same columns in the same order",
            )


def _cut(files: list[_File], read: list[Recording], starts: list[range], window: int) -> Signals:
    pieces = []
    for file, recording, each in zip(files, read, starts, strict=True):
        values = to_signals(str(file.path), recording.values[None], "channels last")[0]
        pieces += [values[start : start + window] for start in each]
    return np.stack(pieces)


def _notes(files: list[_File], counts: list[int], window: int) -> tuple[str, ...]:
    short = [file.id for file, count in zip(files, counts, strict=True) if not count]
    if not short:
        return ()
    return (
        f"{len(short)} of {len(files)} recordings are shorter than a window of {window} values and "
        f"left out, such as {short[0]}",
    )


def _column_decisions(files: list[_File], read: list[Recording]) -> Iterator[Decision]:
    left = [n for n, recording in enumerate(read) if recording.time_column]
    if left:
        name = read[left[0]].time_column
        yield Decision(
            name="time column",
            choice=f"the column {name!r} is no channel",
            evidence=f"it only grows, in {len(left)} of {len(files)} recordings",
            certainty="inferred",
            option="rename the column",
            is_detail=True,
        )
