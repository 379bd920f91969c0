"""Costs of architectures before any training, each found once; latencies are recorded."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping

from lepton_automl.config import LIMITS, Limits, options_text, would_fit
from lepton_automl.cost.cost import Cost, excess, file_cost
from lepton_automl.cost.estimate import CostEstimator
from lepton_automl.cost.latency import Latencies, Latency
from lepton_automl.cost.latency_model import LatencyModel, estimate
from lepton_automl.cost.targets import Target
from lepton_automl.errors import InfeasibleError
from lepton_automl.models.arch import Arch
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.runs.ledger import EventKind, Ledger
from lepton_automl.search.workers.measurement_lock import MeasurementLock

NEAR = 0.02
"""A limit so close to the interval of a measured latency asks for more rounds."""
FEW = 0.01
"""Share of the drawn points within the limits from which on the user is told."""
ENOUGH = 100
"""Drawn points that tell such a share from none at all, about."""
ROOM = 0.1
"""Share of the drawn points that a named limit would let in."""
SLACK = 1.05
"""A latency is measured anew after a limit was named."""


class CostCheck:
    """Costs of architectures, each found once.

    A net is within a latency limit if the median of its rounds is. Where the limit lies inside of
    the interval of that median, or next to it, more rounds are measured before the median decides.

    Parameters
    ----------
    limits : Limits
        Only what is within the other limits is timed.
    target : Target
        Where the file will run.
    label_bytes : int
        What class names and metadata add to a file.
    needs_latency : bool
        Whether a limit or an objective asks for it.
    ledger : Ledger
        Keeps measured latencies.
    lock : MeasurementLock
        Makes the workers pause.
    model : LatencyModel, optional
        Tells latencies of another device instead of measuring them here.
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
    ) -> None:
        self.limits, self._label_bytes = limits, label_bytes
        self._weight_limit = target.weight_limit
        self._ledger, self._lock = ledger, lock
        self._known: dict[str, Cost] = {}
        self.model = model if needs_latency else None
        self._latencies = Latencies(ledger) if needs_latency and model is None else None
        self.reference_ms = self._reference() if self._latencies else None
        prices = (model or estimate(target)) if needs_latency else None
        self.estimate = CostEstimator(label_bytes, prices)
        """Costs from the graph alone, to order what is tried."""

    @property
    def elsewhere(self) -> str | None:
        """Another machine that measured this run before, if there is one."""
        return self._latencies.elsewhere if self._latencies else None

    def __call__(self, arch: Arch) -> Cost:
        """Cost of the int8 file; with its latency if that is asked for and all else is kept."""
        if arch.hash not in self._known:
            file = random_int8_onnx(arch, self._weight_limit)
            cost = self._static(arch, file)
            if not excess(cost, self.limits):
                cost = self._timed(arch, cost, file)
            self._known[arch.hash] = cost
        return self._learnt(arch)

    def whole(self, arch: Arch) -> Cost:
        """Cost with its latency, if that is asked for, whatever limits it breaks."""
        known = self._known.get(arch.hash)
        if known is None or (known.latency_ms is None and self.estimate.has_latency):
            file = random_int8_onnx(arch, self._weight_limit)
            self._known[arch.hash] = self._timed(arch, self._static(arch, file), file)
        return self._learnt(arch)

    def _learnt(self, arch: Arch) -> Cost:
        # Also of costs known before: a resumed search must estimate like an uninterrupted one.
        self.estimate.correct(arch, self._known[arch.hash])
        return self._known[arch.hash]

    def _static(self, arch: Arch, file: bytes) -> Cost:
        static = file_cost(arch, file)
        return dataclasses.replace(static, size_bytes=static.size_bytes + self._label_bytes)

    def _timed(self, arch: Arch, cost: Cost, file: bytes) -> Cost:
        if self.model is not None:
            return self._told(arch, cost, self.model)
        if self.reference_ms is None:
            return cost
        return cost.with_measured_latency(self._latency(arch, file), self.reference_ms)

    def _told(self, arch: Arch, cost: Cost, model: LatencyModel) -> Cost:
        cost = cost.with_predicted_latency(model, arch)
        key = f"{model.digest or model.basis}/{arch.hash}"
        if self._ledger.get(EventKind.LATENCY, key) is None:
            event = {"milliseconds": cost.latency_ms, "basis": model.basis, "of": model.device}
            self._ledger.record(EventKind.LATENCY, key, event)
        return cost

    def _latency(self, arch: Arch, file: bytes) -> Latency:
        assert self._latencies is not None
        if self._latencies.known(EventKind.LATENCY, arch.hash) is None:
            with self._lock.measuring():
                self._latencies.measure(EventKind.LATENCY, {arch.hash: file}, self._is_near)
        known = self._latencies.known(EventKind.LATENCY, arch.hash)
        assert known is not None, "recorded above"
        return known

    def _is_near(self, latency: Latency) -> bool:
        limit = self.limits.max_latency_ms
        if limit is None or self.reference_ms is None:
            return False
        low, high = (r * self.reference_ms for r in (latency.ratio_low, latency.ratio_high))
        return low * (1 - NEAR) <= limit <= high * (1 + NEAR)

    def _reference(self) -> float:
        assert self._latencies is not None
        with self._lock.measuring():
            return self._latencies.reference_ms()


