"""A folder with one sub-folder of recordings of sound a class: `.wav`, `.flac` or `.ogg` files.

Recordings are brought to one sampling rate and cut into windows; windows of one recording stay in
one part, and their answers are joined.
"""

from __future__ import annotations

from pathlib import Path

from lepton_automl.data.audio_files import SUFFIXES
from lepton_automl.data.layouts.audio_recordings import cut_audio, in_class_folder
from lepton_automl.data.layouts.folder_kinds import folder_kind
from lepton_automl.data.layouts.recording_folders import recording_files
from lepton_automl.data.sources import Samples, Source
from lepton_automl.errors import DataError

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
        files = [
            in_class_folder(file.path, file.id, file.label, file.part)
            for file in recording_files(Path(data), SUFFIXES)
        ]
        if not files:
            raise DataError(f"{data} has no folders with recordings of sound", fix=_LAYOUT)
        return cut_audio(
            files,
            window=self._window,
            stride=self._stride,
            rate=self._rate,
            skip_corrupt=self._skip_corrupt,
        )
