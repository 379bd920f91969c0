"""`lepton predict`: classify picture files with the shipped file of an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lepton_automl import api
from lepton_automl.cli import options as o

Files = Annotated[list[Path], typer.Argument(help="Picture files or folders of them.")]


def predict(artifact: o.Artifact, files: Files, json: o.Json = False) -> None:
    """Classify picture files with the shipped file of an artifact."""
    from lepton_automl.cli import report  # rich is slow to import; --help must not wait

    report.show_predictions(api.predict(artifact, files), json=json)
