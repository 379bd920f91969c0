"""Latency of files, measured in interleaved rounds, recorded once and replayed."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from lepton_automl.core.call_times import shortest_call
from lepton_automl.core.machine import Machine, this_machine
from lepton_automl.cost.latency_model import LatencyModel
from lepton_automl.models.arch import Arch
from lepton_automl.models.layers.conv import Conv as ConvLayer
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.onnx_file import input_of, input_type, open_session
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.runs.ledger import EventKind, Ledger, LedgerView

_MAX_REPEATS = 2
"""How often an undecided latency is measured again: at most about 60 ms more."""

REFERENCE = Arch((16, 16, 1), (Stem(16), ConvLayer(32, stride=2), ConvLayer(32), Head(classes=10)))
"""Latencies are recorded as multiples of this net's; changing it invalidates all records."""


@dataclass(frozen=True)
class Latency:
    """Latency of a file at batch 1, relative to the reference net in the same rounds.

    Absolute times drift by a factor of two within minutes, ratios by a few percent: compare
    ratios, and multiply them by one recorded `quiet_reference_ms` for milliseconds.
    """

    ratio: float
    """Median over the rounds."""
    ratio_low: float
    """Lower end of an interval of at least 95 % for the median (from 6 rounds on)."""
    ratio_high: float
    reference_ms: float
    """Median time of the reference net in these rounds."""
    median_ms: float
    """Median time of the file, not corrected for drift."""
    rounds: int = 9


@dataclass(frozen=True)
class NetFile:
    """An architecture and one of its ONNX files."""

    arch: Arch
    file: bytes


Rounds = Callable[[int, float], tuple[Mapping[str, list[float]], list[float]]]
"""From a number of rounds and the seconds for each file to the times of each file and those of the
reference net, one a round."""
Undecided = Callable[[Latency], bool]
"""Predicate: whether a latency is too close to a limit to decide."""


class Stopwatch:
    """Measures latencies on one thread; rounds interleave all files and the reference net."""

    host = ""
    """Name of the host of `--hosts` on which it measures; empty: this machine."""

    def __init__(self) -> None:
        self._reference = _call(random_int8_onnx(REFERENCE, 64))

    @property
    def machine(self) -> Machine:
        """Where it measures."""
        return this_machine()

    def measure(
        self,
        files: Mapping[str, bytes],
        *,
        rounds: int = 9,
        seconds: float = 0.015,
        is_undecided: Undecided | None = None,
    ) -> dict[str, Latency]:
        """Measure the latency of each file.

        Parameters
        ----------
        files : mapping of str to bytes
            Name -> ONNX file with lepton's input and output, of any precision.
        rounds : int
            Blocks of calls per file, at least 1.
        seconds : float
            Time per file over all rounds; every round makes at least one call.
        is_undecided : callable, optional
            While it is true for any file, up to `_MAX_REPEATS` times as many rounds are added.
        """
        run = self.rounds(files)
        times: dict[str, list[float]] = {name: [] for name in files}
        references: list[float] = []
        found: dict[str, Latency] = {}
        for _ in range(1 + _MAX_REPEATS):
            more, more_references = run(rounds, seconds)
            references += more_references
            for name, own in more.items():
                times[name] += own
            found = {name: relative_latency(own, references) for name, own in times.items()}
            if is_undecided is None or not any(map(is_undecided, found.values())):
                break
        return found

    def rounds(self, files: Mapping[str, bytes]) -> Rounds:
        """Open files for rounds that interleave them and the reference net."""
        calls = {name: _call(file) for name, file in files.items()}

        def run(rounds: int, seconds: float) -> tuple[dict[str, list[float]], list[float]]:
            times: dict[str, list[float]] = {name: [] for name in files}
            references: list[float] = []
            for _ in range(rounds):
                references.append(shortest_call(self._reference, seconds / rounds))
                for name, call in calls.items():
                    times[name].append(shortest_call(call, seconds / rounds))
            return times, references

        return run

    def quiet_reference_ms(self, *, rounds: int = 40, seconds: float = 0.2) -> float:
        """Milliseconds of the reference net on a quiet machine: its fastest round."""
        return 1e3 * min(shortest_call(self._reference, seconds / rounds) for _ in range(rounds))


def measure(
    files: Mapping[str, bytes], *, rounds: int = 9, seconds: float = 0.015
) -> dict[str, Latency]:
    """`Stopwatch.measure` with a new stopwatch."""
    return Stopwatch().measure(files, rounds=rounds, seconds=seconds)


def quiet_reference_ms() -> float:
    """`Stopwatch.quiet_reference_ms` with a new stopwatch; record the result and reuse it."""
    return Stopwatch().quiet_reference_ms()


def _call(file: bytes) -> Callable[[], object]:
    """A function that runs the file once at batch 1, after three calls for warm-up."""
    opened = open_session(file)
    shape = tuple(opened.get_inputs()[0].shape[1:])
    name, kind = input_of(shape)[0], input_type(opened)
    # The time does not depend on the values.
    sample = np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8).astype(kind)
    call = functools.partial(opened.run, None, {name: sample})  # The one output.
    for _ in range(3):
        call()
    return call


