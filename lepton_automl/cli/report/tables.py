"""Tables and plots that commands print."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lepton_automl.artifact import formatting
from lepton_automl.artifact.manifest import CARD
from lepton_automl.artifact.provenance import FinalistResult, finalist_summary
from lepton_automl.artifact.verdict import Verdict
from lepton_automl.config import LIMITS
from lepton_automl.core import units
from lepton_automl.core.decisions import Decision
from lepton_automl.pipeline import sweep_table

if TYPE_CHECKING:
    from lepton_automl.compress.steps import CompressionResult
    from lepton_automl.pipeline.front import Front
    from lepton_automl.pipeline.sweep_table import SweepResult
    from lepton_automl.search.request import SearchResult, TrialRow

_COLOURS = {"holds": "green", "broken": "red", "undecided": "yellow"}
_FRONT_ROWS = 12
"""Rows of the front at most; `--json` prints all."""
_OPTION_CELLS = 24
"""Width of the column of options, which a list of several fills otherwise."""
Mark = Literal["other", "front", "winner"]
_SIGNS: dict[Mark, str] = {"other": "·", "front": "o", "winner": "#"}
_DRAWING_ORDER: tuple[Mark, ...] = ("other", "front", "winner")
"""A later one is drawn over an earlier one."""


def verdict_view(verdict: Verdict, artifact: Path) -> RenderableType:
    """Figures of all files, drops, limits and the verdict."""
    parts: list[RenderableType] = []
    if verdict.int8 is not None:
        parts.append(_figures(verdict))
        if about := formatting.front_end_text(verdict):
            parts.append(Text(about))
        parts += [*_drops(verdict), Text(formatting.faster_text(verdict))]
    parts += _formats(verdict)
    if verdict.board is not None:
        parts.append(Text(formatting.board_text(verdict.board)))
    parts += map(Text, formatting.probability_texts(verdict))
    if verdict.limits:
        parts.append(_limits(verdict))
    parts += [Text(reason, "red") for reason in verdict.reasons]
    parts += [Text(warning, "bold yellow") for warning in verdict.warnings]
    parts += [Text(note, "yellow") for note in verdict.notes]
    if other := formatting.other_text(verdict):
        parts.append(Text(other, "green"))
    parts.append(Text(f"measured on {formatting.machine_text(verdict)}", "dim"))
    if note := formatting.target_latency_note(verdict):
        parts.append(Text(note, "yellow"))
    words = "no limit was stated" if _is_unjudged(verdict) else formatting.verdict_text(verdict)
    words = words.rstrip(".") + formatting.warned_text(verdict)
    head = Text.assemble("verdict: ", (verdict.status, f"bold {_COLOURS[verdict.status]}"))
    shipped = artifact / formatting.shipped_text(verdict)
    return Group(*parts, head.append(f" ({words.rstrip('.')})"), Text(str(shipped)))


def decisions_view(decisions: Sequence[Decision], artifact: Path) -> RenderableType:
    """What was decided for the user, one row a decision; details only by name."""
    table = decision_table(decisions)
    details = ", ".join(each.name for each in decisions if each.is_detail)
    more = [Text(f"also decided, see {artifact / CARD}: {details}")] if details else []
    return Group(table, *more)


def decision_table(decisions: Sequence[Decision], *, show_details: bool = False) -> Table:
    """Decisions as a table: each with its evidence below it, and the option that overrules it."""
    table = _table("decisions made for you", "about", "decision", "overruled by")
    table.box, table.pad_edge, table.expand = box.SIMPLE_HEAD, False, True
    about, decision, option = table.columns
    about.style, decision.ratio, option.max_width = "bold", 1, _OPTION_CELLS
    for each in decisions:
        if show_details or not each.is_detail:
            evidence = Text(f"{each.certainty}: {each.evidence}", "dim")
            table.add_row(each.name, Group(Text(each.choice), evidence), each.option)
    return table


def search_view(found: SearchResult | Front) -> RenderableType:
    """The front as a table and a plot, the final trainings, and the reason of the choice."""
    title = _latency_title(found)
    columns = ("", "trial", _accuracy_title(found.is_balanced), title, "file", "MACs", "epochs")
    table = _table("Pareto front of the search, on validation data", *columns)
    for row in found.front[:_FRONT_ROWS]:
        table.add_row("#" if row.number == found.number else "", *_cells(row))
    winner = f"winner: trial {found.number}, {found.reason}{_cross_validated(found)}"
    drawing = [Text(line) for line in front_plot(found).splitlines()]
    return Group(table, *drawing, *_finalists(found.finalists), Text(winner))


def _cross_validated(found: SearchResult | Front) -> str:
    """The accuracy of the winner by cross-validation; empty where there was none."""
    row = next((row for row in found.rows if row.number == found.number), None)
    if row is None or row.cross_validation is None:
        return ""
    compared = row.cross_validation
    text = units.accuracy_text(compared.accuracy, (compared.low, compared.high))
    return f"; {text} by cross-validation on {compared.folds} folds"


def _finalists(finalists: Sequence[FinalistResult]) -> list[RenderableType]:
    if not finalists:
        return []
    has_folds = finalists[0].cross_validation is not None
    data = "training and validation data" if has_folds else "validation data"
    table = _table(f"final trainings, on {data}", "trial", *formatting.FINALIST_COLUMNS)
    for each in finalists:
        table.add_row(str(each.number), *formatting.finalist_cells(each))
    return [table, Text(finalist_summary(finalists))]


def front_plot(found: SearchResult | Front) -> str:
    """Accuracy over latency, or bytes where no latency was measured; empty for a single trial."""
    rows = [row for row in found.rows if row.accuracy is not None and row.feasible]
    if len(rows) < 2:
        return ""
    is_timed = all(row.cost.latency_ms is not None for row in rows)
    front = {row.number for row in found.front}

    def point(row: TrialRow) -> Point:
        mark: Mark = "front" if row.number in front else "other"
        cost = row.cost.latency_ms if is_timed else row.cost.size_bytes
        return Point(
            cost or 0.0, row.accuracy or 0.0, "winner" if row.number == found.number else mark
        )

    label, text = (
        (_latency_title(found), units.time_text) if is_timed else ("file", units.bytes_text)
    )
    return plot([point(row) for row in rows], text, label)


def compression_view(made: CompressionResult) -> RenderableType:
    """Every step of a compression: accuracy, costs, whether it was accepted and why."""
    title = formatting.latency_title(made.steps[0].latency_basis if made.steps else "measured")
    table = Table("step", "validation [95 %]", "int8 file", "MACs", title, "accepted", "why")
    for step in made.steps:
        table.add_row(
            step.name,
            units.accuracy_text(step.accuracy, step.interval),
            units.bytes_text(step.size_bytes),
            units.count_text(step.macs),
            "" if step.latency_ms is None else units.time_text(step.latency_ms),
            "yes" if step.is_accepted else "no",
            Text(step.why),
        )
    return table


def sweep_view(made: SweepResult) -> RenderableType:
    """A row a run, and why runs failed or limits do not hold."""
    table = Table(*sweep_table.heads(made))
    for row in made.rows:
        table.add_row(*sweep_table.cells(made, row))
    errors = [Text(f"{row.name}: {row.error}", "red") for row in made.rows if row.error]
    return Group(table, *errors, Text(str(made.out / "table.md")))


def _figures(verdict: Verdict) -> Table:
    mark = formatting.test_set_uses_text(verdict)
    title = f"measured on the test set{mark and f' ({mark})'}; reference: float, before compression"
    table = _table(title, "", "int8", "float", "reference")
    found = (verdict.int8, verdict.float32, verdict.reference)
    present = [item for item in found if item is not None]
    for row in formatting.figure_rows(present, verdict.balanced):
        table.add_row(*row)
    table.add_row("sha256", *(item.sha256[:12] for item in present))
    return table


def _drops(verdict: Verdict) -> list[Text]:
    names = {"int8": "from reference to int8", "int8_against_float": "from float to int8"}
    title = units.accuracy_title(verdict.balanced)
    return [
        Text(f"{title} drop {name}: {formatting.drop_text(verdict.drops[key])}")
        for key, name in names.items()
        if key in verdict.drops
    ] + [
        Text(f"{title} drop {name}, of whole recordings: {formatting.drop_text(drop)}")
        for key, name in names.items()
        if (drop := verdict.recording_drops.get(key)) is not None
    ]


def _formats(verdict: Verdict) -> list[RenderableType]:
    if not verdict.formats:
        return []
    rows = [formatting.format_cells(each) for each in verdict.formats]
    places = [n for n in range(len(formatting.FORMAT_COLUMNS)) if any(row[n] for row in rows)]
    columns = [formatting.FORMAT_COLUMNS[n] for n in places]
    table = _table("further formats, compared with model.int8.onnx on the test set", *columns)
    for row in rows:
        table.add_row(*(row[n] for n in places))
    lines = [
        Text(f"{each.name}: {text}")
        for each in verdict.formats
        for text in formatting.format_texts(each)
    ]
    return [table, *lines]


def _limits(verdict: Verdict) -> Table:
    table = _table("stated limits", "", "limit", "measured [95 %]", "verdict")
    for limit in verdict.limits:
        hint = (
            f", about {limit.n_needed} {formatting.counted(verdict, limit)} would decide"
            if limit.n_needed
            else ""
        )
        table.add_row(
            formatting.limit_title(limit.name, verdict),
            units.quantity_text(limit.limit, LIMITS[limit.name].unit),
            formatting.measured_text(limit),
            Text(limit.status + hint, _COLOURS[limit.status]),
        )
    return table


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", title_style="bold")


def _latency_title(found: SearchResult | Front) -> str:
    return formatting.latency_title(found.rows[0].cost.latency_basis if found.rows else "measured")


def _accuracy_title(is_balanced: bool) -> str:
    return f"{units.accuracy_title(is_balanced)} [95 %]"


def _cells(row: TrialRow) -> tuple[str, ...]:
    accuracy = "" if row.accuracy is None else units.accuracy_text(row.accuracy, row.interval)
    latency = "" if row.cost.latency_ms is None else units.time_text(row.cost.latency_ms)
    size, macs = units.bytes_text(row.cost.size_bytes), units.count_text(row.cost.macs)
    return str(row.number), accuracy, latency, size, macs, str(row.epochs)


def _is_unjudged(verdict: Verdict) -> bool:
    return verdict.status == "holds" and not verdict.limits


@dataclass(frozen=True)
class Point:
    """A trial in the plot."""

    cost: float
    """Above 0."""
    accuracy: float
    """0 to 1."""
    mark: Mark


def plot(
    points: Sequence[Point],
    text: Callable[[float], str],
    label: str,
    *,
    width: int = 56,
    height: int = 10,
) -> str:
    """Draw points as lines of text: accuracy upwards, the logarithm of the cost to the right.

    Parameters
    ----------
    points : sequence of Point
        Without points the text is empty.
    text : callable
        Formats a cost with its unit.
    label : str
        Name of the cost.
    width, height : int
        Size of the plot area, characters.
    """
    if not points:
        return ""
    costs, heights = [math.log(p.cost) for p in points], [p.accuracy for p in points]
    field = [[" "] * width for _ in range(height)]
    for point in sorted(points, key=lambda p: _DRAWING_ORDER.index(p.mark)):
        column = _place(math.log(point.cost), costs, width)
        row = height - 1 - _place(point.accuracy, heights, height)
        field[row][column] = _SIGNS[point.mark]
    side = [""] * height
    side[0], side[-1] = (f"{100 * end:.1f} %" for end in (max(heights), min(heights)))
    lines = [f"{name:>8} │{''.join(row)}" for name, row in zip(side, field, strict=True)]
    left, right = text(min(p.cost for p in points)), text(max(p.cost for p in points))
    ends = f"{left}{label:^{max(width - len(left) - len(right), len(label) + 2)}}{right}"
    legend = f"{_SIGNS['winner']} winner  {_SIGNS['front']} front  {_SIGNS['other']} others"
    return "\n".join([*lines, f"{'':>8} └{'─' * width}", f"{'':>10}{ends}", f"{'':>10}{legend}"])


def _place(value: float, values: Sequence[float], count: int) -> int:
    low, high = min(values), max(values)
    return round((value - low) / (high - low) * (count - 1)) if high > low else count // 2
