"""`lepton compress`: prune and quantize a searched net, or quantize an ONNX classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lepton_automl import api
from lepton_automl.cli import options as o

Source = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="A run folder; or, with --data, a float ONNX classifier or a folder with arch.json "
        "and weights.safetensors.",
    ),
]
Pictures = Annotated[
    str | None,
    o.option(
        "--data",
        "Labelled samples for a model of your own; preferably not those it was trained on.",
        "DATA",
    ),
]
Preprocessing = Annotated[
    Path | None,
    o.option(
        "--preprocessing",
        "TOML or JSON file with the scale, mean, std and channel order of the model's input.",
        "FILE",
    ),
]

Labels = Annotated[
    str | None,
    o.option(
        "--labels",
        "Order of an ONNX model's classes: a text file with one name per line, natural (1, 2, 10) "
        "or text (1, 10, 2).",
        "FILE|natural|text",
    ),
]
Expects = Annotated[
    float | None,
    o.option(
        "--expects",
        "Accuracy that an ONNX model must reach on the training pictures, as 0.93 or 93, or the "
        "command stops.",
        "SHARE",
    ),
]


def compress(
    source: Source,
    data: Pictures = None,
    test: o.Test = None,
    preprocessing: Preprocessing = None,
    labels: Labels = None,
    expects: Expects = None,
    out: o.Out = None,
    max_latency_ms: o.MaxLatency = None,
    max_size_kb: o.MaxSize = None,
    max_flash_kb: o.MaxFlash = None,
    max_macs: o.MaxMacs = None,
    max_ram_kb: o.MaxRam = None,
    min_accuracy: o.MinAccuracy = None,
    max_drop: o.MaxDrop = None,
    per_class_max_drop: o.MaxClassDrop = None,
    prefer: o.PreferName = "size",
    judge: o.JudgeName = "auto",
    target: o.TargetName = "x86-any",
    seed: o.Seed = 0,
    skip_corrupt: o.SkipCorrupt = False,
    group: o.Group = None,
    time: o.Time = None,
    parts: o.Parts = None,
    columns: o.Columns = None,
    root: o.Root = None,
    channel_axis: o.ChannelAxisName = "auto",
    window: o.Window = None,
    stride: o.Stride = None,
    channels: o.ChannelsName = "auto",
    pixel_scale: o.PixelScaleText = "auto",
    rehash: o.Rehash = False,
    max_memory: o.MaxMemory = None,
    fresh: o.Fresh = False,
    budget: o.CompressBudget = None,
    device: o.Device = "auto",
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    json: o.Json = False,
) -> None:
    """Prune and quantize the best net of a run, or your own model.

    The best net of a run is pruned, fine-tuned and quantized; the same command continues after the
    last finished step. With limits it is pruned until it meets them, in a folder of its own, and
    the file is verified.

    A model of your own needs --data. An ONNX classifier is quantized, and layers that lose too much
    accuracy in int8 stay in float; a net in lepton's format is pruned and quantized. The file is
    verified on the test part.
    """
    settings = o.settings({k: v for k, v in locals().items() if k != "source"})
    defaults = {"prefer": "size", "target": "x86-any", "seed": 0, "device": "auto", "judge": "auto"}
    defaults |= {"channels": "auto", "pixel_scale": "auto", "channel_axis": "auto"}
    stated = {k: v for k, v in settings.items() if k not in defaults or v != defaults[k]}
    from lepton_automl.cli import report
    from lepton_automl.cli.report import progress  # rich is slow to import; --help must not wait

    with progress.screen(quiet=quiet, verbose=verbose) as emit:
        result = api.compress(source, emit=emit, **stated)
    report.show_compressed(result, json=json)
