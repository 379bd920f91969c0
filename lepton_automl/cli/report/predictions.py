"""Predictions as a table, lines, JSON or CSV; rich is loaded for the first two only."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lepton_automl.errors import LeptonError
from lepton_automl.text import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lepton_automl.artifact.predict import Prediction


def predictions_view(rows: Sequence[Prediction]) -> RenderableType:
    """File, label, probability, and how many windows of a recording have that label."""
    from rich.table import Table

    head, *cells = _prediction_cells(rows)
    table = Table(*head)
    for row in cells:
        table.add_row(*row)
    return table


def prediction_lines(rows: Sequence[Prediction]) -> Iterator[str]:
    """The cells of `predictions_view` as aligned lines: a table of rich takes 2 ms a row."""
    from rich.cells import cell_len

    cells = [[printable(cell) for cell in row] for row in _prediction_cells(rows)]
    widths = [max(cell_len(row[n]) for row in cells) for n in range(len(cells[0]))]
    for row in cells:
        padded = (
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)
        )
        yield "  ".join(padded).rstrip()


def _prediction_cells(rows: Sequence[Prediction]) -> list[list[str]]:
    """Head and rows of the table of predictions."""
    has_windows = any(row.windows for row in rows)
    cells = [["file", "label", "probability", *(["windows of that label"] * has_windows)]]
    for row in rows:
        label = "none of these" if row.rejected else row.label
        cells.append([str(row.file), label, f"{100 * row.probability:.1f} %"])
        if has_windows:
            alike = sum(window.label == row.label for window in row.windows)
            cells[-1].append(f"{alike} of {len(row.windows)}" if row.windows else "")
    return cells


def predictions_document(
    rows: Sequence[Prediction],
    unreadable: Sequence[LeptonError] = (),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The object of `predict`: `predictions`, each with `file`, `label`, `probability`, `note`.

    Where none of the classes is probable enough the label is empty and `rejected` is true.

    Of a recording also `windows`, each with `start`, `label`, `probability`.

    Where there are notes on the file, also `notes`; where pictures cannot be read, also
    `unreadable` (one `error` and `fix` each), `error`, `fix` and `exit_code`.
    """
    found: dict[str, Any] = {"predictions": [_prediction(row) for row in rows]}
    if notes:
        found["notes"] = list(notes)
    if unreadable:
        count = len(rows) + len(unreadable)
        found["unreadable"] = [{"error": error.what, "fix": error.fix} for error in unreadable]
        found["error"] = f"{len(unreadable)} of {count} files cannot be read"
        found["fix"] = unreadable[0].fix
        found["exit_code"] = unreadable[0].exit_code
    return found


def _prediction(row: Prediction) -> dict[str, Any]:
    return (
        {"file": str(row.file), "label": row.label, "probability": row.probability}
        | ({"rejected": True} if row.rejected else {})
        | ({"note": row.note} if row.note else {})
        | ({"windows": list(map(dataclasses.asdict, row.windows))} if row.windows else {})
    )


PREDICTION_COLUMNS = ("file", "label", "probability", "note")
"""Of predictions as CSV."""


def prediction_line(row: Prediction) -> str:
    """A prediction as one line of JSON, as in `predictions_document`."""
    return json.dumps(_prediction(row)) + "\n"


def prediction_cells(row: Prediction) -> str:
    """A prediction as one line of CSV (RFC 4180, with a line feed)."""
    return csv_line((str(row.file), row.label, f"{row.probability:.6g}", row.note))


def csv_line(cells: Sequence[str]) -> str:
    """Cells with commas between them, quoted where that is needed."""
    made = io.StringIO()
    csv.writer(made, lineterminator="\n").writerow(cells)
    return made.getvalue()
