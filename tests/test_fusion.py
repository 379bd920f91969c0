from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import numpy_helper

from lepton_automl.arch import chain
from lepton_automl.exporters.onnx import float_onnx
from lepton_automl.fusion import float_nodes, optimized
from lepton_automl.layers.conv import Conv
from lepton_automl.layers.head import Head
from lepton_automl.layers.residual import Residual
from lepton_automl.layers.stem import Stem
from lepton_automl.random_net import random_int8_onnx
from tests.nets import random_model

ARCH = chain((16, 16, 3), [Stem(16), Residual(16), Conv(32, activation="relu6"), Head()], 3)


def test_every_product_sum_and_mean_becomes_its_integer_kernel():
    kinds = Counter(node.op_type for node in optimized(random_int8_onnx(ARCH, 64)).graph.node)
    assert kinds == {
        "Transpose": 1,
        "QLinearConv": 4,
        "QLinearAdd": 1,
        "QLinearGlobalAveragePool": 1,
        "Flatten": 1,
        "QGemm": 1,
        "Softmax": 1,
    }
    assert float_nodes(random_int8_onnx(ARCH, 64)) == []


def test_a_bias_scale_that_is_off_is_seen_as_float_nodes():
    model = onnx.ModelProto.FromString(random_int8_onnx(ARCH, 64))
    constants = {t.name: t for t in model.graph.initializer}
    makers = {n.output[0]: n for n in model.graph.node}
    conv = next(n for n in model.graph.node if n.name == "2/conv")
    scale = constants[makers[conv.input[2]].input[1]]
    scale.raw_data = (numpy_helper.to_array(scale) * np.float32(1.05)).tobytes()
    assert any("2/conv" in name for name in float_nodes(model.SerializeToString()))


def test_a_float_file_is_float_and_its_activations_are_fused():
    file = float_onnx(random_model(ARCH), ["a", "b", "c"], {})
    left = float_nodes(file)
    assert len([name for name in left if "Conv" in name]) == 4
    assert not [name for name in left if "Relu" in name or "Clip" in name]
