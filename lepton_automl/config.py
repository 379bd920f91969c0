"""Limits and the definition of a run: what the user asks for, checked."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lepton_automl.errors import ConfigError

Prefer = Literal["size", "latency"]
Balance = Literal["auto", "on", "off"]


DROPS = ("max_drop", "max_class_drop")
"""Limits in accuracy points, which may be 0."""


@dataclass(frozen=True)
class Limits:
    """What the shipped file must keep; None is no limit. Only stated limits are judged."""

    max_latency_ms: float | None = None
    """Milliseconds a sample at batch 1 on one thread."""
    max_size_bytes: int | None = None
    """Bytes of the ONNX file."""
    max_macs: int | None = None
    """Multiply-accumulates a sample."""
    max_peak_ram_bytes: int | None = None
    """Bytes of all feature maps alive at once in int8."""
    min_accuracy: float | None = None
    """Share of test samples classified correctly, 0 to 1."""
    max_drop: float | None = None
    """Accuracy points (0 to 100) the file may lose against the float reference."""
    max_class_drop: float | None = None
    """Points (0 to 100) it may lose of any class's share of right answers."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value is None:
                continue
            if not math.isfinite(value) or value < 0 or (value == 0 and item.name not in DROPS):
                raise _illegal(item.name, value, "a number above 0")
        if self.min_accuracy is not None and self.min_accuracy > 1:
            raise _illegal("min_accuracy", self.min_accuracy, "a share between 0 and 1")
        for name in DROPS:
            value = getattr(self, name)
            if value is not None and value > 100:
                raise _illegal(name, value, "accuracy points between 0 and 100")

    @property
    def stated(self) -> dict[str, float]:
        """The limits that were given, by name."""
        return {k: v for k, v in vars(self).items() if v is not None}


COST_LIMITS = {
    "max_latency_ms": "latency_ms",
    "max_size_bytes": "size_bytes",
    "max_macs": "macs",
    "max_peak_ram_bytes": "peak_ram_bytes",
}
"""Limit name -> the cost it bounds; these are known before any training."""


ACCURACY = "accuracy"
"""The objective that every search has."""
EVERY_OBJECTIVE = (ACCURACY, "latency_ms", "size_bytes")
"""What a search minds where the user does not say."""
DEFAULT_BUDGET_SECONDS = 600.0
"""Ten minutes, where neither a budget nor a number of trials is given."""


@dataclass(frozen=True)
class Goal:
    """What the choice among trained nets is made by."""

    limits: Limits = field(default_factory=Limits)
    prefer: Prefer = "size"
    objectives: tuple[str, ...] = EVERY_OBJECTIVE

    @property
    def minds_costs(self) -> bool:
        """Whether of two nets within the limits a cheaper one is better."""
        return self.objectives != (ACCURACY,)


