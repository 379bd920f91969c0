"""Layers read off ONNX files against the nets that they were written from."""

from __future__ import annotations

import onnx
import pytest

from lepton_automl.cost.layer_table import fixed_batch, layer_table
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
