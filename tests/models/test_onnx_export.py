from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from lepton_automl.errors import ArchError
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.mbconv import MBConv
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.model import Model
from lepton_automl.models.onnx_export import float_onnx, folded_weights, int8_onnx
from lepton_automl.models.onnx_file import open_session, predict_probabilities, read_metadata
from lepton_automl.models.quantization import Preprocessing
from lepton_automl.models.random_weights import random_qparams
from tests.helpers.nets import random_arch, random_model, random_pixels

LABELS = ["a", "b", "c", "d", "e"]


def quantized(arch, limit=64, seed=0):
    return Model(arch, {}, Preprocessing(128, 1 / 64), random_qparams(arch, seed, limit))


def small(activation="relu"):
    return chain(
        (8, 8, 1), [Stem(8, activation=activation), Residual(8, activation=activation), Head()], 5
    )


def test_a_file_says_its_labels_its_preprocessing_and_what_it_is_given():
    for model, write in ((quantized(small()), int8_onnx), (random_model(small()), float_onnx)):
        words = read_metadata(write(model, LABELS, {"dataset": "0123"}))
        about = model.preprocessing
        assert json.loads(words["labels"]) == LABELS
        wanted = {"zero_point": about.zero_point, "scale": about.scale}
        assert json.loads(words["preprocessing"]) == wanted
        assert words["dataset"] == "0123"


def test_the_same_model_gives_the_same_bytes():
    for seed in range(3):
        arch = random_arch(seed)
        assert int8_onnx(quantized(arch), LABELS, {}) == int8_onnx(quantized(arch), LABELS, {})
        model = random_model(arch, seed)
        assert float_onnx(model, LABELS, {}) == float_onnx(model, LABELS, {})


def test_folding_is_the_convolution_followed_by_its_normalisation():
    model = random_model(small(), 4)
    op = next(model.arch.graph.weighted_ops)
    weight, bias = map(torch.from_numpy, folded_weights(model, op))
    x = torch.randn(2, 1, 8, 8)
    owner = model.network().modules_by_op[op.name]
    expected = owner.norm(torch.conv2d(x, owner.weight, None, 1, 1))
    torch.testing.assert_close(torch.conv2d(x, weight, bias, 1, 1), expected, atol=1e-5, rtol=1e-4)


def test_every_bias_scale_is_input_scale_times_weight_scale():
    arch = random_arch(11, activations=("relu", "silu", "hswish"))
    graph = onnx.ModelProto.FromString(int8_onnx(quantized(arch), LABELS, {})).graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    scales = {n.output[0]: constants[n.input[1]] for n in graph.node if "Dequan" in n.op_type}
    products = [n for n in graph.node if n.op_type in {"Conv", "Gemm"}]
    assert len(products) == len(list(arch.graph.weighted_ops))
    for node in products:
        x, weight, bias = (scales[name] for name in node.input)
        assert x.shape == ()
        np.testing.assert_array_equal(x * weight, bias)


def test_a_hard_sigmoid_is_an_integer_sum_that_clips_itself():
    arch = chain((4, 4, 1), [Stem(4, activation="hswish"), Head()], 2)
    model = quantized(arch)
    file = onnx.ModelProto.FromString(int8_onnx(model, ["a", "b"], {}))
    gate = next(node for node in file.graph.node if node.name.endswith("gate"))
    stored = next(node for node in file.graph.node if gate.output[0] in node.input)
    before = next(n for n in file.graph.node if n.output[0] == gate.input[0])
    for name in (before.input[0], stored.output[0]):
        file.graph.output.append(onnx.helper.make_tensor_value_info(name, 2, None))
    pixels = random_pixels(arch, 32).numpy()
    _, x, y = open_session(file.SerializeToString()).run(None, {"pixels": pixels})
    op = arch.graph.ops[0]
    real = (x.astype(float) - model.qparams.zero_points[op.y.name]) * model.qparams.scales[
        op.y.name
    ]
    expected = np.clip(real / 6 + 0.5, 0, 1)
    assert np.abs(y / 255 - expected).max() <= 0.5001 / 255
    assert np.ptp(y) > 50


def test_names_of_nodes_are_the_operations():
    arch = random_arch(3)
    graph = onnx.ModelProto.FromString(int8_onnx(quantized(arch), LABELS, {})).graph
    assert [node.name for node in graph.node if node.name] == [op.name for op in arch.graph.ops]


@pytest.mark.parametrize(
    ("clamp", "scale", "zero_point"), [("relu", 0.1, 3), ("relu6", 0.1, 0), ("relu6", 0.01, 1)]
)
def test_a_range_that_contradicts_its_clamp_is_refused(clamp, scale, zero_point):
    model = quantized(small(clamp))
    name = model.arch.graph.ops[0].y.name
    model.qparams.scales[name], model.qparams.zero_points[name] = scale, zero_point
    with pytest.raises(ArchError, match=clamp):
        int8_onnx(model, LABELS, {})


def test_a_relu6_may_use_all_of_its_range():
    model = quantized(small("relu6"))
    for op in model.arch.graph.ops:
        if getattr(op, "clamp", "none") == "relu6":
            model.qparams.scales[op.y.name] = float(np.float32(6 / 255))
    pixels = random_pixels(model.arch, 4).numpy()
    assert predict_probabilities(open_session(int8_onnx(model, LABELS, {})), pixels).shape == (4, 5)


def test_a_float_model_is_not_written_as_int8():
    with pytest.raises(ArchError, match="not quantized"):
        int8_onnx(random_model(small()), LABELS, {})


def test_class_names_must_fit_the_net():
    with pytest.raises(ArchError, match="2 class names for a net with 5"):
        float_onnx(random_model(small()), ["a", "b"], {})


def test_the_file_does_not_depend_on_what_was_measured():
    model = quantized(small())
    other = dataclasses.replace(model, metrics={"accuracy": 0.9}, parent="0" * 16)
    assert int8_onnx(model, LABELS, {}) == int8_onnx(other, LABELS, {})


def test_graph_text_is_small_beside_the_weights():
    four = chain((8, 8, 1), [Stem(16), Conv(24), Conv(32, stride=2), Head()], 10)
    ten = chain((32, 32, 3), [Stem(16), *[MBConv(16, expand=2) for _ in range(3)], Head()], 10)
    for arch, at_most in ((four, 2_700), (ten, 9_000)):
        file = int8_onnx(quantized(arch), [str(n) for n in range(10)], {})
        weights = sum(np.prod(op.weight_shape) for op in arch.graph.weighted_ops)
        assert len(file) - weights < at_most
