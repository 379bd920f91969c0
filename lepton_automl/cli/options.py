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
        "file, or digits, a small data set that is built in; other forms: docs/data.md.",
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
        "Latency of one sample on one thread, in milliseconds.",
        "MS",
        section=Section.LIMITS,
    ),
]
MaxSize = Annotated[
    float | None,
    option("--max-size-kb", "Size of the file; 1 kB is 1000 bytes.", "KB", section=Section.LIMITS),
]
MaxFlash = Annotated[
    float | None,
    option(
        "--max-flash-kb",
        "Flash memory on a microcontroller, code and constants; ships the C files unless "
        "--ship names another format.",
        "KB",
        section=Section.LIMITS,
    ),
]
MaxMacs = Annotated[
    str | None,
    option(
        "--max-macs",
        "Multiply-accumulates per sample, such as 2e6 or 2M.",
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
        "--min-accuracy",
        "Accuracy on the test part, as 0.9 or 90.",
        "SHARE",
        section=Section.LIMITS,
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
        "Accuracy points that any single class loses against that net.",
        "POINTS",
        section=Section.LIMITS,
    ),
]
BoardName = Annotated[
    str | None,
    option(
        "--board",
        "Board the net is for, whose flash and memory become limits: a name that `lepton "
        "boards` lists, or a TOML file.",
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
        "Leave out pictures and recordings that are missing or unreadable, and list them; "
        "without this option they are an error.",
        section=Section.DATA,
    ),
]
Group = Annotated[
    str | None,
    option(
        "--group",
        "Samples that belong together (of one patient, one session) stay in one part: those "
        "with the same value in this column, or whose paths match this regular expression "
        "with the same text, such as '(P[0-9]+)-'; none: only identical samples stay "
        "together.  [default: found by file names and near duplicates]",
        "COLUMN|REGEX",
        section=Section.DATA,
    ),
]
Time = Annotated[
    str | None,
    option(
        "--time",
        "Column of times, by which the data are split: the earliest samples are the train "
        "part, the latest the test part.  [default: split at random]",
        "COLUMN",
        section=Section.DATA,
    ),
]
Parts = Annotated[
    str | None,
    option(
        "--parts",
        "Which folders, or which values of the split column, are which part: "
        "train=tr,test=holdout; none: the data are not split yet.  [default: recognised by "
        "their names]",
        "PART=NAME,...",
        section=Section.DATA,
    ),
]
Columns = Annotated[
    str | None,
    option(
        "--columns",
        "Which column of a table holds what: path=file,label=species,split=none; of a table "
        "of sensor values also recording=session,time=t,channels=ax+ay; or which array of an "
        ".npz file: x=pics,y=kind.  [default: recognised by their names]",
        "WHAT=COLUMN,...",
        section=Section.DATA,
    ),
]
Root = Annotated[
    Path | None,
    option(
        "--root",
        "Folder to which the paths in a table are relative.  [default: the folder of the table]",
        "FOLDER",
        section=Section.DATA,
    ),
]
ChannelAxisName = Annotated[
    str,
    option(
        "--channel-axis",
        "Where arrays have their channels: first (N, C, H, W) or last (N, H, W, C); auto: "
        "recognised by the shape.",
        "auto|first|last",
        section=Section.DATA,
    ),
]
Window = Annotated[
    int | None,
    option(
        "--window",
        "Length of the windows that recordings are cut into, in rows of a table or samples "
        "of sound.  [default: whole recordings where all have one length, else 128; for "
        "sound it depends on the recordings]",
        "N",
        section=Section.DATA,
    ),
]
Stride = Annotated[
    int | None,
    option(
        "--stride",
        "Distance from the start of one window to that of the next, as for --window.  "
        "[default: half a window]",
        "N",
        section=Section.DATA,
    ),
]
Rate = Annotated[
    int | None,
    option(
        "--rate",
        "Sampling rate to which sound is resampled, in Hz.  [default: that of the "
        "recordings, at most 16000]",
        "HZ",
        section=Section.DATA,
    ),
]
Mels = Annotated[
    int | None,
    option(
        "--mels",
        "Number of mel bands in the features of sound.  [default: 40]",
        "N",
        section=Section.DATA,
    ),
]
BandMeanName = Annotated[
    str,
    option(
        "--band-mean",
        "Whether the mean of each mel band over the window is subtracted from the features "
        "of sound; auto: kept if a quick classifier needs it.",
        "auto|subtract|keep",
        section=Section.DATA,
    ),
]
BalanceName = Annotated[
    str,
    option(
        "--balance",
        "Give every class the same weight in training and in the accuracy; auto: on if a "
        "class is rare.",
        "auto|on|off",
        section=Section.DATA,
    ),
]
ChannelsName = Annotated[
    str,
    option(
        "--channels",
        "Input channels of the net: 1 grey, 3 RGB, 4 RGB and opacity; auto: 3 if a picture "
        "outside the test part has colour, else 1; for arrays those that they have.",
        "auto|1|3|4",
        section=Section.DATA,
    ),
]
PixelScaleText = Annotated[
    str,
    option(
        "--pixel-scale",
        "Stored values of black and white: unit (0:1), symmetric (-1:1), 8bit to 16bit, "
        "WHITE or BLACK:WHITE; auto: recognised from the train part.",
        "SCALE",
        section=Section.DATA,
    ),
]
InputTypeName = Annotated[
    str,
    option(
        "--input-type",
        "Type of the values that the written file takes: int16 or float32 for signals, uint8 "
        "or uint16 for pictures; auto: the type that the data are stored in, if a file can "
        "take it.",
        "TYPE",
        section=Section.DATA,
    ),
]
Rehash = Annotated[
    bool,
    option(
        "--rehash",
        "Read every picture file again, even if its path, size and times have not changed.",
        section=Section.DATA,
    ),
]

