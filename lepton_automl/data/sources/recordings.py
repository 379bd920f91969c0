"""A folder of recordings, `.csv` or `.npy` files of sensor values: a sub-folder a class.

Or `.csv` files beside each other, whose rows have labels. Each recording is cut into windows;
windows of one recording stay in one part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from lepton_automl.core.decisions import Decision
from lepton_automl.data.layouts.folder_kinds import folder_kind
from lepton_automl.data.layouts.part_names import parts_named
from lepton_automl.data.layouts.recording_folders import (
    RecordingFile,
    folders_in,
    recording_files,
)
from lepton_automl.data.layouts.series_tables import (
    check_columns,
    known_series_roles,
    recordings_in,
)
from lepton_automl.data.layouts.table_files import read_table
from lepton_automl.data.layouts.windows import LabelledRecording, cut_recordings
from lepton_automl.data.samples import Samples, UnreadableFile
from lepton_automl.data.signal_files import (
    SUFFIXES,
    check_alike,
    read_recordings,
    time_decisions,
)
from lepton_automl.data.sources import Source
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.option_texts import NONE

_LAYOUT = "give DATA/CLASS/RECORDING.csv, or DATA/train/CLASS/... and DATA/test/CLASS/..."
_INDEX_NAMES = {"index", "manifest", "metadata", "meta", "labels", "annotations"}
"""Names of tables that may say which recording has which label."""


class Recordings(Source):
    """Recordings as files (`data.signal_files.read_recording`), in folders that name their classes.

    Without such folders, `.csv` files with a column of labels (`data.layouts.series_tables`).

    Parameters
    ----------
    columns : mapping of str to str, optional
        Of files with labels in their rows: what a column holds (`label`, `time`, `group`, `split`,
        `channels`) -> its name.
    window : int, optional
        Values of a window; None: whole recordings where all have one length, else 128.
    stride : int, optional
        Values from the start of one window to the next; None: half a window.
    skip_corrupt : bool
        Whether recordings that cannot be read are left out.
    """

    uses = frozenset({"columns", "window", "stride", "skip_corrupt"})

    def __init__(
        self,
        columns: Mapping[str, str] | None = None,
        window: int | None = None,
        stride: int | None = None,
        skip_corrupt: bool = False,
    ) -> None:
        self._columns, self._window, self._stride = columns, window, stride
        self._skip_corrupt = skip_corrupt

    def accepts(self, data: str) -> bool:
        return folder_kind(data) == "recordings"

    def read(self, data: str) -> Samples:
        files = list(recording_files(Path(data), SUFFIXES))
        if not files:
            return self._read_tables(data, list(_tables(Path(data))))
        if self._columns is not None:
            raise ConfigError(
                f"--columns has no effect: folders of {data} name the classes", fix="leave it out"
            )
        places, read, notes, errors = read_recordings(
            [file.path for file in files], skip_corrupt=self._skip_corrupt
        )
        unreadable = tuple(
            UnreadableFile(files[n].id, files[n].label, files[n].part, what)
            for n, what in errors.items()
        )
        files = [files[place] for place in places]
        check_alike([file.path for file in files], read)
        samples = cut_recordings(
            data,
            [
                LabelledRecording(
                    file.id,
                    recording.values,
                    file.label,
                    file.part,
                    attributes=recording.attributes,
                )
                for file, recording in zip(files, read, strict=True)
            ],
            window=self._window,
            stride=self._stride,
            channel_names=next((each.names for each in read if each.names), ()),
        )
        return dataclasses.replace(
            samples,
            notes=(*notes, *_unlabelled_notes(Path(data)), *samples.notes),
            unreadable=unreadable,
            decisions=(*samples.decisions, *time_decisions(read)),
        )

    def _read_tables(self, data: str, files: list[RecordingFile]) -> Samples:
        """Windows of tables with a row each time, which has a label."""
        if not files:
            raise DataError(f"{data} holds no recordings", fix=_LAYOUT)
        _check_no_index(files)
        stated = {"recording": NONE} | dict(self._columns or {})
        roles = known_series_roles(read_table(files[0].path), stated)
        found: list[LabelledRecording] = []
        made: dict[str, Decision] = {}
        for file in files:
            table = read_table(file.path)
            check_columns(table, roles, str(files[0].path))
            own, decisions = recordings_in(table, roles, name=file.id)
            found += [dataclasses.replace(each, part=file.part or each.part) for each in own]
            made |= {each.name: each for each in decisions if each.name not in made}
        samples = cut_recordings(
            data,
            found,
            window=self._window,
            stride=self._stride,
            channel_names=roles.channels,
        )
        return dataclasses.replace(
            samples, decisions=(roles.decision, *made.values(), *samples.decisions)
        )


def _tables(root: Path) -> Iterator[RecordingFile]:
    """The tables in a folder, or in its folders of the parts."""
    folders = folders_in(root)
    parts = parts_named(path.name for path in folders)
    for folder in (root, *folders):
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() == ".csv" and not path.name.startswith(".") and path.is_file():
                place = path.relative_to(root).as_posix()
                yield RecordingFile(
                    path, place, parts.get(folder.name, "") if folder != root else "", ""
                )


def _unlabelled_notes(root: Path) -> Iterator[str]:
    """Recordings in the folder of a part, beside the folders of its classes."""
    for file in (each for each in _tables(root) if each.part):
        folder = file.path.parent
        count = sum(each.path.parent == folder for each in _tables(root))
        yield (
            f"{count} recordings in {folder} are in no folder of a class, so they have no label "
            "and are left out; `lepton predict` classifies them"
        )
        return


def _check_no_index(files: list[RecordingFile]) -> None:
    for file in files:
        if file.path.stem.lower() in _INDEX_NAMES:
            raise DataError(
                f"{file.path} seems to be a table of the recordings beside it",
                fix=f"give the table in place of its folder: {file.path}",
            )