def relative_latency(times: list[float], references: list[float]) -> Latency:
    """Latency from the times of a file and of what it is compared with, round by round; seconds."""
    ratios = sorted(own / reference for own, reference in zip(times, references, strict=True))
    outside = _outside(len(ratios))
    return Latency(
        ratio=statistics.median(ratios),
        ratio_low=ratios[outside],
        ratio_high=ratios[-1 - outside],
        reference_ms=1e3 * statistics.median(references),
        median_ms=1e3 * statistics.median(times),
        rounds=len(ratios),
    )


def _outside(n: int) -> int:
    """How many of `n` sorted values lie below the 95 % order-statistic interval of the median."""
    tail, outside = 0.5**n, 0
    while tail + math.comb(n, outside + 1) * 0.5**n <= 0.025:
        outside += 1
        tail += math.comb(n, outside) * 0.5**n
    return outside


class Latencies:
    """Latencies recorded in the ledger for one machine; measures what is missing.

    Parameters
    ----------
    ledger : Ledger
        Where measurements are recorded.
    machine : Machine, optional
        By default that of the stopwatch.
    stopwatch : Stopwatch, optional
        What measures; None: a new one of this machine.
    """

    def __init__(
        self,
        ledger: Ledger,
        machine: Machine | None = None,
        *,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        if machine is None:
            machine = this_machine() if stopwatch is None else stopwatch.machine
        self._ledger, self._here = ledger, machine
        self._stopwatch, self._host = stopwatch, stopwatch.host if stopwatch else ""

    @property
    def elsewhere(self) -> str | None:
        """Another machine on which latencies of this run were measured; None if there is none."""
        own = fingerprint(self._here)
        others = [e["machine"] for k, e in self._ledger.all(EventKind.TIMING).items() if k != own]
        return others[-1] if others else None

    def reference_ms(self) -> float:
        """Quiet time of the reference net, as first measured in this run on the machine."""
        known = self._ledger.get(EventKind.TIMING, fingerprint(self._here))
        if known is None:
            quiet_ms = self._watch().quiet_reference_ms()
            known = {"quiet_ms": quiet_ms, "machine": str(self._here)}
            if self._host:
                known["host"] = self._host
            self._ledger.record(EventKind.TIMING, fingerprint(self._here), known)
        return float(known["quiet_ms"])

    def known(self, kind: str, key: str) -> Latency | None:
        """The recorded latency of `key`; None if it was not measured on the machine."""
        event = self._ledger.get(kind, self._key(key))
        return None if event is None else Latency(**event)

    def measure(
        self, kind: str, files: Mapping[str, bytes], is_undecided: Undecided | None = None
    ) -> None:
        """Measure files in interleaved rounds and record each under its key."""
        for key, latency in self._watch().measure(files, is_undecided=is_undecided).items():
            self._ledger.record(kind, self._key(key), dataclasses.asdict(latency))

    def _key(self, key: str) -> str:
        return f"{fingerprint(self._here)}/{key}"

    def _watch(self) -> Stopwatch:
        if self._stopwatch is None:
            self._stopwatch = Stopwatch()
        return self._stopwatch


def fingerprint(machine: Machine) -> str:
    """Eight hex digits of what latencies depend on: processor, features, runtime, system."""
    parts = (machine.cpu, *machine.flags, machine.onnxruntime, machine.system)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def last_reference_ms(ledger: LedgerView) -> float | None:
    """The most recently recorded quiet time of the reference net; None if there is none."""
    found = list(ledger.all(EventKind.TIMING).values())
    return float(found[-1]["quiet_ms"]) if found else None


class Timing:
    """Latency of files in milliseconds: recorded ratio times quiet time of the reference net."""

    def __init__(self, ledger: Ledger, stopwatch: Stopwatch | None = None) -> None:
        self._latencies = Latencies(ledger, stopwatch=stopwatch)

    def milliseconds(self, nets: Mapping[str, NetFile]) -> dict[str, float]:
        """Time of a call at batch 1 on one thread of each net's file."""
        return self.milliseconds_of({name: net.file for name, net in nets.items()})

    def milliseconds_of(self, files: Mapping[str, bytes]) -> dict[str, float]:
        """Time of a call at batch 1 on one thread of each file; the new ones take turns."""
        keys = {name: hashlib.sha256(file).hexdigest()[:16] for name, file in files.items()}
        new = {
            key: files[name]
            for name, key in keys.items()
            if self._latencies.known(EventKind.FILE_LATENCY, key) is None
        }
        if new:
            self._latencies.measure(EventKind.FILE_LATENCY, new)
        return {name: self._ratio(key) * self.reference_ms() for name, key in keys.items()}

    def reference_ms(self) -> float:
        """Quiet time of the reference net, as first measured in this run on this machine."""
        return self._latencies.reference_ms()

    def _ratio(self, key: str) -> float:
        found = self._latencies.known(EventKind.FILE_LATENCY, key)
        assert found is not None, "measured before it is read"
        return found.ratio


def predicted_milliseconds(model: LatencyModel, nets: Mapping[str, NetFile]) -> dict[str, float]:
    """Latency of each net in milliseconds, predicted by `model` instead of measured."""
    return {name: model.latency(net.arch.graph).milliseconds for name, net in nets.items()}
