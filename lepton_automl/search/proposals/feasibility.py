"""Check the costs of architectures before training, and explain limits that are hard to meet."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from lepton_automl.config import LIMITS, Limits, options_text, would_fit
from lepton_automl.cost import boards
from lepton_automl.cost.cost import Cost, file_cost, violations
from lepton_automl.cost.estimate import CostEstimator
from lepton_automl.cost.latency import Latencies, Latency, Stopwatch
from lepton_automl.cost.latency_model import LatencyModel, estimate
from lepton_automl.cost.targets import Target
from lepton_automl.errors import InfeasibleError
from lepton_automl.models.arch import Arch
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.runs.ledger import EventKind, Ledger
from lepton_automl.search.workers.measurement_lock import MeasurementLock

_LATENCY_MARGIN = 0.02
"""More rounds are measured where a limit is this close to the interval of the latency, relative."""
_SCARCE_SHARE = 0.01
"""A message explains the limits where a smaller share of the points satisfies them."""
ENOUGH = 100
"""Points that are needed to estimate such a share."""
_SUGGESTED_SHARE = 0.1
"""Share of the points that satisfies a suggested limit."""
_LATENCY_SLACK = 1.05
"""A suggested latency limit has this factor, as the latency is measured again under it."""


class CostCheck:
    """Costs of the int8 files of architectures, each computed once; latencies are recorded.

    A net satisfies a latency limit if the median of its rounds does. Where the limit is inside the
    interval of that median, or close to it, more rounds are measured before the median decides.

    Parameters
    ----------
    limits : Limits
        Latency is measured only for nets that satisfy the other limits.
    target : Target
        Device class of the file.
    label_bytes : int
        Bytes that class names and metadata add to a file, at least 0.
    needs_latency : bool
        Whether a limit or an objective is a latency.
    ledger : Ledger
        Stores measured latencies.
    lock : MeasurementLock
        Workers pause while it is held.
    model : LatencyModel, optional
        Predicts latencies of another device; None: they are measured.
    stopwatch : Stopwatch, optional
        Measures them on a host, whose own workers pause; None: this machine does.
    """

    def __init__(
        self,
        limits: Limits,
        target: Target,
        label_bytes: int,
        *,
        needs_latency: bool,
        ledger: Ledger,
        lock: MeasurementLock,
        model: LatencyModel | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self.limits, self._label_bytes = limits, label_bytes
        self._weight_limit = target.weight_limit
        self._ledger, self._lock = ledger, lock
        self._known: dict[str, Cost] = {}
        self.model = model if needs_latency else None
        is_measured = needs_latency and model is None
        self._latencies = Latencies(ledger, stopwatch=stopwatch) if is_measured else None
        self._is_elsewhere = stopwatch is not None and bool(stopwatch.host)
        self.reference_ms = self._reference() if self._latencies else None
        latency_model = (model or estimate(target)) if needs_latency else None
        self.estimator = CostEstimator(label_bytes, latency_model)
        """Estimates costs from the graph alone."""

    @property
    def other_machine(self) -> str | None:
        """Machine that measured the latencies of this run, where it is not this one."""
        return self._latencies.elsewhere if self._latencies else None

    def __call__(self, arch: Arch) -> Cost:
        """Cost of the int8 file; with its latency if it is needed and no other limit is broken."""
        if arch.hash not in self._known:
            file = random_int8_onnx(arch, self._weight_limit)
            cost = self._static(arch, file)
            if not violations(cost, self.limits):
                cost = self._timed(arch, cost, file)
            self._known[arch.hash] = cost
        return self._learned(arch)

    def whole(self, arch: Arch) -> Cost:
        """Cost with its latency, if it is needed, also where limits are broken."""
        known = self._known.get(arch.hash)
        if known is None or (known.latency_ms is None and self.estimator.has_latency):
            file = random_int8_onnx(arch, self._weight_limit)
            self._known[arch.hash] = self._timed(arch, self._static(arch, file), file)
        return self._learned(arch)

    def _learned(self, arch: Arch) -> Cost:
        # Also for costs computed before: a resumed search needs the same corrections.
        self.estimator.correct(arch, self._known[arch.hash])
        return self._known[arch.hash]

    def _static(self, arch: Arch, file: bytes) -> Cost:
        static = file_cost(arch, file)
        return dataclasses.replace(static, size_bytes=static.size_bytes + self._label_bytes)

    def _timed(self, arch: Arch, cost: Cost, file: bytes) -> Cost:
        if self.model is not None:
            return self._predicted(arch, cost, self.model)
        if self.reference_ms is None:
            return cost
        return cost.with_measured_latency(self._latency(arch, file), self.reference_ms)

    def _predicted(self, arch: Arch, cost: Cost, model: LatencyModel) -> Cost:
        cost = cost.with_predicted_latency(model, arch)
        key = f"{model.digest or model.basis}/{arch.hash}"
        if self._ledger.get(EventKind.LATENCY, key) is None:
            event = {"milliseconds": cost.latency_ms, "basis": model.basis, "of": model.device}
            self._ledger.record(EventKind.LATENCY, key, event)
        return cost

    def _latency(self, arch: Arch, file: bytes) -> Latency:
        assert self._latencies is not None
        if self._latencies.known(EventKind.LATENCY, arch.hash) is None:
            with self._quiet():
                self._latencies.measure(EventKind.LATENCY, {arch.hash: file}, self._is_near)
        known = self._latencies.known(EventKind.LATENCY, arch.hash)
        assert known is not None, "recorded above"
        return known

    def _is_near(self, latency: Latency) -> bool:
        limit = self.limits.max_latency_ms
        if limit is None or self.reference_ms is None:
            return False
        low, high = (r * self.reference_ms for r in (latency.ratio_low, latency.ratio_high))
        return low * (1 - _LATENCY_MARGIN) <= limit <= high * (1 + _LATENCY_MARGIN)

    def _reference(self) -> float:
        assert self._latencies is not None
        with self._quiet():
            return self._latencies.reference_ms()

    def _quiet(self) -> AbstractContextManager[None]:
        """While workers pause on this machine, if it measures."""
        return nullcontext() if self._is_elsewhere else self._lock.measuring()


class RejectionStats:
    """Counts proposed points, those that satisfy the limits, and the limits that are broken.

    Parameters
    ----------
    limits : Limits
        Of which the cost limits are counted.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._costs: dict[str, list[float]] = {}
        self._broken: Counter[str] = Counter()
        self._nearest = math.inf
        self.points, self.feasible = 0, 0

    def count(self, cost: Cost, broken: Mapping[str, float]) -> None:
        """Add a point, its cost and its violations."""
        self.points += 1
        self.feasible += not broken
        self._broken.update(broken.keys())
        if broken:
            self._nearest = min(self._nearest, sum(broken.values()))
        for limit in self._limits.costs:
            value = LIMITS[limit].measured(cost)
            if value is not None:
                self._costs.setdefault(limit, []).append(value)

    @property
    def is_scarce(self) -> bool:
        """Whether less than 1 % of at least `ENOUGH` points satisfies the limits."""
        return self.points >= ENOUGH and self.feasible < _SCARCE_SHARE * self.points

    def summary(self) -> str:
        """Message with the violated limits, the smallest violation and limits to suggest."""
        rejected = self._broken.most_common()
        shares = ", ".join(f"{LIMITS[n].option} {count / self.points:.0%}" for n, count in rejected)
        near = (
            ""
            if math.isinf(self._nearest)
            else f"; the nearest exceeds them by {self._nearest:.1%}"
        )
        wider = " ".join(filter(None, (self._suggested(limit) for limit, _ in rejected)))
        hint = f"; about one in ten is within {wider}" if wider else ""
        return (
            f"few nets are within the limits, {self.feasible} of {self.points} drawn; rejected by "
            f"{shares}{near}{hint}"
        )

    def _suggested(self, limit: str) -> str:
        """A limit that a tenth of the points satisfies; empty where the stated one is wider."""
        values = sorted(self._costs.get(limit, []))
        if not values:
            return ""
        wanted = values[min(len(values) - 1, math.ceil(_SUGGESTED_SHARE * len(values)))]
        return options_text({limit: wanted}) if wanted > self._limits.stated[limit] else ""


