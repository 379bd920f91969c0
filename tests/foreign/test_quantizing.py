from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch

from lepton_automl import fusion, onnxfile
from lepton_automl.foreign import quantizing
from lepton_automl.foreign.quantizing import Quantizer, closest
from lepton_automl.measuring import file_problems
from tests.foreign import models
from tests.foreign.test_wrapping import answers, wrap


def weights_of(file: bytes) -> list[np.ndarray]:
    """int8 weights of every convolution and matrix."""
    model = onnx.ModelProto.FromString(file)
    stored = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer]
    return [array for array in stored if array.dtype == np.int8 and array.ndim > 1]


def test_the_file_is_standard_runs_in_integers_and_answers_alike() -> None:
    pixels, labels = models.pictures(150, seed=1)
    train, _ = models.pictures(128)
    found = wrap(models.model())
    made = closest(found, Quantizer(train, 127))
    assert not file_problems("it", made.file)
    assert json.loads(onnxfile.read_metadata(made.file)["labels"]) == list(models.CLASSES)
    names = " ".join(fusion.float_nodes(made.file))
    assert "Conv" not in names
    assert "Gemm" not in names
    right = [(answers(f, pixels).argmax(1) == labels).mean() for f in (found.file, made.file)]
    assert abs(right[0] - right[1]) <= 0.02
    assert made.divergence < 0.01


@pytest.mark.parametrize(("limit", "most"), [(127, 127), (64, 64)])
def test_weights_keep_to_what_the_target_adds_exactly(limit: int, most: int) -> None:
    train, _ = models.pictures(64)
    file = Quantizer(train, limit)(wrap(models.model()))
    assert max(np.abs(w.astype(int)).max() for w in weights_of(file)) <= most


def test_of_uneven_channels_the_equalised_file_is_taken() -> None:
    train, _ = models.pictures(128)
    made = closest(wrap(models.uneven(2.5, seed=3)), Quantizer(train, 127))
    assert made.method.startswith("equalized")


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
    monkeypatch.setattr(quantizing, "quantize_static", None)
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
    assert "Gemm" not in " ".join(fusion.float_nodes(file))
    # Steps of a 256th would leave few different answers.
    assert len(np.unique(answers(file, train))) > 300