@dataclass(frozen=True)
class RunConfig:
    """Everything a user says about a run.

    Data, space, limits, objectives, seed, target, preference and what counts alike define it; the
    rest may change from one call to the next.
    """

    data: str
    """`digits`, a folder with a sub-folder a class, or an .npz file."""
    out: Path
    """The run folder."""
    test: Path | None = None
    """A test part of its own, in any form that `data` may have."""
    space: str | None = None
    """A shipped search space or a file; None: by the size of the pictures."""
    limits: Limits = field(default_factory=Limits)
    objectives: tuple[str, ...] = EVERY_OBJECTIVE
    seed: int = 0
    target: str = "x86-any"
    prefer: Prefer = "size"
    latency_from: Path | None = None
    """A latency table of the device the file is for; None: measured here, or the target's
    estimate."""
    warm_start: Path | None = None
    """A run whose candidates or front this one begins with."""
    budget_seconds: float | None = None
    """Wall-clock seconds the command may be alive, summed over resumes."""
    trials: int | None = None
    """Candidates to train; with it and no budget the length of everything is fixed."""
    jobs: int | None = None
    """Worker processes; None: one a core, or one a GPU."""
    jobs_per_gpu: int | None = None
    """Worker processes on each GPU; 0: as many as make the whole faster; None: not asked for."""
    final_jobs: int = 1
    """Processes that train one net together at the end, each with its share of every batch."""
    device: str = "auto"
    skip_corrupt: bool = False
    no_flip: bool = False
    """Never mirror training pictures; else the data are asked whether they may be."""
    balance: Balance = "auto"
    """Whether every class counts alike, in training and in accuracy, or every sample does; `auto`:
    where the rarest class has few training samples (`balance.LEAST_SHARE`)."""
    fresh: bool = False
    optuna_storage: str | None = None
    """Where every trial is mirrored to: the URL of a database or the path of a journal file."""
    callbacks: tuple[str, ...] = ()
    """Names of callbacks that are told how the search goes."""
    started: float | None = field(default=None, compare=False)
    """`time.monotonic()` at which the command began; None: when its run is opened."""

    def __post_init__(self) -> None:
        if self.trials is not None and self.trials < 1:
            raise ConfigError(
                f"--trials {self.trials}, the rule is at least 1",
                fix="search one candidate or more",
            )
        if self.jobs is not None and not 1 <= self.jobs <= 256:
            raise ConfigError(
                f"--jobs {self.jobs}, the rule is 1 to 256", fix="leave --jobs out: one a core"
            )
        if self.jobs_per_gpu is not None and self.jobs is not None:
            raise ConfigError(
                f"--jobs {self.jobs} and --jobs-per-gpu both say how many workers there are",
                fix="leave one of them out",
            )
        if not 0 <= self.seed < 2**31:
            raise ConfigError(
                f"--seed {self.seed}, the rule is 0 to {2**31 - 1}", fix="give another seed"
            )
        if self.latency_from is not None and not self.asks_for_latency:
            raise ConfigError(
                f"--latency-from {self.latency_from} has no effect: no latency is asked for",
                fix="state --max-latency-ms, or put latency_ms among the objectives",
            )
        for name, value, legal in (
            ("device", self.device, {"auto", "cpu", "cuda"}),
            ("prefer", self.prefer, {"size", "latency"}),
            ("balance", self.balance, {"auto", "on", "off"}),
        ):
            if value not in legal:
                raise ConfigError(
                    f"--{name} {value!r} is not known",
                    fix=f"choose one of: {', '.join(sorted(legal))}",
                )

    @property
    def goal(self) -> Goal:
        """What the winner is chosen by."""
        return Goal(self.limits, self.prefer, self.objectives)

    @property
    def asks_for_latency(self) -> bool:
        """Whether a limit or an objective is about latency."""
        return self.limits.max_latency_ms is not None or "latency_ms" in self.objectives

    @property
    def seconds_in_all(self) -> float | None:
        """The budget; None where a number of trials decides instead."""
        if self.budget_seconds is None and self.trials is None:
            return DEFAULT_BUDGET_SECONDS
        return self.budget_seconds

    @property
    def workers(self) -> int:
        """Worker processes on the CPU."""
        return self.jobs or len(os.sched_getaffinity(0))


def seconds(text: str) -> float:
    """Seconds in a duration such as `90`, `45s`, `10m`, `2h` or `1h30m`.

    Raises
    ------
    ConfigError
        If the text is not a duration above zero.
    """
    match = re.fullmatch(
        r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?",
        text.strip(),
    )
    parts = [float(part or 0) for part in match.groups()] if match else [0.0]
    total = sum(part * unit for part, unit in zip(parts, (86400, 3600, 60, 1), strict=False))
    if total <= 0:
        raise ConfigError(
            f"--budget {text!r} is not a duration above zero",
            fix="write it like 45s, 10m, 2h or 1h30m",
        )
    return total


def _illegal(name: str, value: float, rule: str) -> ConfigError:
    return ConfigError(f"limit {name} = {value}, the rule is {rule}", fix=f"give {name} {rule}")
