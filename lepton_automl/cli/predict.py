"""`lepton predict`: classify picture files with the shipped file of an artifact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from lepton_automl import api
from lepton_automl.cli import options as o
from lepton_automl.cli.streams import paths_from
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.models.untrusted.session_process import start_process

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILES",
        help="Files, folders, or patterns such as 'new/*.png'; - reads paths from standard input.",
    ),
]
Rows = Annotated[
    Literal["table", "jsonl", "csv"] | None,
    o.option(
        "--rows",
        "How predictions are printed; jsonl and csv: each as soon as it is made.  [default: table]",
        "table|jsonl|csv",
    ),
]

FormatName = Annotated[
    str,
    o.option(
        "--format",
        "Format of the artifact whose files are used: onnx, c, litert.  [default: onnx]",
        "NAME",
    ),
]

PixelScaleText = Annotated[
    str,
    o.option(
        "--pixel-scale",
        "Stored values of black and white, as for `lepton run`; auto: those recorded with the net.",
        "SCALE",
    ),
]

_STDIN = Path("-")


def predict(
    artifact: o.Artifact,
    files: Files,
    pixel_scale: PixelScaleText = "auto",
    format: FormatName = "",
    rows: Rows = None,
    json: o.Json = False,
) -> None:
    """Classify pictures, signals or sound with an artifact.

    Pictures are files; a net for signals reads recordings (.npy, .csv, .tsv, .ts), one for sound
    WAV and FLAC files. A recording longer than the window of the net gets one label, from the
    joined predictions of its windows; --json lists these.

    Exit code 3: a file of the artifact has changed since it was sealed, or files could not be read;
    those are listed on stderr, and all others are classified.
    """
    if rows is not None and json:
        raise ConfigError("--rows has no effect with --json", fix="give one of both")
    start_process()  # It loads ONNX Runtime while this process loads what follows.
    from lepton_automl.cli import report

    if not json and rows in (None, "table"):
        report.load_tables()
    unreadable: list[DataError] = []
    notes: list[str] = []
    if rows in ("jsonl", "csv"):
        _stream(artifact, files, pixel_scale, format, rows)
        return
    if _STDIN not in files:
        found = api.predict(
            artifact,
            files,
            pixel_scale=pixel_scale,
            file_format=format,
            on_unreadable=unreadable.append,
            on_note=notes.append,
        )
    else:
        with api.classifier(
            artifact,
            pixel_scale=pixel_scale,
            file_format=format,
            on_unreadable=unreadable.append,
            on_note=notes.append,
        ) as classifier:
            found = [row for part in _batches(files) for row in classifier.classify(part)]
    report.show_predictions(found, unreadable, notes, json=json)
    if unreadable:
        raise typer.Exit(DataError.exit_code)


def _stream(
    artifact: Path,
    files: list[Path],
    pixel_scale: str,
    file_format: str,
    rows: Literal["jsonl", "csv"],
) -> None:
    """Write predictions as they come, a line each."""
    from lepton_automl.cli import report

    is_incomplete = False
    unreadable: list[DataError] = []
    notes: list[str] = []
    with api.classifier(
        artifact,
        pixel_scale=pixel_scale,
        file_format=file_format,
        on_unreadable=unreadable.append,
        on_note=notes.append,
    ) as classifier:
        if rows == "csv":
            report.show_prediction_head()
        for part in _batches(files):
            found = classifier.classify(part)
            report.show_prediction_rows(found, rows)
            notes += [row.note for row in found if row.note]
            report.show_predictions([], unreadable, notes)
            is_incomplete |= bool(unreadable)
            unreadable.clear()
            notes.clear()
    if is_incomplete:
        raise typer.Exit(DataError.exit_code)


def _batches(files: list[Path]) -> Iterator[list[Path]]:
    """The given files, and after them, where - is given, those that standard input lists."""
    named = [file for file in files if file != _STDIN]
    if named:
        yield named
    if len(named) < len(files):
        yield from paths_from(0)