class Tally:
    """How many points were drawn, how many are within the limits, what the others break.

    Parameters
    ----------
    limits : Limits
        Cost limits count.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._costs: dict[str, list[float]] = {}
        self._broken: Counter[str] = Counter()
        self._nearest = math.inf
        self.drawn, self.within = 0, 0

    def count(self, cost: Cost, broken: Mapping[str, float]) -> None:
        """One more drawn point, its cost and by how much it breaks limits."""
        self.drawn += 1
        self.within += not broken
        self._broken.update(broken.keys())
        if broken:
            self._nearest = min(self._nearest, sum(broken.values()))
        for limit in self._limits.costs:
            value = LIMITS[limit].measured(cost)
            if value is not None:
                self._costs.setdefault(limit, []).append(value)

    @property
    def is_scarce(self) -> bool:
        """Hardly one point is within the limits, as far as points were drawn."""
        return self.drawn >= ENOUGH and self.within < FEW * self.drawn

    def words(self) -> str:
        """Which limits reject most nets, and the values within which about one in ten is."""
        rejected = self._broken.most_common()
        shares = ", ".join(f"{LIMITS[n].option} {count / self.drawn:.0%}" for n, count in rejected)
        near = (
            ""
            if math.isinf(self._nearest)
            else f"; the nearest exceeds them by {self._nearest:.1%}"
        )
        room = " ".join(filter(None, (self._room(limit) for limit, _ in rejected)))
        hint = f"; about one in ten is within {room}" if room else ""
        return (
            f"few nets are within the limits, {self.within} of {self.drawn} drawn; rejected by "
            f"{shares}{near}{hint}"
        )

    def _room(self, limit: str) -> str:
        """The limit that leaves room; nothing where it does already."""
        values = sorted(self._costs.get(limit, []))
        if not values:
            return ""
        wanted = values[min(len(values) - 1, math.ceil(ROOM * len(values)))]
        return options_text({limit: wanted}) if wanted > self._limits.stated[limit] else ""


def impossible(limits: Limits, least: Mapping[str, Cost], nearest: Cost) -> InfeasibleError:
    """The error, with a way out in the words of the command line.

    Parameters
    ----------
    limits : Limits
        As the user stated them.
    least : mapping
        Limit -> the net with the smallest such cost that was found anywhere in the space.
    nearest : Cost
        Of the point that breaks the limits by the least.
    """
    stated = limits.stated
    smallest = {k: LIMITS[k].measured(cost) for k, cost in least.items()}
    beyond = {k: v for k, v in smallest.items() if v is not None and v > stated[k]}
    costs = {limit: _needed(limit, nearest) for limit in least}
    changed = {k: v for k, v in costs.items() if v is not None and v > stated[k]}
    if not beyond:
        return InfeasibleError(
            "no net of this search space can meet all the limits together, nothing was trained; "
            f"the nearest: {_all(nearest, least)}",
            fix=f"{would_fit(changed)} the nearest net seen; or choose another --space",
        )
    seen = "; ".join(
        f"the smallest {LIMITS[limit].noun} seen is {_value(limit, value)}, "
        f"the limit {_value(limit, stated[limit])}"
        for limit, value in beyond.items()
    )
    return InfeasibleError(
        f"no net of this search space can meet the limits, nothing was trained: {seen}",
        fix=f"{would_fit(changed)}; or choose another search space with --space",
    )


def _needed(limit: str, cost: Cost) -> float | None:
    value = LIMITS[limit].measured(cost)
    if limit == "max_latency_ms" and value is not None and cost.latency_basis == "measured":
        return SLACK * max(value, cost.latency_high_ms or value)
    return value


def _all(cost: Cost, limits: Mapping[str, Cost]) -> str:
    values = {limit: LIMITS[limit].measured(cost) for limit in limits}
    return ", ".join(f"{LIMITS[k].noun} {_value(k, v)}" for k, v in values.items() if v is not None)


def _value(limit: str, value: float) -> str:
    """In the unit of the option, rounded up."""
    spec = LIMITS[limit]
    return spec.rounded(value) if spec.unit == "MACs" else f"{spec.rounded(value)} {spec.unit}"
