from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.pruning.candidates import choose_widths
from lepton_automl.compress.pruning.cut import arch_without_layer
from lepton_automl.compress.pruning.savings import (
    LIMIT_MARGIN,
    Savings,
    is_within,
    measure_savings,
    savings_for_limits,
    smaller_sizes,
)
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.cost.cost import file_cost, peak_ram_bytes
from lepton_automl.cost.latency import NetFile
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.training.recipe import Recipe
from tests.helpers.nets import random_model

ARCH = chain((8, 8, 1), [Stem(32), Conv(48), Head()], 3)
STEPS = {"0/out": 8, "1/out": 8}


def context_for(limits=None, measure=None):
    pixels = torch.zeros(4, 8, 8, 1, dtype=torch.uint8)
    data, model = LabelledTensors(pixels, torch.zeros(4, dtype=torch.int64)), random_model(ARCH, 0)
    more = {"target": targets.load(), "recipe": Recipe(), "measure": measure}
    return CompressionContext(data, data, model, limits or Limits(), **more)


def blocks(files):
    """A machine whose kernels take 16 channels at a time, and 100 us besides."""

    def padded(arch):
        return {w.name: 16 * -(-w.size // 16) for w in arch.graph.widths}

    return {
        name: 0.1 + 1e-7 * ARCH.with_widths(padded(net.arch)).graph.macs
        for name, net in files.items()
    }


def test_bytes_are_those_of_the_written_parameters():
    half = ARCH.with_widths({"0/out": 16, "1/out": 24})
    quantized_values = [file_cost(a, random_int8_onnx(a, 64)).parameter_bytes for a in (ARCH, half)]
    found = Savings(ARCH, 1.0, 0.0).of(half)
    assert found == pytest.approx(1 - quantized_values[1] / quantized_values[0], abs=0.02)


def test_without_a_clock_multiply_accumulates_stand_for_time():
    half = ARCH.with_widths({"1/out": 24})
    share = 1 - half.graph.macs / ARCH.graph.macs
    assert Savings(ARCH, 0.0, 1.0).of(half) == pytest.approx(share)
    assert Savings(ARCH, 0.0, 1.0).of(ARCH) == 0


def test_a_step_within_a_block_saves_no_time_and_is_not_taken():
    context = context_for(Limits(max_latency_ms=1.0), blocks)
    saved = measure_savings(ARCH, STEPS, context)
    assert saved.widths["0/out", 24] == 0
    assert saved.widths["0/out", 16] > 0
    assert saved.widths["1/out", 40] == 0
    scores = {w.name: torch.arange(w.size) + 1.0 for w in ARCH.graph.widths}
    for share in np.linspace(0.1, 1.0, 7):
        sizes = choose_widths(ARCH, scores, STEPS, share, savings_for_limits(ARCH, STEPS, context))
        assert sizes
        assert all(size % 16 == 0 for size in sizes.values())
    by_macs = choose_widths(ARCH, scores, STEPS, 0.1, Savings(ARCH, 0.0, 1.0))
    assert any(size % 16 for size in by_macs.values())


def test_what_noise_could_be_counts_as_nothing():
    rng = np.random.default_rng(0)
    context = context_for(
        Limits(max_latency_ms=1.0),
        lambda files: {name: 1 + 0.004 * rng.uniform(-1, 1) for name in files},
    )
    assert set(measure_savings(ARCH, STEPS, context).widths.values()) == {0.0}
    scores = {w.name: torch.ones(w.size) for w in ARCH.graph.widths}
    assert choose_widths(ARCH, scores, STEPS, 0.4, savings_for_limits(ARCH, STEPS, context)) == {}


def test_where_no_cut_saves_time_bytes_decide_alone():
    context = context_for(measure=lambda files: dict.fromkeys(files, 1.0))
    half = ARCH.with_widths({"1/out": 24})
    assert savings_for_limits(ARCH, STEPS, context).of(half) == Savings(ARCH, 1.0, 0.0).of(half)


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        (Limits(max_size_bytes=1), (1.0, 0.0)),
        (Limits(max_macs=1), (0.0, 1.0)),
        (Limits(max_size_bytes=1, max_macs=1), (0.5, 0.5)),
        (Limits(), (0.5, 0.5)),
    ],
)
def test_what_the_limits_ask_for_is_what_is_saved(limits, wanted):
    half = ARCH.with_widths({"1/out": 24})
    assert savings_for_limits(ARCH, STEPS, context_for(limits)).of(half) == Savings(
        ARCH, *wanted
    ).of(half)


def test_sizes_go_down_in_whole_steps():
    assert smaller_sizes(20, 8) == [16, 8]
    assert smaller_sizes(8, 8) == []
    assert smaller_sizes(24, 8) == [16, 8]


