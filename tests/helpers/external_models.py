"""Classifiers as others make them: by torch, in the layout of Keras, with odd scales."""

from __future__ import annotations

import functools
import io
import itertools
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from tests.training.test_loop import stripes

CLASSES = ("0", "1", "2")
"""As an .npz file names them."""
SIDE = 8
MEAN, STD = 0.4, 0.25
FIELDS = {"mean": MEAN, "std": STD}


def pictures(count: int = 192, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, 8, 8, 1) and the class of each."""
    data = stripes(count, seed=seed)
    return data.pixels.numpy(), data.labels.numpy()


def net(kind: str) -> nn.Module:
    """`plain`: convolutions and ReLU; `mobile`: depthwise ones and hard swish."""
    if kind == "mobile":
        groups = [(1, 16, 3, 1), (16, 16, 3, 16), (16, 24, 1, 1)]
        act: type[nn.Module] = nn.Hardswish
    else:
        groups, act = [(1, 12, 3, 1), (12, 16, 3, 1)], nn.ReLU
    layers: list[nn.Module] = []
    for i, o, k, g in groups:
        layers += [nn.Conv2d(i, o, k, 1, k // 2, groups=g, bias=False), nn.BatchNorm2d(o), act()]
    last = groups[-1][1]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, 3))


@functools.cache
def trained(kind: str = "plain") -> nn.Module:
    """Of good accuracy, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = net(kind)
        data = stripes(192)
        x, y = prepared(data.pixels), data.labels
        optimizer = torch.optim.AdamW(network.parameters(), 0.01)
        for _ in range(25):
            for batch in torch.randperm(len(y)).split(32):
                optimizer.zero_grad()
                torch.autograd.backward(nn.functional.cross_entropy(network(x[batch]), y[batch]))
                optimizer.step()
    return network.eval()


def prepared(pixels: torch.Tensor) -> torch.Tensor:
    """As the nets want them: (N, 1, 8, 8)."""
    return (pixels.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def exported(network: nn.Module, *, opset: int = 17, dynamic: bool = False) -> ModelProto:
    """By torch's exporter, as most people do it: for one picture."""
    buffer = io.BytesIO()
    axes = {"pictures": {0: "n"}, "scores": {0: "n"}} if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(1, 1, SIDE, SIDE),),
            buffer,
            dynamo=False,
            opset_version=opset,
            input_names=["pictures"],
            output_names=["scores"],
            dynamic_axes=axes,
        )
    return onnx.load_from_string(buffer.getvalue())


@functools.cache
def _of(kind: str, opset: int, dynamic: bool) -> bytes:
    return bytes(exported(trained(kind), opset=opset, dynamic=dynamic).SerializeToString())


def model(kind: str = "plain", *, opset: int = 17, dynamic: bool = False) -> ModelProto:
    """A trained model as ONNX."""
    return ModelProto.FromString(_of(kind, opset, dynamic))


def written(folder: Path, made: ModelProto | None = None, name: str = "model.onnx") -> Path:
    """A model in a file, beside what says how it is fed."""
    path = folder / name
    onnx.save(made or model(), str(path))
    (folder / "preprocessing.toml").write_text(f"mean = {MEAN}\nstd = {STD}\n")
    return path


def keras_like() -> ModelProto:
    """Pictures with channels last, a Transpose inside, softmax at the end."""
    inner = model(dynamic=True)
    turned = helper.make_node("Transpose", ["image"], ["pictures"], "turn", perm=[0, 3, 1, 2])
    soft = helper.make_node("Softmax", ["scores"], ["dense"], "softmax", axis=1)
    graph = helper.make_graph(
        [turned, *inner.graph.node, soft],
        "keras",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", SIDE, SIDE, 1])],
        [helper.make_tensor_value_info("dense", TensorProto.FLOAT, ["n", 3])],
        list(inner.graph.initializer),
    )
    return helper.make_model(graph, opset_imports=inner.opset_import, ir_version=8)


def uneven(sigma: float, seed: int = 0) -> ModelProto:
    """The plain model, its channels rescaled at random; the function is the same."""
    made = model()
    draws = np.random.default_rng(seed)
    weights = {t.name: t for t in made.graph.initializer}
    convs = [node for node in made.graph.node if node.op_type == "Conv"]
    for first, second in itertools.pairwise(convs):
        one, two = weights[first.input[1]], weights[second.input[1]]
        factor = np.exp(sigma * draws.standard_normal(one.dims[0])).astype(np.float32)
        _scale(one, factor[:, None, None, None])
        _scale(weights[first.input[2]], factor)
        _scale(two, 1 / factor[None, :, None, None])
    return made


def _scale(tensor: TensorProto, factor: np.ndarray) -> None:
    array = numpy_helper.to_array(tensor) * factor
    tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))


def data(folder: Path, *, test: int = 300) -> Path:
    """An .npz with all three parts."""
    path = folder / "stripes.npz"
    parts = {"train": pictures(192, 0), "val": pictures(150, 1), "test": pictures(test, 2)}
    arrays = {f"{k}_{name}": v for name, (x, y) in parts.items() for k, v in (("x", x), ("y", y))}
    np.savez(path, **arrays)
    return path
