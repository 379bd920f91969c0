"""Command-line options that several commands share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lepton_automl.errors import ConfigError
from lepton_automl.pipeline import option_values

_STARTED = time.monotonic()
"""Import time of this module, the earliest that is known: a budget counts from here."""
_BOUNDS = "Limits of the shipped file"
_RUNNING = "How to run"
_REPORTING = "Where to report"

Data = Annotated[
    str, typer.Argument(help="digits, a folder with one sub-folder per class, or an .npz file.")
]
Run = Annotated[Path, typer.Argument(help="The run folder, its artifact/ or the ONNX file in it.")]
Artifact = Annotated[
    Path, typer.Argument(help="The artifact folder, the run folder or the ONNX file.")
]
Test = Annotated[str | None, typer.Option("--test", help="Separate test data (folder or .npz).")]
Out = Annotated[Path | None, typer.Option("--out", help="The run folder.  [default: runs/NAME]")]
Space = Annotated[
    str | None,
    typer.Option(
        "--space",
        help="Search space: a name or a TOML file; see `lepton spaces`.  [default: general]",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget", help="Wall-clock time of the whole run: 45s, 10m, 2h.  [default: 10m]"
    ),
]
CompressBudget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help="Wall-clock time of the whole command: 45s, 10m, 2h.  [default: as long as it needs]",
    ),
]
Trials = Annotated[
    int | None,
    typer.Option(
        "--trials", help="Number of trials to train; without --budget it replaces the time limit."
    ),
]
Objective = Annotated[
    str,
    typer.Option(
        "--objective",
        help="Objectives of the search, with commas: accuracy, latency_ms, size_bytes, macs, "
        "peak_ram_bytes.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        help="Worker processes.  [default: one per CPU core or GPU]",
        rich_help_panel=_RUNNING,
    ),
]
Hosts = Annotated[
    Path | None,
    typer.Option(
        "--hosts",
        metavar="FILE",
        help="Train on the machines of this TOML file, each reached by a command such as ssh; see "
        "docs/distributed.md.  [default: on this machine]",
        show_default=False,
        rich_help_panel=_RUNNING,
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="URL",
        help="Train on a Dask cluster: dask://HOST:PORT on this machine (`lepton cluster start`), "
        "tls://HOST:PORT on others.  [default: on this machine]",
        show_default=False,
        rich_help_panel=_RUNNING,
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="SIZE",
        help="Memory of all processes together, beside mapped files: 800M, 1G.  [default: four "
        "fifths of the machine's]",
        show_default=False,
        rich_help_panel=_RUNNING,
    ),
]
JobsPerGpu = Annotated[
    str | None,
    typer.Option(
        "--jobs-per-gpu",
        help="Worker processes per GPU; auto adds some while that is faster.  [default: auto]",
        rich_help_panel=_RUNNING,
    ),
]
FinalJobs = Annotated[
    int,
    typer.Option(
        "--final-jobs",
        help="Processes that share each final training (data parallel); faster for nets above a "
        "million MACs.",
        rich_help_panel=_RUNNING,
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of all random choices.")]
Sampler = Annotated[
    str,
    typer.Option(
        "--sampler",
        help="What proposes trials: lepton, tpe, nsgaii, gp, random, or an Optuna sampler as "
        "MODULE:CLASS.",
    ),
]
Device = Annotated[
    str, typer.Option("--device", help="auto, cpu or cuda.", rich_help_panel=_RUNNING)
]
TargetName = Annotated[
    str, typer.Option("--target", help="Hardware the file is for; see `lepton spaces --targets`.")
]
LatencyFrom = Annotated[
    Path | None,
    typer.Option(
        "--latency-from",
        help="Predict latencies from this table of another device; see `lepton bench`.",
    ),
]
WarmStart = Annotated[
    Path | None,
    typer.Option(
        "--warm-start",
        metavar="RUN",
        help="Start with the results of another run: its trials, or on other data its front.",
    ),
]
PreferName = Annotated[
    str,
    typer.Option(
        "--prefer", help="size ships the int8 file, latency the faster of int8 and float."
    ),
]
MaxLatency = Annotated[
    float | None,
    typer.Option(
        "--max-latency-ms",
        help="Latency at batch 1 on one thread, milliseconds.",
        rich_help_panel=_BOUNDS,
    ),
]
MaxSize = Annotated[
    float | None,
    typer.Option(
        "--max-size-kb", help="Size of the ONNX file; 1 kB is 1000 bytes.", rich_help_panel=_BOUNDS
    ),
]
MaxFlash = Annotated[
    float | None,
    typer.Option(
        "--max-flash-kb",
        help="Code and constants on a microcontroller; ships C unless --ship says otherwise.",
        rich_help_panel=_BOUNDS,
    ),
]
BoardName = Annotated[
    str | None,
    typer.Option(
        "--board",
        metavar="NAME",
        help="Board the net is for, whose flash and memory are limits: a name of `lepton boards`, "
        "or a TOML file.",
        rich_help_panel=_BOUNDS,
    ),
]
MaxMacs = Annotated[
    str | None,
    typer.Option(
        "--max-macs",
        help="Multiply-accumulates per picture, such as 2e6 or 2M.",
        rich_help_panel=_BOUNDS,
    ),
]
MaxRam = Annotated[
    float | None,
    typer.Option("--max-ram-kb", help="Peak memory of the feature maps.", rich_help_panel=_BOUNDS),
]
MinAccuracy = Annotated[
    float | None,
    typer.Option(
        "--min-accuracy",
        help="Accuracy on the test set, as 0.9 or 90.",
        rich_help_panel=_BOUNDS,
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        help="Accuracy points lost against the float net before compression.",
        rich_help_panel=_BOUNDS,
    ),
]
MaxClassDrop = Annotated[
    float | None,
    typer.Option(
        "--per-class-max-drop",
        help="Accuracy points that any class loses.",
        rich_help_panel=_BOUNDS,
    ),
]
SkipCorrupt = Annotated[
    bool,
    typer.Option(
        "--skip-corrupt",
        help="Ignore pictures and recordings that are not there or cannot be read, and name them.",
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        "--group",
        metavar="COLUMN|REGEX",
        help="Keep pictures in one part that have the same value in a column of the data, or whose "
        "paths match alike, such as '(P[0-9]+)-'; none keeps only equal ones together.  [default: "
        "by names and near duplicates]",
    ),
]
Time = Annotated[
    str | None,
    typer.Option(
        "--time",
        metavar="COLUMN",
        help="Cut the parts in the order of the times in this column: train the earliest, test the "
        "latest.  [default: at random]",
    ),
]
Parts = Annotated[
    str | None,
    typer.Option(
        "--parts",
        metavar="PART=NAME,...",
        help="Folders that are parts, as train=tr,test=holdout, or values of the column with the "
        "parts; none: the data have no parts.  [default: by their names]",
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="WHAT=COLUMN,...",
        help="Columns of a table, as path=file,label=species,split=none, of values over time also "
        "recording=session,time=t,channels=ax+ay, or arrays of a .npz file, as x=pics,y=kind.  "
        "[default: by their names]",
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        help="Folder of the pictures that a table names.  [default: that of the table]",
        show_default=False,
    ),
]
ChannelAxisName = Annotated[
    str,
    typer.Option(
        "--channel-axis",
        help="Whether channels in arrays come first (N, C, H, W) or last (N, H, W, C); auto: by "
        "the shape.",
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        "--window",
        help="Values of a window of a recording; samples of sound.  [default: whole recordings of "
        "one length, else 128; of sound by its length]",
        show_default=False,
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(
        "--stride",
        help="Values from the start of one window to the next.  [default: half a window]",
        show_default=False,
    ),
]
Rate = Annotated[
    int | None,
    typer.Option(
        "--rate",
        help="Sampling rate in hertz to which sound is brought.  [default: its own, at most 16000]",
        show_default=False,
    ),
]
Mels = Annotated[
    int | None,
    typer.Option(
        "--mels",
        help="Bands of the log-mel features of sound.  [default: 40]",
        show_default=False,
    ),
]
BandMeanName = Annotated[
    str,
    typer.Option(
        "--band-mean",
        help="Mean of each band of sound over the window: subtract or keep; auto: by a quick "
        "classifier.",
    ),
]
FlipName = Annotated[
    str,
    typer.Option(
        "--flip",
        help="Mirror training pictures at random: on, off, or auto, where trained nets decide it.",
    ),
]
RefitName = Annotated[
    str,
    typer.Option(
        "--refit",
        help="Train the net that ships on training and validation samples together after all "
        "choices: on, off, or auto, which is on where samples or groups are few.",
    ),
]
JudgeName = Annotated[
    str,
    typer.Option(
        "--judge",
        help="What limits on accuracy bind: windows, recordings by the joined answers to their "
        "windows, or auto, which is recordings where there are any.",
    ),
]
FoldsText = Annotated[
    str,
    typer.Option(
        "--folds",
        metavar="auto|off|N",
        help="Compare the finalists by cross-validation on N folds of training and validation; "
        "off: on validation alone; auto: on several folds where pictures or groups are few.",
    ),
]
BalanceName = Annotated[
    str,
    typer.Option(
        "--balance",
        help="Equal weight for every class: on, off, or auto, which is on where a class is rare.",
    ),
]
ChannelsName = Annotated[
    str,
    typer.Option(
        "--channels",
        help="Input of the net: 1 (grey), 3 (RGB), 4 (RGB and opacity of picture files), or auto, "
        "which is 3 where a picture outside the test part has colour, or the channels of arrays.",
    ),
]
InputTypeName = Annotated[
    str,
    typer.Option(
        "--input-type",
        help="Values that the written file reads: int16 or float32 of signals, uint8 or uint16 of "
        "pictures; auto: as the data store them, where a file can read that.",
    ),
]
PixelScaleText = Annotated[
    str,
    typer.Option(
        "--pixel-scale",
        metavar="SCALE",
        help="Stored values of black and white: unit (0:1), symmetric (-1:1), 8bit to 16bit, WHITE "
        "or BLACK:WHITE; auto recognises them by the training part.",
    ),
]
Rehash = Annotated[
    bool,
    typer.Option(
        "--rehash",
        help="Read every picture file again, also those whose path, size and times are those of "
        "before.",
        rich_help_panel=_RUNNING,
    ),
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        metavar="NAME,...",
        help="File formats to write beside ONNX, with commas or repeated; see docs/formats.md.  "
        "[default: onnx, or those of the artifact that is there]",
        show_default=False,
    ),
]
Ship = Annotated[
    str,
    typer.Option(
        "--ship",
        metavar="NAME",
        help="File format that ships: it is written too, and the limits bind it.  [default: onnx]",
        show_default=False,
    ),
]
Reject = Annotated[
    float | None,
    typer.Option(
        "--reject",
        metavar="SHARE",
        help="Answer 'none of these' below a probability, of at most this share of pictures of the "
        "classes; 0: never.  [default: as in the artifact that is there, else 0]",
        show_default=False,
    ),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Move an earlier run in the folder aside and start again.")
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Copy the run to s3://BUCKET/PREFIX, another URL that fsspec opens, or a folder; the "
        "same command on another machine goes on from there.",
        rich_help_panel=_RUNNING,
    ),
]
TakeOver = Annotated[
    bool,
    typer.Option(
        "--take-over",
        help="Take the run in --store from a command that works on it, which then ends.",
        rich_help_panel=_RUNNING,
    ),
]
OptunaStorage = Annotated[
    str | None,
    typer.Option(
        "--optuna-storage",
        metavar="URL",
        help="Copy every trial to this Optuna storage: sqlite:///x.db, or a journal file.",
        rich_help_panel=_REPORTING,
    ),
]
Callbacks = Annotated[
    list[str] | None,
    typer.Option(
        "--callback",
        help="Log the search to tensorboard, wandb or mlflow; with commas or repeated.",
        rich_help_panel=_REPORTING,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", help="Print all details, and more lines of progress.", rich_help_panel=_RUNNING
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="Print no progress.", rich_help_panel=_RUNNING)
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel=_RUNNING)
]


OUTPUT_PARAMETERS = ("quiet", "verbose", "json")
"""Parameters of a command that only affect its output."""


def settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of an `api` function, from the parameters of its command.

    Raises
    ------
    ConfigError
        If a value is illegal.
    """
    if (macs := given["max_macs"]) is not None:
        try:
            option_values.count(macs)
        except ConfigError as error:
            raise typer.BadParameter(error.what) from error
    rest = {name: value for name, value in given.items() if name not in OUTPUT_PARAMETERS}
    return option_values.settings(rest) | {"started": _STARTED}
