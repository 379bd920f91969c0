"""`lepton predict`: classify picture files with the shipped file of an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lepton_automl import api
from lepton_automl.cli import options as o
from lepton_automl.errors import DataError

Files = Annotated[
    list[Path],
    typer.Argument(help="Picture files, values of a signal, recordings of sound, or folders."),
]


def predict(
    artifact: o.Artifact,
    files: Files,
    pixel_scale: o.PixelScaleText = "auto",
    json: o.Json = False,
) -> None:
    """Classify picture files with the shipped file of an artifact.

    A net for signals classifies recordings (.npy, .csv, .tsv, .ts), one for sound WAV and FLAC
    files: the answers to windows of a longer one are joined, --json lists them.

    A file of an artifact that has changed since it was sealed is refused with exit code 3. Pictures
    that cannot be read are named on stderr; the others are classified, and the exit code is 3.
    """
    from lepton_automl.cli import report  # rich is slow to import; --help must not wait

    unreadable: list[DataError] = []
    notes: list[str] = []
    rows = api.predict(
        artifact,
        files,
        pixel_scale=pixel_scale,
        on_unreadable=unreadable.append,
        on_note=notes.append,
    )
    report.show_predictions(rows, unreadable, notes, json=json)
    if unreadable:
        raise typer.Exit(DataError.exit_code)
