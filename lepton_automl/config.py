"""Limits and the configuration of a run, checked when they are made."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Literal

from lepton_automl.core.memory import gib_text, machine_bytes
from lepton_automl.core.object_storage import check_url
from lepton_automl.core.units import Unit
from lepton_automl.errors import ConfigError
from lepton_automl.option_texts import check_cluster, column_names, fold_count, part_folders

MIN_MEMORY = 704 << 20
"""Least `--max-memory`: the main process and one worker that trains a small net."""
MAIN_PROCESS_BYTES, LEAST_WORKER_BYTES, WORKER_PROGRAM_BYTES = 384 << 20, 320 << 20, 160 << 20
"""Anonymous memory of the main process, of a worker with a small net, and of its program alone
("Memory of a training" in docs/decisions.md)."""
_MACHINE_SHARE = 0.8
"""Share of the machine's memory that is used where no other limit is stated."""

Prefer = Literal["size", "latency"]

_LEAST_REJECT = 1e-6
"""Share of `--reject` that three million validation samples can show."""
MAX_WINDOW = 1 << 20
"""Values of a window of a recording."""
MIN_RATE, MAX_RATE = 1000, 192_000
"""Hertz, of sound."""
MAX_MELS = 256
"""Bands of its features."""

Balance = Literal["auto", "on", "off"]
Channels = Literal["auto", "1", "3", "4"]
InputType = Literal["auto", "uint8", "uint16", "int16", "float32"]
ChannelAxis = Literal["auto", "first", "last"]
Flip = Literal["auto", "on", "off"]
BandMean = Literal["auto", "keep", "subtract"]
Refit = Literal["auto", "on", "off"]
TemperatureFit = Literal["auto", "off"]
Judge = Literal["auto", "windows", "recordings"]


@dataclass(frozen=True)
class LimitSpec:
    """One limit: its name in words, its option, unit and rounding, and the cost it bounds."""

    words: str
    """Name in words, with `at most` or `at least`."""
    option: str
    """Option of the command line."""
    unit: Unit
    """Unit of the option's value; 1 kB is 1000 bytes."""
    decimals: int
    """Decimals of a suggested value."""
    cost: str | None = None
    """Field of `Cost` and `FileMetrics` that it bounds; None for accuracies and drops."""

    @property
    def scale(self) -> float:
        """Value of the limit for the option value 1."""
        return 1000.0 if self.unit == "kB" else 1.0

    @property
    def noun(self) -> str:
        """Name in words, without `at most` or `at least`."""
        return self.words.removesuffix(" at most").removesuffix(" at least")

    def rounded(self, value: float) -> str:
        """`value` in the option's unit, rounded so that the limit is no tighter than `value`."""
        away = math.floor if self.words.endswith("at least") else math.ceil
        steps = away(value * 10**self.decimals / self.scale)
        text = f"{steps / 10**self.decimals:.{self.decimals}f}"
        return text.rstrip("0").rstrip(".") if self.decimals else text

    def measured(self, cost: object) -> float | None:
        """Value of the bounded field of a `Cost` or `FileMetrics`; None: not known, or no cost."""
        value: float | None = None if self.cost is None else getattr(cost, self.cost)
        return value


LIMITS: Mapping[str, LimitSpec] = {
    "max_latency_ms": LimitSpec("latency at most", "--max-latency-ms", "ms", 4, "latency_ms"),
    "max_size_bytes": LimitSpec("size at most", "--max-size-kb", "kB", 1, "size_bytes"),
    "max_flash_bytes": LimitSpec("flash memory at most", "--max-flash-kb", "kB", 1, "flash_bytes"),
    "max_macs": LimitSpec("multiply-accumulates at most", "--max-macs", "MACs", 0, "macs"),
    "max_peak_ram_bytes": LimitSpec(
        "peak memory of feature maps at most", "--max-ram-kb", "kB", 1, "peak_ram_bytes"
    ),
    "min_accuracy": LimitSpec("accuracy at least", "--min-accuracy", "share", 3),
    "max_drop": LimitSpec("accuracy drop at most", "--max-drop", "points", 2),
    "max_class_drop": LimitSpec("drop of any class at most", "--per-class-max-drop", "points", 2),
}
"""Every field of `Limits`, in this order."""


