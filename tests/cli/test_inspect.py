from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lepton_automl.cost.cost import peak_ram_bytes
from lepton_automl.models.arch import Arch
from tests.helpers import hostile_graphs as graphs
from tests.helpers.artifacts import make_bundle, seal_bundle


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    made = make_bundle(tmp_path_factory.mktemp("made"))
    seal_bundle(made)
    return made.folder


def test_layers_kernels_and_memory_of_an_artifact_are_those_of_its_net(lepton, artifact):
    done = lepton("inspect", str(artifact), "--json")
    body = json.loads(done.out)
    arch = Arch.from_json((artifact / "arch.json").read_text())
    assert body["is_sealed"]
    assert body["peak_ram_bytes"] == peak_ram_bytes(arch.graph)
    assert body["macs"] == arch.graph.macs
    assert {op.name for op in arch.graph.ops} <= {layer["name"] for layer in body["layers"]}
    sealed = json.loads((artifact / "manifest.json").read_text())["files"]["model.int8.onnx"]
    assert (body["sha256"], body["file_bytes"]) == (sealed["sha256"], sealed["bytes"])
    computed = [layer for kernel in body["kernels"] for layer in kernel["layers"]]
    assert sorted(computed) == sorted(layer["name"] for layer in body["layers"])
    assert body["call_microseconds"] > 0


def test_the_drawing_is_well_formed_and_shows_every_layer(lepton, artifact):
    done = lepton("inspect", str(artifact), "--svg", "net.svg")
    assert "QLinearConv" in done.out
    titles = [each.text for each in ET.parse("net.svg").iter() if each.tag.endswith("title")]
    for name in ("0/conv", "1/conv", "2/pool", "2/logits"):
        assert any(title.startswith(f"{name}: ") for title in titles)
    assert "result of 0/conv, 512 B" in titles
    assert lepton("inspect", str(artifact), "--svg", "net.svg").exit_code == 4


def test_a_changed_file_is_refused(lepton, artifact, tmp_path):
    copy = tmp_path / "artifact"
    copy.mkdir()
    for path in artifact.rglob("*"):
        if path.is_file():
            place = copy / path.relative_to(artifact)
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(path.read_bytes())
    content = bytearray((copy / "arch.json").read_bytes())
    content[-3] ^= 1
    (copy / "arch.json").write_bytes(content)
    assert lepton("inspect", str(copy)).exit_code == 3


def written(nodes, shape, name="model.onnx"):
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    domains = [("", 17), ("com.microsoft", 1)]
    opsets = [helper.make_opsetid(*each) for each in domains]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    Path(name).write_bytes(made.SerializeToString())
    return name


def test_files_made_elsewhere_and_by_onnx_runtime_are_shown(lepton):
    node = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft", name="<b>\x1b[1m")
    done = lepton("inspect", written([node], ["n", 4]), "--svg", "net.svg")
    assert done.exit_code == 0, done.err
    assert "is unsealed" in done.err
    assert "\x1b" not in done.out
    assert "<b>" not in Path("net.svg").read_text()
    ET.parse("net.svg")


def test_a_free_size_is_said_and_the_layers_are_shown_anyway(lepton):
    done = lepton("inspect", written([helper.make_node("Relu", ["x"], ["y"])], ["n", "h", 4]))
    assert done.exit_code == 0
    assert "not run here: its input x is tensor(float) (n, h, 4)" in done.out
    assert "Relu" in done.out


@pytest.mark.parametrize(
    "kind", ["constant of terabytes", pytest.param("many products", marks=pytest.mark.slow)]
)
def test_files_that_take_too_much_are_refused_or_not_run(lepton, kind):
    path = graphs.written(Path(), kind)
    done = lepton("inspect", str(path))
    assert done.exit_code == 3 or "not run here" in done.out
    assert "Traceback" not in done.err


def test_no_file_of_a_kind_that_can_be_seen_ends_in_a_traceback(lepton):
    for kind in list(graphs.HOSTILE)[::6]:
        path = graphs.written(Path(), kind)
        done = lepton("inspect", str(path))
        assert done.exit_code in (0, 3), (kind, done.err)
        assert "Traceback" not in done.err, kind


def test_content_that_is_no_onnx_file_is_refused(lepton):
    Path("a.onnx").write_bytes(np.random.default_rng(0).bytes(300))
    done = lepton("inspect", "a.onnx")
    assert done.exit_code == 3
    assert "a.onnx" in done.err
    Path("b.onnx").write_bytes(onnx.ModelProto().SerializeToString())
    assert lepton("inspect", "b.onnx").exit_code == 3
