"""Options of the Python API: their tables, and the configuration that they describe."""

from __future__ import annotations

import numbers
import os
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from lepton_automl.config import (
    DEFAULT_TARGET,
    LIMITS,
    Balance,
    BandMean,
    ChannelAxis,
    Channels,
    Flip,
    InputType,
    Judge,
    Limits,
    Prefer,
    Refit,
    RunConfig,
    TemperatureFit,
)
from lepton_automl.core import plugins
from lepton_automl.core.field_types import check_type
from lepton_automl.cost import boards
from lepton_automl.errors import ConfigError
from lepton_automl.option_texts import memory_bytes, object_name, seconds
from lepton_automl.pipeline import option_values
from lepton_automl.runs.folder import default_out

DataSource = str | Path | object
"""Data by their name or place, or a data set object; see `run`."""


class DataOptions(TypedDict, total=False):
    """Options of `data`: how data are opened."""

    test: str | Path | None
    seed: int
    skip_corrupt: bool
    group: str | None
    time: str | None
    parts: str | None
    columns: str | None
    root: str | Path | None
    channel_axis: ChannelAxis
    window: int | None
    stride: int | None
    rate: int | None
    mels: int | None
    band_mean: BandMean
    balance: Balance
    channels: Channels
    pixel_scale: str
    rehash: bool


class SearchOptions(DataOptions, total=False):
    """Options of `search`: fields of `RunConfig`, with paths also as text."""

    out: str | Path | None
    space: str | Path | None
    limits: Limits
    objectives: Sequence[str]
    sampler: str
    target: str
    prefer: Prefer
    latency_from: str | Path | None
    warm_start: str | Path | None
    budget: str | float | None
    """Seconds, or a duration such as `10m`: `RunConfig.budget_seconds`."""
    trials: int | None
    jobs: int | None
    hosts: str | Path | None
    cluster: str | None
    max_memory: str | int | None
    """Bytes, or a size such as `1G`."""
    jobs_per_gpu: int | None
    final_jobs: int
    device: str
    flip: Flip
    refit: Refit
    temperature: TemperatureFit
    judge: Judge
    folds: str
    input_type: InputType
    fresh: bool
    store: str | None
    """URL or folder of the copy of the run."""
    take_over: bool
    board: str | Path | None
    optuna_storage: str | None
    callbacks: Sequence[str]
    started: float | None


class Options(SearchOptions, total=False):
    """Options of `run`: fields of `RunConfig`, with paths also as text."""

    formats: Sequence[str] | None
    ship: str
    reject: float | None


class CompressOptions(TypedDict, total=False):
    """Options of `compress`; which of them apply depends on what is compressed."""

    out: str | Path
    test: str | Path
    preprocessing: str | Path
    labels: str | Path
    """`natural`, `text`, or a file with the class names in the order of the outputs."""
    expects: float
    """Accuracy that the float model should reach on training pictures, as share or per cent."""
    limits: Limits
    prefer: Prefer
    judge: Judge
    target: str
    seed: int
    skip_corrupt: bool
    group: str
    time: str
    parts: str
    columns: str
    root: str | Path
    channel_axis: ChannelAxis
    window: int
    stride: int
    channels: Channels
    pixel_scale: str
    rehash: bool
    max_memory: str | int
    fresh: bool
    budget: str | float
    device: str
    started: float | None


_PATHS = ("out", "latency_from", "warm_start", "root", "hosts")
_NAMES = ("objectives", "callbacks", "formats")
"""Options of several names, which may be one text with commas."""
_TEXTS = ("folds", "channels", "pixel_scale")
"""Options that are texts, and may be numbers."""
_EXAMPLES = {"limits": "give limits=Limits(max_size_bytes=...)"}


