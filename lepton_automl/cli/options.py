"""Command-line options that several commands share, in the order and groups of `--help`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lepton_automl.errors import ConfigError
from lepton_automl.pipeline import option_values

_STARTED = time.monotonic()
"""Import time of this module, the earliest that is known: a budget counts from here."""


class Section(StrEnum):
    """Sections of the options in `--help` of a command with many of them, in this order."""

    USUAL = "Options"
    LIMITS = "Limits of the file that ships"
    DATA = "How the data are read and split"
    SEARCH = "Search and training"
    SHIPPING = "What ships"
    MACHINES = "Where it runs"
    COPIES = "Copies of the run and of its results"
    OUTPUT = "Output"


def option(
    flag: str,
    help: str,
    metavar: str | None = None,
    *,
    section: Section = Section.USUAL,
    **more: Any,
) -> Any:
    """An option of a command, for `Annotated`.

    Parameters
    ----------
    flag : str
        With its two hyphens.
    help : str
        One or two sentences; where it states a default, that of the parameter is not shown.
    metavar : str, optional
        What stands for the value in the help; flags have none.
    section : Section
        Where `--help` lists it.
    **more
        Further arguments of `typer.Option`, such as `min` and `max`.
    """
    return typer.Option(
        flag,
        help=help,
        metavar=metavar,
        show_default="[default:" not in help,
        rich_help_panel=section,
        **more,
    )


Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A folder with one sub-folder per class, a table of paths and labels (.csv), an .npz "
        "file, or digits, a small set that is built in; other forms: docs/how-it-works.md.",
    ),
]
Run = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="The run folder, its artifact/ or the ONNX file in it."),
]
Artifact = Annotated[
    Path,
    typer.Argument(
        metavar="ARTIFACT", help="The artifact folder, the run folder or the ONNX file."
    ),
]


Out = Annotated[
    Path | None,
    option(
        "--out",
        "The run folder; the same command continues the run in it.  [default: runs/NAME]",
        "FOLDER",
    ),
]
Budget = Annotated[
    str | None,
    option("--budget", "Wall-clock time of the whole run: 45s, 10m, 2h.  [default: 10m]", "TIME"),
]
CompressBudget = Annotated[
    str | None,
    option(
        "--budget",
        "Wall-clock time of the whole command: 45s, 10m, 2h.  [default: as long as it needs]",
        "TIME",
    ),
]
Trials = Annotated[
    int | None,
    option(
        "--trials", "Number of trials to train; without --budget it replaces the time limit.", "N"
    ),
]
Fresh = Annotated[
    bool, option("--fresh", "Move an earlier run in the folder aside and start again.")
]

MaxLatency = Annotated[
    float | None,
    option(
        "--max-latency-ms",
        "Milliseconds for one sample on one thread.",
        "MS",
        section=Section.LIMITS,
    ),
]
MaxSize = Annotated[
    float | None,
    option(
        "--max-size-kb", "Size of the ONNX file; 1 kB is 1000 bytes.", "KB", section=Section.LIMITS
    ),
]
MaxFlash = Annotated[
    float | None,
    option(
        "--max-flash-kb",
        "Code and constants on a microcontroller; ships C unless --ship says otherwise.",
        "KB",
        section=Section.LIMITS,
    ),
]
MaxMacs = Annotated[
    str | None,
    option(
        "--max-macs",
        "Multiply-accumulates for one sample, such as 2e6 or 2M.",
        "COUNT",
        section=Section.LIMITS,
    ),
]
MaxRam = Annotated[
    float | None,
    option("--max-ram-kb", "Peak memory of the int8 feature maps.", "KB", section=Section.LIMITS),
]
MinAccuracy = Annotated[
    float | None,
    option(
        "--min-accuracy", "Accuracy on the test set, as 0.9 or 90.", "SHARE", section=Section.LIMITS
    ),
]
MaxDrop = Annotated[
    float | None,
    option(
        "--max-drop",
        "Accuracy points lost against the float net before compression.",
        "POINTS",
        section=Section.LIMITS,
    ),
]
MaxClassDrop = Annotated[
    float | None,
    option(
        "--per-class-max-drop",
        "Accuracy points that any class loses.",
        "POINTS",
        section=Section.LIMITS,
    ),
]
BoardName = Annotated[
    str | None,
    option(
        "--board",
        "Board the net is for, whose flash and memory are limits: a name of `lepton "
        "boards`, or a TOML file.",
        "NAME",
        section=Section.LIMITS,
    ),
]

Test = Annotated[
    str | None,
    option(
        "--test",
        "Separate test data, in any form that DATA may have.",
        "DATA",
        section=Section.DATA,
    ),
]
SkipCorrupt = Annotated[
    bool,
    option(
        "--skip-corrupt",
        "Leave out pictures and recordings that are not there or cannot be read, and "
        "name them; without it they are an error.",
        section=Section.DATA,
    ),
]
Group = Annotated[
    str | None,
    option(
        "--group",
        "Keep samples in one part that have the same value in a column of the data, or "
        "whose paths match alike, such as '(P[0-9]+)-'; none keeps only equal ones "
        "together.  [default: by names and near duplicates]",
        "COLUMN|REGEX",
        section=Section.DATA,
    ),
]
Time = Annotated[
    str | None,
    option(
        "--time",
        "Cut the parts in the order of the times in this column: train the earliest, "
        "test the latest.  [default: at random]",
        "COLUMN",
        section=Section.DATA,
    ),
]
Parts = Annotated[
    str | None,
    option(
        "--parts",
        "Folders that are parts, as train=tr,test=holdout, or values of the column with "
        "the parts; none: the data have no parts.  [default: by their names]",
        "PART=NAME,...",
        section=Section.DATA,
    ),
]
Columns = Annotated[
    str | None,
    option(
        "--columns",
        "Columns of a table, as path=file,label=species,split=none, of values over time "
        "also recording=session,time=t,channels=ax+ay, or arrays of a .npz file, as "
        "x=pics,y=kind.  [default: by their names]",
        "WHAT=COLUMN,...",
        section=Section.DATA,
    ),
]
Root = Annotated[
    Path | None,
    option(
        "--root",
        "Folder of the pictures that a table names.  [default: that of the table]",
        "FOLDER",
        section=Section.DATA,
    ),
]
ChannelAxisName = Annotated[
    str,
    option(
        "--channel-axis",
        "Whether channels in arrays come first (N, C, H, W) or last (N, H, W, C); auto: "
        "by the shape.",
        "auto|first|last",
        section=Section.DATA,
    ),
]
Window = Annotated[
    int | None,
    option(
        "--window",
        "Values in a window of a recording; of sound, samples.  [default: whole "
        "recordings where all have one length, else 128; of sound by its length]",
        "N",
        section=Section.DATA,
    ),
]
Stride = Annotated[
    int | None,
    option(
        "--stride",
        "Values from the start of one window to the next.  [default: half a window]",
        "N",
        section=Section.DATA,
    ),
]
Rate = Annotated[
    int | None,
    option(
        "--rate",
        "Sampling rate to which sound is brought.  [default: its own, at most 16000]",
        "HZ",
        section=Section.DATA,
    ),
]
Mels = Annotated[
    int | None,
    option(
        "--mels",
        "Bands of the log-mel features of sound.  [default: 40]",
        "N",
        section=Section.DATA,
    ),
]
BandMeanName = Annotated[
    str,
    option(
        "--band-mean",
        "Mean of each band of sound over the window; auto: what a quick classifier needs.",
        "auto|subtract|keep",
        section=Section.DATA,
    ),
]
BalanceName = Annotated[
    str,
    option(
        "--balance",
        "Equal weight for every class; auto: on where a class is rare.",
        "auto|on|off",
        section=Section.DATA,
    ),
]
ChannelsName = Annotated[
    str,
    option(
        "--channels",
        "Input of the net: 1 grey, 3 RGB, 4 RGB and opacity; auto: 3 where a picture "
        "outside the test part has colour, else 1; of arrays their own.",
        "auto|1|3|4",
        section=Section.DATA,
    ),
]
PixelScaleText = Annotated[
    str,
    option(
        "--pixel-scale",
        "Stored values of black and white: unit (0:1), symmetric (-1:1), 8bit to 16bit, "
        "WHITE or BLACK:WHITE; auto: recognised by the training part.",
        "SCALE",
        section=Section.DATA,
    ),
]
InputTypeName = Annotated[
    str,
    option(
        "--input-type",
        "Values that the written file reads: int16 or float32 of signals, uint8 or "
        "uint16 of pictures; auto: as the data store them, where a file can read that.",
        "TYPE",
        section=Section.DATA,
    ),
]
Rehash = Annotated[
    bool,
    option(
        "--rehash",
        "Read every picture file again, also those whose path, size and times have not changed.",
        section=Section.DATA,
    ),
]

Space = Annotated[
    str | None,
    option(
        "--space",
        "Search space, the nets to choose from: a name of `lepton spaces`, or a TOML "
        "file.  [default: by the kind of the data, general for pictures]",
        "NAME|FILE",
        section=Section.SEARCH,
    ),
]
Objective = Annotated[
    str,
    option(
        "--objective",
        "What the search trades off: accuracy and some of latency_ms, size_bytes, macs, "
        "peak_ram_bytes.",
        "NAME,...",
        section=Section.SEARCH,
    ),
]
Sampler = Annotated[
    str,
    option(
        "--sampler",
        "What proposes trials: lepton, tpe, nsgaii, gp, random, or an Optuna sampler as "
        "MODULE:CLASS.",
        "NAME",
        section=Section.SEARCH,
    ),
]
WarmStart = Annotated[
    Path | None,
    option(
        "--warm-start",
        "Start with the results of another run: its trials, or on other data its front.",
        "RUN",
        section=Section.SEARCH,
    ),
]
Seed = Annotated[int, option("--seed", "Seed of all random choices.", "N", section=Section.SEARCH)]
FlipName = Annotated[
    str,
    option(
        "--flip",
        "Mirror training pictures left to right at random; auto: trained nets decide it.",
        "auto|on|off",
        section=Section.SEARCH,
    ),
]
FoldsText = Annotated[
    str,
    option(
        "--folds",
        "Compare the finalists by cross-validation on N folds of training and "
        "validation; off: on validation alone; auto: on several folds where samples or "
        "groups are few.",
        "auto|off|N",
        section=Section.SEARCH,
    ),
]
RefitName = Annotated[
    str,
    option(
        "--refit",
        "Train the net that ships on training and validation samples together after all "
        "choices; auto: on where samples or groups are few.",
        "auto|on|off",
        section=Section.SEARCH,
    ),
]
TemperatureName = Annotated[
    str,
    option(
        "--temperature",
        "Fit the temperature of the probabilities on validation samples, so that they say how "
        "often answers are right; it changes no label.",
        "auto|off",
        section=Section.SHIPPING,
    ),
]

PreferName = Annotated[
    str,
    option(
        "--prefer",
        "size ships the int8 file, latency the faster of int8 and float, of several formats "
        "(--format) the one that is measured fastest here.",
        "size|latency",
        section=Section.SHIPPING,
    ),
]
TargetName = Annotated[
    str,
    option(
        "--target",
        "Hardware the file is for: a name of `lepton spaces --targets`.",
        "NAME",
        section=Section.SHIPPING,
    ),
]
LatencyFrom = Annotated[
    Path | None,
    option(
        "--latency-from",
        "Predict latencies of another device from the table that `lepton bench --ops` wrote there.",
        "FILE",
        section=Section.SHIPPING,
    ),
]
JudgeName = Annotated[
    str,
    option(
        "--judge",
        "What limits on accuracy bind: windows, or recordings by the joined answers to "
        "their windows; auto: recordings where there are any.",
        "auto|windows|recordings",
        section=Section.SHIPPING,
    ),
]
Formats = Annotated[
    list[str] | None,
    option(
        "--format",
        "File formats to write beside ONNX (any_size, c, litert), with commas or repeated; see "
        "docs/formats.md.  [default: onnx, or those of the artifact that is there]",
        "NAME,...",
        section=Section.SHIPPING,
    ),
]
Ship = Annotated[
    str,
    option(
        "--ship",
        "File format that ships: it is written too, and the limits bind it.  [default: onnx, or "
        "as --prefer says]",
        "NAME",
        section=Section.SHIPPING,
    ),
]
Reject = Annotated[
    float | None,
    option(
        "--reject",
        "Answer 'none of these' to samples with a low probability, to at most this "
        "share of those of the classes; 0: never.  [default: as in the artifact that is "
        "there, else 0]",
        "SHARE",
        section=Section.SHIPPING,
    ),
]

Jobs = Annotated[
    int | None,
    option(
        "--jobs",
        "Worker processes.  [default: one per CPU core or GPU]",
        "N",
        section=Section.MACHINES,
    ),
]
MaxMemory = Annotated[
    str | None,
    option(
        "--max-memory",
        "Memory of all processes together, beside mapped files: 800M, 1G.  [default: "
        "four fifths of the machine's]",
        "SIZE",
        section=Section.MACHINES,
    ),
]
Device = Annotated[
    str,
    option(
        "--device",
        "Where nets are trained; auto: on CUDA where torch finds a GPU.",
        "auto|cpu|cuda",
        section=Section.MACHINES,
    ),
]
JobsPerGpu = Annotated[
    str | None,
    option(
        "--jobs-per-gpu",
        "Worker processes per GPU; auto adds some while that is faster.  [default: auto]",
        "auto|N",
        section=Section.MACHINES,
    ),
]
FinalJobs = Annotated[
    int,
    option(
        "--final-jobs",
        "Processes that share each final training (data parallel); faster for nets "
        "above a million MACs.",
        "N",
        section=Section.MACHINES,
    ),
]
Hosts = Annotated[
    Path | None,
    option(
        "--hosts",
        "Train on the machines of this TOML file, each reached by a command such as "
        "ssh; see docs/distributed.md.  [default: on this machine]",
        "FILE",
        section=Section.MACHINES,
    ),
]
Cluster = Annotated[
    str | None,
    option(
        "--cluster",
        "Train on a Dask cluster: dask://HOST:PORT on this machine (`lepton cluster "
        "start`), tls://HOST:PORT on others.  [default: on this machine]",
        "URL",
        section=Section.MACHINES,
    ),
]

StoreUrl = Annotated[
    str | None,
    option(
        "--store",
        "Copy the run to s3://BUCKET/PREFIX, another URL that fsspec opens, or a "
        "folder; the same command on another machine continues it.",
        "URL",
        section=Section.COPIES,
    ),
]
TakeOver = Annotated[
    bool,
    option(
        "--take-over",
        "Take the run in --store from a command that works on it, which then ends.",
        section=Section.COPIES,
    ),
]
OptunaStorage = Annotated[
    str | None,
    option(
        "--optuna-storage",
        "Copy every trial to this Optuna storage: sqlite:///x.db, or a journal file.",
        "URL",
        section=Section.COPIES,
    ),
]
Callbacks = Annotated[
    list[str] | None,
    option(
        "--callback",
        "Log the search to tensorboard, wandb or mlflow; with commas or repeated.",
        "NAME,...",
        section=Section.COPIES,
    ),
]

Quiet = Annotated[bool, option("--quiet", "Print no progress.", section=Section.OUTPUT)]
Verbose = Annotated[
    bool,
    option("--verbose", "Print all details, and more lines of progress.", section=Section.OUTPUT),
]
Json = Annotated[bool, option("--json", "Print one JSON object on stdout.", section=Section.OUTPUT)]


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
