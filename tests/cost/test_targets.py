from __future__ import annotations

import pytest

from lepton_automl.cost import targets
from lepton_automl.errors import ConfigError
from lepton_automl.models.graph import ACTIVATIONS


def test_the_default_is_a_preset_and_comes_first():
    assert targets.names()[0] == targets.DEFAULT == targets.load().name == "x86-any"


@pytest.mark.parametrize("name", targets.names())
def test_every_preset_is_complete_and_legal(name):
    target = targets.load(name)
    assert target.name == name
    assert 1 <= target.weight_limit <= 127
    assert set(target.activations) <= set(ACTIVATIONS)
    assert {"relu", "none"} <= set(target.activations)
    assert target.channel_step.dense >= 1
    assert target.channel_step.depthwise >= 1
    assert target.latency in {"measured", "estimated"}
    assert target.weight_scales in {"channel", "layer"}
    assert target.note


def test_two_products_of_the_default_fit_in_sixteen_bits():
    assert 2 * targets.load("x86-any").weight_limit * 255 < 2**15
    assert 2 * targets.load("x86-vnni").weight_limit * 255 > 2**15


def test_a_target_of_litert_wants_one_scale_a_layer_and_others_one_a_channel():
    wanted = {name: targets.load(name).weight_scales for name in targets.names()}
    assert [name for name, kind in wanted.items() if kind == "layer"] == ["litert-per-tensor"]


def test_an_unknown_target_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'x86-vnni'"):
        targets.load("x86-vni")
