"""`lepton bench`: measure this machine, or write what measures another one."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from lepton_automl.cli import options as o
from lepton_automl.errors import ConfigError

Ops = Annotated[bool, typer.Option("--ops", help="Time the operations of int8 nets.")]
Kit = Annotated[
    Path | None,
    typer.Option(
        "--kit",
        help="Write nets and a bench.py there instead; it needs Python, numpy and onnxruntime.",
    ),
]
OutFile = Annotated[
    Path | None, typer.Option("--out", help="The table.  [default: latency_table.json]")
]
OneSpace = Annotated[
    str | None,
    typer.Option("--space", help="Draw nets of this search space.  [default: of all shipped]"),
]


def bench(
    ops: Ops = False,
    space: OneSpace = None,
    out: OutFile = None,
    kit: Kit = None,
    json: o.Json = False,
) -> None:
    """Measure what operations take here and write a table for --latency-from."""
    if not ops:
        raise ConfigError("there is nothing to measure", fix="say what: lepton bench --ops")
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
        text = (
            f"{kit}: bench.py and {document['nets']} nets; copy it to the device, run there: "
            "python bench.py"
        )
    else:
        path = out or Path("latency_table.json")
        table = op_kit.bench_here(path, spaces)
        document = {"table": str(path), **{k: v for k, v in table.items() if k != "nets"}}
        text = _about(path, table)
    typer.echo(jsonlib.dumps(document, indent=2) if json else text)


def _about(path: Path, table: dict[str, Any]) -> str:
    error, machine = table["error"], table["machine"]
    return (
        f"{path}: {error['nets']} nets on {machine['cpu']}, ONNX Runtime {table['onnxruntime']}; "
        f"reference net {1e3 * table['reference_ms']:.1f} us\n"
        f"error on nets that were not fitted: {error['median']:.1%} in the middle, "
        f"{error['most']:.1%} for 19 of 20; use it with --latency-from {path}"
    )
