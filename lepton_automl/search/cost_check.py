"""Costs of architectures before any training, each found once; latencies are recorded."""

from __future__ import annotations

import dataclasses

from lepton_automl.arch import Arch
from lepton_automl.config import Limits
from lepton_automl.cost import Cost, Latency, file_cost
from lepton_automl.latency_model import LatencyModel, estimate
from lepton_automl.pick import excess
from lepton_automl.random_net import random_int8_onnx
from lepton_automl.search.guess import Guess
from lepton_automl.search.latencies import Latencies
from lepton_automl.search.ledger import EventKind, Ledger
from lepton_automl.search.quiet import Quiet
from lepton_automl.targets import Target

NEAR = 0.02
"""A limit so close to the interval of a measured latency asks for more rounds."""


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
    quiet : Quiet
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
        quiet: Quiet,
        model: LatencyModel | None = None,
    ) -> None:
        self.limits, self._label_bytes = limits, label_bytes
        self._weight_limit = target.weight_limit
        self._ledger, self._quiet = ledger, quiet
        self._known: dict[str, Cost] = {}
        self.model = model if needs_latency else None
        self._latencies = Latencies(ledger) if needs_latency and model is None else None
        self.reference_ms = self._reference() if self._latencies else None
        prices = (model or estimate(target)) if needs_latency else None
        self.guess = Guess(label_bytes, prices)
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
        if known is None or (known.latency_ms is None and self.guess.tells_latency):
            file = random_int8_onnx(arch, self._weight_limit)
            self._known[arch.hash] = self._timed(arch, self._static(arch, file), file)
        return self._learnt(arch)

    def _learnt(self, arch: Arch) -> Cost:
        # Also of costs known before: a resumed search must guess as the uninterrupted one did.
        self.guess.learn(arch, self._known[arch.hash])
        return self._known[arch.hash]

    def _static(self, arch: Arch, file: bytes) -> Cost:
        static = file_cost(arch, file)
        return dataclasses.replace(static, size_bytes=static.size_bytes + self._label_bytes)

    def _timed(self, arch: Arch, cost: Cost, file: bytes) -> Cost:
        if self.model is not None:
            return self._told(arch, cost, self.model)
        if self.reference_ms is None:
            return cost
        return cost.timed(self._latency(arch, file), self.reference_ms)

    def _told(self, arch: Arch, cost: Cost, model: LatencyModel) -> Cost:
        cost = cost.told(model, arch)
        key = f"{model.digest or model.basis}/{arch.hash}"
        if self._ledger.get(EventKind.LATENCY, key) is None:
            event = {"milliseconds": cost.latency_ms, "basis": model.basis, "of": model.device}
            self._ledger.record(EventKind.LATENCY, key, event)
        return cost

    def _latency(self, arch: Arch, file: bytes) -> Latency:
        assert self._latencies is not None
        if self._latencies.known(EventKind.LATENCY, arch.hash) is None:
            with self._quiet.measuring():
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
        with self._quiet.measuring():
            return self._latencies.reference_ms()
