"""`lepton sweep`: a table of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lepton_automl import api
from lepton_automl.cli import options as o

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="TOML file with options of `lepton run`; an option with a list of values is a column "
        "of the table.",
    ),
]
SweepOut = Annotated[
    Path | None,
    o.option("--out", "Folder for all runs and the table.  [default: runs/NAME]", "FOLDER"),
]
SweepBudget = Annotated[
    str | None,
    o.option(
        "--budget",
        "Time of all runs together, divided equally among those without a budget of their own: "
        "45m, 12h.",
        "TIME",
    ),
]
SweepJobs = Annotated[
    int | None,
    o.option(
        "--jobs", "Number of worker processes of each run.  [default: one per CPU core or GPU]", "N"
    ),
]


def sweep(
    file: File,
    out: SweepOut = None,
    budget: SweepBudget = None,
    jobs: SweepJobs = None,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    json: o.Json = False,
) -> None:
    """Run a table of data sets, limits and seeds, one by one.

    The same command continues a stopped sweep. A run that fails is a row of the table too.
    """
    from lepton_automl.cli import report
    from lepton_automl.cli.report import progress  # rich is slow to import; --help must not wait

    with progress.screen(quiet=quiet, verbose=verbose) as emit:
        made = api.sweep(file, out=out, budget=budget, jobs=jobs, emit=emit)
    report.show_sweep(made, json=json)
    raise typer.Exit(made.exit_code)
