"""`lepton pick`: make an artifact of another trial of a finished search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lepton_automl import api
from lepton_automl.cli import options as o
from lepton_automl.errors import ConfigError

Out = Annotated[
    Path | None,
    o.option("--out", "Folder of the new artifact.  [default: RUN/picks/NAME]", "FOLDER"),
]
Budget = Annotated[
    str | None,
    o.option(
        "--budget",
        "Wall-clock time of this pick: 45s, 10m, 2h.  [default: what a training as long as that of "
        "the winner takes]",
        "TIME",
    ),
]
Preference = Annotated[
    str | None,
    o.option(
        "--prefer",
        "size: ship the int8 file; latency: ship the faster of int8 and float.  [default: that of "
        "the run]",
        "size|latency",
        section=o.Section.SHIPPING,
    ),
]


def pick(
    run: o.Run,
    max_latency_ms: o.MaxLatency = None,
    max_size_kb: o.MaxSize = None,
    max_flash_kb: o.MaxFlash = None,
    max_macs: o.MaxMacs = None,
    max_ram_kb: o.MaxRam = None,
    min_accuracy: o.MinAccuracy = None,
    max_drop: o.MaxDrop = None,
    per_class_max_drop: o.MaxClassDrop = None,
    prefer: Preference = None,
    out: Out = None,
    budget: Budget = None,
    device: o.Device = "auto",
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    json: o.Json = False,
) -> None:
    """Make an artifact of another trial of RUN, under other limits.

    Without limits and --prefer: list the front, the trials that no other one beats in accuracy and
    all costs at once.

    With limits or --prefer: take the cheapest trial or pruned net within the limits whose accuracy
    is not significantly below the best, train it to the end, compress and verify it. Limits of the
    run that are not given anew still apply.
    """
    settings = o.settings({k: v for k, v in locals().items() if k != "run"})
    is_listing = prefer is None and not settings["limits"].stated
    if is_listing and (out or budget):
        raise ConfigError(
            f"--{'out' if out else 'budget'} has no effect without a limit or --prefer",
            fix="give a limit or --prefer, or leave it out to list the front",
        )
    from lepton_automl.cli import report
    from lepton_automl.cli.report import progress  # rich is slow to import; --help must not wait

    if is_listing:
        report.show_front(api.front(run), json=json)
        return
    with progress.screen(quiet=quiet, verbose=verbose) as emit:
        picked = api.pick(run, emit=emit, **settings)
    report.show_pick(picked, json=json)
    raise typer.Exit(picked.outcome.verdict.exit_code)
