"""Predictions of models and files, against arithmetic by hand."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.onnx_file import onnx_probabilities
from lepton_automl.training.evaluate import is_correct, predict_logits
from tests.helpers.nets import random_arch, random_model

rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model():
    return random_model(random_arch(1, input=(8, 8, 1), classes=3), 1)


@pytest.fixture(scope="module")
def pixels():
    return torch.from_numpy(rng.integers(0, 256, (11, 8, 8, 1), dtype=np.uint8))


@pytest.mark.parametrize("batch", [1, 4, 11, 64])
def test_logits_do_not_depend_on_the_batch_size(model, pixels, batch):
    about = model.preprocessing
    x = (pixels.permute(0, 3, 1, 2).double() - about.zero_point) * about.scale
    network = model.network().double()
    wanted = torch.cat([network(one[None]) for one in x])
    torch.testing.assert_close(
        predict_logits(model, pixels, batch=batch).double(), wanted, atol=1e-4, rtol=1e-4
    )


def test_no_pictures_give_no_logits(model, pixels):
    assert predict_logits(model, pixels[:0]).shape == (0, 3)


def test_a_sample_is_correct_if_its_largest_logit_is_the_label(model, pixels):
    answers = predict_logits(model, pixels).argmax(1)
    labels = answers.clone()
    labels[4] = (labels[4] + 1) % 3
    right = is_correct(model, LabelledTensors(pixels, labels))
    assert right.dtype == bool
    assert np.flatnonzero(~right).tolist() == [4]


def softmax_file():
    """uint8 (n, 2, 2, 1) -> softmax(sum of pixels times a weight per class)."""
    weights = np.arange(12, dtype=np.float32).reshape(4, 3) / 100
    nodes = [
        helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 2, 2, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString(), weights


@pytest.mark.parametrize("count", [0, 1, 5, 7])
def test_probabilities_of_a_file_come_in_the_order_of_the_pictures(count):
    file, weights = softmax_file()
    pixels = rng.integers(0, 256, (count, 2, 2, 1), dtype=np.uint8)
    logits = pixels.reshape(count, 4).astype(float) @ weights
    wanted = np.exp(logits - logits.max(1, keepdims=True, initial=-9e9))
    wanted /= wanted.sum(1, keepdims=True)
    given = onnx_probabilities(file, torch.from_numpy(pixels), batch=3)
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, wanted, atol=1e-5)


def test_every_evaluation_batch_enters_the_training_slot(model, pixels):
    entered = []

    @contextlib.contextmanager
    def turn():
        entered.append(True)
        yield

    predict_logits(model, pixels, batch=4, training_slot=turn)
    assert len(entered) == 3
