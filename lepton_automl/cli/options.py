"""The options that commands share, each written once."""

from __future__ import annotations

import inspect
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lepton_automl.config import LIMITS, Limits
from lepton_automl.errors import ConfigError

BEGUN = time.monotonic()
"""When the command began, as nearly as it can know: a budget counts from here."""
MOST_JOBS_PER_GPU = 64
BOUNDS = "Limits of the shipped file"
RUNNING = "How to run"
TELLING = "Whom to tell"

Data = Annotated[
    str, typer.Argument(help="digits, a folder with a sub-folder a class, or an .npz file.")
]
Run = Annotated[Path, typer.Argument(help="The run folder, its artifact/ or the ONNX file in it.")]
Artifact = Annotated[
    Path, typer.Argument(help="The artifact folder, the run folder or the ONNX file.")
]
Test = Annotated[
    Path | None, typer.Option("--test", help="A test part of its own (folder or .npz).")
]
Out = Annotated[Path | None, typer.Option("--out", help="The run folder.  [default: runs/NAME]")]
Space = Annotated[
    str | None,
    typer.Option(
        "--space", help="A search space or a file; see `lepton spaces`.  [default: by picture size]"
    ),
]
Budget = Annotated[
    str | None,
    typer.Option("--budget", help="Wall-clock time for all of it: 45s, 10m, 2h.  [default: 10m]"),
]
Trials = Annotated[int | None, typer.Option("--trials", help="Train this many candidates instead.")]
Objective = Annotated[
    str,
    typer.Option(
        "--objective",
        help="What the search trades off, with commas: accuracy, latency_ms, size_bytes, macs, "
        "peak_ram_bytes.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", help="Worker processes.  [default: one a core]", rich_help_panel=RUNNING
    ),
]
JobsPerGpu = Annotated[
    str | None,
    typer.Option(
        "--jobs-per-gpu",
        help="Worker processes on each GPU: auto adds them while that is faster.  [default: auto]",
        rich_help_panel=RUNNING,
    ),
]
FinalJobs = Annotated[
    int,
    typer.Option(
        "--final-jobs",
        help="Processes that train one net together at the end, over sockets of this machine; "
        "pays for nets of some million MACs.",
        rich_help_panel=RUNNING,
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Sampler = Annotated[
    str,
    typer.Option(
        "--sampler",
        help="What proposes trials: lepton, tpe, nsgaii, gp, random, or an Optuna sampler as "
        "MODULE:CLASS.",
    ),
]
Device = Annotated[
    str, typer.Option("--device", help="auto, cpu or cuda.", rich_help_panel=RUNNING)
]
TargetName = Annotated[
    str, typer.Option("--target", help="Where the file will run; see `lepton spaces --targets`.")
]
LatencyFrom = Annotated[
    Path | None,
    typer.Option(
        "--latency-from",
        help="Tell latencies from this table of another device; see `lepton bench`.",
    ),
]
WarmStart = Annotated[
    Path | None,
    typer.Option(
        "--warm-start",
        metavar="RUN",
        help="Begin with what another run knows: its candidates, or on other data its front.",
    ),
]
PreferName = Annotated[
    str,
    typer.Option("--prefer", help="size ships int8; latency ships the faster of int8 and float."),
]
MaxLatency = Annotated[
    float | None,
    typer.Option("--max-latency-ms", help="At batch 1 on one thread.", rich_help_panel=BOUNDS),
]
MaxSize = Annotated[
    float | None,
    typer.Option("--max-size-kb", help="1 kB is 1000 bytes.", rich_help_panel=BOUNDS),
]
MaxMacs = Annotated[
    str | None,
    typer.Option(
        "--max-macs", help="Multiply-accumulates, such as 2e6 or 2M.", rich_help_panel=BOUNDS
    ),
]
MaxRam = Annotated[
    float | None,
    typer.Option("--max-ram-kb", help="Feature maps alive at once.", rich_help_panel=BOUNDS),
]
MinAccuracy = Annotated[
    float | None,
    typer.Option(
        "--min-accuracy",
        help="Share (0.9) or per cent (90) of test samples.",
        rich_help_panel=BOUNDS,
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop", help="Accuracy points below the float winner.", rich_help_panel=BOUNDS
    ),
]
MaxClassDrop = Annotated[
    float | None,
    typer.Option(
        "--per-class-max-drop",
        help="Accuracy points any class may lose.",
        rich_help_panel=BOUNDS,
    ),
]
SkipCorrupt = Annotated[
    bool, typer.Option("--skip-corrupt", help="Leave unreadable pictures out and say how many.")
]
NoFlip = Annotated[
    bool,
    typer.Option(
        "--no-flip",
        help="Never mirror training pictures; else validation decides.",
    ),
]
BalanceName = Annotated[
    str,
    typer.Option(
        "--balance",
        help="Whether every class counts alike: on, off, or auto where one is rare.",
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Move an old run aside and start again.")]
OptunaStorage = Annotated[
    str | None,
    typer.Option(
        "--optuna-storage",
        metavar="URL",
        help="Mirror every trial into this Optuna storage: sqlite:///x.db, or a journal file.",
        rich_help_panel=TELLING,
    ),
]
Callbacks = Annotated[
    list[str] | None,
    typer.Option(
        "--callback",
        help="Tell tensorboard, wandb or mlflow as well; with commas or repeated.",
        rich_help_panel=TELLING,
    ),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="All details, and more progress.", rich_help_panel=RUNNING)
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.", rich_help_panel=RUNNING)]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout.", rich_help_panel=RUNNING)
]


def limits(
    max_latency_ms: float | None = None,
    max_size_kb: float | None = None,
    max_macs: str | None = None,
    max_ram_kb: float | None = None,
    min_accuracy: float | None = None,
    max_drop: float | None = None,
    per_class_max_drop: float | None = None,
) -> Limits:
    """The limits in the units that the code uses.

    Raises
    ------
    ConfigError
        If a value is out of its range; the message names the option as it was typed.
    """
    above_zero = math.ulp(0.0)
    _check("max_latency_ms", max_latency_ms, "a number above 0", above_zero)
    _check("max_size_bytes", max_size_kb, "at least 0.001", 0.001)
    _check("max_macs", _count(max_macs), "at least 1", 1)
    _check("max_peak_ram_bytes", max_ram_kb, "at least 0.001", 0.001)
    _check("min_accuracy", min_accuracy, "a share up to 1 or per cent up to 100", above_zero, 100)
    _check("max_drop", max_drop, "0 to 100 accuracy points", 0, 100)
    _check("max_class_drop", per_class_max_drop, "0 to 100 accuracy points", 0, 100)
    if min_accuracy is not None and min_accuracy > 1:
        min_accuracy /= 100
    return Limits(
        max_latency_ms=max_latency_ms,
        max_size_bytes=_whole("max_size_bytes", max_size_kb),
        max_macs=_count(max_macs),
        max_peak_ram_bytes=_whole("max_peak_ram_bytes", max_ram_kb),
        min_accuracy=min_accuracy,
        max_drop=max_drop,
        max_class_drop=per_class_max_drop,
    )


LIMIT_PARAMETERS = tuple(inspect.signature(limits).parameters)
"""Of a command, those that state a limit."""
OUTPUT_PARAMETERS = ("quiet", "verbose", "json")
"""Of a command, those that say how it shows its result."""


def settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of an `api` function from the parameters of its command, all by name.

    Raises
    ------
    ConfigError
        If a value is illegal.
    """
    rest = {k: v for k, v in given.items() if k not in (*LIMIT_PARAMETERS, *OUTPUT_PARAMETERS)}
    found: dict[str, Any] = {"limits": limits(**{name: given[name] for name in LIMIT_PARAMETERS})}
    if (objective := rest.pop("objective", None)) is not None:
        found["objectives"] = names([objective])
    if "callback" in rest:
        found["callbacks"] = names(rest.pop("callback"))
    if "jobs_per_gpu" in rest:
        rest["jobs_per_gpu"] = per_gpu(rest["jobs_per_gpu"])
    return rest | found | {"started": BEGUN}


def names(given: list[str] | None) -> tuple[str, ...]:
    """Names from an option that may be repeated and may hold commas, each once."""
    split = [name.strip() for text in given or [] for name in text.split(",")]
    return tuple(dict.fromkeys(name for name in split if name))


def per_gpu(text: str | None) -> int | None:
    """What --jobs-per-gpu says: 0 for `auto`.

    Raises
    ------
    ConfigError
        If it is neither `auto` nor a number in its range.
    """
    if text is None or text == "auto":
        return None if text is None else 0
    if not text.isdecimal() or not 1 <= int(text) <= MOST_JOBS_PER_GPU:
        raise ConfigError(
            f"--jobs-per-gpu {text}, the rule is auto or 1 to {MOST_JOBS_PER_GPU}",
            fix="leave it out: as many as make the search faster",
        )
    return int(text)


def _check(
    limit: str, value: float | None, rule: str, low: float, high: float = sys.float_info.max
) -> None:
    option = LIMITS[limit].option
    # NaN keeps no order and infinity is above every `high`: both are refused.
    if value is not None and not low <= value <= high:
        raise ConfigError(
            f"{option} {value:g}, the rule is {rule}", fix=f"give {rule}, or leave {option} out"
        )


def _whole(limit: str, value: float | None) -> int | None:
    return None if value is None else round(value * LIMITS[limit].scale)


def _count(text: str | None) -> int | None:
    if text is None:
        return None
    units = {"k": 1e3, "m": 1e6, "g": 1e9}
    number, unit = (text[:-1], text[-1].lower()) if text[-1:].lower() in units else (text, "")
    try:
        return round(float(number) * units.get(unit, 1))
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"{text!r} is not a number such as 2e6 or 2M") from error
