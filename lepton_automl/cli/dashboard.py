"""`lepton dashboard`: show a run in optuna-dashboard."""

from __future__ import annotations

import warnings
from contextlib import closing
from typing import Annotated

from lepton_automl.cli import options as o
from lepton_automl.cli.streams import write_json, write_line
from lepton_automl.core.interrupts import raise_on_interrupt
from lepton_automl.errors import MachineError

Port = Annotated[
    int, o.option("--port", "Port of the web page; 0 takes a free one.", "N", min=0, max=65535)
]


def dashboard(run: o.Run, port: Port = 8080, json: o.Json = False) -> None:
    """Show RUN in optuna-dashboard, until Ctrl-C.

    It changes nothing, and works while the run does. The page is served on 127.0.0.1: no other
    machine can open it.
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
    # Optuna warns about importances of few trials at every request.
    warnings.simplefilter("ignore", UserWarning)
    raise_on_interrupt()
    with closing(Dashboard(folder, port)) as board:
        if json:
            write_json({"url": board.url, "study": board.study})
        else:
            write_line(f"{board.study}: {board.url} (this machine only; Ctrl-C ends it)")
        try:
            while True:
                board.serve()
        except KeyboardInterrupt:
            return
