"""Timings of written files, recorded once and replayed by a resumed run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from lepton_automl.cost import Written
from lepton_automl.latency_model import LatencyModel
from lepton_automl.search.latencies import Latencies
from lepton_automl.search.ledger import EventKind, Ledger


class Timing:
    """Milliseconds of files: the ratio to the reference net times its recorded quiet time."""

    def __init__(self, ledger: Ledger) -> None:
        self._latencies = Latencies(ledger)

    def milliseconds(self, nets: Mapping[str, Written]) -> dict[str, float]:
        """Time of a call at batch 1 on one thread of each file; the new ones take turns."""
        keys = {name: hashlib.sha256(net.file).hexdigest()[:16] for name, net in nets.items()}
        new = {
            key: nets[name].file
            for name, key in keys.items()
            if self._latencies.known(EventKind.FILE_LATENCY, key) is None
        }
        if new:
            self._latencies.measure(EventKind.FILE_LATENCY, new)
        return {name: self._ratio(key) * self.reference_ms() for name, key in keys.items()}

    def reference_ms(self) -> float:
        """Quiet time of the fixed reference net, as this run first measured it here."""
        return self._latencies.reference_ms()

    def _ratio(self, key: str) -> float:
        found = self._latencies.known(EventKind.FILE_LATENCY, key)
        assert found is not None, "recorded before it is asked for"
        return found.ratio


def told_milliseconds(model: LatencyModel, nets: Mapping[str, Written]) -> dict[str, float]:
    """What `Timing.milliseconds` gives, told of each net by `model` instead of timed."""
    return {name: model.latency(net.arch.graph).milliseconds for name, net in nets.items()}
