"""`lepton bench`: measure a latency table here, or write a kit for another device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lepton_automl.cli import options as o
from lepton_automl.cli.streams import write_json, write_line
from lepton_automl.errors import ConfigError

Ops = Annotated[bool, typer.Option("--ops", help="Measure the operations of int8 nets.")]
Kit = Annotated[
    Path | None,
    typer.Option(
        "--kit",
        help="Instead write a bench.py with nets there; on a device it needs Python, numpy and "
        "onnxruntime.",
    ),
]
OutFile = Annotated[
    Path | None, typer.Option("--out", help="File of the table.  [default: latency_table.json]")
]
OneSpace = Annotated[
    str | None,
    typer.Option("--space", help="Search space of the measured nets.  [default: all shipped]"),
]


def bench(
    ops: Ops = False,
    space: OneSpace = None,
    out: OutFile = None,
    kit: Kit = None,
    json: o.Json = False,
) -> None:
    """Measure int8 operations and write a latency table.

    With the table, --latency-from of `lepton run` predicts latencies of the measured device.
    """
    if not ops:
        raise ConfigError("there is nothing to measure without --ops", fix="lepton bench --ops")
    if kit is not None and out is not None:
        raise ConfigError(
            "--out has no effect with --kit", fix="give --out to the kit's bench.py on the device"
        )
    from lepton_automl.pipeline import (
        bench as op_kit,  # onnxruntime is slow to import; --help must not wait
    )

    spaces = () if space is None else (space,)
    if kit is not None:
        document: dict[str, Any] = {"kit": str(kit), "nets": op_kit.write_kit(kit, spaces)}
        lines = [
            f"{kit}: bench.py and {document['nets']} nets; copy it to the device, run there: "
            "python bench.py"
        ]
    else:
        path = out or Path("latency_table.json")
        table = op_kit.bench_here(path, spaces)
        document = {"table": str(path), **{k: v for k, v in table.items() if k != "nets"}}
        lines = _about(path, table)
    if json:
        write_json(document)
    else:
        for line in lines:
            write_line(line)


def _about(path: Path, table: dict[str, Any]) -> list[str]:
    error, machine = table["error"], table["machine"]
    return [
        f"{path}: {error['nets']} nets on {machine['cpu']}, ONNX Runtime {table['onnxruntime']}; "
        f"reference net {1e3 * table['reference_ms']:.1f} us",
        f"error on held-out nets: median {error['median']:.1%}, 95th percentile "
        f"{error['most']:.1%}; use it with --latency-from {path}",
    ]