def test_a_layer_saves_what_the_net_without_it_was_measured_to():
    arch = chain((8, 8, 1), [Stem(32), Conv(32), Head()], 3)
    times = {"whole": 1.0, "without 1": 0.7}
    context = context_for(
        Limits(max_latency_ms=0.1),
        lambda files: {name: times.get(name, 0.9) for name in files},
    )
    saved = savings_for_limits(arch, STEPS, context)
    # Each of two widths can save 0.1 ms at most.
    assert saved.of_layer(1, arch_without_layer(arch, 1)) == pytest.approx(0.3 / 0.2)
    by_macs = Savings(arch, 0.0, 1.0)
    share = 1 - arch_without_layer(arch, 1).graph.macs / arch.graph.macs
    assert by_macs.of_layer(1, arch_without_layer(arch, 1)) == pytest.approx(share)


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        (Limits(min_accuracy=0.9), True),
        (Limits(max_size_bytes=1000), False),
        (Limits(max_size_bytes=1100), True),
        (Limits(max_latency_ms=0.5), False),
        (Limits(max_latency_ms=0.6), True),
        (Limits(max_macs=ARCH.graph.macs), True),
        (Limits(max_macs=ARCH.graph.macs - 1), False),
        (Limits(max_peak_ram_bytes=peak_ram_bytes(ARCH.graph)), True),
        (Limits(max_peak_ram_bytes=peak_ram_bytes(ARCH.graph) - 1), False),
        (Limits(max_size_bytes=1100, max_latency_ms=0.5), False),
    ],
)
def test_within_the_limits_means_all_of_them_and_some_room(limits, wanted):
    assert 1000 / 1100 < LIMIT_MARGIN < 1
    assert is_within(limits, ARCH, 1000, 0.5) is wanted


def test_what_nobody_measured_keeps_no_limit_on_latency():
    assert not is_within(Limits(max_latency_ms=9.0), ARCH, 1000, None)


def test_enough_is_where_the_limits_are_kept_if_they_are_the_aim():
    half = ARCH.with_widths({"1/out": 16})
    times = blocks({"half": NetFile(half, b""), "whole": NetFile(ARCH, b"")})
    limits = Limits(max_latency_ms=(times["half"] + times["whole"]) / 2)
    context = context_for(limits, blocks)
    savings = savings_for_limits(ARCH, STEPS, context)
    assert not savings.reaches_limits(context)(half)
    aimed = dataclasses.replace(context, is_aim=True)
    assert savings.reaches_limits(aimed)(half)
    assert not savings.reaches_limits(aimed)(ARCH)


def test_the_whole_net_takes_turns_with_the_smaller_ones_on_a_machine_that_drifts():
    known, drift = {}, [1.0]

    def measure(files):
        """What was timed before is remembered, as a run does."""
        drift[0] *= 1.2
        for net in files.values():
            if net.file not in known:
                known[net.file] = drift[0] * (0.1 + 1e-7 * net.arch.graph.macs)
        return {name: known[net.file] for name, net in files.items()}

    context = context_for(Limits(max_latency_ms=1.0), measure)
    measure({"reference": NetFile(ARCH, random_int8_onnx(ARCH, context.target.weight_limit))})
    saved = measure_savings(ARCH, STEPS, context)
    assert all(milliseconds > 0 for milliseconds in saved.widths.values())


def test_a_cut_that_saves_next_to_nothing_of_the_whole_does_not_pay():
    def flat(files):
        """Widths matter little: half of all MACs are 4 % of the time."""
        return {n: 1 + 0.08 * net.arch.graph.macs / ARCH.graph.macs for n, net in files.items()}

    small, half = ARCH.with_widths({"1/out": 40}), ARCH.with_widths({"0/out": 16, "1/out": 16})
    context = context_for(Limits(max_latency_ms=1.0), flat)
    savings = savings_for_limits(ARCH, STEPS, context)
    assert savings.of(half) > 0.5  # of what widths can save at most
    assert savings.pays(context, half)
    assert not savings.pays(context, small)
    enough = context_for(Limits(max_latency_ms=1.07 / 0.97), flat)
    assert not savings_for_limits(ARCH, STEPS, enough).pays(enough, small)
    aimed = dataclasses.replace(enough, is_aim=True)
    assert savings_for_limits(ARCH, STEPS, aimed).pays(aimed, small)


def test_a_layer_pays_by_what_the_net_without_it_takes():
    arch = chain((8, 8, 1), [Stem(32), Conv(32), Head()], 3)
    for saved, wanted in ((0.3, True), (0.02, False)):
        times = {"whole": 1.0, "without 1": 1 - saved}
        context = context_for(
            Limits(max_latency_ms=0.1),
            lambda files, times=times: {name: times.get(name, 1.0) for name in files},
        )
        assert (
            savings_for_limits(arch, STEPS, context).pays(context, arch_without_layer(arch, 1), 1)
            is wanted
        )
