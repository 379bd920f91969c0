"""What every layer plug-in keeps, ours and third parties'; a new one is covered at once."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lepton_automl.core import plugins
from lepton_automl.errors import ArchError
from lepton_automl.models.arch import Arch, chain, layer_name
from lepton_automl.models.layers import Layer
from lepton_automl.models.layers.head import Head
from lepton_automl.models.network import build_network, extract_weights

NAMES = plugins.names("layers")
CHANNELS = 8


def variants(name: str) -> list[Layer]:
    """The layer as it is by default, and once with each other value of each choice."""
    kind = plugins.load("layers", name, Layer)
    plain = {
        n: CHANNELS for n, about in kind.searchable_fields().items() if about["kind"] == "width"
    }
    found = [kind(), kind(**plain)]
    for field, about in kind.searchable_fields().items():
        if about["kind"] == "choice":
            found += [kind(**plain | {field: value}) for value in about["choices"]]
    return list(dict.fromkeys(found))


def arch_of(layer: Layer, size: tuple[int, int] = (11, 10)) -> Arch:
    layers = [layer] if isinstance(layer, Head) else [layer, Head()]
    return chain((*size, CHANNELS), layers, 5)


CASES = [
    pytest.param(layer, id=f"{name}-{i}")
    for name in NAMES
    for i, layer in enumerate(variants(name))
]


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_is_one_frozen_documented_class_named_after_its_file(name):
    kind = plugins.load("layers", name, Layer)
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    assert kind.__doc__
    assert inspect.getmodule(kind).__doc__
    assert layer_name(kind()) == name
    assert kind.__mro__[1] is Layer


@pytest.mark.parametrize("name", NAMES)
def test_every_field_says_what_it_is(name):
    kind = plugins.load("layers", name, Layer)
    kinds = {field.name: field.metadata.get("kind") for field in dataclasses.fields(kind)}
    assert set(kinds.values()) <= {"width", "choice", "derived"}


@pytest.mark.parametrize("name", NAMES)
def test_a_value_that_is_not_offered_is_refused_on_construction(name):
    kind = plugins.load("layers", name, Layer)
    for field, about in kind.searchable_fields().items():
        wrong = -1 if about["kind"] == "width" else "no such value"
        with pytest.raises(ArchError, match=field):
            kind(**{field: wrong})


@pytest.mark.parametrize("layer", CASES)
def test_it_survives_json(layer):
    arch = arch_of(layer)
    assert Arch.from_json(arch.to_json()) == arch


@pytest.mark.parametrize("layer", CASES)
def test_its_own_count_of_multiplications_is_the_one_torch_makes(layer):
    arch = arch_of(layer)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        build_network(arch).eval()(torch.zeros(1, CHANNELS, *arch.input[:2]))
    assert arch.graph.macs * 2 == counter.get_total_flops()


@pytest.mark.parametrize("layer", CASES)
def test_of_a_signal_it_computes_what_it_computes_of_one_row_without_height(layer):
    """The oracle: the same layer on a picture of one row, whose other weights only see padding."""
    layers = [layer] if isinstance(layer, Head) else [layer, Head()]
    try:
        arch, row = (chain((*size, CHANNELS), layers, 5) for size in ((24,), (1, 24)))
        assert row.graph.macs >= arch.graph.macs
    except ArchError:
        pytest.skip("a window that a picture of one row is too small for")
    weights = extract_weights(build_network(row, seed=1))
    middle = {
        name: value[:, :, value.shape[2] // 2 : value.shape[2] // 2 + 1]
        if value.ndim == 4
        else value
        for name, value in weights.items()
    }
    x = torch.randn(2, CHANNELS, 1, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = build_network(row, weights).eval()(x)
        torch.testing.assert_close(build_network(arch, middle).eval()(x), expected)


@pytest.mark.parametrize("layer", CASES)
def test_its_values_have_the_shapes_that_the_graph_says(layer):
    arch = arch_of(layer)
    shapes = {}

    def keep(name, value):
        shapes[name] = tuple(value.shape[1:])
        return value

    with torch.no_grad():
        build_network(arch).eval()(torch.zeros(2, CHANNELS, *arch.input[:2]), keep)
    said = {op.y.name: (op.y.channels, op.y.height, op.y.width) for op in arch.graph.ops}
    assert shapes == said | {arch.graph.output.name: (arch.classes,)}


@pytest.mark.parametrize("layer", CASES)
def test_equal_seeds_give_equal_weights_and_outputs(layer):
    arch = arch_of(layer)
    one, two = build_network(arch, seed=3).eval(), build_network(arch, seed=3).eval()
    first, second = extract_weights(one), extract_weights(two)
    assert all(torch.equal(first[name], second[name]) for name in first)
    x = torch.randn(2, CHANNELS, *arch.input[:2], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(one(x), two(x))


@pytest.mark.parametrize("layer", CASES)
def test_every_width_is_stored_in_width_fields_of_its_size(layer):
    arch = arch_of(layer)
    for width in arch.graph.widths:
        assert width.fields
        for index, name in width.fields:
            assert arch.layers[index].searchable_fields()[name]["kind"] == "width"
            assert getattr(arch.layers[index], name) == width.size


@pytest.mark.parametrize("layer", CASES)
def test_a_smaller_width_changes_sizes_and_never_the_operations(layer):
    arch = arch_of(layer)
    for width in arch.graph.widths:
        cut = arch.with_widths({width.name: 1})
        assert [(type(op), op.name) for op in cut.graph.ops] == [
            (type(op), op.name) for op in arch.graph.ops
        ]
        assert {w.name: w.size for w in cut.graph.widths}[width.name] == 1
        with torch.no_grad():
            build_network(cut).eval()(torch.zeros(1, CHANNELS, *arch.input[:2]))


@pytest.mark.parametrize("layer", CASES)
def test_placing_it_again_changes_nothing(layer):
    placed = layer.with_input_channels(CHANNELS)
    assert placed.with_input_channels(CHANNELS) == placed
