"""`lepton dashboard`: a run in optuna-dashboard, for a browser on this machine."""

from __future__ import annotations

import json as json_text
import warnings
from contextlib import closing
from typing import Annotated

import typer

from lepton_automl.cli import options as o
from lepton_automl.errors import MachineError

Port = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="Where to listen; 0 takes any free one.")
]


def dashboard(run: o.Run, port: Port = 8080, json: o.Json = False) -> None:
    """Show RUN in optuna-dashboard, also while it works, until Ctrl-C; reading only.

    It listens on 127.0.0.1: no other machine can connect.
    """
    from lepton_automl.runs.folder import locate

    folder = locate(run)
    try:  # optuna is slow to import; --help must not wait.
        from lepton_automl.pipeline.dashboard import Dashboard
    except ImportError as error:
        raise MachineError(
            f"lepton dashboard needs a package that is not installed: {error}",
            fix="pip install 'lepton-automl[dashboard]'",
        ) from error
    # Optuna's advice on importances of few trials would fill the terminal at every request.
    warnings.simplefilter("ignore", UserWarning)
    with closing(Dashboard(folder, port)) as board:
        if json:
            typer.echo(json_text.dumps({"url": board.url, "study": board.study}))
        else:
            typer.echo(f"{board.study}: {board.url} (for this machine only; Ctrl-C ends it)")
        try:
            while True:
                board.serve()
        except KeyboardInterrupt:
            return
