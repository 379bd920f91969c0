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
from lepton_automl.exporters.onnx import int8_model
from lepton_automl.graph import Add, Conv, Gate, GlobalPool, Graph, Linear, MaxPool, Mul, Op
from lepton_automl.layers.conv import Conv as ConvLayer
from lepton_automl.layers.head import Head
from lepton_automl.layers.stem import Stem
from lepton_automl.model import Model, Preprocessing, QParams
from lepton_automl.onnxfile import INPUT, OUTPUT, session

REFERENCE = Arch((16, 16, 1), (Stem(16), ConvLayer(32, stride=2), ConvLayer(32), Head(classes=10)))
"""The net every latency is a multiple of; never changed, or old measurements lose their meaning."""
_RANGE = 4.0
"""Width of the range a random value is stored in, in the units of a normalised net."""


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

    def timed(self, latency: Latency, quiet_ms: float) -> Cost:
        """The same with a measured latency; `quiet_ms` as `quiet_reference_ms` gives it."""
        low, middle, high = (
            ratio * quiet_ms for ratio in (latency.ratio_low, latency.ratio, latency.ratio_high)
        )
        return replace(self, latency_ms=middle, latency_low_ms=low, latency_high_ms=high)


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
    return file_cost(arch, random_int8(arch, weight_limit))


def file_cost(arch: Arch, file: bytes, value_bytes: int = 1) -> Cost:
    """Everything but the latency of a written `file` of `arch`; `value_bytes` 4 for float32."""
    graph = arch.graph
    weights = sum(int(np.prod(op.weight_shape)) for op in graph.weighted)
    outputs = sum(op.weight_shape[0] for op in graph.weighted)
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


def random_int8(arch: Arch, weight_limit: int, seed: int = 0) -> bytes:
    """The int8 file of `arch` with random weights: the cost of a net does not depend on them."""
    model = Model(arch, {}, Preprocessing(128, 1 / 64), random_qparams(arch, seed, weight_limit))
    return int8_model(model, [str(number) for number in range(arch.classes)], {})


def random_qparams(arch: Arch, seed: int, weight_limit: int) -> QParams:
    """Random integers and scales under which values neither vanish nor all saturate.

    Weights are uniform in +-`weight_limit`; pixels are (128, 1/64). Scales follow the spread a
    value would have if its inputs were independent, so that the file also serves parity tests.
    """
    rng = np.random.default_rng(seed)
    qparams = QParams({"input": 1 / 64}, {"input": 128}, {}, {}, {})
    for op in arch.graph.ops:
        if isinstance(op, (Conv, Linear)):
            _draw(op, qparams, weight_limit, rng)
        if not isinstance(op, Linear):
            scale, qparams.zero_points[op.y.name] = _range(op, qparams, rng)
            qparams.scales[op.y.name] = float(np.float32(scale))
    return qparams


def _draw(op: Conv | Linear, qparams: QParams, limit: int, rng: np.random.Generator) -> None:
    shape, channels = op.weight_shape, op.weight_shape[0]
    scale = np.float32(qparams.scales[op.x.name])
    # 60 of 255 steps is the spread of a value that uses its range; limit / sqrt(3) of a weight.
    spread = np.sqrt(np.prod(shape[1:])) * limit / np.sqrt(3) * 60
    weight_scales = _RANGE / 3 / (spread * scale) * rng.uniform(0.7, 1.3, channels)
    qparams.weights[op.name] = rng.integers(-limit, limit, shape, np.int8, endpoint=True)
    qparams.weight_scales[op.name] = weight_scales.astype(np.float32)
    qparams.biases[op.name] = (rng.normal(0, 0.5, channels) * spread).astype(np.int32)


def _range(op: Op, qparams: QParams, rng: np.random.Generator) -> tuple[float, int]:
    # As in a trained net no two values have the same scale or middle by construction: equal
    # ones would be stored once, and the file would seem smaller than the one that ships.
    x = op.inputs[0].name
    scale, zero_point = qparams.scales[x], qparams.zero_points[x]
    about = rng.uniform(0.9, 1.1)
    match op:
        case Conv() | Add():
            middle = 0 if op.clamp != "none" else int(rng.integers(100, 156))
            return about * _RANGE / 255, middle
        case MaxPool():
            return scale, zero_point
        case GlobalPool():
            return about * scale * 0.6, zero_point
        case Gate():
            return 1 / 255, 0
        case Mul():
            return about * scale * 0.7, zero_point
        case Linear():
            raise AssertionError("logits are never stored")


class Stopwatch:
    """Times files on one thread, in rounds in which each file and the reference net take turns."""

    def __init__(self) -> None:
        self._reference = _call(random_int8(REFERENCE, 64))

    def measure(
        self, files: Mapping[str, bytes], *, rounds: int = 9, seconds: float = 0.015
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
        """
        calls = {name: _call(file) for name, file in files.items()}
        times: dict[str, list[float]] = {name: [] for name in files}
        references = []
        for _ in range(rounds):
            references.append(_block(self._reference, seconds / rounds))
            for name, call in calls.items():
                times[name].append(_block(call, seconds / rounds))
        return {name: _latency(taken, references) for name, taken in times.items()}

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
    opened = session(file)
    pixels = np.random.default_rng(0).integers(
        0, 256, (1, *opened.get_inputs()[0].shape[1:]), np.uint8
    )

    call = functools.partial(opened.run, [OUTPUT], {INPUT: pixels})
    for _ in range(3):
        call()
    return call


def _block(call: Callable[[], object], seconds: float) -> float:
    """Median seconds of a call, called over and over for about `seconds`, at least once."""
    clock, taken = time.perf_counter, []
    before = clock()
    end = before + seconds
    while True:
        call()
        after = clock()
        taken.append(after - before)
        if after >= end:
            return statistics.median(taken)
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
    )


def _outside(n: int) -> int:
    """How many of `n` sorted values may lie outside each end of a 95 % interval of the median."""
    tail, outside = 0.5**n, 0
    while tail + math.comb(n, outside + 1) * 0.5**n <= 0.025:
        outside += 1
        tail += math.comb(n, outside) * 0.5**n
    return outside
