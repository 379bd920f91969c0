"""`lepton inspect`: layers, memory, kernels and times of an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lepton_automl import api
from lepton_automl.cli import options as o

Model = Annotated[
    Path,
    typer.Argument(
        metavar="ARTIFACT",
        help="The artifact folder, the run folder or any ONNX file, also one made elsewhere.",
    ),
]
Svg = Annotated[
    Path | None, o.option("--svg", "Write a drawing of the net and its memory there.", "FILE")
]


def inspect(artifact: Model, svg: Svg = None, json: o.Json = False) -> None:
    """Show what an ONNX file holds, and how it runs here.

    Lists each layer with its shape, bytes and multiply-accumulates, the feature maps alive while it
    runs, and the kernel of ONNX Runtime that computes it, with its microseconds. The file runs in a
    child process with limits on memory and time.
    """
    from lepton_automl.cli import report  # rich is slow to import; --help must not wait

    notes: list[str] = []
    found = api.inspect(artifact, svg=svg, on_note=notes.append)
    report.show_inspection(found, notes, json=json)
