"""`lepton data`: audit data before a search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lepton_automl import api
from lepton_automl.cli import options as o

Html = Annotated[
    Path | None,
    o.option("--html", "Write the report, with pictures, to this file as one HTML page.", "FILE"),
]
Fix = Annotated[
    Path | None,
    o.option(
        "--fix",
        "Write a table of the pictures, without those that are unreadable, copied across parts or "
        "labelled in two ways; the pictures themselves are not changed.",
        "FILE.csv",
    ),
]


def data(
    data: o.Data,
    test: o.Test = None,
    seed: o.Seed = 0,
    skip_corrupt: o.SkipCorrupt = False,
    group: o.Group = None,
    time: o.Time = None,
    parts: o.Parts = None,
    columns: o.Columns = None,
    root: o.Root = None,
    channel_axis: o.ChannelAxisName = "auto",
    window: o.Window = None,
    stride: o.Stride = None,
    rate: o.Rate = None,
    mels: o.Mels = None,
    band_mean: o.BandMeanName = "auto",
    balance: o.BalanceName = "auto",
    channels: o.ChannelsName = "auto",
    pixel_scale: o.PixelScaleText = "auto",
    rehash: o.Rehash = False,
    html: Html = None,
    fix: Fix = None,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    json: o.Json = False,
) -> None:
    """Check data before a search: what they hold, what is wrong.

    Opens DATA as `run` does, and trains no net. Exit code 3: `run` would refuse the data.
    """
    settings = {k: v for k, v in locals().items() if k not in ("data", *o.OUTPUT_PARAMETERS)}
    from lepton_automl.cli import report
    from lepton_automl.cli.report import progress  # rich is slow to import; --help must not wait

    with progress.screen(quiet=quiet, verbose=verbose) as emit:
        found = api.data(data, emit=emit, **settings)
    report.show_data(found, json=json)
    raise typer.Exit(found.exit_code)
