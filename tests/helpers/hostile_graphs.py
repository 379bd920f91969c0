"""ONNX files that a stranger could give: each looks like a classifier of 8x8 colour pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

CLASSES = ("cat", "dog", "läufer | 3")
SHAPE = (8, 8, 3)
_HUGE = 1 << 40

Value = tuple[str, int, list[Any]]


def model(
    nodes: Sequence[NodeProto],
    stored: dict[str, Any] | None = None,
    *,
    pixels: Value = ("pixels", TensorProto.UINT8, ["n", *SHAPE]),
    answers: Value = ("probabilities", TensorProto.FLOAT, ["n", 3]),
    words: dict[str, str] | None = None,
    opset: int = 17,
    domains: Sequence[str] = (),
) -> ModelProto:
    """A model with lepton's input, output and metadata around these nodes."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(*pixels)],
        [helper.make_tensor_value_info(*answers)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (stored or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    helper.set_model_props(made, {"labels": json.dumps(CLASSES)} if words is None else words)
    return made


node = helper.make_node

_WEIGHT = np.random.default_rng(0).normal(0, 0.1, (192, 3)).astype(np.float32)
_SCORES = [
    node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
    node("Flatten", ["float"], ["flat"]),
    node("MatMul", ["flat", "weight"], ["scores"]),
]


def classifier(*after: NodeProto, last: str = "scores", **stored: Any) -> ModelProto:
    """An honest linear classifier, with `after` between its scores and the softmax."""
    end = node("Softmax", [last], ["probabilities"], axis=1)
    return model([*_SCORES, *after, end], {"weight": _WEIGHT, **stored})


def _adding(*nodes: NodeProto, last: str, **stored: Any) -> ModelProto:
    """A classifier that adds the maximum of the value `last`."""
    more = [
        node("ReduceMax", [last], ["most"], keepdims=0),
        node("Add", ["scores", "most"], ["sum"]),
    ]
    return classifier(*nodes, *more, last="sum", **stored)


def _loop(count: int) -> ModelProto:
    body = helper.make_graph(
        [
            node("Identity", ["go"], ["go_on"]),
            node("Add", ["value", "value"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, ["n", 3]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["n", 3]),
        ],
    )
    loop = node("Loop", ["count", "yes", "scores"], ["looped"], body=body)
    return classifier(loop, last="looped", count=np.int64(count), yes=np.array(True))


def _branches(depth: int) -> ModelProto:
    def branch(left: int) -> GraphProto:
        inner = node("Identity", ["scores"], [f"out{left}"])
        if left:
            graph = branch(left - 1)
            inner = node("If", ["yes"], [f"out{left}"], then_branch=graph, else_branch=graph)
        out = helper.make_tensor_value_info(f"out{left}", TensorProto.FLOAT, ["n", 3])
        return helper.make_graph([inner], f"b{left}", [], [out])

    inner = branch(depth)
    end = node("If", ["yes"], ["chosen"], then_branch=inner, else_branch=inner)
    return classifier(end, last="chosen", yes=np.array(True))


def _products(side: int, count: int) -> ModelProto:
    """A chain of products of matrices that are expanded from one value."""
    grown = [
        node("ReduceMax", ["scores"], ["one"], keepdims=1),
        node("Expand", ["one", "shape"], ["m0"]),
    ]
    chain = [node("MatMul", [f"m{k}", "m0"], [f"m{k + 1}"]) for k in range(count)]
    return _adding(*grown, *chain, last=f"m{count}", shape=np.array([side, side]))


def _computed(kind: str) -> ModelProto:
    """A value whose size depends on the pixels: a white one asks for much."""
    nodes = [
        node("ReduceMax", ["float"], ["white"], keepdims=0),
        node("Mul", ["white", "factor"], ["count"]),
        node("Cast", ["count"], ["size"], to=TensorProto.INT64),
        node("Unsqueeze", ["size", "axis"], ["sizes"]),
    ]
    if kind == "ConstantOfShape":
        nodes.append(node(kind, ["sizes"], ["grown"]))
    else:
        nodes.append(node(kind, ["zeros", "sizes"], ["grown"]))
    stored = {"factor": np.float32(1e8), "axis": np.array([0]), "zeros": np.zeros(1, np.float32)}
    return _adding(*nodes, last="grown", **stored)


def weights_in(location: str) -> ModelProto:
    """A classifier whose weights are in another file."""
    made = classifier()
    tensor = made.graph.initializer[0]
    content = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(content))):
        tensor.external_data.add(key=key, value=value)
    return made


def _claims(dims: Sequence[int]) -> ModelProto:
    made = classifier()
    made.graph.initializer[0].dims[:] = dims
    return made


def _many(count: int) -> ModelProto:
    stored = {f"s{k}": np.float32(k) for k in range(count)}
    adds = [
        node("Add", ["scores" if k == 0 else f"a{k}", f"s{k}"], [f"a{k + 1}"])
        for k in range(min(count, 40))
    ]
    return classifier(*adds, last=f"a{len(adds)}", **stored)


def _cyclic() -> ModelProto:
    made = classifier()
    made.graph.node[0].input[0] = "probabilities"
    return made


def _nested_types(depth: int) -> bytes:
    """A value whose type is a sequence of sequences of ..., which no parser should follow."""
    inner = b""
    for _ in range(depth):
        inner = _field(4, _field(1, inner))
    value = _field(1, b"x") + _field(2, inner)
    return bytes(classifier().SerializeToString()) + _field(7, _field(13, value))


def _field(number: int, content: bytes) -> bytes:
    size, length = len(content), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def _scaled(factor: float) -> ModelProto:
    end = node("Mul", ["softmax", "factor"], ["probabilities"])
    soft = node("Softmax", ["scores"], ["softmax"], axis=1)
    return model([*_SCORES, soft, end], {"weight": _WEIGHT, "factor": np.float32(factor)})


def _cast(kind: int) -> ModelProto:
    end = [node("Softmax", ["scores"], ["soft"], axis=1)]
    end.append(node("Cast", ["soft"], ["probabilities"], to=kind))
    return model([*_SCORES, *end], {"weight": _WEIGHT}, answers=("probabilities", kind, ["n", 3]))


def _of_shape(*shape: int) -> ModelProto:
    """Declares (n, 3) and gives another shape."""
    nodes = [node("ReduceMax", ["scores"], ["one"], keepdims=0)]
    nodes += [node("Expand", ["one", "shape"], ["wide"]), node("Softmax", ["wide"], ["soft"])]
    nodes.append(node("Reshape", ["soft", "free"], ["probabilities"]))
    stored = {"weight": _WEIGHT, "shape": np.array(shape), "free": np.array(shape)}
    return model([*_SCORES, *nodes], stored)


def _unary(kind: str, *inputs: str, last: str = "grown", **more: Any) -> NodeProto:
    return node(kind, inputs, [last], **more)


HOSTILE: dict[str, Callable[[], ModelProto | bytes]] = {
    "loop that never ends": lambda: _loop((1 << 63) - 1),
    "branches in branches": lambda: _branches(8),
    "constant of terabytes": lambda: _adding(
        _unary("ConstantOfShape", "size"), last="grown", size=np.array([_HUGE])
    ),
    "constant of gigabytes": lambda: _adding(
        _unary("ConstantOfShape", "size"), last="grown", size=np.array([1 << 29])
    ),
    "constant sized by pixels": lambda: _computed("ConstantOfShape"),
    "Expand sized by pixels": lambda: _computed("Expand"),
    "products of large matrices": lambda: _products(20_000, 3),
    "many products": lambda: _products(3_000, 500),
    "Range of terabytes": lambda: _adding(
        _unary("Range", "start", "limit", "delta"),
        last="grown",
        start=np.float32(0),
        limit=np.float32(1e12),
        delta=np.float32(1),
    ),
    "Pad of gigabytes": lambda: _adding(
        _unary("Pad", "scores", "pads"), last="grown", pads=np.array([0, 0, 0, 1 << 34])
    ),
    "Tile of gigabytes": lambda: _adding(
        _unary("Tile", "scores", "times"), last="grown", times=np.array([1 << 16, 1 << 16])
    ),
    "random values of gigabytes": lambda: _adding(
        _unary("RandomNormal", shape=[1 << 17, 1 << 17]), last="grown"
    ),
    "not a number": lambda: _scaled(float("nan")),
    "447700 per cent": lambda: _scaled(4477.0),
    "negative": lambda: _scaled(-1.0),
    "sum of 0.3": lambda: _scaled(0.3),
    "integers": lambda: _cast(TensorProto.INT64),
    "texts": lambda: _cast(TensorProto.STRING),
    "five classes": lambda: _of_shape(1, 5),
    "one dimension": lambda: _of_shape(3),
    "weights above": lambda: weights_in("../weights.bin"),
    "weights at a path": lambda: weights_in("/etc/passwd"),
    "weights in a device": lambda: weights_in("/dev/zero"),
    "weights nowhere": lambda: weights_in("gone.bin"),
    "weights of an empty name": lambda: weights_in(""),
    "operator of a stranger": lambda: model(
        [node("Trick", ["pixels"], ["probabilities"], domain="evil.ops")], domains=["evil.ops"]
    ),
    "operator of ONNX Runtime": lambda: model(
        [*_SCORES, node("Gelu", ["scores"], ["probabilities"], domain="com.microsoft")],
        {"weight": _WEIGHT},
        domains=["com.microsoft"],
    ),
    "unknown operator": lambda: model([node("Trick", ["pixels"], ["probabilities"])]),
    "tensor that claims terabytes": lambda: _claims([_HUGE, 3]),
    "tensor of negative size": lambda: _claims([-192, -3]),
    "tensor whose size overflows": lambda: _claims([1 << 62, 4]),
    "picture of terabytes": lambda: model(
        _SCORES[:1], pixels=("pixels", TensorProto.UINT8, ["n", 1 << 20, 1 << 20, 3])
    ),
    "picture of negative size": lambda: model(
        _SCORES[:1], pixels=("pixels", TensorProto.UINT8, ["n", -8, 8, 3])
    ),
    "60,000 tensors": lambda: _many(60_000),
    "cycle": _cyclic,
    "types in types": lambda: _nested_types(20_000),
    "empty operators": lambda: (
        bytes(classifier().SerializeToString()) + _field(7, _field(1, b"") * 1_000_000)
    ),
    "no graph": lambda: ModelProto().SerializeToString(),
    "opset 99": lambda: model(_SCORES[:1], opset=99),
    "cut off": lambda: classifier().SerializeToString()[:-40],
    "empty": lambda: b"",
    "text": lambda: b"no model\n",
}
"""Kind -> a function that makes the file."""

LABELS: dict[str, str] = {
    "no labels": "[]",
    "other number": json.dumps(["a", "b"]),
    "no list": '{"a": 1}',
    "no JSON": "[",
    "deep": "[" * 5000 + "]" * 5000,
    "large": json.dumps(["x" * (5 << 20)] * 3),
}


def content(kind: str) -> bytes:
    """A file of a kind in `HOSTILE`."""
    made = HOSTILE[kind]()
    return made if isinstance(made, bytes) else bytes(made.SerializeToString())


def written(folder: Path, kind: str) -> Path:
    """A file of a kind in `HOSTILE`, alone in a folder."""
    path = folder / "model.onnx"
    path.write_bytes(content(kind))
    return path