def run_config(data: DataSource, given: Mapping[str, Any], kind: type = Options) -> RunConfig:
    """The configuration that options of the table `kind` describe.

    Raises
    ------
    ConfigError
        If an option is illegal.
    """
    settings = checked_options(given, kind)
    name, data_object = named_data(data)
    settings["budget_seconds"] = budget_seconds(settings.pop("budget", None))
    if settings.get("max_memory") is not None:
        settings["max_memory"] = memory_bytes(settings["max_memory"])
    settings |= {n: Path(settings[n]) for n in _PATHS if settings.get(n) is not None}
    settings["test"] = test_data_path(settings.get("test"))
    settings |= {n: tuple(settings[n]) for n in _NAMES if settings.get(n) is not None}
    if settings.get("board") is not None:
        settings = _for_board(settings)
    if settings.get("space") is not None:
        settings["space"] = str(settings["space"])
    if settings.get("out") is None:
        settings["out"] = default_out(name.strip("<>").removesuffix(" object"))
    return RunConfig(data=name, data_object=data_object, **settings)


def budget_seconds(budget: str | float | None) -> float | None:
    """Seconds of a budget, a number or a duration such as `10m`; None without one."""
    return None if budget is None else seconds(str(budget))


def test_data_path(test: str | Path | None) -> Path | None:
    """The path of test data; absolute for `./digits`, which is not the built-in `digits`."""
    if test is None:
        return None
    path = Path(test)
    return path if str(path) == str(test) or not path.exists() else path.absolute()


def named_data(data: DataSource) -> tuple[str, object | None]:
    """The text that names data, and the object for which it stands; None where there is none."""
    if isinstance(data, str | os.PathLike):
        return str(data), None
    return object_name(data), data


def _for_board(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the limits and the target of a board, where they state no others."""
    board = boards.load(str(settings["board"]))
    limits = settings.get("limits") or Limits()
    target = settings.get("target", DEFAULT_TARGET)
    return settings | {
        "board": str(settings["board"]),
        "limits": Limits(**(board.limits | limits.stated)),
        "target": boards.TARGET if target == DEFAULT_TARGET else target,
    }


def checked_options(given: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Options whose names and types are those of a table of options, such as `Options`.

    Numbers of other libraries become Python's, and a text that stands for names a tuple of them.

    Raises
    ------
    ConfigError
        If there is no option of that name, or its value has another type.
    """
    hints, checked = typing.get_type_hints(kind), dict[str, Any]()
    for name, value in given.items():
        if name not in hints:
            raise _unknown_option(name, hints)
        if isinstance(value, str) and name in _NAMES:
            value = option_values.names([value])
        elif isinstance(value, bool):
            pass
        elif isinstance(value, numbers.Real):
            value = int(value) if isinstance(value, numbers.Integral) else float(value)
            value = str(value) if name in _TEXTS else value
        checked[name] = value
        if not _has_type(value, hints[name]):
            raise ConfigError(
                f"{name} = {value!r:.60}, the rule is {_type_text(hints[name])}",
                fix=_EXAMPLES.get(name, "correct it, or leave it out"),
            )
    return checked


def _has_type(value: object, hint: Any) -> bool:
    """Whether an option has the type of its annotation; `RunConfig` checks those of few words."""
    if typing.get_origin(hint) is Literal:
        return True
    try:
        check_type(value, hint, "")
    except TypeError:
        return False
    return not isinstance(value, float) or float in (hint, *typing.get_args(hint))


def _type_text(hint: Any) -> str:
    """`int`, `str, Path or None`."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) is types.UnionType else (hint,)
    names = [
        "None" if kind is types.NoneType else getattr(kind, "__name__", str(kind)) for kind in kinds
    ]
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _unknown_option(name: str, known: Mapping[str, Any]) -> ConfigError:
    """The error for an option that is not there; of a limit it says how limits are given."""
    option = f"--{name.replace('_', '-')}"
    for limit, spec in LIMITS.items():
        if name == limit or option == spec.option:
            return ConfigError(
                f"{name} is a limit, not an option of its own",
                fix=f"give limits=Limits({limit}=...)",
            )
    return plugins.unknown_name(name, sorted(known), "option of this function")
