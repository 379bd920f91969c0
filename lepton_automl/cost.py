"""What a net costs as the int8 file that would ship, known before the first epoch."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from lepton_automl.arch import Arch
from lepton_automl.graph import Add, Gate, Graph, Mul
from lepton_automl.latency_model import Basis, LatencyModel
from lepton_automl.layers.conv import Conv as ConvLayer
from lepton_automl.layers.head import Head
from lepton_automl.layers.stem import Stem
from lepton_automl.onnxfile import INPUT_NAME, OUTPUT_NAME, open_session
from lepton_automl.random_net import random_int8_onnx

REFERENCE = Arch((16, 16, 1), (Stem(16), ConvLayer(32, stride=2), ConvLayer(32), Head(classes=10)))
"""The net every latency is a multiple of; never changed, or old measurements lose their meaning."""
REPEATS = 2
"""How often a doubtful latency is measured again: about 60 ms more at the most."""


@dataclass(frozen=True)
class Cost:
    """Cost of one file at batch 1."""

    size_bytes: int
    """The file."""
    weight_bytes: int
    """Its weights: int8 in an int8 file, float32 in a float file."""
    parameter_bytes: int
    """Weights, biases and the scales of weights and biases."""
    macs: int
    """Multiply-accumulates a sample."""
    peak_ram_bytes: int
    """Most bytes of values alive at once (see `peak_ram_bytes`)."""
    latency_ms: float | None = None
    """Milliseconds a call on one thread of a quiet machine; None where not measured."""
    latency_low_ms: float | None = None
    latency_high_ms: float | None = None
    latency_basis: Basis = "measured"
    """What the latency is told from, where there is one."""

    def timed(self, latency: Latency, quiet_ms: float) -> Cost:
        """The same with a measured latency; `quiet_ms` as `quiet_reference_ms` gives it."""
        low, middle, high = (
            ratio * quiet_ms for ratio in (latency.ratio_low, latency.ratio, latency.ratio_high)
        )
        return replace(self, latency_ms=middle, latency_low_ms=low, latency_high_ms=high)

    def told(self, model: LatencyModel, arch: Arch) -> Cost:
        """The same with the latency that `model` tells of `arch`."""
        told = model.latency(arch.graph)
        return replace(
            self,
            latency_ms=told.milliseconds,
            latency_low_ms=told.low,
            latency_high_ms=told.high,
            latency_basis=model.basis,
        )


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
class Written:
    """A net and a file that was written of it."""

    arch: Arch
    file: bytes


Doubt = Callable[[Latency], bool]
"""Whether a latency is too close to a limit to be believed."""


def static_cost(arch: Arch, weight_limit: int) -> Cost:
    """Everything but the latency of `arch` as an int8 file, written with random weights.

    The size is that of a file with short labels and no further metadata; the shipped one adds
    its class names and the fingerprint of the data.

    Parameters
    ----------
    arch : Arch
        Any legal architecture.
    weight_limit : int
        Largest weight, 1 to 127 (see the targets).
    """
    return file_cost(arch, random_int8_onnx(arch, weight_limit))


def file_cost(arch: Arch, file: bytes, value_bytes: int = 1) -> Cost:
    """Everything but the latency of a written `file` of `arch`; `value_bytes` 4 for float32."""
    graph = arch.graph
    weights = sum(int(np.prod(op.weight_shape)) for op in graph.weighted_ops)
    outputs = sum(op.weight_shape[0] for op in graph.weighted_ops)
    # An int8 channel has an int32 bias and the float32 scales of weight and bias.
    beside = 4 * outputs * (3 if value_bytes == 1 else 1)
    return Cost(
        size_bytes=len(file),
        weight_bytes=weights * value_bytes,
        parameter_bytes=weights * value_bytes + beside,
        macs=graph.macs,
        peak_ram_bytes=peak_ram_bytes(graph) * value_bytes,
    )


def peak_ram_bytes(graph: Graph) -> int:
    """Most bytes alive while the operations run in order, one byte an element.

    Alive are the inputs and the output of the running operation and every value read later. An
    addition, product or gate may write over an input of its own size that dies with it.
    """
    last = {value.name: n for n, op in enumerate(graph.ops) for value in op.inputs}
    alive = {graph.input.name: graph.input.size}
    peak = graph.input.size
    for number, op in enumerate(graph.ops):
        dying = {v.name: v.size for v in op.inputs if last[v.name] == number}
        elementwise = isinstance(op, (Add, Mul, Gate))
        in_place = elementwise and op.y.size in dying.values()
        peak = max(peak, sum(alive.values()) + (0 if in_place else op.y.size))
        alive[op.y.name] = op.y.size
        for name in dying:
            del alive[name]
    return peak


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
