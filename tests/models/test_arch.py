from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_automl.errors import ArchError
from lepton_automl.models.arch import Arch, chain, layer_name
from lepton_automl.models.graph import ACTIVATIONS
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.mbconv import MBConv
from lepton_automl.models.layers.residual import Residual
from tests.helpers.nets import random_arch

seeds = st.integers(0, 10_000)


@given(seeds)
def test_an_arch_survives_json_with_its_hash_and_graph(seed):
    arch = random_arch(seed, activations=ACTIVATIONS)
    copy = Arch.from_json(arch.to_json())
    assert copy == arch
    assert copy.hash == arch.hash
    assert copy.graph == arch.graph


@given(seeds)
def test_any_width_can_be_resized_and_nothing_else_changes(seed):
    arch = random_arch(seed)
    for width in arch.graph.widths:
        cut = arch.with_widths({width.name: 3})
        resized = {w.name: w.size for w in cut.graph.widths}
        assert resized == {w.name: w.size for w in arch.graph.widths} | {width.name: 3}
        assert [op.name for op in cut.graph.ops] == [op.name for op in arch.graph.ops]


def test_different_archs_have_different_hashes():
    hashes = {random_arch(seed).hash for seed in range(30)}
    assert len(hashes) == len({random_arch(seed) for seed in range(30)})


def test_an_arch_is_frozen_and_hashable():
    arch = random_arch(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        arch.input = (1, 1, 1)
    assert hash(arch) == hash(random_arch(1))


def test_chain_sets_derived_fields_and_classes_in_order():
    arch = chain((16, 16, 3), [Conv(out=8), MBConv(out=8, expand=2), Residual(out=12), Head()], 7)
    conv, mbconv, residual, _ = arch.layers
    assert (conv.out, mbconv.hidden, mbconv.residual) == (8, 16, True)
    assert residual.projection
    assert arch.classes == 7


def test_a_chain_must_end_with_a_head():
    with pytest.raises(ArchError, match="head"):
        chain((8, 8, 1), [Conv()], 3)


def test_a_layer_is_named_after_its_file():
    assert [layer_name(layer) for layer in (Conv(), MBConv(), Head())] == ["conv", "mbconv", "head"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"input": [8, 8, 1]}',
        '{"input": [8], "layers": [{"type": "max_pool", "kernel": 2, "stride": 2}]}',
        '{"input": [8, 8, 0], "layers": [{"type": "max_pool", "kernel": 2, "stride": 2}]}',
        '{"input": [8, 8, 1], "layers": []}',
        '{"input": ["a", 8, 1], "layers": []}',
        '{"input": [8, 8, 1], "layers": ["max_pool"]}',
        '{"input": [8, 8, 1], "layers": [{"kernel": 2, "stride": 2}]}',
        '{"input": [8, 8, 1], "layers": [{"type": "max_pool", "kernel": 2}]}',
        '{"input": [8, 8, 1], "layers": [{"type": "max_pool", "kernel": 7, "stride": 2}]}',
        '{"input": [8, 8, 1], "layers": [{"type": "max_pool", "kernel": 2, "stride": 2, "x": 1}]}',
    ],
)
def test_invalid_json_is_an_error(text):
    with pytest.raises(ArchError) as caught:
        Arch.from_json(text)
    assert caught.value.fix


def test_an_unknown_layer_in_a_file_suggests_the_nearest_one():
    document = json.loads(random_arch(0).to_json())
    document["layers"][0]["type"] = "stme"
    with pytest.raises(ArchError) as caught:
        Arch.from_json(json.dumps(document))
    assert "'stme'" in caught.value.what
    assert "did you mean 'stem'?" in caught.value.fix
