from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from lepton_automl.foreign.correcting import corrected
from lepton_automl.foreign.quantizing import Quantizer, closest
from tests.foreign import models
from tests.foreign.test_wrapping import answers, wrap

TILT = np.array([8, -4, -4], np.float32)


def tilted(file: bytes) -> bytes:
    """The file with its last bias moved by `TILT`."""
    model = ModelProto.FromString(file)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    makers = {value: node for node in model.graph.node for value in node.output}
    name, scale = gemm.input[2], np.float32(1)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    if name in makers:
        name, scale = makers[name].input[0], numpy_helper.to_array(stored[makers[name].input[1]])
    bias = numpy_helper.to_array(stored[name])
    moved = (bias + np.rint(TILT / scale)) if bias.dtype == np.int32 else bias + TILT
    stored[name].CopyFrom(numpy_helper.from_array(moved.astype(bias.dtype), name))
    return model.SerializeToString()


def without_bias(file: bytes) -> bytes:
    """The same function, the bias in an operator of its own."""
    model = ModelProto.FromString(file)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    add = helper.make_node("Add", [gemm.output[0], gemm.input[2]], ["moved"], "moved")
    del gemm.input[2]
    softmax.input[0] = "moved"
    model.graph.node.insert(list(model.graph.node).index(softmax), add)
    return model.SerializeToString()


def files() -> dict[str, bytes]:
    train, _ = models.pictures(64)
    found = wrap(models.model())
    return {"float": found.file, "int8": Quantizer(train, 127)(found)}


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_a_class_that_was_favoured_is_no_more(kind: str) -> None:
    pixels, _ = models.pictures(100, seed=2)
    file = files()[kind]
    wanted, given = answers(file, pixels), answers(tilted(file), pixels)
    assert np.abs(given - wanted).max() > 0.05
    mended = corrected(tilted(file), wanted, given)
    assert np.abs(answers(mended, pixels) - wanted).max() < 1e-3
    assert len(ModelProto.FromString(mended).graph.node) == len(
        ModelProto.FromString(file).graph.node
    )


def test_where_no_bias_is_there_to_be_changed_an_operator_is_put_in() -> None:
    pixels, _ = models.pictures(100, seed=2)
    file = files()["float"]
    other = without_bias(tilted(file))
    wanted, given = answers(file, pixels), answers(other, pixels)
    mended = corrected(other, wanted, given)
    onnx.checker.check_model(ModelProto.FromString(mended), full_check=True)
    assert np.abs(answers(mended, pixels) - wanted).max() < 1e-3


def test_a_file_that_does_not_end_in_a_softmax_is_given_back() -> None:
    model = ModelProto.FromString(files()["float"])
    next(node for node in model.graph.node if node.op_type == "Softmax").op_type = "Sigmoid"
    model.graph.node[-1].ClearField("attribute")
    file, some = model.SerializeToString(), np.full((4, 3), 1 / 3, np.float32)
    assert corrected(file, some, some) == file


def test_answers_are_as_near_as_can_be_had() -> None:
    train, _ = models.pictures(128)
    found = wrap(models.model("mobile"))
    quantizer = Quantizer(train, 64)
    made = closest(found, quantizer)
    wanted = answers(found.file, train)
    plain = answers(quantizer(made.source, averages=made.averages), train)
    best = answers(made.file, train)
    apart = [float((wanted * np.log(wanted / p)).sum(1).mean()) for p in (plain, best)]
    assert apart[1] <= apart[0]
    assert made.method.endswith("corrected") == (apart[1] < apart[0])
