"""`lepton store`: what run a store holds, and deleting what nothing names."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from lepton_automl import api
from lepton_automl.cli import options as o
from lepton_automl.cli.streams import write_json, write_line

Url = Annotated[
    str, typer.Argument(metavar="URL", help="Value of --store of `lepton run`: a URL or a folder.")
]
Gc = Annotated[
    bool,
    o.option("--gc", "Delete objects that no run uses and that are older than a day."),
]


def store(url: Url, gc: Gc = False, json: o.Json = False) -> None:
    """Show the run that a store (--store) holds."""
    found = api.store(url, gc=gc)
    if json:
        write_json(dataclasses.asdict(found))
        return
    from lepton_automl.core.units import bytes_text, duration

    write_line(f"{found.store}: run on {found.data}, generation {found.generation}")
    write_line(
        f"{found.events} events and {found.files} files ({bytes_text(found.file_bytes)}) after "
        f"{duration(found.alive_seconds)}; {found.objects} objects "
        f"({bytes_text(found.object_bytes)})"
    )
    if found.at_work:
        write_line(f"a command on {found.at_work} works on it, or was killed")
    if gc:
        size = bytes_text(found.deleted_bytes)
        write_line(f"{found.deleted} objects ({size}) that nothing names are deleted")
