"""`lepton bench`: files beside each other, a latency table, or a kit for another device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lepton_automl import api
from lepton_automl.cli import options as o
from lepton_automl.cli.streams import write_json, write_line
from lepton_automl.errors import ConfigError

Files = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="FILES",
        help="Artifacts, runs or ONNX files; the others are compared with the first.",
    ),
]
Threads = Annotated[
    str | None,
    o.option(
        "--threads",
        "Numbers of threads, separated by commas.  [default: 1 and the number of cores]",
        "N,...",
    ),
]
Batch = Annotated[
    str | None, o.option("--batch", "Batch sizes, separated by commas.  [default: 1]", "N,...")
]
Seconds = Annotated[
    float | None,
    o.option("--seconds", "Measuring time of each file, over all rounds.  [default: 1]", "SECONDS"),
]
Ops = Annotated[
    bool,
    o.option(
        "--ops",
        "Measure the operations of int8 nets on this machine, and write a latency table.",
    ),
]
Kit = Annotated[
    Path | None,
    o.option(
        "--kit",
        "With --ops: measure nothing, but write a bench.py with nets into this folder, to be run "
        "on a device with Python, numpy and onnxruntime.",
        "FOLDER",
    ),
]
OutFile = Annotated[
    Path | None,
    o.option("--out", "With --ops: file of the table.  [default: latency_table.json]", "FILE"),
]
OneSpace = Annotated[
    str | None,
    o.option(
        "--space",
        "With --ops: search space of the measured nets.  [default: all built-in ones]",
        "NAME|FILE",
    ),
]


def bench(
    files: Files = None,
    threads: Threads = None,
    batch: Batch = None,
    seconds: Seconds = None,
    ops: Ops = False,
    space: OneSpace = None,
    out: OutFile = None,
    kit: Kit = None,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Measure speed and memory of files, or operations of a device.

    All formats of an artifact are measured. Each file runs in a process of its own, and the
    processes take turns, so that their times can be compared.

    With --ops the operations of int8 nets are measured instead, and a table is written from which
    `lepton run --latency-from` predicts latencies on the measured device.
    """
    _check_options(files, (threads, batch, seconds), ops, (space, out, kit))
    if files:
        _compare(files, threads, batch, seconds, quiet=quiet, json=json)
    else:
        _measure_ops(space, out, kit, json=json)


def _check_options(
    files: list[Path] | None, of_files: tuple[object, ...], ops: bool, of_ops: tuple[object, ...]
) -> None:
    if not files and not ops:
        raise ConfigError(
            "there is nothing to measure without files or --ops",
            fix="lepton bench ARTIFACT [OTHER.onnx ...], or lepton bench --ops",
        )
    if files and (ops or any(value is not None for value in of_ops)):
        raise ConfigError(
            "--ops, --space, --out and --kit have no effect on files",
            fix="give files, or --ops and what belongs to it",
        )
    if not files and any(value is not None for value in of_files):
        raise ConfigError(
            "--threads, --batch and --seconds have no effect without files", fix="leave them out"
        )


def _compare(
    files: list[Path],
    threads: str | None,
    batch: str | None,
    seconds: float | None,
    *,
    quiet: bool,
    json: bool,
) -> None:
    from lepton_automl.cli import report
    from lepton_automl.cli.report import progress  # rich is slow to import; --help must not wait

    with progress.screen(quiet=quiet) as emit:
        found = api.bench(
            files,
            threads=_numbers("--threads", threads) if threads is not None else (),
            batches=_numbers("--batch", batch) if batch is not None else (1,),
            seconds=1.0 if seconds is None else seconds,
            emit=emit,
        )
    report.show_comparison(found, json=json)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() and len(part) < 10 for part in parts):
        raise ConfigError(
            f"{option} {text}, the rule is whole numbers with commas", fix=f"{option} 1,2"
        )
    return tuple(dict.fromkeys(map(int, parts)))


def _measure_ops(space: str | None, out: Path | None, kit: Path | None, *, json: bool) -> None:
    if kit is not None and out is not None:
        raise ConfigError(
            "--out has no effect with --kit", fix="give --out to the kit's bench.py on the device"
        )
    from lepton_automl.pipeline import bench_ops  # onnxruntime is slow to import

    spaces = () if space is None else (space,)
    if kit is not None:
        document: dict[str, Any] = {"kit": str(kit), "nets": bench_ops.write_kit(kit, spaces)}
        lines = [
            f"{kit}: bench.py and {document['nets']} nets; copy it to the device, run there: "
            "python bench.py"
        ]
    else:
        path = out or Path("latency_table.json")
        table = bench_ops.bench_here(path, spaces)
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
