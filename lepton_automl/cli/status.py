"""`lepton status`: show the progress of a run, also while it is running."""

from __future__ import annotations

from typing import Annotated

from lepton_automl import api
from lepton_automl.cli import options as o
from lepton_automl.errors import ConfigError
from lepton_automl.pipeline.sweep_table import is_sweep

Watch = Annotated[bool, o.option("--watch", "Update it until the run ends.")]


def status(run: o.Run, watch: Watch = False, json: o.Json = False) -> None:
    """Show the progress of a run, or the table of a sweep.

    Shows stage, workers, rungs, front, the best trial so far, time used and time left. It changes
    nothing, and works while the run does.
    """
    if watch and json:
        raise ConfigError("--watch and --json exclude each other", fix="leave one of them out")
    from lepton_automl.cli import report
    from lepton_automl.cli.report import (
        status_screen,  # rich is slow to import; --help must not wait
    )

    if is_sweep(run):
        if watch:
            raise ConfigError(
                f"--watch has no effect: {run} is a sweep",
                fix="leave it out, or give the folder of one of its runs",
            )
        report.show_sweep(api.sweep_table(run), json=json)
    elif watch:
        status_screen.watch_status(lambda: api.status(run))
    else:
        report.show_status(api.status(run), json=json)
