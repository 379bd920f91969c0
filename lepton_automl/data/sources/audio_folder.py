"""A folder with one sub-folder of recordings of sound a class: `.wav`, `.flac` or `.ogg` files.

Recordings are brought to one sampling rate and cut into windows; windows of one recording stay in
one part, and their answers are joined.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lepton_automl.data.audio_files import SUFFIXES
from lepton_automl.data.layouts.audio_recordings import BACKGROUND, AudioRecording, cut_audio
from lepton_automl.data.layouts.folder_kinds import folder_kind
from lepton_automl.data.layouts.part_names import parts_named
from lepton_automl.data.sources import Samples, Source
from lepton_automl.errors import DataError

_BACKGROUND_FOLDERS = frozenset({"_background_noise_", "background_noise", "_background_"})
_LAYOUT = "give DATA/CLASS/RECORDING.wav, or DATA/train/CLASS/... and DATA/test/CLASS/..."


class AudioFolder(Source):
    """Recordings of sound (`data.audio_files.read_audio`), in folders that name their classes.

    A folder `_background_noise_`, as Speech Commands has it, holds a class `background`.

    Parameters
    ----------
    window, stride, rate : int, optional
        As in `data.layouts.audio_recordings.cut_audio`.
    skip_corrupt : bool
        Whether recordings that cannot be read are left out.
    """

    uses = frozenset({"window", "stride", "rate", "mels", "band_mean", "skip_corrupt"})

    def __init__(
        self,
        window: int | None = None,
        stride: int | None = None,
        rate: int | None = None,
        skip_corrupt: bool = False,
        **_: object,  # `mels` and `band_mean`, with which the data are opened.
    ) -> None:
        self._window, self._stride, self._rate = window, stride, rate
        self._skip_corrupt = skip_corrupt

    def accepts(self, data: str) -> bool:
        return folder_kind(data) == "audio_folder"

    def read(self, data: str) -> Samples:
        files = list(_files(Path(data)))
        if not files:
            raise DataError(f"{data} has no folders with recordings of sound", fix=_LAYOUT)
        return cut_audio(
            files,
            window=self._window,
            stride=self._stride,
            rate=self._rate,
            skip_corrupt=self._skip_corrupt,
        )


def _files(root: Path) -> Iterator[AudioRecording]:
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


def _recordings(root: Path, folder: Path, part: str) -> Iterator[AudioRecording]:
    is_noise = folder.name.lower() in _BACKGROUND_FOLDERS
    label = BACKGROUND if is_noise else folder.name
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            name = path.relative_to(root).as_posix()
            yield AudioRecording(path, name, label, part, is_noise=is_noise)
