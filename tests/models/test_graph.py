from __future__ import annotations

from lepton_automl.models.arch import chain
from lepton_automl.models.graph import Conv, Linear
from lepton_automl.models.layers.conv import Conv as ConvLayer
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.mbconv import MBConv
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.sepconv import SepConv
from lepton_automl.models.layers.stem import Stem


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
    assert [op.name for op in graph.consumers(value)] == ["1/first", "1/add"]


def test_weights_are_owned_by_convolutions_and_products_in_order():
    graph = chain((8, 8, 8), [ConvLayer(out=8), SepConv(), Head()], 3).graph
    assert [op.name for op in graph.weighted_ops] == [
        "0/conv",
        "1/depthwise",
        "1/pointwise",
        "2/logits",
    ]
    assert all(isinstance(op, (Conv, Linear)) for op in graph.weighted_ops)
