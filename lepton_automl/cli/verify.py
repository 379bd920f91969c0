"""`lepton verify`: prove a written file again, reading only."""

from __future__ import annotations

from typing import Annotated

import typer

from lepton_automl import api
from lepton_automl.cli import options as o

TestData = Annotated[
    str | None, typer.Argument(help="The data whose test part judges.  [default: the run's own]")
]


def verify(
    artifact: o.Artifact,
    data: TestData = None,
    test: o.Test = None,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Prove a written artifact again, reading only.

    Manifest, ONNX checks, parity with integer arithmetic, accuracy, drop, latency, float nodes.
    Exit 6 when a stated limit is broken or undecided, or parity does not hold.
    """
    from lepton_automl.cli import report
    from lepton_automl.cli.report import progress  # rich is slow to import; --help must not wait

    with progress.screen(quiet=quiet) as emit:
        outcome = api.verify(artifact, data=data, test=test, emit=emit)
    report.show_verdict(outcome, json=json)
    raise typer.Exit(outcome.verdict.exit_code)
