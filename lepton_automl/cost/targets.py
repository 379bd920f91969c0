"""Target presets: which weights are exact and which choices are fast where the file will run."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lepton_automl.core import plugins

DEFAULT = "x86-any"
"""The preset used when none is named: its files answer alike on every x86 processor."""


@dataclass(frozen=True)
class ChannelStep:
    """Multiples that a target's kernels like the number of channels to be."""

    dense: int
    depthwise: int


@dataclass(frozen=True)
class Estimate:
    """Assumed speeds of a target: what a latency is told from where nothing can time a file."""

    device: str
    """What they are assumed of."""
    call_ns: float
    """Nanoseconds of a call however small the net is."""
    op_ns: float
    """Nanoseconds of one more operation."""
    mac_ns: float
    """Nanoseconds of a multiply-accumulate of a dense convolution or a matrix product."""
    depthwise_mac_ns: float
    byte_ns: float
    """Nanoseconds of a byte of weights or feature maps, read or written."""
    factor: float
    """The truth is taken to lie between the estimate divided and multiplied by it."""


@dataclass(frozen=True)
class Target:
    """Where a file will run."""

    name: str
    weight_limit: int
    """int8 weights lie in +-`weight_limit` (1 to 127)."""
    activations: tuple[str, ...]
    """Those that cost nothing extra in int8."""
    channel_step: ChannelStep
    latency: Literal["measured", "estimated"]
    """Whether this kind of machine can time the file itself."""
    estimate: Estimate
    """Where latencies are measured, it only orders what is tried."""
    note: str


def names() -> list[str]:
    """Names of all presets, the default first."""
    return list(_table())


def load(name: str = DEFAULT) -> Target:
    """The preset `name`.

    Raises
    ------
    ConfigError
        If there is none of that name; the message gives the nearest one.
    """
    table = _table()
    if name not in table:
        raise plugins.unknown_name(name, list(table), "target")
    return _target(name, table[name])


def _table() -> dict[str, dict[str, Any]]:
    path = Path(__file__).with_name("targets.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _target(name: str, row: dict[str, Any]) -> Target:
    return Target(
        name=name,
        weight_limit=row["weight_limit"],
        activations=tuple(row["activations"]),
        channel_step=ChannelStep(**row["channel_step"]),
        latency=row["latency"],
        estimate=Estimate(**row["estimate"]),
        note=row["note"],
    )
