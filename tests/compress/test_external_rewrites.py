from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from lepton_automl.compress.external import rewrites
from tests.helpers import external_models as models


def answers(made: ModelProto, x: np.ndarray) -> np.ndarray:
    session = InferenceSession(made.SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def inputs(count: int) -> np.ndarray:
    import torch

    pixels, _ = models.pictures(count, seed=3)
    return models.prepared(torch.from_numpy(pixels)).numpy()


def half(made: ModelProto) -> ModelProto:
    """Weights in half precision; the Cast of the input comes last, as converters write it."""
    for tensor in made.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    entry, end = made.graph.input[0].name, made.graph.output[0].name
    for node in made.graph.node:
        node.input[:] = ["x16" if name == entry else name for name in node.input]
        node.output[:] = ["y16" if name == end else name for name in node.output]
    made.graph.node.append(helper.make_node("Cast", ["y16"], [end], to=TensorProto.FLOAT))
    made.graph.node.append(helper.make_node("Cast", [entry], ["x16"], to=TensorProto.FLOAT16))
    return made


def test_half_precision_in_any_order_becomes_float32() -> None:
    made = half(models.model(dynamic=True))
    with pytest.raises(onnx.checker.ValidationError, match="sorted"):
        onnx.checker.check_model(made)
    rewrites.sort_nodes(made.graph)
    assert rewrites.to_float32(made)
    onnx.checker.check_model(made, full_check=True)
    assert {t.data_type for t in made.graph.initializer} <= {TensorProto.FLOAT, TensorProto.INT64}
    wanted = answers(models.model(dynamic=True), inputs(5))
    assert np.abs(answers(made, inputs(5)) - wanted).max() < 0.05


def test_a_cycle_is_refused() -> None:
    graph = onnx.GraphProto()
    graph.node.append(helper.make_node("Relu", ["a"], ["b"]))
    graph.node.append(helper.make_node("Relu", ["b"], ["a"]))
    with pytest.raises(rewrites.Unsupported, match="cycle"):
        rewrites.sort_nodes(graph)


class Feed(CalibrationDataReader):
    def __init__(self) -> None:
        self.batches = iter([inputs(32)])

    def get_next(self):
        x = next(self.batches, None)
        return None if x is None else {"pictures": x}


def test_quantized_files_become_float_with_the_same_ranges(tmp_path) -> None:
    path = tmp_path / "int8.onnx"
    quantize_static(
        models.model(dynamic=True),
        path,
        Feed(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,  # Else processors that add products in 16 bits answer otherwise.
    )
    quantized = onnx.load(path)
    # ONNX Runtime's quantizer removes ReLU where the range of levels cuts negative values.
    assert not any(node.op_type == "Relu" for node in quantized.graph.node)
    made = ModelProto.FromString(quantized.SerializeToString())
    assert rewrites.without_quantization(made)
    assert not any("Quantize" in node.op_type for node in made.graph.node)
    given, wanted = answers(made, inputs(40)), answers(quantized, inputs(40))
    assert (given.argmax(1) == wanted.argmax(1)).mean() > 0.9
    assert np.abs(given - wanted).mean() < 0.05 * np.abs(wanted).mean()


def test_a_scale_that_is_computed_is_refused() -> None:
    node = helper.make_node("DequantizeLinear", ["x", "s"], ["y"], "d")
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.UINT8, [1]),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    with pytest.raises(rewrites.Unsupported, match="computes its scale"):
        rewrites.without_quantization(helper.make_model(graph))
