"""`lepton status`: how far a run is, reading only; also live from a second terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from lepton_automl import api
from lepton_automl.cli import options as o
from lepton_automl.errors import ConfigError

Watch = Annotated[
    bool, typer.Option("--watch", help="Show it live until nobody works on it any more.")
]


def status(run: o.Run, watch: Watch = False, json: o.Json = False) -> None:
    """How far RUN is; may be called while it works.

    Shows stage, workers, rungs, front, the best so far, time used and left; changes nothing.
    """
    if watch and json:
        raise ConfigError(
            "--watch shows a screen and --json prints one object", fix="leave one of them out"
        )
    from lepton_automl.cli import report
    from lepton_automl.cli.report import (
        status_screen,  # rich is slow to import; --help must not wait
    )

    if watch:
        status_screen.watch_status(lambda: api.status(run))
    else:
        report.show_status(api.status(run), json=json)
