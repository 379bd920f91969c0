"""Latencies of one machine: measured once, recorded, replayed, never mixed with another's."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping

from lepton_automl.cost import Doubt, Latency, Stopwatch
from lepton_automl.machine import Machine, this_machine
from lepton_automl.search.ledger import EventKind, Ledger, LedgerView


class Latencies:
    """What was measured on this machine, and a stopwatch for what was not.

    Parameters
    ----------
    ledger : Ledger
        Where measurements are recorded.
    machine : Machine, optional
        Where this process runs.
    """

    def __init__(self, ledger: Ledger, machine: Machine | None = None) -> None:
        self._ledger, self._here = ledger, machine or this_machine()
        self._stopwatch: Stopwatch | None = None

    @property
    def elsewhere(self) -> str | None:
        """Another machine that this run was measured on, if there is one."""
        own = fingerprint(self._here)
        others = [e["machine"] for k, e in self._ledger.all(EventKind.TIMING).items() if k != own]
        return others[-1] if others else None

    def reference_ms(self) -> float:
        """Quiet time of the fixed reference net, as this run first measured it on this machine."""
        known = self._ledger.get(EventKind.TIMING, fingerprint(self._here))
        if known is None:
            quiet_ms = self._watch().quiet_reference_ms()
            known = {"quiet_ms": quiet_ms, "machine": str(self._here)}
            self._ledger.record(EventKind.TIMING, fingerprint(self._here), known)
        return float(known["quiet_ms"])

    def known(self, kind: str, key: str) -> Latency | None:
        """What was measured here before."""
        event = self._ledger.get(kind, self._key(key))
        return None if event is None else Latency(**event)

    def measure(self, kind: str, files: Mapping[str, bytes], doubt: Doubt | None = None) -> None:
        """Measure files side by side and record each under its key."""
        for key, latency in self._watch().measure(files, doubt=doubt).items():
            self._ledger.record(kind, self._key(key), dataclasses.asdict(latency))

    def _key(self, key: str) -> str:
        return f"{fingerprint(self._here)}/{key}"

    def _watch(self) -> Stopwatch:
        if self._stopwatch is None:
            self._stopwatch = Stopwatch()
        return self._stopwatch


def fingerprint(machine: Machine) -> str:
    """Eight digits that name everything latencies depend on: processor, its features, runtime."""
    parts = (machine.cpu, *machine.flags, machine.onnxruntime, machine.system)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def last_reference_ms(ledger: LedgerView) -> float | None:
    """Quiet time of the reference net where it was measured last; None where nothing was timed."""
    found = list(ledger.all(EventKind.TIMING).values())
    return float(found[-1]["quiet_ms"]) if found else None
