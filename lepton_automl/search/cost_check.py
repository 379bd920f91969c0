"""Costs of architectures before any training, each found once; latencies are recorded."""

from __future__ import annotations

import dataclasses

from lepton_automl.arch import Arch
from lepton_automl.config import Limits
from lepton_automl.cost import Cost, Latency, Stopwatch, static_cost
from lepton_automl.pick import excess
from lepton_automl.random_net import random_int8
from lepton_automl.search.ledger import Ledger
from lepton_automl.search.quiet import Quiet

LATENCY = "latency"
"""Ledger events: architecture -> its measured latency; never taken again."""
TIMING = "timing"
"""Ledger event `reference`: the quiet time of the fixed reference net."""


class CostCheck:
    """Costs of architectures, each found once.

    Parameters
    ----------
    limits : Limits
        Only what is within the other limits is timed.
    weight_limit : int
        Of the target.
    label_bytes : int
        What class names and metadata add to a file.
    needs_latency : bool
        Whether a limit or an objective asks for it.
    ledger : Ledger
        Keeps measured latencies.
    quiet : Quiet
        Makes the workers pause.
    """

    def __init__(
        self,
        limits: Limits,
        weight_limit: int,
        label_bytes: int,
        *,
        needs_latency: bool,
        ledger: Ledger,
        quiet: Quiet,
    ) -> None:
        self.limits, self._weight_limit, self._label_bytes = limits, weight_limit, label_bytes
        self._ledger, self._quiet = ledger, quiet
        self._known: dict[str, Cost] = {}
        self._stopwatch: Stopwatch | None = None
        self.reference_ms = self._reference() if needs_latency else None

    def __call__(self, arch: Arch) -> Cost:
        """Cost of the int8 file; with its latency if that is asked for and all else is kept."""
        if arch.hash not in self._known:
            self._known[arch.hash] = self._cost(arch)
        return self._known[arch.hash]

    def _cost(self, arch: Arch) -> Cost:
        static = static_cost(arch, self._weight_limit)
        cost = dataclasses.replace(static, size_bytes=static.size_bytes + self._label_bytes)
        if self.reference_ms is None or excess(cost, self.limits):
            return cost
        return cost.timed(self._latency(arch), self.reference_ms)

    def _latency(self, arch: Arch) -> Latency:
        known = self._ledger.get(LATENCY, arch.hash)
        if known is None:
            with self._quiet.measuring():
                file = random_int8(arch, self._weight_limit)
                latency = self._watch().measure({"candidate": file})["candidate"]
            known = dataclasses.asdict(latency)
            self._ledger.record(LATENCY, arch.hash, known)
        return Latency(**known)

    def _reference(self) -> float:
        known = self._ledger.get(TIMING, "reference")
        if known is None:
            with self._quiet.measuring():
                known = {"quiet_ms": self._watch().quiet_reference_ms()}
            self._ledger.record(TIMING, "reference", known)
        return float(known["quiet_ms"])

    def _watch(self) -> Stopwatch:
        if self._stopwatch is None:
            self._stopwatch = Stopwatch()
        return self._stopwatch
