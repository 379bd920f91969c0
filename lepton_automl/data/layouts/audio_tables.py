"""Tables with a recording of sound a row: of files, or of members of archives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lepton_automl.core.decisions import Decision
from lepton_automl.data.audio_files import AudioFile
from lepton_automl.data.layouts.audio_recordings import AudioRecording, cut_audio
from lepton_automl.data.layouts.tables import Roles, Rows, Table, folder_order, label_texts
from lepton_automl.data.samples import Samples
from lepton_automl.errors import ConfigError

AUDIO_OPTIONS = frozenset({"window", "stride", "rate", "mels", "band_mean", "skip_corrupt"})
"""What a source of such tables names in `uses`."""


@dataclass(frozen=True)
class AudioOptions:
    """How recordings are cut; each is None where it is not stated."""

    window: int | None = None
    stride: int | None = None
    rate: int | None = None
    mels: int | None = None
    band_mean: str | None = None
    skip_corrupt: bool = False

    def refuse(self, what: str) -> None:
        """Raise an error if an option is stated for data that have no sound.

        Raises
        ------
        ConfigError
            It names the option.
        """
        for name in ("window", "stride", "rate", "mels", "band_mean"):
            refuse(f"--{name.replace('_', '-')}", getattr(self, name), what)

    def cut(self, recordings: Sequence[AudioRecording]) -> Samples:
        """Windows of the recordings (`cut_audio`)."""
        return cut_audio(
            recordings,
            window=self.window,
            stride=self.stride,
            rate=self.rate,
            skip_corrupt=self.skip_corrupt,
        )


def refuse(option: str, value: Any, what: str) -> None:
    """Raise an error if an option is stated that has no effect.

    Raises
    ------
    ConfigError
        If `value` is not None.
    """
    if value is not None:
        raise ConfigError(
            f"{option} {value} has no effect: the data are {what}", fix="leave it out"
        )


def cut_audio_rows(
    table: Table,
    roles: Roles,
    rows: Rows,
    files: Sequence[AudioFile],
    ids: Sequence[str],
    options: AudioOptions,
    *,
    class_names: Sequence[str] | None = None,
    decision: Decision | None = None,
    notes: Sequence[str] = (),
) -> Samples:
    """Windows of the recordings of the kept rows, sorted by class and name.

    Parameters
    ----------
    table, roles, rows
        A table, its columns, and its rows that are samples.
    files, ids
        Recording and name of each kept row.
    options : AudioOptions
        As in `cut_audio`.
    class_names : sequence of str, optional
        Names of the classes where the labels are their numbers.
    decision, notes
        Of the table.

    Raises
    ------
    DataError
        As `cut_audio`.
    """
    places = [int(row) for row in rows.kept]
    labels = label_texts(table, roles, rows, class_names)
    others = table.other_columns(roles)
    order = sorted(range(len(ids)), key=lambda n: (labels[n], folder_order(ids[n])))
    samples = options.cut(
        [
            AudioRecording(
                files[n],
                ids[n],
                labels[n],
                str(rows.parts[n]),
                table.columns[roles.group][places[n]] if roles.group else "",
                attributes={name: column[places[n]] for name, column in others.items()},
            )
            for n in order
        ]
    )
    made = (*([] if decision is None else [decision]), *rows.decisions)
    return dataclasses.replace(
        samples,
        notes=(*notes, *rows.notes, *samples.notes),
        decisions=(*made, *samples.decisions),
    )
