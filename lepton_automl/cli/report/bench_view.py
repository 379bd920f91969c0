"""The tables and the JSON object of `lepton bench FILES`."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lepton_automl.artifact.timing import FileTiming
from lepton_automl.core import units
from lepton_automl.core.units import counted
from lepton_automl.pipeline.bench_files import Comparison

_COLUMNS = (
    "file",
    "p50",
    "p95",
    "p99",
    "time / first file [95 %]",
    "opening",
    "first call",
    "memory",
)


def bench_view(found: Comparison) -> RenderableType:
    """A table for each number of threads and batch."""
    parts: list[RenderableType] = []
    for threads, batch in dict.fromkeys((row.threads, row.batch) for row in found.rows):
        rows = [row for row in found.rows if (row.threads, row.batch) == (threads, batch)]
        title = f"{counted(threads, 'thread')}, batch {batch}"
        table = Table(title=title, title_justify="left")
        for name in _COLUMNS:
            table.add_column(name, justify="left" if name == "file" else "right", overflow="fold")
        for row in rows:
            table.add_row(*_cells(row))
        parts.append(table)
    return Group(*parts, Text(f"measured on {found.machine}", "dim"))


def _cells(row: FileTiming) -> tuple[str, ...]:
    if row.not_run:
        return (row.path, f"not run here: {row.not_run}")
    ratio = ""
    if row.ratio is not None and row.ratio_interval is not None:
        ratio = "{:.2f} [{:.2f}, {:.2f}]".format(row.ratio, *row.ratio_interval)
    return (
        row.path,
        *(units.time_text(value / 1e3) for value in (row.p50_us, row.p95_us, row.p99_us)),
        ratio,
        units.time_text(row.opening_ms),
        units.time_text(row.first_ms),
        "" if row.memory_bytes is None else units.bytes_text(row.memory_bytes),
    )


def bench_document(found: Comparison) -> dict[str, Any]:
    """The object of `bench` with files."""
    return {
        "files": [dataclasses.asdict(row) for row in found.rows],
        "notes": list(found.notes),
        "machine": str(found.machine),
    }
