"""Layers read off ONNX files against the nets that they were written from."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_automl.cost.layer_table import fixed_batch, layer_table, with_measured_shapes
from lepton_automl.cost.onnx_cost import onnx_cost
from lepton_automl.models.graph import Conv
from lepton_automl.models.onnx_export import float_onnx
from lepton_automl.models.random_weights import random_int8_onnx
from tests.helpers.nets import random_arch, random_model


def files_of(seed):
    arch = random_arch(seed)
    names = [str(n) for n in range(arch.classes)]
    yield arch, random_int8_onnx(arch, 127), 1
    yield arch, float_onnx(random_model(arch), names, {}), 4


@pytest.mark.parametrize("seed", range(6))
def test_layers_are_the_operations_of_the_net(seed):
    for arch, file, value_bytes in files_of(seed):
        layers = layer_table(fixed_batch(onnx.ModelProto.FromString(file)), value_bytes)
        found = {layer.name: layer for layer in layers}
        assert len(found) == len(layers)
        for op in arch.graph.weighted_ops:
            assert found[op.name].macs == op.macs
            shape = (op.y.channels, op.y.height, op.y.width)
            shape = shape if op.y.spatial_axes == 2 else (shape[0], shape[2])
            assert found[op.name].shape == (shape if isinstance(op, Conv) else shape[:1])
        cost = onnx_cost(file, value_bytes)
        assert sum(layer.macs for layer in layers) == cost.macs
        assert sum(layer.parameter_bytes for layer in layers) == cost.parameter_bytes
        assert max(layer.ram_bytes for layer in layers) == cost.peak_ram_bytes


def test_skip_connections_are_read_from_the_layer_that_made_them():
    some = map(random_arch, range(50))
    arch = next(arch for arch in some if any("add" in op.name for op in arch.graph.ops))
    file = random_int8_onnx(arch, 127)
    found = {
        layer.name: layer for layer in layer_table(fixed_batch(onnx.load_from_string(file)), 1)
    }
    for op in arch.graph.ops:
        if op.name.endswith("add"):
            made = {each.y.name: each.name for each in arch.graph.ops}
            assert set(found[op.name].reads) == {made[value.name] for value in op.inputs}


def test_layers_that_onnx_runtime_quantized_have_shapes_and_products():
    """One convolution and a product, as its quantizer writes them, against counting by hand."""
    rng, one = np.random.default_rng(0), np.float32(0.1)
    zero = np.uint8(128)
    stored = {
        **dict.fromkeys(("s", "t", "u", "v"), one),
        **dict.fromkeys(("z", "y0"), zero),
        "w0": np.int8(0),
        "w": rng.integers(-9, 9, (5, 3, 3, 3)).astype(np.int8),
        "m": rng.integers(-9, 9, (5 * 36, 4)).astype(np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "t", "w0", "u", "y0"], ["c"]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node(
            "QGemm", ["f", "u", "y0", "m", "v", "w0"], ["y"], domain="com.microsoft", name="product"
        ),
        helper.make_node("Relu", ["y"], ["p"], name="last"),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8]),
        helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 4]),
    ]
    arrays = [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], arrays)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = fixed_batch(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    feeds = {"x": rng.random((1, 3, 8, 8)).astype(np.float32)}
    conv, flat, product, last = layer_table(with_measured_shapes(model, feeds), 1)
    assert (conv.kind, conv.shape, conv.macs) == ("QLinearConv 3x3", (5, 6, 6), 36 * 5 * 27)
    assert (flat.shape, product.shape, product.macs) == ((180,), (4,), 720)
    assert (last.shape, last.ram_bytes) == ((4,), 8)
