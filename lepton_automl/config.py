"""Limits and the definition of a run: what the user asks for, checked."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Literal

from lepton_automl.errors import ConfigError

Prefer = Literal["size", "latency"]


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

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value is None:
                continue
            if not math.isfinite(value) or value < 0 or (value == 0 and item.name != "max_drop"):
                raise _illegal(item.name, value, "a number above 0")
        if self.min_accuracy is not None and self.min_accuracy > 1:
            raise _illegal("min_accuracy", self.min_accuracy, "a share between 0 and 1")
        if self.max_drop is not None and self.max_drop > 100:
            raise _illegal("max_drop", self.max_drop, "accuracy points between 0 and 100")

    @property
    def stated(self) -> dict[str, float]:
        """The limits that were given, by name."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


COST_LIMITS = {
    "max_latency_ms": "latency_ms",
    "max_size_bytes": "size_bytes",
    "max_macs": "macs",
    "max_peak_ram_bytes": "peak_ram_bytes",
}
"""Limit name -> the cost it bounds; these are known before any training."""


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
