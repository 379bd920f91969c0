"""Report on data, and write what is asked for: the page and the cleaned table."""

from __future__ import annotations

from pathlib import Path

from lepton_automl.config import RunConfig
from lepton_automl.core.events import Emit, Event
from lepton_automl.data.audit import cleaned_table
from lepton_automl.pipeline import data_page
from lepton_automl.pipeline.data_report import DataReport, report_data


def report_and_write(
    config: RunConfig, html: Path | None, fix: Path | None, emit: Emit
) -> DataReport:
    """The report on the data of `config`; with the files that are named.

    Raises
    ------
    ConfigError
        If a file exists, or `fix` is given for data that are not picture files.
    LeptonError
        As `report_data`.
    """
    if html is not None:
        data_page.check_place(html)
    if fix is not None:
        cleaned_table.check_place(fix)
    report = report_data(config, emit, None if fix is None else cleaned_table.check_files)
    if fix is not None:
        made = cleaned_table.write_cleaned(report.dataset, fix)
        left = [
            f"{len(keys)} {what} ({', '.join(map(report.name, keys[:3]))}"
            f"{', ...' if len(keys) > 3 else ''})"
            for keys, what in ((made.copies, "copies"), (made.contradictory, "contradictory ones"))
            if keys
        ]
        if count := len(report.dataset.unreadable):
            left.append(f"{count} that cannot be read")
        emit(
            Event(
                "data",
                f"{made.rows:,} samples are in {fix}, without {'; '.join(left) or 'exception'}; "
                f"read it with: lepton run {made.command}",
            )
        )
    if html is not None:
        data_page.write_page(report, html)
        emit(Event("data", f"the page is {html}"))
    return report
