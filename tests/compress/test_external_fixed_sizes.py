from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from lepton_automl.compress.external.fixed_sizes import check_fixed_sizes
from lepton_automl.errors import DataError
from tests.helpers import external_models, hostile_graphs

node = helper.make_node


@pytest.mark.parametrize("kind", ["constant sized by pixels", "Expand sized by pixels"])
def test_sizes_computed_from_pixels_are_refused(kind) -> None:
    graph = onnx.ModelProto.FromString(hostile_graphs.content(kind)).graph
    with pytest.raises(DataError, match=r"m\.onnx: the size of the output of"):
        check_fixed_sizes(Path("m.onnx"), graph)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("NonZero", ["scores"], ["some"])],
        [node("RandomNormal", [], ["r"], shape=[1]), node("ConstantOfShape", ["r"], ["some"])],
        [node("TopK", ["scores", "count"], ["best", "some"])],
    ],
)
def test_sizes_that_depend_on_values_are_refused(nodes) -> None:
    count = node("Cast", ["scores"], ["count"], to=onnx.TensorProto.INT64)
    made = hostile_graphs.classifier(count, *nodes)
    with pytest.raises(DataError, match="depends on the values"):
        check_fixed_sizes(Path("m.onnx"), made.graph)


def test_sizes_that_follow_from_shapes_are_taken() -> None:
    shaped = [
        node("Shape", ["scores"], ["shape"]),
        node("Gather", ["shape", "first"], ["n"]),
        node("Concat", ["n", "three"], ["target"], axis=0),
        node("Expand", ["one", "target"], ["ones"]),
        node("Add", ["scores", "ones"], ["sum"]),
    ]
    made = hostile_graphs.classifier(
        *shaped,
        last="sum",
        first=np.array([0]),
        three=np.array([3]),
        one=np.ones((1, 1), np.float32),
    )
    check_fixed_sizes(Path("m.onnx"), made.graph)
    for kind in ("plain", "mobile"):
        check_fixed_sizes(Path("m.onnx"), external_models.model(kind, dynamic=True).graph)
