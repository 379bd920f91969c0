"""Latency of an int8 net, predicted from its operations for another device."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_files import JSON
from lepton_automl.cost.targets import Target
from lepton_automl.errors import ConfigError, LeptonError, first_line
from lepton_automl.models.graph import Add, Conv, Gate, GlobalPool, Graph, Linear, MaxPool, Mul, Op

Basis = Literal["measured", "predicted", "estimated"]
"""`measured` on this machine, `predicted` from a table that another device measured, or `estimated`
from the assumed speeds of a target."""
_LANES, _QUADS = 16, 4
"""int8 kernels compute 16 output channels at once and read inputs in groups of 4."""
TABLE_VERSION = 1
FEATURES = (
    "call",
    "pixels",
    "conv.op",
    "conv.macs",
    "conv.lanes",
    "conv.rows",
    "conv.columns",
    "conv.out",
    "depthwise.op",
    "depthwise.macs",
    "depthwise.lanes",
    "depthwise.out",
    "linear.op",
    "linear.macs",
    "max_pool.op",
    "max_pool.reads",
    "global_pool.op",
    "global_pool.reads",
    "add.op",
    "add.out",
    "mul.op",
    "mul.out",
    "gate.op",
    "gate.out",
)
"""Names of the features that a table has coefficients for: see `features`."""


@dataclass(frozen=True)
class PredictedLatency:
    """Predicted milliseconds of one call at batch 1, with an interval."""

    milliseconds: float
    low: float
    high: float


@dataclass(frozen=True)
class LatencyModel:
    """Linear latency model of one device: nanoseconds per unit of each feature."""

    basis: Basis
    """`predicted` or `estimated`."""
    device: str
    """The device, in words."""
    nanoseconds: Mapping[str, float]
    """Feature -> nanoseconds per unit; other features count 0."""
    factor: float
    """The interval is the prediction divided and multiplied by it; above 1."""
    digest: str = ""
    """First digits of the sha256 of the table; empty for estimates."""

    def latency(self, graph: Graph) -> PredictedLatency:
        """Predicted latency of `graph` as an int8 net."""
        found = coarse_features(graph) | features(graph)
        total = sum(unit * found.get(name, 0.0) for name, unit in self.nanoseconds.items())
        milliseconds = max(total, 1.0) / 1e6
        return PredictedLatency(
            milliseconds, milliseconds / self.factor, milliseconds * self.factor
        )

    def document(self) -> dict[str, Any]:
        """As plain JSON values, for an artifact that is verified without the table."""
        return dataclasses.asdict(self)


def features(graph: Graph) -> dict[str, float]:
    """Amount of everything that takes time in a graph: the features of a latency table.

    Of a dense convolution: `macs`, `lanes` (the same with channels as kernels round them up),
    `rows` (output positions), `columns` (values copied in front of a kernel above 1x1) and `out`
    (values stored). `pixels` are those of the input, `call` is 1.
    """
    found: dict[str, float] = defaultdict(float, call=1.0, pixels=float(graph.input.size))
    for op in graph.ops:
        for name, count in _counts(op).items():
            found[name] += count
    return dict(found)


def coarse_features(graph: Graph) -> dict[str, float]:
    """Features of an estimate: `ops`, `dense.macs`, `depthwise.macs`, `bytes` read and written."""
    found: dict[str, float] = defaultdict(float, call=1.0)
    for op in graph.ops:
        found["ops"] += 1
        found["bytes"] += op.y.size + sum(value.size for value in op.inputs)
        if isinstance(op, (Conv, Linear)):
            found["bytes"] += math.prod(op.weight_shape)
            alone = isinstance(op, Conv) and op.depthwise
            found["depthwise.macs" if alone else "dense.macs"] += op.macs
    return dict(found)


def estimate(target: Target) -> LatencyModel:
    """A latency model from the target's assumed speeds: right in order of magnitude and ranking."""
    about = target.estimate
    prices = {
        "call": about.call_ns,
        "ops": about.op_ns,
        "dense.macs": about.mac_ns,
        "depthwise.macs": about.depthwise_mac_ns,
        "bytes": about.byte_ns,
    }
    return LatencyModel("estimated", f"{target.name}: {about.device}", prices, about.factor)


def read_table(path: Path) -> LatencyModel:
    """Read a latency table that `lepton bench --ops` wrote, here or on another device.

    Raises
    ------
    ConfigError
        If the file is missing or no latency table.
    """
    fix = "give the file that `lepton bench --ops`, or bench.py on the device, wrote"
    content = untrusted_files.read_bytes(path, JSON, fix=fix, error=ConfigError)
    try:
        body = untrusted_files.parse_json(content, path, fix=fix, top=dict, error=ConfigError)
        return _table(body, content)
    except (LeptonError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        raise ConfigError(
            f"--latency-from {path} is not a latency table: {reason}", fix=fix
        ) from error


def from_document(body: Mapping[str, Any]) -> LatencyModel:
    """The inverse of `LatencyModel.document`."""
    return LatencyModel(**body)


def _table(body: dict[str, Any], content: bytes) -> LatencyModel:
    if body["lepton_latency_table"] != TABLE_VERSION:
        raise ValueError(f"version {body['lepton_latency_table']}, not {TABLE_VERSION}")
    prices = {str(name): float(price) for name, price in body["nanoseconds"].items()}
    unknown = sorted(set(prices) - set(FEATURES))
    if unknown:
        raise ValueError(f"unknown operations {', '.join(unknown)}")
    if not prices or not all(math.isfinite(p) and p >= 0 for p in prices.values()):
        raise ValueError("nanoseconds must be numbers of at least 0")
    if not sum(prices.values()):
        raise ValueError("all nanoseconds are 0")
    error = float(body["error"]["most"])
    if not math.isfinite(error) or error < 0:
        raise ValueError(f"an error of {error}")
    machine = body["machine"]
    device = f"{machine['cpu']}, ONNX Runtime {body['onnxruntime']}, {machine['system']}"
    digest = hashlib.sha256(content).hexdigest()[:16]
    return LatencyModel("predicted", device, prices, 1.0 + error, digest)


def _said(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return getattr(error, "strerror", None) or first_line(error)


def _counts(op: Op) -> dict[str, float]:
    match op:
        case Conv(depthwise=True):
            return _depthwise(op)
        case Conv():
            return _dense(op)
        case Linear():
            return {"linear.op": 1, "linear.macs": op.macs}
        case MaxPool():
            return {"max_pool.op": 1, "max_pool.reads": op.y.size * math.prod(op.window)}
        case GlobalPool():
            return {"global_pool.op": 1, "global_pool.reads": op.x.size}
        case Add() | Mul() | Gate():
            name = type(op).__name__.lower()
            return {f"{name}.op": 1, f"{name}.out": op.y.size}


def _dense(op: Conv) -> dict[str, float]:
    rows, depth = op.y.height * op.y.width, op.x.channels * math.prod(op.window)
    return {
        "conv.op": 1,
        "conv.macs": op.macs,
        "conv.lanes": rows * _up(op.y.channels, _LANES) * _up(depth, _QUADS),
        "conv.rows": rows,
        "conv.columns": rows * depth if op.kernel > 1 else 0,
        "conv.out": op.y.size,
    }


def _depthwise(op: Conv) -> dict[str, float]:
    rows = op.y.height * op.y.width
    return {
        "depthwise.op": 1,
        "depthwise.macs": op.macs,
        "depthwise.lanes": rows * math.prod(op.window) * _up(op.y.channels, _LANES),
        "depthwise.out": op.y.size,
    }


def _up(count: int, step: int) -> int:
    return -(-count // step) * step
