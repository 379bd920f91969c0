from __future__ import annotations

import dataclasses

import pytest
import torch

from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.pruning.candidates import (
    channel_steps,
    choose_widths,
    pruning_candidates,
)
from lepton_automl.compress.pruning.savings import Savings
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.cost.targets import ChannelStep
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.mbconv import MBConv
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.training.recipe import Recipe
from tests.helpers.nets import random_model, random_pixels


def small_net():
    return chain((8, 8, 1), [Stem(20), Conv(32), Conv(16), Head()], 3)


def test_cuts_go_where_least_is_lost_and_end_at_whole_steps():
    arch = small_net()
    scores = {w.name: torch.ones(w.size) for w in arch.graph.widths}
    scores["1/out"] = torch.full((32,), 1e-6)
    sizes = choose_widths(arch, scores, dict.fromkeys(scores, 8), 0.3, Savings(arch, 0.5, 0.5))
    assert set(sizes) == {"1/out"}
    assert sizes["1/out"] in {8, 16, 24}
    every = choose_widths(arch, scores, dict.fromkeys(scores, 8), 0.999, Savings(arch, 0.5, 0.5))
    assert every == {"0/out": 8, "1/out": 8, "2/out": 8}  # nothing below one step
    coarse = dict.fromkeys(scores, 64)
    assert choose_widths(arch, scores, coarse, 0.3, Savings(arch, 0.5, 0.5)) == {}


def test_the_cost_that_is_cut_is_the_share_that_was_asked():
    arch = small_net()
    scores = {w.name: torch.arange(w.size) + 1.0 for w in arch.graph.widths}
    sizes = choose_widths(arch, scores, dict.fromkeys(scores, 1), 0.4, Savings(arch, 0.0, 1.0))
    assert 0.55 < arch.with_widths(sizes).graph.macs / arch.graph.macs <= 0.6


def test_widths_behind_a_depthwise_filter_are_cut_in_its_steps():
    arch = chain((16, 16, 3), [Stem(16), MBConv(16), Head()], 5)
    steps = channel_steps(arch, ChannelStep(dense=8, depthwise=16))
    assert steps == {"0/out": 8, "1/hidden": 16}


def test_a_cut_ends_where_it_is_enough():
    arch = small_net()
    scores = {w.name: torch.ones(w.size) for w in arch.graph.widths}
    saves, steps = Savings(arch, 0.0, 1.0), dict.fromkeys(scores, 4)
    limit = 0.8 * arch.graph.macs
    sizes = choose_widths(arch, scores, steps, 0.9, saves, lambda a: a.graph.macs <= limit)
    assert 0.6 * limit < arch.with_widths(sizes).graph.macs <= limit


def deep_net():
    return chain((12, 12, 3), [Stem(16), Residual(16), Conv(24, stride=2), Conv(24), Head()], 5)


def context_for(model, **more):
    pixels = random_pixels(model.arch, 96, 1)
    data = LabelledTensors(pixels, torch.arange(96) % model.arch.classes)
    return CompressionContext(data, data, model, Limits(), targets.load(), Recipe(), **more)


def answers(model, pixels):
    with torch.no_grad():
        return model.network()(model.preprocessing.apply(pixels)).softmax(1)


def test_channels_by_each_importance_and_each_spare_layer_are_candidates():
    model = random_model(deep_net(), 1)
    found = pruning_candidates(model, context_for(model), 0.3, frozenset())
    assert [str(candidate.cut) for candidate in found] == [
        "channels by Taylor importance",
        "channels by filter norm",
        "layer 1 removed",
        "layer 3 removed",
    ]
    for candidate in found[2:]:
        assert len(candidate.model.arch.layers) == len(model.arch.layers) - 1


def test_saving_and_divergence_of_a_candidate_are_those_of_its_net():
    model = random_model(deep_net(), 1)
    context = context_for(model)
    wanted = answers(model, context.train.pixels)
    for candidate in pruning_candidates(model, context, 0.3, frozenset()):
        macs = 1 - candidate.model.arch.graph.macs / model.arch.graph.macs
        size = 1 - len(int8_size(candidate.model.arch)) / len(int8_size(model.arch))
        assert candidate.saving == pytest.approx((macs + size) / 2, abs=0.12)
        given = answers(candidate.model, context.train.pixels)
        harm = (wanted * (wanted.log() - given.log())).sum(1).mean()
        assert candidate.kl_divergence == pytest.approx(float(harm), rel=1e-2, abs=1e-5)
        assert candidate.score == candidate.kl_divergence / candidate.saving


def int8_size(arch):
    return random_int8_onnx(arch, 64)


def test_known_architectures_are_no_candidates():
    model = random_model(deep_net(), 1)
    first = pruning_candidates(model, context_for(model), 0.3, frozenset())
    known = frozenset(candidate.model.arch.hash for candidate in first[:-1])
    again = pruning_candidates(model, context_for(model), 0.3, known)
    assert [str(candidate.cut) for candidate in again] == ["layer 3 removed"]


def test_a_layer_without_effect_has_the_best_score():
    model = random_model(deep_net(), 1)
    weights = dict(model.weights)
    for part in ("weight", "bias"):
        weights[f"1/second.norm.{part}"] = torch.zeros(16)
    model = dataclasses.replace(model, weights=weights)
    found = pruning_candidates(model, context_for(model), 0.3, frozenset())
    least = min(found, key=lambda candidate: candidate.score)
    assert str(least.cut) == "layer 1 removed"
    assert least.kl_divergence < 1e-4


def test_a_layer_whose_removal_saves_no_time_is_no_candidate_where_time_counts():
    def measure(files):
        return {
            name: 1.0 if name == "without 1" else 0.1 + 1e-7 * net.arch.graph.macs
            for name, net in files.items()
        }

    model = random_model(deep_net(), 1)
    limited = dataclasses.replace(
        context_for(model, measure=measure), limits=Limits(max_latency_ms=0.01)
    )
    found = pruning_candidates(model, limited, 0.3, frozenset())
    assert "layer 1 removed" not in [str(candidate.cut) for candidate in found]
    assert "layer 3 removed" in [str(candidate.cut) for candidate in found]


def test_where_the_time_is_used_up_the_first_candidate_is_all():
    model = random_model(deep_net(), 1)
    found = pruning_candidates(
        model, context_for(model, seconds_left=lambda: 0.0), 0.3, frozenset()
    )
    assert [str(candidate.cut) for candidate in found] == ["channels by Taylor importance"]
