from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from lepton_automl.compress.external import reader
from lepton_automl.compress.external.reader import read, signature
from lepton_automl.core.untrusted_files import FileKind
from lepton_automl.errors import DataError
from tests.helpers.external_models import keras_like, model, written


def made_of(nodes, inputs, outputs, stored=(), *, opset=17, domain="") -> ModelProto:
    """A small model of these parts."""
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(stored))
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def value(name: str, shape: list, kind: int = TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def flat(shape: list, classes: int = 3, **more) -> ModelProto:
    """Flatten and a matrix."""
    size = int(np.prod([d for d in shape[1:] if isinstance(d, int)]))
    weight = numpy_helper.from_array(np.ones((size, classes), np.float32), "w")
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    return made_of(nodes, [value("x", shape)], [value("y", ["n", classes])], [weight], **more)


def flat_to(shape: list) -> ModelProto:
    """A model with an output of this shape."""
    made = flat(["n", 3, 8, 8], classes=int(np.prod(shape[1:])))
    target = numpy_helper.from_array(np.array([-1, *shape[1:]]), "t")
    made.graph.node.append(helper.make_node("Reshape", ["y", "t"], ["z"]))
    made.graph.initializer.append(target)
    made.graph.output[0].CopyFrom(value("z", shape))
    return made


@pytest.mark.parametrize(
    ("make", "layout", "opset"),
    [(model, "NCHW", 17), (partial(model, opset=11), "NCHW", 11), (keras_like, "NHWC", 17)],
)
def test_what_a_classifier_takes_and_gives(tmp_path: Path, make, layout, opset) -> None:
    path = written(tmp_path, make())
    seen = signature(path, read(path).model)
    assert (seen.layout, seen.opset, seen.classes) == (layout, opset, 3)
    assert (seen.height, seen.width, seen.channels) == (8, 8, 1)
    assert not seen.is_bytes


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (flat(["n", 8, 8]), "3 dimensions"),
        (flat(["n", 3, "h", "w"]), "size must be fixed"),
        (flat(["n", 5, 8, 8]), "5 channels"),
        (flat_to(["n", 3, 4]), "at least two"),
        (
            made_of(
                [helper.make_node("Split", ["x"], ["y", "z"], axis=2)],
                [value("x", ["n", 3, 8, 8])],
                [value("y", ["n", 3, 4, 8]), value("z", ["n", 3, 4, 8])],
                opset=13,
            ),
            "detectors have several",
        ),
    ],
)
def test_what_is_no_classifier_of_pictures_is_refused(tmp_path: Path, made, says) -> None:
    path = written(tmp_path, made)
    with pytest.raises(DataError, match=says):
        signature(path, read(path).model)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (flat(["n", 3, 8, 8], opset=6), "opset 6, supported are 7 to"),
        (
            made_of(
                [helper.make_node("Trick", ["x"], ["y"], domain="evil.ops")],
                [value("x", ["n", 3, 8, 8])],
                [value("y", ["n", 3])],
                domain="evil.ops",
            ),
            "evil.ops.Trick",
        ),
        (made_of([], [value("x", ["n", 3])], [value("x", ["n", 3])]), "no operators"),
        (
            made_of(
                [helper.make_node("MatMulInteger", ["x", "s"], ["y"])],
                [value("x", ["n", 3, 8, 8], TensorProto.UINT8)],
                [value("y", ["n", 3, 8, 8], TensorProto.INT32)],
                [numpy_helper.from_array(np.ones((8, 8), np.uint8), "s")],
            ),
            "quantized already",
        ),
    ],
)
def test_what_cannot_be_trusted_to_be_understood_is_refused(tmp_path: Path, made, says) -> None:
    path = written(tmp_path, made)
    with pytest.raises(DataError, match=says):
        read(path)


