"""`lepton boards`: list the boards of `--board`, and on which of them a net fits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lepton_automl import api
from lepton_automl.cli import options as o
from lepton_automl.cli.streams import write_json

if TYPE_CHECKING:
    from lepton_automl.cost.boards import BoardFit

NetOption = Annotated[
    Path | None,
    typer.Argument(
        metavar="ARTIFACT",
        help="Artifact folder or run folder whose net is compared with the boards.",
    ),
]


_UNCONFIRMED = " (?)"
"""After the name of a board whose figures no document confirms."""


def boards(artifact: NetOption = None, json: o.Json = False) -> None:
    """List the boards for --board, or which of them a net fits.

    With ARTIFACT: `fits`, `tight` (the net takes more than half of the flash or of the memory), or
    `does not fit`.
    """
    if artifact is None:
        from lepton_automl.cost.boards import every

        rows = [dataclasses.asdict(board) for board in every()]
    else:
        rows = [_row(found) for found in api.board_fits(artifact)]
    if json:
        write_json({"boards": rows})
    else:
        _show(rows)


def _row(found: BoardFit) -> dict[str, Any]:
    fit = {"fit": found.fit, "net_flash_bytes": found.flash_bytes, "net_ram_bytes": found.ram_bytes}
    return dataclasses.asdict(found.board) | fit | {"basis": found.basis}


def _show(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.table import Table

    from lepton_automl.cli.report import show
    from lepton_automl.core.units import bytes_text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("board", "core", "MHz", "flash KiB", "memory KiB"):
        table.add_column(column, justify="right" if column[-1] in "zB" else "left")
    has_net = "fit" in rows[0]
    table.add_column("the net" if has_net else "")
    for row in rows:
        cells = [row["name"] + ("" if row["checked"] else _UNCONFIRMED), row["core"]]
        cells += [f"{row[name]:g}" for name in ("clock_mhz", "flash_kib", "ram_kib")]
        table.add_row(*cells, row["fit"] if has_net else row["note"])
    show(table)
    if not all(row["checked"] for row in rows):
        show(f"{_UNCONFIRMED.strip()} no public document confirms these figures")
    if has_net:
        flash, ram = (bytes_text(rows[0][f"net_{name}_bytes"]) for name in ("flash", "ram"))
        show(f"the net takes {flash} of flash, {rows[0]['basis']}, and {ram} of memory")
