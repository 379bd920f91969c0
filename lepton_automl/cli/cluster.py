"""`lepton cluster start`: a Dask cluster on this machine."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Annotated

import typer

from lepton_automl import api
from lepton_automl.cli import options as o
from lepton_automl.cli.streams import write_json, write_line
from lepton_automl.core.interrupts import raise_on_interrupt
from lepton_automl.errors import ConfigError

Action = Annotated[str, typer.Argument(metavar="start", help="The only action.")]
WorkerCount = Annotated[
    int | None,
    o.option(
        "--workers", "Number of worker processes.  [default: one per CPU core]", "N", min=1, max=256
    ),
]
SchedulerPort = Annotated[
    int,
    o.option("--port", "Port of the scheduler; 0 takes a free one.", "N", min=0, max=65535),
]
DashboardPort = Annotated[
    int | None,
    o.option(
        "--dashboard-port",
        "Serve Dask's dashboard at this port; needs bokeh.",
        "N",
        min=0,
        max=65535,
    ),
]


def cluster(
    action: Action,
    workers: WorkerCount = None,
    port: SchedulerPort = 8786,
    dashboard_port: DashboardPort = None,
    json: o.Json = False,
) -> None:
    """Start a Dask cluster on this machine, for --cluster.

    It runs until Ctrl-C and listens on 127.0.0.1 only. Every user of this machine can run code in
    it.
    """
    if action != "start":
        raise ConfigError(f"{action!r} is not known", fix="write: lepton cluster start")
    raise_on_interrupt()
    try:
        with closing(api.cluster(workers, port=port, dashboard_port=dashboard_port)) as made:
            if json:
                write_json({"address": made.address, "dashboard": made.dashboard_url})
            else:
                page = f", {made.dashboard_url}" if made.dashboard_url else ""
                write_line(f"{made.address}{page} (this machine only; Ctrl-C ends it)")
                write_line(f"lepton run DATA --cluster {made.address}")
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        return