Space = Annotated[
    str | None,
    option(
        "--space",
        "Search space, which defines the nets to choose from: a name that `lepton spaces` "
        "lists, or a TOML file.  [default: by the kind of the data; general for pictures]",
        "NAME|FILE",
        section=Section.SEARCH,
    ),
]
Objective = Annotated[
    str,
    option(
        "--objective",
        "What the search optimizes: accuracy and any of latency_ms, size_bytes, macs, "
        "peak_ram_bytes.",
        "NAME,...",
        section=Section.SEARCH,
    ),
]
Sampler = Annotated[
    str,
    option(
        "--sampler",
        "Sampler that proposes trials: lepton, tpe, nsgaii, gp, random, or an Optuna sampler "
        "as MODULE:CLASS.",
        "NAME",
        section=Section.SEARCH,
    ),
]
WarmStart = Annotated[
    Path | None,
    option(
        "--warm-start",
        "Another run whose results the search starts from: its trials or, if its data "
        "differ, the nets of its front.",
        "RUN",
        section=Section.SEARCH,
    ),
]
Seed = Annotated[int, option("--seed", "Seed of all random choices.", "N", section=Section.SEARCH)]
FlipName = Annotated[
    str,
    option(
        "--flip",
        "Mirror training pictures left to right at random; auto: as trained nets show.",
        "auto|on|off",
        section=Section.SEARCH,
    ),
]
FoldsText = Annotated[
    str,
    option(
        "--folds",
        "Compare the finalists by cross-validation on N folds of the train and validation "
        "parts; off: on the validation part alone; auto: on several folds if samples or "
        "groups are few.",
        "auto|off|N",
        section=Section.SEARCH,
    ),
]
RefitName = Annotated[
    str,
    option(
        "--refit",
        "After all choices, train the net that ships on the train and validation parts "
        "together; auto: on if samples or groups are few.",
        "auto|on|off",
        section=Section.SEARCH,
    ),
]
TemperatureName = Annotated[
    str,
    option(
        "--temperature",
        "Calibrate the probabilities by temperature scaling on the validation part, which "
        "changes no label; auto: on if that part is large enough.",
        "auto|off",
        section=Section.SHIPPING,
    ),
]

PreferName = Annotated[
    str,
    option(
        "--prefer",
        "size: ship the int8 file; latency: ship the faster of int8 and float or, with "
        "--format, the format that is fastest on this machine.",
        "size|latency",
        section=Section.SHIPPING,
    ),
]
TargetName = Annotated[
    str,
    option(
        "--target",
        "Processor the file is for: a name that `lepton spaces --targets` lists.",
        "NAME",
        section=Section.SHIPPING,
    ),
]
LatencyFrom = Annotated[
    Path | None,
    option(
        "--latency-from",
        "Predict latencies on another device, from the table that `lepton bench --ops` wrote "
        "there.",
        "FILE",
        section=Section.SHIPPING,
    ),
]
JudgeName = Annotated[
    str,
    option(
        "--judge",
        "What limits on accuracy apply to: windows, or whole recordings by the joined "
        "predictions of their windows; auto: recordings if there are any.",
        "auto|windows|recordings",
        section=Section.SHIPPING,
    ),
]
Formats = Annotated[
    list[str] | None,
    option(
        "--format",
        "File formats to write beside ONNX (any_size, c, litert), separated by commas or "
        "repeated; see docs/formats.md.  [default: onnx, or those of the artifact that is "
        "there]",
        "NAME,...",
        section=Section.SHIPPING,
    ),
]
Ship = Annotated[
    str,
    option(
        "--ship",
        "File format that ships: it is written too, and the limits apply to it.  [default: "
        "onnx, or as --prefer says]",
        "NAME",
        section=Section.SHIPPING,
    ),
]
Reject = Annotated[
    float | None,
    option(
        "--reject",
        "Predict 'none of these' where the probability is low, for at most this share of the "
        "samples that are of a class; 0: never.  [default: as in the artifact that is there, "
        "else 0]",
        "SHARE",
        section=Section.SHIPPING,
    ),
]

Jobs = Annotated[
    int | None,
    option(
        "--jobs",
        "Number of worker processes.  [default: one per CPU core or GPU]",
        "N",
        section=Section.MACHINES,
    ),
]
MaxMemory = Annotated[
    str | None,
    option(
        "--max-memory",
        "Memory of all processes together, not counting memory-mapped files: 800M, 1G.  "
        "[default: four fifths of the machine's]",
        "SIZE",
        section=Section.MACHINES,
    ),
]
Device = Annotated[
    str,
    option(
        "--device",
        "Device that nets are trained on; auto: CUDA if torch finds a GPU.",
        "auto|cpu|cuda",
        section=Section.MACHINES,
    ),
]
JobsPerGpu = Annotated[
    str | None,
    option(
        "--jobs-per-gpu",
        "Worker processes per GPU; auto: adds workers while that is faster.  [default: auto]",
        "auto|N",
        section=Section.MACHINES,
    ),
]
FinalJobs = Annotated[
    int,
    option(
        "--final-jobs",
        "Number of processes that share each final training (data parallel); faster for nets "
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
        "Copy the run to a folder, s3://BUCKET/PREFIX or another URL that fsspec opens; the "
        "same command on another machine continues it.",
        "URL",
        section=Section.COPIES,
    ),
]
TakeOver = Annotated[
    bool,
    option(
        "--take-over",
        "Take the run in --store over from another command, which then ends.",
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
        "Log the search to tensorboard, wandb or mlflow; separated by commas or repeated.",
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
