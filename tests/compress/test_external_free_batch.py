"""Exports for one picture (or four) against torch on other numbers of pictures."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from lepton_automl.compress.external.interface import wrap_model
from lepton_automl.compress.external.preprocessing import ExternalPreprocessing
from lepton_automl.compress.external.reader import signature
from lepton_automl.errors import DataError
from lepton_automl.models import onnx_file

PATH = Path("model.onnx")
AS_IS = ExternalPreprocessing(1 / 255, (0.0,), (1.0,), "grey", "a test")


class Windows(nn.Module):
    """Attention in windows: the batch is merged with the windows and separated again."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.qkv, self.head = nn.Conv2d(1, 4, 2, 2), nn.Linear(4, 12), nn.Linear(4, 3)
        self.token = nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        t = self.patch(x).permute(0, 2, 3, 1)
        b, h, w, c = t.shape
        t = t.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        q, k, v = self.qkv(t).reshape(t.shape[0], 4, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        t = (torch.softmax(q @ k.transpose(-2, -1), -1) @ v).transpose(1, 2).reshape(-1, 4, c)
        t = t.view(b, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h * w, c)
        return self.head(torch.cat([self.token.expand(b, -1, -1), t], 1).mean(1))


class Attention(nn.Module):
    """Tokens first, batch second, as torch's own attention has them inside."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.inner = nn.Conv2d(1, 4, 2, 2), nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        t = self.patch(x).flatten(2).permute(2, 0, 1)
        return self.head(self.inner(t, t, t)[0][0])


class Shuffle(nn.Module):
    """Channel shuffle, resizing to a size in pixels, and group normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Linear(324, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        size = (h * 3 // 2, w * 3 // 2)
        x = nn.functional.interpolate(x, size=size, mode="bilinear")
        return self.head(x.reshape(b, -1))


class Squeezed(nn.Module):
    """All dimensions of one are squeezed away."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y.squeeze() if len(x) == 1 else y.flatten(1)


def export(net: nn.Module, batch: int) -> onnx.ModelProto:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (torch.zeros(batch, 1, 8, 8),), buffer, dynamo=False, opset_version=17
        )
    return onnx.load_from_string(buffer.getvalue())


def wrap(made: onnx.ModelProto) -> bytes:
    return wrap_model(PATH, made, signature(PATH, made, classes=3), AS_IS, ("a", "b", "c")).file


@pytest.mark.parametrize(
    ("kind", "batch"),
    [(Windows, 1), (Windows, 4), (Attention, 1), (Attention, 4), (Shuffle, 1), (Squeezed, 1)],
)
@pytest.mark.parametrize("is_newer", [False, True])
def test_any_number_of_pictures_gives_what_torch_gives(kind, batch: int, is_newer: bool) -> None:
    torch.manual_seed(0)
    net = kind().eval()
    made = export(net, batch)
    if is_newer:  # As the exporter of torch 2.9 and later writes it.
        zeros = {
            node.output[0]
            for node in made.graph.node
            if node.op_type == "Constant"
            and (numpy_helper.to_array(node.attribute[0].t) == 0).any()
        }
        for node in made.graph.node:
            if node.op_type == "Reshape" and node.input[1] not in zeros:
                kept = [each for each in node.attribute if each.name != "allowzero"]
                del node.attribute[:]
                node.attribute.extend([*kept, helper.make_attribute("allowzero", 1)])
    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1), np.uint8)
    with torch.inference_mode():
        wanted = net(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255).softmax(1)
    session = onnx_file.open_session(wrap(made))
    for count in (1, 3, 7):
        given = onnx_file.predict_probabilities(session, pixels[:count], batch=count)
        assert np.abs(given - wanted[:count].numpy()).max() < 1e-4


@pytest.mark.parametrize("op", ["ReduceMean", "Concat"])
def test_a_graph_that_mixes_pictures_is_refused_with_a_way_out(op: str) -> None:
    more = {"axes": [0], "keepdims": 1} if op == "ReduceMean" else {"axis": 0}
    names = ["f"] if op == "ReduceMean" else ["f", "w"]
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node(op, names, ["m"], **more),
        helper.make_node("MatMul", ["m", "w"], ["y"]),
    ]
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)[:, :64]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(DataError) as caught:
        wrap_model(PATH, made, signature(PATH, made), AS_IS, tuple(map(str, range(64))))
    assert "free (dynamic) first dimension" in caught.value.fix


@pytest.mark.parametrize("end", ["Sigmoid", "", "Sigmoid of one picture", "half of a Softmax"])
def test_one_score_for_two_classes_becomes_two_probabilities(end: str) -> None:
    draws = np.random.default_rng(0)
    weight = draws.normal(size=(64, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["z" if end else "y"]),
    ]
    shape: list = ["n", 1]
    if end == "Sigmoid":
        nodes.append(helper.make_node("Sigmoid", ["z"], ["y"]))
    elif end:  # y[:, 0] of a sigmoid, and y[:, 1] of a softmax over (0, z)
        shape, kind = ["n"], end.split()[-1] if "Softmax" in end else "Sigmoid"
        nodes.append(helper.make_node("Pad", ["z", "left"], ["zz"]))
        more = {"axis": 1} if kind == "Softmax" else {}
        nodes.append(helper.make_node(kind, ["zz"], ["p"], **more))
        nodes.append(helper.make_node("Gather", ["p", "one"], ["y"], axis=1))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.array([0, 1, 0, 0]), "left"),
            numpy_helper.from_array(np.array(1), "one"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    seen = signature(PATH, made, classes=2)
    file = wrap_model(PATH, made, seen, AS_IS, ("no", "yes")).file
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    given = onnx_file.predict_probabilities(onnx_file.open_session(file), pixels)
    positive = 1 / (1 + np.exp(-(pixels.reshape(5, -1) / 255) @ weight[:, 0]))
    assert np.allclose(given, np.stack([1 - positive, positive], 1), atol=1e-5)
