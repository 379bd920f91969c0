"""The tables that `lepton data` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lepton_automl.cli.report.tables import decision_table
from lepton_automl.data.audit.full_audit import MAX_SAMPLES
from lepton_automl.pipeline.data_report import part_rows, suspect_text

if TYPE_CHECKING:
    from lepton_automl.pipeline.data_report import DataReport

_CLASSES = 30
"""Classes whose counts are printed at most; `--json` has all."""
_SUSPECTS = 10
"""Doubtful labels that are printed; `--json` has all."""
_SHOWN = 5
"""Groups of samples of a finding that are printed; `--json` has all."""


def data_view(found: DataReport) -> RenderableType:
    """Parts, classes, decisions and findings."""
    parts: list[RenderableType] = [_parts(found), _classes(found)]
    if len(found.dataset.class_names) > _CLASSES:
        parts.append(Text(f"the first {_CLASSES} of {len(found.dataset.class_names)} classes"))
    if found.is_sampled:
        parts.append(Text(f"channels, and classes against each other: by {MAX_SAMPLES:,} samples"))
    if found.decisions:
        parts.append(decision_table(found.decisions, show_details=True))
    parts += [Text(f"note: {note}") for note in found.dataset.notes]
    parts.append(Text(found.resolution_text))
    if not found.findings:
        parts.append(Text("no findings", "green"))
    for finding in found.findings:
        parts.append(
            Text.assemble(
                (f"{finding.kind}: ", "bold yellow"), finding.message, f" ({finding.fix})"
            )
        )
        parts += [
            Text("  " + " | ".join(f"{found.name(key)} ({found.label(key)})" for key in group[:4]))
            for group in finding.samples[:_SHOWN]
        ]
        if (more := len(finding.samples) - _SHOWN) > 0:
            parts.append(Text(f"  and {more} more; --json and --html have them"))
        if finding.kind == "unreadable files":
            parts += [Text(f"  {file.error}") for file in found.dataset.unreadable]
    parts.append(Text.assemble(("doubtful labels: ", "bold yellow"), found.suspects_text))
    parts += [
        Text(f"  {found.name(each.key)}: {suspect_text(found, each)}")
        for each in found.suspects.suspects[:_SUSPECTS]
    ]
    return Group(*parts)


def _parts(found: DataReport) -> Table:
    kind = found.dataset.kind
    table = Table(
        "", *(part.name for part in found.parts), title=f"{found.dataset.name}: {kind}",
        title_justify="left", title_style="bold",
    )  # fmt: skip
    for name, cells in part_rows(found.parts):
        table.add_row(name, *cells)
    return table


def _classes(found: DataReport) -> Table:
    table = Table(
        "class", *(part.name for part in found.parts), title="samples of each class",
        title_justify="left", title_style="bold",
    )  # fmt: skip
    for n, name in enumerate(found.dataset.class_names[:_CLASSES]):
        table.add_row(name, *(f"{part.class_counts[n]:,}" for part in found.parts))
    return table
