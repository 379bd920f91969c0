from __future__ import annotations

from dataclasses import dataclass

import pytest

from lepton_automl.errors import ArchError
from lepton_automl.models.builder import Builder
from lepton_automl.models.graph import Gate, Linear, MaxPool


@dataclass
class Fields:
    out: int = 8
    same: int = 8
    third: int = 8
    wide: int = 12


@pytest.fixture
def build():
    builder = Builder(8, 6, 3)
    builder.begin_layer(0, Fields())
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
    assert op.padding == ((0, 0) if kernel == 2 else (1, 1))


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


def test_an_unknown_activation_lists_the_known_ones(build):
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


def test_sums_that_share_a_value_tie_all_their_widths_together(build):
    a, b, c = (build.conv(build.input, f, f) for f in ("out", "same", "third"))
    build.add(c, b, "one")
    graph = build.finish(build.add(a, b, "two"))
    (width,) = graph.widths
    assert width.fields == ((0, "out"), (0, "same"), (0, "third"))
    assert width.axes == {a.axis, b.axis, c.axis}
