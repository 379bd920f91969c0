"""`lepton verify`: verify a written artifact again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lepton_automl import api
from lepton_automl.cli import options as o

TestData = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="Data to verify on: their test part is used.  [default: those of the run]",
    ),
]

Trust = Annotated[
    Path | None,
    o.option(
        "--trust",
        "OpenSSH public key or allowed_signers file; refuse what none of its keys has signed.",
        "FILE",
    ),
]


def verify(
    artifact: o.Artifact,
    data: TestData = None,
    test: o.Test = None,
    trust: Trust = None,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Verify a written artifact again, without changing it.

    Checks the manifest, the ONNX files and their parity with exact integer arithmetic; measures
    accuracy, accuracy drop and latency. Exit code 6: a limit is broken or undecided, or parity does
    not hold.
    """
    from lepton_automl.cli import report
    from lepton_automl.cli.report import progress  # rich is slow to import; --help must not wait

    with progress.screen(quiet=quiet) as emit:
        outcome = api.verify(artifact, data=data, test=test, trust=trust, emit=emit)
    report.show_verification(outcome, json=json)
    raise typer.Exit(outcome.verdict.exit_code)
