"""Print results as tables or one JSON object on stdout, errors on stderr.

Each function loads what it shows with: rich takes as long as numpy, and some need none of it.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from lepton_automl.cli.streams import write_json, write_lines, write_rows
from lepton_automl.errors import LeptonError

if TYPE_CHECKING:
    from lepton_automl.artifact.predict import Prediction
    from lepton_automl.cli.report.console import show
    from lepton_automl.cli.report.progress import screen
    from lepton_automl.cli.report.status_screen import watch_status
    from lepton_automl.compress.steps import CompressionResult
    from lepton_automl.pipeline.bench_files import Comparison
    from lepton_automl.pipeline.data_report import DataReport
    from lepton_automl.pipeline.front import Front
    from lepton_automl.pipeline.inspection import NetReport
    from lepton_automl.pipeline.outcome import Outcome
    from lepton_automl.pipeline.pick import PickResult
    from lepton_automl.pipeline.status import Status
    from lepton_automl.pipeline.sweep_table import SweepResult
    from lepton_automl.search.request import SearchResult

__all__ = [
    "load_tables",
    "screen",
    "show",
    "show_comparison",
    "show_compressed",
    "show_data",
    "show_error",
    "show_front",
    "show_inspection",
    "show_pick",
    "show_prediction_head",
    "show_prediction_rows",
    "show_predictions",
    "show_search",
    "show_status",
    "show_sweep",
    "show_verdict",
    "show_verification",
    "watch_status",
]

_MOST_TABLE_ROWS = 500
"""More predictions are printed as plain lines."""


_ELSEWHERE = ("progress.screen", "console.show", "status_screen.watch_status")
"""Names that are not defined here, with their modules."""


def __getattr__(name: str) -> object:
    """Load a name from its module when it is first used.

    Raises
    ------
    AttributeError
        If there is no such name.
    """
    for place in _ELSEWHERE:
        module, _, found = place.partition(".")
        if found == name:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_tables() -> None:
    """Load what tables are shown with, while another process does the work."""
    for module in ("lepton_automl.cli.report.console", "rich.table"):
        importlib.import_module(module)


def show_verdict(outcome: Outcome, *, json: bool = False) -> None:
    """Print the verdict on an artifact, after the front if this command searched."""
    from lepton_automl.cli.report import json_output, tables
    from lepton_automl.cli.report.console import show

    verdict, artifact = outcome.verdict, outcome.artifact
    if json:
        write_json(json_output.document(verdict, artifact, outcome.decisions, outcome.signer))
    else:
        if outcome.search_result is not None:
            show(tables.search_view(outcome.search_result))
        _show_outcome(outcome)


def show_verification(outcome: Outcome, *, json: bool = False) -> None:
    """Print the verdict on an artifact that was there; its model card lists the decisions."""
    show_verdict(outcome if json else dataclasses.replace(outcome, decisions=()), json=json)


def show_search(found: SearchResult, *, json: bool = False) -> None:
    """Print the front and the winner of a search."""
    from lepton_automl.cli.report import json_output, tables
    from lepton_automl.cli.report.console import show

    if json:
        write_json(json_output.search_document(found))
    else:
        show(tables.search_view(found))


def show_front(front: Front, *, json: bool = False) -> None:
    """Print the front of a run and the trial it chose."""
    from rich.text import Text

    from lepton_automl.cli.report import json_output, tables
    from lepton_automl.cli.report.console import show

    if json:
        write_json(json_output.search_document(front))
    else:
        show(tables.search_view(front))
        show(
            Text("a limit, such as --max-size-kb 20, or --prefer makes an artifact of one of them")
        )


def show_pick(picked: PickResult, *, json: bool = False) -> None:
    """Print which trial was picked, and the verdict on it."""
    from rich.text import Text

    from lepton_automl.cli.report import json_output
    from lepton_automl.cli.report.console import show

    outcome = picked.outcome
    if json:
        about = {"picked": picked.label, "selection_reason": picked.reason}
        found = json_output.document(outcome.verdict, outcome.artifact, outcome.decisions)
        write_json(about | found)
    else:
        show(Text(f"picked: {picked.label}, {picked.reason}"))
        _show_outcome(outcome)


def show_compressed(made: CompressionResult | Outcome, *, json: bool = False) -> None:
    """Print the steps of a compression in a run, or the verdict on a compressed artifact."""
    from lepton_automl.cli.report import json_output, tables
    from lepton_automl.cli.report.console import show
    from lepton_automl.pipeline.outcome import Outcome

    if isinstance(made, Outcome):
        show_verdict(made, json=json)
    elif json:
        write_json(json_output.compression_document(made))
    else:
        show(tables.compression_view(made))


def show_data(found: DataReport, *, json: bool = False) -> None:
    """Print the report on data, and on stderr why a run would refuse them."""
    from lepton_automl.cli.report.console import show

    if json:
        write_json(found.document())
    else:
        from lepton_automl.cli.report import data_view

        show(data_view.data_view(found))
    if found.refusal is not None:
        show_error(found.refusal)


def show_status(status: Status, *, json: bool = False) -> None:
    """Print the progress of a run."""
    from lepton_automl.cli.report import json_output
    from lepton_automl.cli.report.console import show
    from lepton_automl.cli.report.status_screen import status_view

    if json:
        write_json(json_output.status_document(status))
    else:
        show(status_view(status))


def show_sweep(made: SweepResult, *, json: bool = False) -> None:
    """Print the table of a sweep."""
    from lepton_automl.cli.report import json_output, tables
    from lepton_automl.cli.report.console import show

    if json:
        write_json(json_output.sweep_document(made))
    else:
        show(tables.sweep_view(made))


def show_predictions(
    rows: Sequence[Prediction],
    unreadable: Sequence[LeptonError] = (),
    notes: Sequence[str] = (),
    *,
    json: bool = False,
) -> None:
    """Print label and probability of each file; files that cannot be read and notes on stderr."""
    from lepton_automl.cli.report import predictions

    if json:
        write_json(predictions.predictions_document(rows, unreadable, notes))
    elif len(rows) > _MOST_TABLE_ROWS:
        write_lines(predictions.prediction_lines(rows))
    elif rows:
        from lepton_automl.cli.report.console import show

        show(predictions.predictions_view(rows))
    for note in (*notes, *(row.note for row in rows if row.note)):
        _show_note(note)
    for error in unreadable:
        show_error(error)


def show_prediction_head() -> None:
    """Print the first line of predictions as CSV."""
    from lepton_automl.cli.report import predictions

    write_rows(predictions.csv_line(predictions.PREDICTION_COLUMNS))


def show_prediction_rows(rows: Sequence[Prediction], kind: Literal["jsonl", "csv"]) -> None:
    """Print predictions, a line each: a JSON object, or columns of a table."""
    from lepton_automl.cli.report import predictions

    line = predictions.prediction_line if kind == "jsonl" else predictions.prediction_cells
    write_rows("".join(map(line, rows)))


def show_comparison(found: Comparison, *, json: bool = False) -> None:
    """Print the figures of files beside each other; notes on stderr."""
    from lepton_automl.cli.report import bench_view as view
    from lepton_automl.cli.report.console import show

    if json:
        write_json(view.bench_document(found))
    else:
        show(view.bench_view(found))
    for note in found.notes:
        _show_note(note)


def show_inspection(found: NetReport, notes: Sequence[str] = (), *, json: bool = False) -> None:
    """Print the layers and kernels of a file; notes on stderr."""
    from lepton_automl.cli.report import inspection_view as view
    from lepton_automl.cli.report.console import show

    if json:
        write_json(view.inspection_document(found))
    else:
        show(view.inspection_view(found))
    for note in notes:
        _show_note(note)


def show_error(error: LeptonError) -> None:
    """Print the message and the fix of an error on stderr."""
    from lepton_automl.cli.report.console import error_view, show

    show(error_view(error), to_stderr=True)


def _show_outcome(outcome: Outcome) -> None:
    from rich.text import Text

    from lepton_automl.cli.report import tables
    from lepton_automl.cli.report.console import show

    if outcome.decisions:
        show(tables.decisions_view(outcome.decisions, outcome.artifact))
    if outcome.signer:
        show(Text(f"signed by {outcome.signer}"))
    show(tables.verdict_view(outcome.verdict, outcome.artifact))


def _show_note(note: str) -> None:
    from rich.text import Text

    from lepton_automl.cli.report.console import show

    show(Text(f"note: {note}"), to_stderr=True)
