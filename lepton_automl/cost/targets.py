"""Presets of target devices, with exact weights, fast activations and channel steps."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lepton_automl.core import plugins

DEFAULT = "x86-any"
"""The default preset: its files give equal results on every x86 processor."""


@dataclass(frozen=True)
class ChannelStep:
    """Numbers of channels should be multiples of these: kernels pad others."""

    dense: int
    depthwise: int


@dataclass(frozen=True)
class AssumedSpeeds:
    """Assumed speeds of a target, to estimate latencies that cannot be measured."""

    device: str
    """The device that they are assumed for."""
    call_ns: float
    """Nanoseconds per call, for any net."""
    op_ns: float
    """Nanoseconds per operation."""
    mac_ns: float
    """Nanoseconds per multiply-accumulate of a dense convolution or matrix product."""
    depthwise_mac_ns: float
    byte_ns: float
    """Nanoseconds per byte of weights or feature maps, read or written."""
    factor: float
    """The interval of a latency is the estimate divided and multiplied by it."""


@dataclass(frozen=True)
class Target:
    """Where a file will run."""

    name: str
    weight_limit: int
    """int8 weights lie in +-`weight_limit` (1 to 127)."""
    weight_scales: Literal["channel", "layer"]
    """What has a scale of its own: each output channel of a layer, or the layer only."""
    activations: tuple[str, ...]
    """Activations without extra cost in int8."""
    channel_step: ChannelStep
    latency: Literal["measured", "estimated"]
    """`measured` where this machine can run the file as the target does."""
    estimate: AssumedSpeeds
    """Where latencies are measured, it only ranks candidates."""
    note: str


def names() -> list[str]:
    """Names of all presets, the default first."""
    return list(_table())


def load(name: str = DEFAULT) -> Target:
    """The preset `name`.

    Raises
    ------
    ConfigError
        If there is no such preset; the message suggests the most similar name.
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
        weight_scales=row.get("weight_scales", "channel"),
        activations=tuple(row["activations"]),
        channel_step=ChannelStep(**row["channel_step"]),
        latency=row["latency"],
        estimate=AssumedSpeeds(**row["estimate"]),
        note=row["note"],
    )