def infeasible_error(limits: Limits, least: Mapping[str, Cost], nearest: Cost) -> InfeasibleError:
    """The error for limits that no net satisfies, with options that a net would satisfy.

    Parameters
    ----------
    limits : Limits
        As they were stated.
    least : mapping
        Limit -> cost of the net with the smallest such cost that was found in the space.
    nearest : Cost
        Of the point with the smallest violation.
    """
    stated = limits.stated
    smallest = {k: LIMITS[k].measured(cost) for k, cost in least.items()}
    broken = {k: v for k, v in smallest.items() if v is not None and v > stated[k]}
    costs = {limit: _needed(limit, nearest) for limit in least}
    changed = {k: v for k, v in costs.items() if v is not None and v > stated[k]}
    if not broken:
        return InfeasibleError(
            "no net of this search space can meet all the limits together, nothing was trained; "
            f"the nearest: {_all(nearest, least)}",
            fix=f"{would_fit(changed)} the nearest net seen{_boards(limits, nearest)}; or choose "
            "another --space",
        )
    seen = "; ".join(
        f"the smallest {LIMITS[limit].noun} seen is {_value(limit, value)}, "
        f"the limit {_value(limit, stated[limit])}"
        for limit, value in broken.items()
    )
    return InfeasibleError(
        f"no net of this search space can meet the limits, nothing was trained: {seen}",
        fix=f"{would_fit(changed)}{_boards(limits, nearest)}; or choose another search space with "
        "--space",
    )


def _boards(limits: Limits, nearest: Cost) -> str:
    """Boards on which the nearest net fits; empty without a limit on flash."""
    if limits.max_flash_bytes is None or nearest.flash_bytes is None:
        return ""
    fitting = boards.fitting(nearest.flash_bytes, nearest.peak_ram_bytes)
    return f", or --board {fitting[0].name}" if fitting else ""


def _needed(limit: str, cost: Cost) -> float | None:
    value = LIMITS[limit].measured(cost)
    if limit == "max_latency_ms" and value is not None and cost.latency_basis == "measured":
        return _LATENCY_SLACK * max(value, cost.latency_high_ms or value)
    return value


def _all(cost: Cost, limits: Mapping[str, Cost]) -> str:
    values = {limit: LIMITS[limit].measured(cost) for limit in limits}
    return ", ".join(f"{LIMITS[k].noun} {_value(k, v)}" for k, v in values.items() if v is not None)


def _value(limit: str, value: float) -> str:
    """Text in the unit of the option, rounded up."""
    spec = LIMITS[limit]
    return spec.rounded(value) if spec.unit == "MACs" else f"{spec.rounded(value)} {spec.unit}"
