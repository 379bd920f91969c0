"""Latency of files, measured in interleaved rounds, recorded once and replayed."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from lepton_automl.core.machine import Machine, this_machine
from lepton_automl.cost.latency_model import LatencyModel
from lepton_automl.models.arch import Arch
from lepton_automl.models.layers.conv import Conv as ConvLayer
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.onnx_file import INPUT_NAME, OUTPUT_NAME, open_session
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.runs.ledger import EventKind, Ledger, LedgerView

REPEATS = 2
"""How often a doubtful latency is measured again: about 60 ms more at the most."""

REFERENCE = Arch((16, 16, 1), (Stem(16), ConvLayer(32, stride=2), ConvLayer(32), Head(classes=10)))
"""The net every latency is a multiple of; never changed, or old measurements lose their meaning."""


@dataclass(frozen=True)
class Latency:
    """Time of one call at batch 1 as a multiple of the reference net's in the same rounds.

    Hosts drift by a factor of two within minutes, ratios by a few percent: compare ratios, and
    for milliseconds multiply them by one recorded `quiet_reference_ms`.
    """

    ratio: float
    """Median over the rounds."""
    ratio_low: float
    """Lower end of an interval of at least 95 % for the median (from 6 rounds on)."""
    ratio_high: float
    reference_ms: float
    """Median time of the reference net in these rounds."""
    median_ms: float
    """Median time as the clock gave it."""
    rounds: int = 9


@dataclass(frozen=True)
class NetFile:
    """A net and a file that was written of it."""

    arch: Arch
    file: bytes


Doubt = Callable[[Latency], bool]
"""Whether a latency is too close to a limit to be believed."""


class Stopwatch:
    """Times files on one thread, in rounds in which each file and the reference net take turns."""

    def __init__(self) -> None:
        self._reference = _call(random_int8_onnx(REFERENCE, 64))

    def measure(
        self,
        files: Mapping[str, bytes],
        *,
        rounds: int = 9,
        seconds: float = 0.015,
        doubt: Doubt | None = None,
    ) -> dict[str, Latency]:
        """Latency of each file.

        Parameters
        ----------
        files : mapping of str to bytes
            ONNX files with the inputs and outputs that lepton writes, of any precision.
        rounds : int
            Turns each file gets, at least 1.
        seconds : float
            Time each file, and the reference net, is run for over all rounds; a call that takes
            longer than its share is made once a round.
        doubt : callable, optional
            While it says so of any file, up to `REPEATS` times as many rounds again are added.
        """
        calls = {name: _call(file) for name, file in files.items()}
        times: dict[str, list[float]] = {name: [] for name in files}
        references: list[float] = []
        found: dict[str, Latency] = {}
        for _ in range(1 + REPEATS):
            for _ in range(rounds):
                references.append(_block(self._reference, seconds / rounds))
                for name, call in calls.items():
                    times[name].append(_block(call, seconds / rounds))
            found = {name: _latency(taken, references) for name, taken in times.items()}
            if doubt is None or not any(map(doubt, found.values())):
                break
        return found

    def quiet_reference_ms(self, *, rounds: int = 40, seconds: float = 0.2) -> float:
        """Milliseconds of the reference net when nothing disturbs it: its quickest round."""
        return 1e3 * min(_block(self._reference, seconds / rounds) for _ in range(rounds))


def measure(
    files: Mapping[str, bytes], *, rounds: int = 9, seconds: float = 0.015
) -> dict[str, Latency]:
    """`Stopwatch.measure` for those who measure once."""
    return Stopwatch().measure(files, rounds=rounds, seconds=seconds)


def quiet_reference_ms() -> float:
    """`Stopwatch.quiet_reference_ms` for those who need it once; record it, then reuse it."""
    return Stopwatch().quiet_reference_ms()


def _call(file: bytes) -> Callable[[], object]:
    """One call at batch 1 of an opened and warm file."""
    opened = open_session(file)
    pixels = np.random.default_rng(0).integers(
        0, 256, (1, *opened.get_inputs()[0].shape[1:]), np.uint8
    )

    call = functools.partial(opened.run, [OUTPUT_NAME], {INPUT_NAME: pixels})
    for _ in range(3):
        call()
    return call


def _block(call: Callable[[], object], seconds: float) -> float:
    """Fewest seconds of a call, called over and over for about `seconds`, at least once.

    What disturbs a call only ever adds to it: on a busy machine two measurements of one file
    differ by half as much as with the median call of each block.
    """
    clock, least = time.perf_counter, math.inf
    before = clock()
    end = before + seconds
    while True:
        call()
        after = clock()
        least = min(least, after - before)
        if after >= end:
            return least
        before = after


def _latency(taken: list[float], references: list[float]) -> Latency:
    ratios = sorted(own / reference for own, reference in zip(taken, references, strict=True))
    outside = _outside(len(ratios))
    return Latency(
        ratio=statistics.median(ratios),
        ratio_low=ratios[outside],
        ratio_high=ratios[-1 - outside],
        reference_ms=1e3 * statistics.median(references),
        median_ms=1e3 * statistics.median(taken),
        rounds=len(ratios),
    )


def _outside(n: int) -> int:
    """How many of `n` sorted values may lie outside each end of a 95 % interval of the median."""
    tail, outside = 0.5**n, 0
    while tail + math.comb(n, outside + 1) * 0.5**n <= 0.025:
        outside += 1
        tail += math.comb(n, outside) * 0.5**n
    return outside


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


class Timing:
    """Milliseconds of files: the ratio to the reference net times its recorded quiet time."""

    def __init__(self, ledger: Ledger) -> None:
        self._latencies = Latencies(ledger)

    def milliseconds(self, nets: Mapping[str, NetFile]) -> dict[str, float]:
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


def predicted_milliseconds(model: LatencyModel, nets: Mapping[str, NetFile]) -> dict[str, float]:
    """What `Timing.milliseconds` gives, told of each net by `model` instead of timed."""
    return {name: model.latency(net.arch.graph).milliseconds for name, net in nets.items()}
