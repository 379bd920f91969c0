"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lepton_automl import wording as w
from lepton_automl.config import LIMITS
from lepton_automl.confirmed import Confirmed, summary
from lepton_automl.errors import LeptonError
from lepton_automl.report.plot import Mark, Point, plot
from lepton_automl.verdict import Figures, Verdict

if TYPE_CHECKING:
    from lepton_automl.compress.ladder import Compressed
    from lepton_automl.front import Front
    from lepton_automl.predict import Prediction
    from lepton_automl.search.work import SearchResult, TrialRow

COLOURS = {"holds": "green", "broken": "red", "undecided": "yellow"}
FRONT_ROWS = 12
"""A front may be long; the rest is in `--json`."""


def verdict_view(verdict: Verdict, artifact: Path) -> RenderableType:
    """Figures of all files, limits, drops, and the verdict as the last line."""
    parts: list[RenderableType] = []
    if verdict.shipped is not None:
        parts += [_figures(verdict), *_drops(verdict), Text(w.faster_text(verdict))]
    if verdict.limits:
        parts.append(_limits(verdict))
    parts += [Text(reason, "red") for reason in verdict.reasons]
    if other := w.other_text(verdict):
        parts.append(Text(other, "green"))
    parts.append(Text(f"measured on {verdict.machine}", "dim"))
    if told := w.told_of(verdict):
        parts.append(Text(told, "yellow"))
    words = "no limit was stated" if _is_unjudged(verdict) else w.ANSWERS[verdict.status]
    head = Text.assemble("verdict: ", (verdict.status, f"bold {COLOURS[verdict.status]}"))
    shipped = artifact / w.precision_text(verdict.primary)
    return Group(*parts, head.append(f" ({words.rstrip('.')})"), Text(str(shipped)))


def search_view(found: SearchResult | Front) -> RenderableType:
    """The front as a table and a plot, and why the winner is the winner."""
    title = _latency_title(found)
    table = Table("", "trial", _accuracy_title(found.is_balanced), title, "file", "MACs", "epochs")
    for row in found.front[:FRONT_ROWS]:
        table.add_row("#" if row.number == found.number else "", *_cells(row))
    winner = f"winner: trial {found.number}, {found.reason}"
    return Group(table, Text(front_plot(found)), *_confirmed(found.confirmed), Text(winner))


def _confirmed(confirmed: Sequence[Confirmed]) -> list[RenderableType]:
    if not confirmed:
        return []
    table = Table("trial", *w.CONFIRMED_COLUMNS)
    for each in confirmed:
        table.add_row(str(each.number), *w.confirmed_cells(each))
    return [table, Text(summary(confirmed))]


def front_plot(found: SearchResult | Front) -> str:
    """Accuracy against latency, or against bytes where no latency was measured."""
    rows = [row for row in found.rows if row.accuracy is not None and row.feasible]
    is_timed = bool(rows) and all(row.cost.latency_ms is not None for row in rows)
    front = {row.number for row in found.front}

    def point(row: TrialRow) -> Point:
        mark: Mark = "front" if row.number in front else "other"
        cost = row.cost.latency_ms if is_timed else row.cost.size_bytes
        return Point(
            cost or 0.0, row.accuracy or 0.0, "winner" if row.number == found.number else mark
        )

    label, text = (_latency_title(found), w.time_text) if is_timed else ("file", w.bytes_text)
    return plot([point(row) for row in rows], text, label)


def compression_view(made: Compressed) -> RenderableType:
    """Every step that was tried: what it cost, whether it was kept and why."""
    title = w.latency_title(made.rungs[0].latency_basis if made.rungs else "measured")
    table = Table("step", "validation [95 %]", "int8 file", "MACs", title, "kept", "why")
    for rung in made.rungs:
        table.add_row(
            rung.name,
            w.accuracy_text(rung.accuracy, rung.interval),
            w.bytes_text(rung.size_bytes),
            w.count_text(rung.macs),
            "" if rung.latency_ms is None else w.time_text(rung.latency_ms),
            "yes" if rung.is_accepted else "no",
            Text(rung.why),
        )
    return table


def predictions_view(rows: Sequence[Prediction]) -> RenderableType:
    """File, label, probability."""
    table = Table("file", "label", "probability")
    for row in rows:
        table.add_row(Text(str(row.file)), Text(row.label), f"{100 * row.probability:.1f} %")
    return table


def error_view(error: LeptonError) -> RenderableType:
    """What is wrong and the way out."""
    return Text.assemble(("error: ", "bold red"), error.what, "\n", ("fix: ", "bold"), error.fix)


def _figures(verdict: Verdict) -> Table:
    mark = w.openings_text(verdict)
    table = Table("", "int8", "float", "reference", title=mark or None)
    found = (verdict.int8, verdict.float32, verdict.reference)
    present = [item for item in found if item is not None]
    for name, text in _ROWS.items():
        cells = [text(item) for item in present]
        if any(cells):
            title = _accuracy_title(verdict.balanced) if name == _ACCURACY else name
            table.add_row(title, *cells)
    return table


def _digest(figures: Figures) -> str:
    return figures.sha256[:12]


_ACCURACY = "accuracy [95 %]"
_ROWS: dict[str, Callable[[Figures], str]] = {
    _ACCURACY: lambda f: w.accuracy_text(f.accuracy, f.accuracy_interval),
    "test samples": lambda f: str(f.n_samples),
    "latency [95 %]": w.latency_text,
    "latency there": w.told_text,
    "file": lambda f: w.bytes_text(f.size_bytes),
    "weights": lambda f: w.bytes_text(f.weight_bytes),
    "MACs": lambda f: w.count_text(f.macs),
    "feature memory": lambda f: w.bytes_text(f.peak_ram_bytes),
    "operators in float": w.nodes_text,
    "sha256": _digest,
}


def _drops(verdict: Verdict) -> list[Text]:
    names = {"int8": "reference minus int8", "int8_against_float": "float minus int8"}
    title = w.accuracy_title(verdict.balanced)
    return [
        Text(f"{title} lost, {name}: {w.drop_text(verdict.drops[key])}")
        for key, name in names.items()
        if key in verdict.drops
    ]


def _limits(verdict: Verdict) -> Table:
    table = Table("limit", "", "measured", "")
    for limit in verdict.limits:
        hint = f", about {limit.n_needed} samples would decide" if limit.n_needed else ""
        table.add_row(
            w.limit_title(limit.name, verdict.balanced),
            w.quantity_text(limit.limit, LIMITS[limit.name].unit),
            w.measured_text(limit),
            Text(limit.status + hint, COLOURS[limit.status]),
        )
    return table


def _latency_title(found: SearchResult | Front) -> str:
    return w.latency_title(found.rows[0].cost.latency_basis if found.rows else "measured")


def _accuracy_title(is_balanced: bool) -> str:
    return f"{w.accuracy_title(is_balanced)} [95 %]"


def _cells(row: TrialRow) -> tuple[str, ...]:
    accuracy = "" if row.accuracy is None else w.accuracy_text(row.accuracy, row.interval)
    latency = "" if row.cost.latency_ms is None else w.time_text(row.cost.latency_ms)
    size, macs = w.bytes_text(row.cost.size_bytes), w.count_text(row.cost.macs)
    return str(row.number), accuracy, latency, size, macs, str(row.epochs)


def _is_unjudged(verdict: Verdict) -> bool:
    return verdict.status == "holds" and not verdict.limits
