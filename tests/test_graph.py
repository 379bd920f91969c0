from __future__ import annotations

from dataclasses import dataclass

import pytest

from lepton_automl.arch import chain
from lepton_automl.errors import ArchError
from lepton_automl.graph import Builder, Conv, Gate, Linear, MaxPool
from lepton_automl.layers.conv import Conv as ConvLayer
from lepton_automl.layers.head import Head
from lepton_automl.layers.mbconv import MBConv
from lepton_automl.layers.residual import Residual
from lepton_automl.layers.sepconv import SepConv
from lepton_automl.layers.stem import Stem


@dataclass
class Fields:
    out: int = 8
    wide: int = 12


@pytest.fixture
def build():
    builder = Builder(8, 6, 3)
    builder.enter(0, Fields())
    return builder


def test_a_stride_rounds_the_map_up(build):
    y = build.conv(build.conv(build.input, "a", "out", stride=2), "b", "wide", stride=2)
    assert (y.channels, y.height, y.width) == (12, 2, 2)
    assert y.size == 48


def test_a_convolutions_weights_and_macs_follow_from_its_values(build):
    build.conv(build.input, "a", "out", kernel=3, stride=2)
    op = build.finish(build.input).ops[0]
    assert op.weight_shape == (8, 3, 3, 3)
    assert op.macs == 8 * 3 * 3 * 3 * (4 * 3)


def test_a_depthwise_filter_reads_one_channel_and_keeps_its_axis(build):
    x = build.conv(build.input, "a", "out")
    y = build.depthwise(x, "b", kernel=5)
    op = build.finish(y).ops[1]
    assert op.weight_shape == (8, 1, 5, 5)
    assert op.macs == 8 * 25 * 48
    assert y.axis == x.axis


def test_a_matrix_products_width_cannot_be_cut(build):
    y = build.linear(build.global_pool(build.input, "pool"), "logits", 10)
    graph = build.finish(y)
    assert isinstance(graph.ops[-1], Linear)
    assert (graph.ops[-1].macs, graph.macs, graph.widths) == (30, 30, ())


@pytest.mark.parametrize(("kernel", "stride", "shape"), [(2, 2, (4, 3)), (3, 2, (4, 3))])
def test_pooling_sizes(build, kernel, stride, shape):
    y = build.max_pool(build.input, "pool", kernel=kernel, stride=stride)
    assert (y.height, y.width) == shape
    op = build.finish(y).ops[0]
    assert isinstance(op, MaxPool)
    assert op.padding == (0 if kernel == 2 else 1)


@pytest.mark.parametrize(
    ("activation", "clamp", "kinds"),
    [
        ("relu", "relu", ["Conv"]),
        ("relu6", "relu6", ["Conv"]),
        ("none", "none", ["Conv"]),
        ("hswish", "none", ["Conv", "Gate", "Mul"]),
        ("silu", "none", ["Conv", "Gate", "Mul"]),
    ],
)
def test_a_clamp_is_free_and_a_gate_is_two_operations(build, activation, clamp, kinds):
    graph = build.finish(build.conv(build.input, "a", "out", activation=activation))
    assert graph.ops[0].clamp == clamp
    assert [type(op).__name__ for op in graph.ops] == kinds
    assert graph.output.name == graph.ops[-1].y.name


def test_the_gate_of_hard_swish_is_a_hard_sigmoid(build):
    graph = build.finish(build.conv(build.input, "a", "out", activation="hswish"))
    gate = next(op for op in graph.ops if isinstance(op, Gate))
    assert gate.kind == "hard_sigmoid"


def test_an_unknown_activation_is_answered_with_the_known_ones(build):
    with pytest.raises(ArchError, match="rleu") as caught:
        build.conv(build.input, "a", "out", activation="rleu")
    assert "hswish" in caught.value.fix


def test_values_of_different_shapes_cannot_be_added(build):
    a = build.conv(build.input, "a", "out")
    b = build.conv(build.input, "b", "wide")
    with pytest.raises(ArchError, match="cannot add 8x8x6 and 12x8x6"):
        build.add(a, b, "sum")


def test_a_gate_of_other_channels_cannot_be_joined(build):
    a = build.conv(build.input, "a", "out")
    b = build.conv(build.input, "b", "wide")
    with pytest.raises(ArchError, match="8 and 12 channels"):
        build.mul(a, b, "product")


def test_added_values_share_one_width_and_its_fields_are_all_named():
    layers = [ConvLayer(out=8), Residual(out=8), Residual(out=8), Head()]
    graph = chain((8, 8, 1), layers, 3).graph
    shared = max(graph.widths, key=lambda width: len(width.fields))
    assert shared.fields == ((0, "out"), (1, "out"), (2, "out"))
    assert shared.size == 8


def test_what_is_added_to_the_pixels_is_not_a_width():
    graph = chain((8, 8, 8), [Residual(out=8), Head()], 3).graph
    assert [width.fields for width in graph.widths] == [((0, "hidden"),)]


def test_every_axis_of_every_cuttable_value_is_in_exactly_one_width():
    layers = [Stem(out=8), MBConv(out=8, se=4, expand=2), SepConv(out=12), Residual(out=12), Head()]
    graph = chain((16, 16, 3), layers, 3).graph
    fixed = {graph.input.axis, graph.output.axis}
    for op in graph.ops:
        owners = [width for width in graph.widths if op.y.axis in width.axes]
        assert len(owners) == (0 if op.y.axis in fixed else 1)
        assert all(width.size == op.y.channels for width in owners)


def test_readers_are_the_operations_that_read_a_value():
    graph = chain((8, 8, 8), [ConvLayer(out=8), Residual(out=8), Head()], 3).graph
    value = graph.ops[0].y
    assert [op.name for op in graph.readers(value)] == ["1/first", "1/add"]


def test_weights_are_owned_by_convolutions_and_products_in_order():
    graph = chain((8, 8, 8), [ConvLayer(out=8), SepConv(), Head()], 3).graph
    assert [op.name for op in graph.weighted] == [
        "0/conv",
        "1/depthwise",
        "1/pointwise",
        "2/logits",
    ]
    assert all(isinstance(op, (Conv, Linear)) for op in graph.weighted)
