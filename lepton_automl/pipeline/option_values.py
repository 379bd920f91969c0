"""Convert options of the command line or of a sweep to arguments of `api` functions."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from lepton_automl.config import LIMITS, Limits
from lepton_automl.core.untrusted_files import whole_number
from lepton_automl.errors import ConfigError

_MAX_JOBS_PER_GPU = 64


def limits(
    max_latency_ms: float | None = None,
    max_size_kb: float | None = None,
    max_flash_kb: float | None = None,
    max_macs: str | None = None,
    max_ram_kb: float | None = None,
    min_accuracy: float | None = None,
    max_drop: float | None = None,
    per_class_max_drop: float | None = None,
) -> Limits:
    """The limits in the units of `Limits`, from the values of the options.

    Raises
    ------
    ConfigError
        If a value is out of its range; the message names the option.
    """
    above_zero = math.ulp(0.0)
    macs = None if max_macs is None else count(max_macs)
    _check("max_latency_ms", max_latency_ms, "a number above 0", above_zero)
    _check("max_size_bytes", max_size_kb, "at least 0.001", 0.001)
    _check("max_flash_bytes", max_flash_kb, "at least 0.001", 0.001)
    _check("max_macs", macs, "at least 1", 1)
    _check("max_peak_ram_bytes", max_ram_kb, "at least 0.001", 0.001)
    _check("min_accuracy", min_accuracy, "a share up to 1 or per cent up to 100", above_zero, 100)
    _check("max_drop", max_drop, "0 to 100 accuracy points", 0, 100)
    _check("max_class_drop", per_class_max_drop, "0 to 100 accuracy points", 0, 100)
    if min_accuracy is not None and min_accuracy > 1:
        min_accuracy /= 100
    return Limits(
        max_latency_ms=max_latency_ms,
        max_size_bytes=_whole("max_size_bytes", max_size_kb),
        max_flash_bytes=_whole("max_flash_bytes", max_flash_kb),
        max_macs=macs,
        max_peak_ram_bytes=_whole("max_peak_ram_bytes", max_ram_kb),
        min_accuracy=min_accuracy,
        max_drop=max_drop,
        max_class_drop=per_class_max_drop,
    )


LIMIT_PARAMETERS = tuple(inspect.signature(limits).parameters)
"""Parameters of a command that state a limit."""


def settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `api.run`, from the parameters of its command.

    Raises
    ------
    ConfigError
        If a value is illegal.
    """
    rest = {name: value for name, value in given.items() if name not in LIMIT_PARAMETERS}
    stated = {name: given[name] for name in LIMIT_PARAMETERS if name in given}
    converted: dict[str, Any] = {"limits": limits(**stated)}
    if (objective := rest.pop("objective", None)) is not None:
        converted["objectives"] = names([objective])
    if "format" in rest:
        converted["formats"] = names(rest.pop("format")) or None
    if "callback" in rest:
        converted["callbacks"] = names(rest.pop("callback"))
    if "jobs_per_gpu" in rest:
        rest["jobs_per_gpu"] = per_gpu(rest["jobs_per_gpu"])
    return rest | converted


def names(given: Sequence[str] | None) -> tuple[str, ...]:
    """Names from an option that may be repeated and may hold commas, each once."""
    split = [name.strip() for text in given or [] for name in text.split(",")]
    return tuple(dict.fromkeys(name for name in split if name))


def per_gpu(text: str | None) -> int | None:
    """Value of --jobs-per-gpu: 0 for `auto`, None where it is not given.

    Raises
    ------
    ConfigError
        If it is neither `auto` nor a number in its range.
    """
    if text is None or text == "auto":
        return None if text is None else 0
    number = whole_number(text)
    if number is None or not 1 <= number <= _MAX_JOBS_PER_GPU:
        raise ConfigError(
            f"--jobs-per-gpu {text:.60}, the rule is auto or 1 to {_MAX_JOBS_PER_GPU}",
            fix="leave it out: then their number is chosen by the speed they reach",
        )
    return number


def count(text: str) -> int:
    """The number in a text such as `2e6` or `2M`.

    Raises
    ------
    ConfigError
        If it is not a number.
    """
    units = {"k": 1e3, "m": 1e6, "g": 1e9}
    number, unit = (text[:-1], text[-1].lower()) if text[-1:].lower() in units else (text, "")
    try:
        return round(float(number) * units.get(unit, 1))
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"{text!r} is not a number such as 2e6 or 2M", fix="give --max-macs such a number"
        ) from error


def _check(
    limit: str, value: float | None, rule: str, low: float, high: float = sys.float_info.max
) -> None:
    option = LIMITS[limit].option
    # NaN fails every comparison and infinity is above every `high`.
    if value is not None and not low <= value <= high:
        raise ConfigError(
            f"{option} {value:g}, the rule is {rule}", fix=f"give {rule}, or leave {option} out"
        )


def _whole(limit: str, value: float | None) -> int | None:
    return None if value is None else round(value * LIMITS[limit].scale)
