from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, helper, numpy_helper

from lepton_automl.artifact import measurements
from lepton_automl.artifact.measurements import file_problems
from lepton_automl.compress.external import quantize
from lepton_automl.compress.external.quantize import Quantizer, correct_bias, quantize_external
from lepton_automl.models import onnx_file
from tests.compress.test_external_interface import predict_file, wrap
from tests.helpers import external_models as models

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
    wanted, given = predict_file(file, pixels), predict_file(tilted(file), pixels)
    assert np.abs(given - wanted).max() > 0.05
    mended = correct_bias(tilted(file), wanted, given)
    assert np.abs(predict_file(mended, pixels) - wanted).max() < 1e-3
    assert len(ModelProto.FromString(mended).graph.node) == len(
        ModelProto.FromString(file).graph.node
    )


def test_where_no_bias_is_there_to_be_changed_an_operator_is_put_in() -> None:
    pixels, _ = models.pictures(100, seed=2)
    file = files()["float"]
    other = without_bias(tilted(file))
    wanted, given = predict_file(file, pixels), predict_file(other, pixels)
    mended = correct_bias(other, wanted, given)
    onnx.checker.check_model(ModelProto.FromString(mended), full_check=True)
    assert np.abs(predict_file(mended, pixels) - wanted).max() < 1e-3


def test_a_file_that_does_not_end_in_a_softmax_is_given_back() -> None:
    model = ModelProto.FromString(files()["float"])
    next(node for node in model.graph.node if node.op_type == "Softmax").op_type = "Sigmoid"
    model.graph.node[-1].ClearField("attribute")
    file, some = model.SerializeToString(), np.full((4, 3), 1 / 3, np.float32)
    assert correct_bias(file, some, some) == file


def test_answers_are_as_near_as_can_be_had() -> None:
    train, _ = models.pictures(128)
    found = wrap(models.model("mobile"))
    quantizer = Quantizer(train, 64)
    made = quantize_external(found, quantizer)
    wanted = predict_file(found.file, train)
    plain = predict_file(quantizer(made.source, averages=made.averages), train)
    best = predict_file(made.file, train)
    apart = [float((wanted * np.log(wanted / p)).sum(1).mean()) for p in (plain, best)]
    assert apart[1] <= apart[0]
    assert made.method.endswith("bias correction") == (apart[1] < apart[0])


def weights_of(file: bytes) -> list[np.ndarray]:
    """int8 weights of every convolution and matrix."""
    model = onnx.ModelProto.FromString(file)
    stored = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer]
    return [array for array in stored if array.dtype == np.int8 and array.ndim > 1]


def test_the_file_is_standard_runs_in_integers_and_answers_alike() -> None:
    pixels, labels = models.pictures(150, seed=1)
    train, _ = models.pictures(128)
    found = wrap(models.model())
    made = quantize_external(found, Quantizer(train, 127))
    assert not file_problems("it", made.file)
    assert json.loads(onnx_file.read_metadata(made.file)["labels"]) == list(models.CLASSES)
    names = " ".join(measurements.float_nodes(made.file))
    assert "Conv" not in names
    assert "Gemm" not in names
    right = [(predict_file(f, pixels).argmax(1) == labels).mean() for f in (found.file, made.file)]
    assert abs(right[0] - right[1]) <= 0.02
    assert made.kl_divergence < 0.01


@pytest.mark.parametrize(("limit", "most"), [(127, 127), (64, 64)])
def test_weights_keep_to_what_the_target_adds_exactly(limit: int, most: int) -> None:
    train, _ = models.pictures(64)
    file = Quantizer(train, limit)(wrap(models.model()))
    assert max(np.abs(w.astype(int)).max() for w in weights_of(file)) <= most


def test_of_uneven_channels_the_equalised_file_is_taken() -> None:
    train, _ = models.pictures(128)
    made = quantize_external(wrap(models.uneven(2.5, seed=3)), Quantizer(train, 127))
    assert made.method.startswith("equalization")


def test_nodes_may_stay_float() -> None:
    train, _ = models.pictures(64)
    found = wrap(models.model())
    graph = onnx.ModelProto.FromString(found.file).graph
    quantizer = Quantizer(train, 127)
    first = next(node.name for node in graph.node if node.op_type == "Conv")
    count = len(weights_of(quantizer(found)))
    assert len(weights_of(quantizer(found, kept_float=[first]))) == count - 1


def test_what_was_made_before_a_kill_is_not_made_again(tmp_path, monkeypatch) -> None:
    train, _ = models.pictures(64)
    found = wrap(models.model())
    file = Quantizer(train, 127, tmp_path)(found)
    assert file == Quantizer(train, 127)(found)
    monkeypatch.setattr(quantize, "quantize_graph", None)
    assert Quantizer(train, 127, tmp_path)(found) == file
    for other in (Quantizer(train, 64, tmp_path), Quantizer(train[:50], 127, tmp_path)):
        with pytest.raises(TypeError):
            other(found)
    with pytest.raises(TypeError):
        Quantizer(train, 127, tmp_path)(found, averages=True)


def with_softmax() -> onnx.ModelProto:
    """A classifier that ends in a softmax itself, as Keras makes them."""
    return models.exported(torch.nn.Sequential(models.trained(), torch.nn.Softmax(1)))


@pytest.mark.parametrize("made", [models.model, with_softmax])
def test_what_comes_after_the_last_layer_is_not_rounded(made) -> None:
    train, _ = models.pictures(128)
    found = wrap(made())
    file = Quantizer(train, 127)(found)
    graph = onnx.ModelProto.FromString(file).graph
    makers = {value: node for node in graph.node for value in node.output}
    node = makers[graph.output[0].name]
    behind = []
    while node.op_type != "Gemm":
        behind.append(node.op_type)
        node = makers[node.input[0]]
    assert set(behind) <= {"Softmax", "Identity"}
    assert "Gemm" not in " ".join(measurements.float_nodes(file))
    # Steps of a 256th would leave few different answers.
    assert len(np.unique(predict_file(file, train))) > 300