def options_text(values: Mapping[str, float]) -> str:
    """Options of the command line that state limits no tighter than `values`, by limit name."""
    return " ".join(f"{LIMITS[n].option} {LIMITS[n].rounded(value)}" for n, value in values.items())


def would_fit(values: Mapping[str, float]) -> str:
    """Options with limits that a net with these values meets, for the fix of an error."""
    return f"{options_text(values)} would fit"


@dataclass(frozen=True)
class Limits:
    """Limits of the shipped file; None is no limit."""

    max_latency_ms: float | None = None
    """Milliseconds a sample at batch 1 on one thread."""
    max_size_bytes: int | None = None
    """Bytes of the file that ships."""
    max_flash_bytes: int | None = None
    """Bytes of code and constants on a microcontroller, as its compiler's `size` gives them."""
    max_macs: int | None = None
    """Multiply-accumulates a sample."""
    max_peak_ram_bytes: int | None = None
    """Bytes of all feature maps alive at once in int8."""
    min_accuracy: float | None = None
    """Share of test samples classified correctly, 0 to 1."""
    max_drop: float | None = None
    """Accuracy points (0 to 100) the file may lose against the float reference."""
    max_class_drop: float | None = None
    """Accuracy points (0 to 100) any class may lose against the float reference."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value is None:
                continue
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            if not is_number:  # Of any library.
                raise _illegal(item.name, value, "a number")
            unit = LIMITS[item.name].unit
            if not math.isfinite(value) or value < 0 or (value == 0 and unit != "points"):
                raise _illegal(item.name, value, "a number above 0")
            if unit == "share" and value > 1:
                raise _illegal(item.name, value, "a share between 0 and 1")
            if unit == "points" and value > 100:
                raise _illegal(item.name, value, "accuracy points between 0 and 100")

    @property
    def stated(self) -> dict[str, float]:
        """The limits that were given, by name."""
        return {k: v for k, v in vars(self).items() if v is not None}

    @property
    def costs(self) -> dict[str, float]:
        """The limits that were given on costs known before training, by name."""
        return {k: v for k, v in self.stated.items() if LIMITS[k].cost is not None}


ACCURACY = "accuracy"
"""Objective of every search."""

EVERY_OBJECTIVE = (ACCURACY, "latency_ms", "size_bytes")
"""Default objectives of a search."""

DEFAULT_BUDGET_SECONDS = 600.0
"""Budget where neither a budget nor a number of trials is given."""


DEFAULT_TARGET = "x86-any"
"""Hardware of the file where none is named."""


@dataclass(frozen=True)
class Goal:
    """Criteria of the choice among trained nets."""

    limits: Limits = field(default_factory=Limits)
    prefer: Prefer = "size"
    objectives: tuple[str, ...] = EVERY_OBJECTIVE

    @property
    def prefers_cheaper(self) -> bool:
        """Whether a cheaper net is preferred among nets within the limits."""
        return self.objectives != (ACCURACY,)


def _check_values(**counts: int | None) -> None:
    """Check numbers of values of recordings, by the names of their options."""
    for name, count in counts.items():
        if count is not None and not 1 <= count <= MAX_WINDOW:
            raise ConfigError(
                f"--{name} {count}, the rule is 1 to {MAX_WINDOW} values",
                fix="give another number, or leave it out",
            )


def _check_sound(rate: int | None, mels: int | None) -> None:
    for name, value, low, high, unit in (
        ("rate", rate, MIN_RATE, MAX_RATE, "hertz"),
        ("mels", mels, 1, MAX_MELS, "bands"),
    ):
        if value is not None and not low <= value <= high:
            raise ConfigError(
                f"--{name} {value}, the rule is {low} to {high} {unit}",
                fix="give another number, or leave it out",
            )


@dataclass(frozen=True)
class RunConfig:
    """Configuration of a run.

    Data, space, limits, objectives, seed, sampler, target, preference and balance define the run;
    the rest may change between calls on the same run folder.
    """

    data: str
    """`digits`, a folder with one sub-folder per class, or an .npz file."""
    out: Path
    """The run folder."""
    test: Path | None = None
    """Separate test data, in any form that `data` may have."""
    space: str | None = None
    """Name of a shipped search space or a file; None: `general`."""
    limits: Limits = field(default_factory=Limits)
    objectives: tuple[str, ...] = EVERY_OBJECTIVE
    seed: int = 0
    sampler: str = "lepton"
    """What proposes trials: lepton, tpe, nsgaii, gp, random, or an Optuna sampler MODULE:CLASS."""
    target: str = DEFAULT_TARGET
    prefer: Prefer = "size"
    latency_from: Path | None = None
    """Latency table of the target device; None: latencies are measured here, or estimated for a
    target that is not this machine."""
    warm_start: Path | None = None
    """A run whose trials, or on other data whose front, this run starts with."""
    budget_seconds: float | None = None
    """Wall-clock seconds of the run, summed over resumed calls."""
    trials: int | None = None
    """Number of trials; with it and no budget the epochs do not depend on the time."""
    jobs: int | None = None
    """Worker processes; None: one per core, or per GPU."""
    jobs_per_gpu: int | None = None
    """Worker processes per GPU; 0: chosen by the speed they reach; None: not set."""
    hosts: Path | None = None
    """File of hosts that train in place of this machine; None: worker processes here."""
    cluster: str | None = None
    """Scheduler of a Dask cluster that trains in place of this machine; None: no cluster."""
    max_memory: int | None = None
    """Bytes of anonymous memory of all processes together; None: what the machine has, less a
    fifth."""
    final_jobs: int = 1
    """Processes that share each batch of a final training."""
    device: str = "auto"
    skip_corrupt: bool = False
    group: str | None = None
    """Regular expression whose match in a sample's path is its group, or `none`; None: the groups
    of the data, or those that names and near duplicates show."""
    time: str | None = None
    """Name of a column of the data with times: parts are cut in their order; None: at random."""
    parts: str | None = None
    """Folders of the parts, as `train=NAME,validation=NAME,test=NAME`, or `none`: every folder is a
    class; None: by the names of the folders. In a table: values of the column of the parts."""
    columns: str | None = None
    """Columns of a table, or arrays of a file of arrays, as `path=NAME,label=NAME`; None: by their
    names."""
    root: Path | None = None
    """Folder of the pictures that a table names; None: that of the table."""
    channel_axis: ChannelAxis = "auto"
    """Whether channels in arrays come `first` or `last`; `auto`: by the shape."""
    window: int | None = None
    """Values of a window of a recording; None: whole ones of one length, else 128."""
    stride: int | None = None
    """Values from the start of one window to the next; None: half a window."""
    rate: int | None = None
    """Sampling rate, hertz, to which sound is brought; None: its own, at most 16,000."""
    mels: int | None = None
    """Bands of the log-mel features of sound; None: 40."""
    band_mean: BandMean = "auto"
    """Whether the mean of each band over the window is subtracted: `subtract`, `keep`, or `auto`
    (`data.audio.make_front_end`)."""
    flip: Flip = "auto"
    """Random flips of training pictures; `auto`: trained nets decide (`finals.flip_check`)."""
    temperature: TemperatureFit = "auto"
    """Whether the temperature of the probabilities is fitted on the validation part, where that is
    large enough (`auto`), or not (`off`)."""
    refit: Refit = "auto"
    """Whether the net that ships is trained on the training and validation parts together once all
    choices are made; `auto`: where samples or groups are few (`pipeline.stages.refits`)."""
    folds: str = "auto"
    """Folds of training and validation on which finalists are compared, as text; `off`: on the
    validation part alone; `auto`: several where data are small (`data.folds.is_small`)."""
    judge: Judge = "auto"
    """What limits on accuracy and its drop apply to: `windows`, `recordings` by the joined
    predictions of their windows, or `auto`: recordings where samples are windows of recordings."""
    balance: Balance = "auto"
    """Whether classes have equal weight in training and in accuracy, or samples; `auto`: classes
    where the rarest one has few training samples (`metrics.balanced.UNEVEN_RATIO`)."""
    channels: Channels = "auto"
    """Channels of the net's input: 1 for grey, 3 for RGB, 4 for RGB and opacity; `auto`: 3 where a
    picture outside the test part has colour, or those of arrays."""
    pixel_scale: str = "auto"
    """Black and white of the stored pixels: `auto`, `unit`, `symmetric`, `8bit` to `16bit`, WHITE
    or BLACK:WHITE."""
    rehash: bool = False
    """Whether every picture file is read again, whatever is known of it."""
    input_type: InputType = "auto"
    """Type of the values that the written file reads; `auto`: as the data store them, where a file
    can read that."""
    fresh: bool = False
    store: str | None = None
    """URL or folder to which the run is copied, and from which another machine continues it."""
    take_over: bool = False
    """Whether a run in the store is taken from the command that works on it."""
    formats: tuple[str, ...] | None = None
    """Names of file formats that are written (`models.formats`); ONNX always is. None: those of the
    artifact that is there."""
    ship: str = ""
    """Format that ships, to which limits apply; it is written too. Empty: that of the artifact that
    is there, else C with a limit on flash, else ONNX."""
    reject: float | None = None
    """Share of samples of the classes, 0 to 0.5, that may be classified as "none of these"; 0: no
    threshold. None: that of the artifact that is there, else 0."""
    board: str | None = None
    """Board that the net is for (`cost.boards`), whose memory is in `limits`: a name or a TOML
    file. None: that of the artifact that is there, if any."""
    optuna_storage: str | None = None
    """Where every trial is copied to: the URL of a database or the path of a journal file."""
    callbacks: tuple[str, ...] = ()
    """Names of callbacks that receive the events of the search."""
    data_object: object | None = field(default=None, compare=False, repr=False)
    """A data set object from Python, for which `data` stands; None: `data` names the data."""
    started: float | None = field(default=None, compare=False)
    """`time.monotonic()` at the start of the command; None: when its run is opened."""

    def __post_init__(self) -> None:
        if self.trials is not None and self.trials < 1:
            raise ConfigError(
                f"--trials {self.trials}, the rule is at least 1",
                fix="give 1 or more",
            )
        self._check_workers()
        if not 0 <= self.seed < 2**31:
            raise ConfigError(
                f"--seed {self.seed}, the rule is 0 to {2**31 - 1}", fix="give another seed"
            )
        if self.latency_from is not None and not self.asks_for_latency:
            raise ConfigError(
                f"--latency-from {self.latency_from} has no effect without a latency limit "
                "or objective",
                fix="give --max-latency-ms, or add latency_ms to --objective",
            )
        self._check_store()
        self._check_reject()
        _check_values(window=self.window, stride=self.stride)
        _check_sound(self.rate, self.mels)
        fold_count(self.folds)
        part_folders(self.parts)
        column_names(self.columns)
        for name, value, legal in (
            ("device", self.device, {"auto", "cpu", "cuda"}),
            ("prefer", self.prefer, {"size", "latency"}),
            ("balance", self.balance, {"auto", "on", "off"}),
            ("flip", self.flip, {"auto", "on", "off"}),
            ("refit", self.refit, {"auto", "on", "off"}),
            ("temperature", self.temperature, {"auto", "off"}),
            ("judge", self.judge, {"auto", "windows", "recordings"}),
            ("channels", self.channels, {"auto", "1", "3", "4"}),
            ("input-type", self.input_type, {"auto", "uint8", "uint16", "int16", "float32"}),
            ("channel-axis", self.channel_axis, {"auto", "first", "last"}),
            ("band-mean", self.band_mean, {"auto", "keep", "subtract"}),
        ):
            if value not in legal:
                raise ConfigError(
                    f"--{name} {value!r} is not known",
                    fix=f"choose one of: {', '.join(sorted(legal))}",
                )

    def _check_store(self) -> None:
        if self.store is not None:
            check_url(self.store)
        elif self.take_over:
            raise ConfigError(
                "--take-over has no effect without --store", fix="leave it out, or give --store"
            )

    def _check_reject(self) -> None:
        if self.reject is None:
            return
        if self.reject and not _LEAST_REJECT <= self.reject <= 0.5:  # NaN is not.
            rule = f"0, or {_LEAST_REJECT:g} to 0.5"
            raise ConfigError(f"--reject {self.reject:g}, the rule is {rule}", fix="give 0.05")
        if self.reject and self.refit == "on":
            raise ConfigError(
                "--reject and --refit on exclude each other: a net that is trained on the "
                "validation part leaves no sample to fit the threshold on",
                fix="leave one of them out",
            )

    def _check_workers(self) -> None:
        if self.jobs is not None and not 1 <= self.jobs <= 256:
            raise ConfigError(
                f"--jobs {self.jobs}, the rule is 1 to 256", fix="leave --jobs out: one per core"
            )
        if self.trains_elsewhere and (self.jobs is not None or self.jobs_per_gpu is not None):
            option = "--jobs-per-gpu" if self.jobs is None else "--jobs"
            where = f"--hosts {self.hosts}" if self.hosts else f"--cluster {self.cluster}"
            says = "`jobs` of each host in the file" if self.hosts else "the threads of its workers"
            raise ConfigError(
                f"{option} has no effect with {where}",
                fix=f"leave it out: {says} set the number of workers",
            )
        if self.hosts is not None and self.cluster is not None:
            raise ConfigError(
                "--hosts and --cluster both say where nets are trained",
                fix="leave one of them out",
            )
        if self.cluster is not None:
            check_cluster(self.cluster)
        if self.jobs_per_gpu is not None and self.jobs is not None:
            raise ConfigError(
                f"--jobs {self.jobs} and --jobs-per-gpu both set the number of workers",
                fix="leave one of them out",
            )
        self._check_memory()

    def _check_memory(self) -> None:
        if self.max_memory is not None and self.max_memory < MIN_MEMORY:
            raise ConfigError(
                f"--max-memory {gib_text(self.max_memory)}, the rule is at least "
                f"{gib_text(MIN_MEMORY)}: the programs alone take half of it",
                fix="give more, or leave it out",
            )
        if self.max_memory and self.jobs and self.jobs > self.most_workers:
            raise ConfigError(
                f"--jobs {self.jobs} and --max-memory {gib_text(self.max_memory)} exclude each "
                f"other: a worker takes {gib_text(LEAST_WORKER_BYTES)} at least",
                fix=f"give --jobs {self.most_workers}, or leave one of them out",
            )

    @property
    def shipped_format(self) -> str:
        """Format that ships as the options say, with a limit on flash C; empty: they do not say."""
        return self.ship or ("c" if self.limits.max_flash_bytes is not None else "")

    @property
    def trains_elsewhere(self) -> bool:
        """Whether other processes than workers of this command train."""
        return self.hosts is not None or self.cluster is not None

    @property
    def goal(self) -> Goal:
        """Criteria of the choice of the winner."""
        return Goal(self.limits, self.prefer, self.objectives)

    @property
    def asks_for_latency(self) -> bool:
        """Whether a limit or an objective needs latencies."""
        return self.limits.max_latency_ms is not None or "latency_ms" in self.objectives

    @property
    def seconds_in_all(self) -> float | None:
        """The budget; None where only a number of trials is given."""
        if self.budget_seconds is None and self.trials is None:
            return DEFAULT_BUDGET_SECONDS
        return self.budget_seconds

    @property
    def memory(self) -> int:
        """Bytes of anonymous memory that all processes may take together."""
        if self.max_memory is not None:
            return self.max_memory
        return max(MIN_MEMORY, round(_MACHINE_SHARE * machine_bytes()))

    @property
    def workers(self) -> int:
        """Worker processes on the CPU: those stated, else as many as there are cores, and fit."""
        return self.jobs or min(len(os.sched_getaffinity(0)), self.most_workers)

    @property
    def most_workers(self) -> int:
        """Worker processes that fit into the memory."""
        return max(1, (self.memory - MAIN_PROCESS_BYTES) // LEAST_WORKER_BYTES)

    @property
    def training_memory(self) -> int:
        """Bytes that the training of a worker on the CPU may take, beside its program."""
        return (self.memory - MAIN_PROCESS_BYTES) // self.workers - WORKER_PROGRAM_BYTES


def _illegal(name: str, value: float, rule: str) -> ConfigError:
    return ConfigError(f"limit {name} = {value}, the rule is {rule}", fix=f"give {name} {rule}")
