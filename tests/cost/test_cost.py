from __future__ import annotations

import itertools
import math
import time

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lepton_automl.cost import latency as cost
from lepton_automl.cost.cost import Cost, file_cost, peak_ram_bytes, static_cost
from lepton_automl.cost.latency import Latency, Stopwatch
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.mbconv import MBConv
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.onnx_export import float_onnx
from lepton_automl.models.random_weights import random_int8_onnx
from tests.helpers.nets import random_arch, random_model

ANY = ("relu", "relu6", "hswish", "silu", "none")
LABELS = list("01234")
SMALL = chain((8, 8, 1), [Stem(8), Head()], 5)


def stored_parameters(file: bytes) -> dict[str, int]:
    """Bytes of the constants that convolutions and products read, from the file alone."""
    graph = onnx.ModelProto.FromString(file).graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    makers = {n.output[0]: n for n in graph.node}
    found = {"weights": 0, "all": 0}
    for node in graph.node:
        if node.op_type in {"Conv", "Gemm"}:
            read = [list(makers[x].input[:2]) if x in makers else [x] for x in node.input[1:]]
            found["weights"] += constants[read[0][0]].nbytes
            found["all"] += sum(constants[name].nbytes for names in read for name in names)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_bytes_are_those_in_the_file(seed):
    arch = random_arch(seed, activations=ANY)
    file = random_int8_onnx(arch, 64)
    found = static_cost(arch, 64)
    stored = stored_parameters(file)
    assert found.size_bytes == len(file)
    assert found.weight_bytes == stored["weights"]
    assert found.parameter_bytes == stored["all"]
    real = float_onnx(random_model(arch), LABELS, {})
    stored = stored_parameters(real)
    found = file_cost(arch, real, value_bytes=4)
    assert (found.weight_bytes, found.parameter_bytes) == (stored["weights"], stored["all"])


def test_peak_ram_of_a_plain_chain_is_its_largest_pair_of_neighbours():
    arch = chain((8, 8, 3), [Stem(4), Conv(16, stride=2), Head()], 5)
    sizes = [8 * 8 * 3, 8 * 8 * 4, 4 * 4 * 16, 16, 5]
    assert peak_ram_bytes(arch.graph) == max(map(sum, itertools.pairwise(sizes)))


def test_peak_ram_counts_the_skip_connection_and_adds_in_place():
    arch = chain((8, 8, 8), [Stem(8), Residual(8), Head()], 5)
    # In the block: its input, the inner value, its output; the sum overwrites one of the two.
    assert peak_ram_bytes(arch.graph) == 3 * 8 * 8 * 8


def test_peak_ram_of_a_swish_is_that_of_the_net_without_it():
    # x * gate(x) is a table of 256 values, which overwrites its input.
    arch = chain((8, 8, 8), [Stem(8, activation="silu"), Conv(16, activation="hswish"), Head()], 5)
    assert peak_ram_bytes(arch.graph) == 8 * 8 * (8 + 16)


def test_peak_ram_keeps_what_a_gate_of_other_values_multiplies():
    arch = chain((8, 8, 8), [Stem(8), MBConv(8, expand=2, se=4, kernel=3), Head()], 5)
    # The block's input, which is added, the widened values, and those after the depthwise filter.
    assert peak_ram_bytes(arch.graph) == 8 * 8 * (8 + 16 + 16)


def test_several_files_are_timed_in_the_same_rounds():
    large = chain((32, 32, 3), [Stem(32), Conv(32), MBConv(32), Head()], 5)
    files = {"small": random_int8_onnx(SMALL, 64), "large": random_int8_onnx(large, 64)}
    found = Stopwatch().measure(files, rounds=5, seconds=0.05)
    assert set(found) == {"small", "large"}
    assert found["small"].reference_ms == found["large"].reference_ms > 0
    for one in found.values():
        assert 0 < one.ratio_low <= one.ratio <= one.ratio_high


def test_a_busy_host_changes_times_but_not_ratios(monkeypatch):
    now, speed = [0.0], [1.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def stub(file: bytes):
        takes = {b"slow": 6e-3}.get(file, 2e-3)

        def call() -> None:
            now[0] += takes * speed[0]
            speed[0] = 1.0 + 0.5 * math.sin(now[0] * 3)

        return call

    monkeypatch.setattr(cost, "_call", stub)
    found = Stopwatch().measure({"it": b"slow"}, rounds=15, seconds=0.3)["it"]
    assert found.ratio == pytest.approx(3, rel=0.1)
    assert found.median_ms / found.reference_ms == pytest.approx(3, rel=0.3)
    quiet = Stopwatch().quiet_reference_ms(rounds=100, seconds=3)
    assert quiet == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("rounds", [1, 5, 6, 9, 15, 40])
def test_the_interval_of_a_median_covers_it_as_often_as_it_says(rounds):
    outside = cost._outside(rounds)
    draws = np.sort(np.random.default_rng(0).normal(size=(20_000, rounds)), axis=1)
    covered = ((draws[:, outside] <= 0) & (draws[:, -1 - outside] >= 0)).mean()
    assert covered >= 0.945 if rounds >= 6 else outside == 0
    if rounds >= 9:
        inner = ((draws[:, outside + 1] <= 0) & (draws[:, -2 - outside] >= 0)).mean()
        assert inner < 0.955


def test_milliseconds_are_ratios_of_the_quiet_reference():
    timed = Cost(1, 1, 1, 1, 1).with_measured_latency(Latency(2.0, 1.5, 3.0, 0.1, 0.2), 0.04)
    assert timed.latency_ms == pytest.approx(0.08)
    assert timed.latency_low_ms == pytest.approx(0.06)
    assert timed.latency_high_ms == pytest.approx(0.12)


@pytest.mark.parametrize(("doubts", "rounds"), [(1, [9]), (2, [9, 18]), (99, [9, 18, 27])])
def test_a_doubtful_latency_is_measured_longer_and_pooled(monkeypatch, doubts, rounds):
    monkeypatch.setattr(cost, "_call", lambda file: lambda: None)
    seen = []

    def doubt(latency):
        seen.append(latency.rounds)
        return len(seen) < doubts

    found = Stopwatch().measure({"it": b""}, seconds=0, is_undecided=doubt)["it"]
    assert seen == rounds
    assert found.rounds == rounds[-1]
