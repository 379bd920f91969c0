"""`lepton export`: write the ONNX files of a compressed run and verify them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lepton_automl import api
from lepton_automl.cli import options as o
from lepton_automl.pipeline.option_values import names

Sign = Annotated[
    Path | None,
    o.option("--sign", "Sign the manifest with this private key of OpenSSH.", "KEY"),
]


def export(
    run: o.Run,
    format: o.Formats = None,
    ship: o.Ship = "",
    reject: o.Reject = None,
    sign: Sign = None,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Write the artifact of a compressed run, and verify it.

    RUN/artifact holds the int8 and float ONNX files, labels, golden samples, model card, verdict
    and manifest. --format adds files of other formats, which are compared with the int8 file.
    """
    from lepton_automl.cli import report
    from lepton_automl.cli.report import progress  # rich is slow to import; --help must not wait

    with progress.screen(quiet=quiet) as emit:
        outcome = api.export(
            run, formats=names(format) or None, ship=ship, reject=reject, sign=sign, emit=emit
        )
    report.show_verdict(outcome, json=json)
    raise typer.Exit(outcome.verdict.exit_code)