def test_loops_and_branches_are_refused(tmp_path: Path) -> None:
    branch = made_of([helper.make_node("Identity", ["x"], ["b"])], [], [value("b", ["n", 3])]).graph
    flag = numpy_helper.from_array(np.array(True), "c")
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    path = written(
        tmp_path, made_of([node], [value("x", ["n", 3])], [value("y", ["n", 3])], [flag])
    )
    with pytest.raises(DataError, match="control flow"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x08" * 50, bytes(range(256))])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.onnx"):
        read(path)
    with pytest.raises(DataError, match="gone"):
        read(tmp_path / "gone.onnx")


def test_a_file_too_large_is_not_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(reader, "MODEL", FileKind("ONNX files", 10))
    with pytest.raises(DataError, match="at most 10"):
        read(written(tmp_path))


def test_weights_beside_the_model_are_read_and_none_elsewhere(tmp_path: Path) -> None:
    inside = tmp_path / "models"
    inside.mkdir()
    path = inside / "model.onnx"
    onnx.save(model(), str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    assert read(path).model.graph.initializer[0].raw_data
    (tmp_path / "w.bin").write_bytes((inside / "w.bin").read_bytes())
    for place in ("../w.bin", str(tmp_path / "w.bin"), "gone.bin"):
        stray = onnx.load(str(path), load_external_data=False)
        for tensor in stray.graph.initializer:
            for item in tensor.external_data:
                if item.key == "location":
                    item.value = place
        path.write_bytes(stray.SerializeToString())
        with pytest.raises(DataError, match="only files in the same folder"):
            read(path)


def test_links_are_followed_as_in_a_cache_of_hugging_face_and_nowhere_else(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    path = tmp_path / "model.onnx"
    onnx.save(model(), str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    path.rename(blobs / "1")
    (tmp_path / "w.bin").rename(blobs / "2")
    for name, target in (("model.onnx", "1"), ("w.bin", "2")):
        (snapshot / name).symlink_to(f"../../blobs/{target}")
    wanted = {t.name: numpy_helper.to_array(t) for t in model().graph.initializer}
    for tensor in read(snapshot / "model.onnx").model.graph.initializer:
        assert np.array_equal(numpy_helper.to_array(tensor), wanted[tensor.name])
    elsewhere = tmp_path / "elsewhere.bin"
    (blobs / "2").rename(elsewhere)
    (snapshot / "w.bin").unlink()
    (snapshot / "w.bin").symlink_to(elsewhere)
    with pytest.raises(DataError, match="outside the folder") as caught:
        read(snapshot / "model.onnx")
    assert "cp -L" in caught.value.fix


def test_weights_that_are_cut_off_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(), str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").write_bytes((tmp_path / "w.bin").read_bytes()[:-8])
    with pytest.raises(DataError, match="end before byte"):
        read(path)


def test_a_free_size_is_taken_from_what_is_stated(tmp_path: Path) -> None:
    path = written(tmp_path, flat(["n", 3, "h", "w"]))
    made = read(path).model
    assert reader.has_free_size(made)
    seen = signature(path, made, size=(8, 6))
    assert (seen.height, seen.width) == (8, 6)


def test_of_several_outputs_the_scores_are_kept(tmp_path: Path) -> None:
    made = flat(["n", 3, 8, 8])
    made.graph.node.append(helper.make_node("Softmax", ["y"], ["p"], axis=1))
    made.graph.output.extend([value("p", ["n", 3]), value("f", ["n", 192])])
    path = written(tmp_path, made)
    loaded = read(path).model
    assert signature(path, loaded, classes=3).output == "y"
    assert [each.name for each in loaded.graph.output] == ["y"]


@pytest.mark.parametrize(
    ("made", "classes", "is_logit"),
    [
        (flat(["n", 3, 8, 8], classes=1), 2, True),
        (flat_to(["n", 4, 1, 1]), 4, False),
        (flat_to(["n", 1, 1, 4]), 4, False),
    ],
)
def test_other_shapes_of_scores(tmp_path: Path, made, classes, is_logit) -> None:
    path = written(tmp_path, made)
    seen = signature(path, read(path).model, classes=classes)
    assert (seen.classes, seen.is_logit) == (classes, is_logit)
