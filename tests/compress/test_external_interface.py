"""Wrapped models against torch and against the file they were made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from lepton_automl.artifact.measurements import file_problems
from lepton_automl.compress.external.interface import with_preprocessing, wrap_model
from lepton_automl.compress.external.model import ExternalModel
from lepton_automl.compress.external.preprocessing import ExternalPreprocessing
from lepton_automl.compress.external.reader import signature
from lepton_automl.errors import DataError
from lepton_automl.models import onnx_file
from tests.helpers import external_models as models

PATH = Path("model.onnx")
SEEN = ExternalPreprocessing(1 / 255, (models.MEAN,), (models.STD,), "grey", "a test")


def wrap(made: ModelProto, seen: ExternalPreprocessing | None = SEEN) -> ExternalModel:
    return wrap_model(PATH, made, signature(PATH, made), seen, models.CLASSES)


def predict_file(file: bytes, pixels: np.ndarray) -> np.ndarray:
    return onnx_file.predict_probabilities(onnx_file.open_session(file), pixels)


def by_torch(kind: str, pixels: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        scores = models.trained(kind)(models.prepared(torch.from_numpy(pixels)))
    return scores.softmax(1).numpy()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (models.model, "plain"),
        (partial(models.model, dynamic=True), "plain"),
        (partial(models.model, opset=11), "plain"),
        (partial(models.model, opset=13), "plain"),
        (partial(models.model, "mobile"), "mobile"),
        (models.keras_like, "plain"),
    ],
)
def test_pictures_go_in_and_what_torch_answers_comes_out(
    make: Callable[[], ModelProto], kind: str
) -> None:
    pixels, labels = models.pictures(40, seed=5)
    found = wrap(make())
    given = predict_file(found.file, pixels)
    assert np.abs(given - by_torch(kind, pixels)).max() < 1e-4
    assert (given.argmax(1) == labels).mean() > 0.8
    assert found.shape == (8, 8, 1)
    assert not file_problems("it", found.file)
    assert json.loads(onnx_file.read_metadata(found.file)["labels"]) == list(models.CLASSES)


def test_batch_normalisation_is_folded() -> None:
    kinds = {node.op_type for node in ModelProto.FromString(wrap(models.model()).file).graph.node}
    assert "Conv" in kinds
    assert "BatchNormalization" not in kinds


def linear(shape: list, kind: int) -> ModelProto:
    """A matrix on the pixels, without any preparation."""
    size = int(np.prod(shape[1:]))
    weight = np.random.default_rng(0).normal(size=(size, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], 3])],
        [numpy_helper.from_array(weight / 1000, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_channels_are_ordered_shifted_and_scaled_as_asked(layout: str, order: str) -> None:
    shape = ["n", 3, 4, 5] if layout == "NCHW" else ["n", 4, 5, 3]
    made = linear(shape, TensorProto.FLOAT)
    seen = ExternalPreprocessing(0.01, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), order, "a test")
    pixels = np.random.default_rng(1).integers(0, 256, (6, 4, 5, 3), np.uint8)
    x = pixels[..., ::-1] if order == "BGR" else pixels
    x = ((x * 0.01 - np.array(seen.mean)) / np.array(seen.std)).astype(np.float32)
    x = x.transpose(0, 3, 1, 2) if layout == "NCHW" else x
    session = onnxruntime.InferenceSession(made.SerializeToString())
    scores = torch.from_numpy(session.run(None, {"x": x})[0])
    found = wrap(made, seen)
    assert np.abs(predict_file(found.file, pixels) - scores.softmax(1).numpy()).max() < 1e-5


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_constants_after_the_input_are_joined_with_the_preprocessing(layout: str) -> None:
    """As the layers Rescaling and Normalization of Keras leave them in a file."""
    made = linear(["n", 3, 4, 5] if layout == "NCHW" else ["n", 4, 5, 3], TensorProto.FLOAT)
    shape = (1, 3, 1, 1) if layout == "NCHW" else (3,)
    constants = {
        "Mul": np.array(0.5, np.float32),
        "Sub": np.array([0.1, -0.2, 0.3], np.float32).reshape(shape),
        "Div": np.array([2, 3, 0.5], np.float32).reshape(shape),
        "Add": np.array([1.5], np.float32),
    }
    last = "x"
    for number, (kind, array) in enumerate(constants.items()):
        node = helper.make_node(kind, [last, kind], [f"k{number}"], kind)
        made.graph.node.insert(number, node)
        made.graph.initializer.append(numpy_helper.from_array(array, kind))
        last = f"k{number}"
    made.graph.node[len(constants)].input[0] = last
    seen = ExternalPreprocessing(0.01, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), "BGR", "a test")
    other = ExternalPreprocessing(0.02, (0.4, 0.3, 0.1), (0.9, 0.8, 0.7), "BGR", "a test")
    pixels = np.random.default_rng(1).integers(0, 256, (6, 4, 5, 3), np.uint8)
    session = onnxruntime.InferenceSession(made.SerializeToString())
    file = wrap(made, seen).file
    kinds = [node.op_type for node in ModelProto.FromString(file).graph.node]
    assert kinds.count("Mul") == kinds.count("Add") == 1
    assert not {"Sub", "Div"} & set(kinds)
    for known, wrapped in ((seen, file), (other, with_preprocessing(file, seen, other))):
        x = (pixels[..., ::-1] * known.scale - np.array(known.mean)) / np.array(known.std)
        x = x.transpose(0, 3, 1, 2) if layout == "NCHW" else x
        scores = torch.from_numpy(session.run(None, {"x": x.astype(np.float32)})[0])
        assert np.abs(predict_file(wrapped, pixels) - scores.softmax(1).numpy()).max() < 1e-5


def test_a_model_that_takes_bytes_gets_them_as_they_are() -> None:
    made = linear([1, 4, 5, 3], TensorProto.UINT8)
    pixels = np.random.default_rng(1).integers(0, 256, (6, 4, 5, 3), np.uint8)
    session = onnxruntime.InferenceSession(made.SerializeToString())
    rows = np.concatenate([session.run(None, {"x": one[None]})[0] for one in pixels])
    wanted = torch.from_numpy(rows).softmax(1).numpy()
    assert np.abs(predict_file(wrap(made, None).file, pixels) - wanted).max() < 1e-5


def test_a_model_that_mixes_the_pictures_of_a_batch_is_refused() -> None:
    made = models.model(dynamic=True)
    scores = made.graph.output[0].name
    for node in made.graph.node:
        node.output[:] = ["own" if name == scores else name for name in node.output]
    mean = helper.make_node("ReduceMean", ["own"], ["mean"], axes=[0], keepdims=1)
    made.graph.node.extend([mean, helper.make_node("Add", ["own", "mean"], [scores])])
    with pytest.raises(DataError, match="rest of its batch"):
        wrap(made)


def test_numbers_that_are_not_finite_are_refused() -> None:
    made = models.model()
    tensor = made.graph.initializer[0]
    bad = np.full(tensor.dims, np.inf, np.float32)
    tensor.CopyFrom(numpy_helper.from_array(bad, tensor.name))
    with pytest.raises(DataError, match="not finite"):
        wrap(made)


def test_what_a_file_says_of_its_labels_is_json() -> None:
    words = onnx_file.read_metadata(wrap(models.model()).file)
    assert json.loads(words["labels"]) == list(models.CLASSES)
