"""`lepton compress`: make the winner of a search, or any float ONNX classifier, smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lepton_automl import api
from lepton_automl.cli import options as o

Source = Annotated[
    Path,
    typer.Argument(
        help="A run; or with --data a float ONNX classifier, or a folder with arch.json and "
        "weights.safetensors."
    ),
]
Pictures = Annotated[
    str | None,
    typer.Option(
        "--data", help="For a model of yours: pictures it knows, best ones it was not trained on."
    ),
]
Preprocessing = Annotated[
    Path | None,
    typer.Option(
        "--preprocessing",
        help="TOML or JSON with scale, mean, std and order: how the model wants its pixels.",
    ),
]


def compress(
    source: Source,
    data: Pictures = None,
    test: o.Test = None,
    preprocessing: Preprocessing = None,
    out: o.Out = None,
    max_latency_ms: o.MaxLatency = None,
    max_size_kb: o.MaxSize = None,
    max_macs: o.MaxMacs = None,
    max_ram_kb: o.MaxRam = None,
    min_accuracy: o.MinAccuracy = None,
    max_drop: o.MaxDrop = None,
    per_class_max_drop: o.MaxClassDrop = None,
    prefer: o.PreferName = "size",
    target: o.TargetName = "x86-any",
    seed: o.Seed = 0,
    skip_corrupt: o.SkipCorrupt = False,
    fresh: o.Fresh = False,
    budget: o.Budget = None,
    device: o.Device = "auto",
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    json: o.Json = False,
) -> None:
    """Prune and quantize the best net of a run, or a model made elsewhere.

    A run: its best net is pruned, fine-tuned and quantized; each accepted step is kept, and the
    same command continues after the last one. With limits, the net is pruned until it keeps them,
    in a folder of its own, and the file is verified. With --data: a net in lepton's format is
    pruned and quantized, an ONNX classifier is quantized with layers that lose accuracy left in
    float; the file is verified on the test part.
    """
    given = o.settings({k: v for k, v in locals().items() if k != "source"})
    defaults = {"prefer": "size", "target": "x86-any", "seed": 0, "device": "auto"}
    stated = {k: v for k, v in given.items() if k not in defaults or v != defaults[k]}
    from lepton_automl.cli import report
    from lepton_automl.cli.report import progress  # rich is slow to import; --help must not wait

    with progress.screen(quiet=quiet, verbose=verbose) as emit:
        made = api.compress(source, emit=emit, **stated)
    report.show_compressed(made, json=json)
