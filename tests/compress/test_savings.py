from __future__ import annotations

import numpy as np
import pytest
import torch

from lepton_automl import targets
from lepton_automl.arch import chain
from lepton_automl.compress import Work
from lepton_automl.compress.prune import chosen
from lepton_automl.compress.savings import Savings, measured, savings, smaller
from lepton_automl.config import Limits
from lepton_automl.cost import file_cost
from lepton_automl.dataset import Labelled
from lepton_automl.layers.conv import Conv
from lepton_automl.layers.head import Head
from lepton_automl.layers.stem import Stem
from lepton_automl.random_net import random_int8
from lepton_automl.recipe import Recipe
from tests.nets import random_model

ARCH = chain((8, 8, 1), [Stem(32), Conv(48), Head()], 3)
STEPS = {"0/out": 8, "1/out": 8}


def work_for(limits=None, measure=None):
    pixels = torch.zeros(4, 8, 8, 1, dtype=torch.uint8)
    data, model = Labelled(pixels, torch.zeros(4, dtype=torch.int64)), random_model(ARCH, 0)
    more = {"target": targets.load(), "recipe": Recipe(), "measure": measure}
    return Work(data, data, model, limits or Limits(), **more)


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
    stored = [file_cost(a, random_int8(a, 64)).parameter_bytes for a in (ARCH, half)]
    found = Savings(ARCH, 1.0, 0.0).of(half)
    assert found == pytest.approx(1 - stored[1] / stored[0], abs=0.02)


def test_without_a_clock_multiply_accumulates_stand_for_time():
    half = ARCH.with_widths({"1/out": 24})
    share = 1 - half.graph.macs / ARCH.graph.macs
    assert Savings(ARCH, 0.0, 1.0).of(half) == pytest.approx(share)
    assert Savings(ARCH, 0.0, 1.0).of(ARCH) == 0


def test_a_step_within_a_block_saves_no_time_and_is_not_taken():
    work = work_for(Limits(max_latency_ms=1.0), blocks)
    saved = measured(ARCH, STEPS, work)
    assert saved["0/out", 24] == 0
    assert saved["0/out", 16] > 0
    assert saved["1/out", 40] == saved["1/out", 40 // 16 * 16 + 8] == 0
    scores = {w.name: torch.arange(w.size) + 1.0 for w in ARCH.graph.widths}
    for share in np.linspace(0.1, 1.0, 7):
        sizes = chosen(ARCH, scores, STEPS, share, savings(ARCH, STEPS, work))
        assert sizes
        assert all(size % 16 == 0 for size in sizes.values())
    by_macs = chosen(ARCH, scores, STEPS, 0.1, Savings(ARCH, 0.0, 1.0))
    assert any(size % 16 for size in by_macs.values())


def test_what_noise_could_be_counts_as_nothing():
    rng = np.random.default_rng(0)
    work = work_for(
        Limits(max_latency_ms=1.0),
        lambda files: {name: 1 + 0.004 * rng.uniform(-1, 1) for name in files},
    )
    assert set(measured(ARCH, STEPS, work).values()) == {0.0}
    scores = {w.name: torch.ones(w.size) for w in ARCH.graph.widths}
    assert chosen(ARCH, scores, STEPS, 0.4, savings(ARCH, STEPS, work)) == {}


def test_where_no_cut_saves_time_bytes_decide_alone():
    work = work_for(measure=lambda files: dict.fromkeys(files, 1.0))
    half = ARCH.with_widths({"1/out": 24})
    assert savings(ARCH, STEPS, work).of(half) == Savings(ARCH, 1.0, 0.0).of(half)


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
    assert savings(ARCH, STEPS, work_for(limits)).of(half) == Savings(ARCH, *wanted).of(half)


def test_sizes_go_down_in_whole_steps():
    assert smaller(20, 8) == [16, 8]
    assert smaller(8, 8) == []
    assert smaller(24, 8) == [16, 8]
