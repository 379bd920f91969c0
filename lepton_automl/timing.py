"""Timings of written files, recorded once and replayed by a resumed run."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping

from lepton_automl.cost import Latency, Stopwatch
from lepton_automl.search.cost_check import TIMING
from lepton_automl.search.ledger import Ledger

FILE = "file latency"
"""Ledger events: first digits of a file's sha256 -> its measured latency."""


class Timing:
    """Milliseconds of files: the ratio to the reference net times its recorded quiet time."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._stopwatch: Stopwatch | None = None

    def milliseconds(self, files: Mapping[str, bytes]) -> dict[str, float]:
        """Time of a call at batch 1 on one thread of each file; the new ones take turns."""
        keys = {name: hashlib.sha256(file).hexdigest()[:16] for name, file in files.items()}
        new = {name: files[name] for name, key in keys.items() if not self._ledger.get(FILE, key)}
        if new:
            for name, latency in self._watch().measure(new).items():
                self._ledger.record(FILE, keys[name], dataclasses.asdict(latency))
        quiet_ms = self.reference_ms()
        return {name: self._known(key).ratio * quiet_ms for name, key in keys.items()}

    def reference_ms(self) -> float:
        """Quiet time of the fixed reference net, as this run first measured it."""
        known = self._ledger.get(TIMING, "reference")
        if known is None:
            known = {"quiet_ms": self._watch().quiet_reference_ms()}
            self._ledger.record(TIMING, "reference", known)
        return float(known["quiet_ms"])

    def _known(self, key: str) -> Latency:
        found = self._ledger.get(FILE, key)
        assert found is not None, "recorded above"
        return Latency(**found)

    def _watch(self) -> Stopwatch:
        if self._stopwatch is None:
            self._stopwatch = Stopwatch()
        return self._stopwatch
