"""Series of the UCR and UEA archives: `.ts` files, and the tables of UCR without a line of names.

The archives are described by Dau et al. 2019 (UCR) and Bagnall et al. 2018 (UEA), the form `.ts` by
the page of sktime and aeon on it.
"""

from __future__ import annotations

from pathlib import Path

from lepton_automl.data.layouts import ucr_series
from lepton_automl.data.layouts.folder_kinds import folder_kind, is_ucr_file, ucr_files
from lepton_automl.data.layouts.windows import cut_recordings
from lepton_automl.data.sources import Samples, Source
from lepton_automl.errors import DataError


class Ucr(Source):
    """A series a line, with its label; `NAME_TRAIN.ts` and `NAME_TEST.ts` of a folder are parts.

    Of files with several names those with the name of the folder are read. A file by itself is
    undivided data. Series of one length are samples as they are, others are cut into windows
    (`data.layouts.windows.cut_recordings`).

    Parameters
    ----------
    window : int, optional
        Values of a window; None: whole series where all have one length, else 128 at most.
    stride : int, optional
        Values from the start of one window to the next; None: half a window.
    """

    uses = frozenset({"window", "stride"})

    def __init__(self, window: int | None = None, stride: int | None = None) -> None:
        self._window, self._stride = window, stride

    def accepts(self, data: str) -> bool:
        path = Path(data)
        return folder_kind(data) == "ucr" or (path.is_file() and is_ucr_file(path))

    def read(self, data: str) -> Samples:
        path = Path(data)
        files = ucr_files(path) if path.is_dir() else {"": path}
        if not files:
            raise DataError(
                f"{data} holds no training part, or files of several names, none of them that of "
                "the folder",
                fix="give one of the files, such as NAME_TRAIN.ts, and --test NAME_TEST.ts",
            )
        series = [each for part, file in files.items() for each in ucr_series.labelled(file, part)]
        if not series:
            raise DataError(f"{data} holds no series", fix=ucr_series.FIX)
        channels = {each.values.shape[1] for each in series}
        if len(channels) > 1:
            shown = " and ".join(map(str, sorted(channels)[:2]))
            raise DataError(
                f"{data} holds series of {shown} channels", fix="give series with the same channels"
            )
        return cut_recordings(data, series, window=self._window, stride=self._stride)
